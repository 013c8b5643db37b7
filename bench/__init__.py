"""Measurements against what a user would pick instead; results are kept in `bench/results`."""
