"""What ``ros2 run panoptic_ros`` starts: signals count from the first moment.

To import what a node needs takes Python a second; a Ctrl-C in it would end with a traceback.
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
