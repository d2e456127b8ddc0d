"""Experiments of many runs, which go on where they were stopped."""
