"""Parts of the benchmark of compression: texts, the student, quality and time."""
