"""Bugs put back on purpose, to see the tests find them: `make mutants`."""
