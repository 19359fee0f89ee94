"""Runs of `benchmarks.infinity`, each a process of its own: ours, and DeepSpeed's."""
