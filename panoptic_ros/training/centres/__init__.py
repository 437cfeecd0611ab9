"""Head kind ``centres``: targets, losses and the exported graph (Panoptic-DeepLab)."""
