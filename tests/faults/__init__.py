"""Faults of machines, put on purpose: `make faults`."""
