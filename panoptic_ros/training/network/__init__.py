"""The networks: a shared backbone and feature pyramid, with centre heads or queries."""
