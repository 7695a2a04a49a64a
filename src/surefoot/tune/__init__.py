"""Floor 9: options that are searched for, and what the best of them are worth on fresh seeds."""
