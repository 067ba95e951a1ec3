"""Ranking tasks, their metrics and bootstrap intervals: what training and the workbench share."""
