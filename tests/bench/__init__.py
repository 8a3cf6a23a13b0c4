"""Benchmarks: each figure next to its baseline in the same run."""
