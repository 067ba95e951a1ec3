"""Devices and processes: the mesh, how processes join and end, preemption, stalled peers."""
