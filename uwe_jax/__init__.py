"""Unified Work Embeddings in JAX: one bi-encoder that ranks skills, titles and sentences of the work domain."""
