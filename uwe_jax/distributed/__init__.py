"""Devices and processes: the mesh, joining and exiting, preemption, the heartbeat."""
