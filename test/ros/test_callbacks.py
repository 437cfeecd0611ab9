from panoptic_ros.ros.callbacks import UnhurriedGroup


class Entity:
    """Something with a callback."""


def test_callbacks_wait_until_they_are_due() -> None:
    group, entity = UnhurriedGroup(), Entity()
    group.add_entity(entity)
    assert group.can_execute(entity)
    group.is_due = False
    assert not group.can_execute(entity)
    group.is_due = True
    assert group.can_execute(entity)
