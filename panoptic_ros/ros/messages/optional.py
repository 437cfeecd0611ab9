"""Packages that come with ROS but are not on PyPI; None where they are not installed."""

try:
    import vision_msgs.msg as vision_msgs
except ModuleNotFoundError:
    vision_msgs = None

try:
    from nav_msgs.msg import OccupancyGrid
except ModuleNotFoundError:
    OccupancyGrid = None

try:
    from tf2_msgs.msg import TFMessage
except ModuleNotFoundError:
    TFMessage = None

try:
    from std_srvs.srv import SetBool, Trigger
except ModuleNotFoundError:
    SetBool = Trigger = None

try:
    import cv_bridge
except ImportError:  # not installed, or built for another numpy
    cv_bridge = None

try:
    from sensor_msgs_py import point_cloud2
except ModuleNotFoundError:
    point_cloud2 = None

__all__ = [
    'OccupancyGrid',
    'SetBool',
    'TFMessage',
    'Trigger',
    'cv_bridge',
    'point_cloud2',
    'vision_msgs',
]
