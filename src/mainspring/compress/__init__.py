"""Smaller models of the same task: distillation, quantisation that is trained or calibrated, pruning."""
