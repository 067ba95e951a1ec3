"""Benchmarks for rankers: where tasks come from, what is measured, and how results are shown."""
