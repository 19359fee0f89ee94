"""Sides and child processes of the benchmark of attention."""
