"""How good a model is: scores on held-out data, beside baselines on the very same tokens."""
