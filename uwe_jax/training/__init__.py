"""One training run: its config, step, state, optimizer, checkpoints, workdir and metrics."""
