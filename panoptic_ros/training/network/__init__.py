"""The network: one shared backbone, a feature pyramid, a semantic head and a centre head."""
