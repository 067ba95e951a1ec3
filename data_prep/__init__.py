"""From ESCO's CSV files and sentences to ArrayRecord shards of bipartite pairs."""
