"""Metrics of panoptic predictions: PQ, mean IoU, mask AP, VPQ, STQ, and reports of them.

Every metric is computed from the same table, the pixels that true and predicted segments share
(:mod:`.intersections`).
"""
