"""Pages that open in any browser without a network: the report of runs, and the same page live."""
