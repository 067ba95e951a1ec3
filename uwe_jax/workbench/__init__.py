"""Measuring a ranker: tasks, metrics and where the tasks come from."""
