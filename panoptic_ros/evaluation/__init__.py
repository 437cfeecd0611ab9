"""How good a panoptic prediction is: PQ, mean IoU, and the reports and commands around them."""
