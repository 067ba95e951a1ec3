"""Compiles the training step for accelerators that need not exist."""
