"""Compiles the training step for accelerators that need not be present."""
