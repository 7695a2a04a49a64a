"""Loggers beside metrics.jsonl: each an adapter of one file, in a process of its own behind one queue."""
