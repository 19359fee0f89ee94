"""Parts of the benchmark of convergence."""
