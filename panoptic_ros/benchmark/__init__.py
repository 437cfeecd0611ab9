"""Run the node as a user does, and measure and check what it publishes: demo, replay, soak."""
