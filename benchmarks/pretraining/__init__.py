"""Parts of `benchmarks/pretrain.py`: texts, what is compared, one training, and what is measured after it."""
