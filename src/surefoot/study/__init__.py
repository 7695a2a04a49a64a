"""Floor 7: which heuristics earn their place. Arms, seeds, executors, statistics, report."""
