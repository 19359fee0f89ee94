"""Heads for search: what they learn from, how they are trained, how good they are."""
