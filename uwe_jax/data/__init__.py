"""From shards of bipartite pairs to sharded batches: schema and CSR, which nodes make a batch, and the loader."""
