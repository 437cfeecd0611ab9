"""Networks, losses, training and export. Needs torch, which the node never imports."""
