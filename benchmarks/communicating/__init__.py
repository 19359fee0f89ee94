"""What `benchmarks.communication` starts on each rank."""
