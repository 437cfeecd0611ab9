"""Commands around training: train, prune, export, quantize."""
