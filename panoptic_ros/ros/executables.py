"""Entry points of ``ros2 run panoptic_ros``, which handle signals from the start.

The imports of a node take a second, and a Ctrl-C during them would end with a traceback.
"""

from panoptic_ros.ros.signals import StopSignal


def segment() -> int:
    """Run :func:`panoptic_ros.ros.node.main`."""
    with StopSignal() as stop:
        from panoptic_ros.ros import node

        return node.serve(stop)


def camera() -> int:
    """Run :func:`panoptic_ros.ros.camera.main`."""
    with StopSignal() as stop:
        from panoptic_ros.ros import camera

        return camera.serve(stop)
