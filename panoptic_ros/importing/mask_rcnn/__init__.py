"""Panoptic FPN: torchvision's Mask R-CNN with a semantic branch, with fixed shapes."""
