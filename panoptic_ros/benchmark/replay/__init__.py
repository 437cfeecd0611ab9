"""``replay_benchmark``: how fast the node processes a recording."""
