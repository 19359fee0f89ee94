"""Parts of `benchmarks/inference.py`: what peers run, all engines behind one protocol, their processes."""
