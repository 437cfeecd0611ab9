"""Networks, losses, training and export: all that needs torch, which the node never imports."""
