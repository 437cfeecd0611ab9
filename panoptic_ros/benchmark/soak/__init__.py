"""``panoptic soak``: run the node for long on all kinds of input and check that nothing leaks."""
