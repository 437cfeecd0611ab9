"""Head kind ``queries``: targets, losses and the exported graph (mask classification)."""
