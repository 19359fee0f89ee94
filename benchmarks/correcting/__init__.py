"""What benchmarks.spelling compares with, and on what."""
