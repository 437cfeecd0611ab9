"""Callbacks that may wait, so that the executor is sooner ready for an image."""

from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup


class UnhurriedGroup(MutuallyExclusiveCallbackGroup):
    """A group whose callbacks run only while they are due.

    An rclpy executor goes through all it could wait for before each wait. Publishers have two
    events each (a subscription with another QoS, for example), more than there is of everything
    else: without them it takes half of the time.

    Attributes
    ----------
    is_due
        Belongs to the executor's thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_due = True

    def can_execute(self, entity: Any) -> bool:
        """Say whether the executor may wait for an entity and call back now."""
        return self.is_due and super().can_execute(entity)
