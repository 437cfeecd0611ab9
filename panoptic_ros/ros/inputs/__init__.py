"""Inputs of the node: a table of them, and the modules for depth and transforms."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Input:
    """One input topic.

    Parameters
    ----------
    topic
        Name, to be remapped.
    type_name
        Message type, ``package/Type``.
    description
        Contents, for ``doc/topics.md``.
    parameter
        Parameter and value that subscribe to the topic; empty for always.
    """

    topic: str
    type_name: str
    description: str
    parameter: str = ''


INPUTS = (
    Input('image', 'sensor_msgs/Image', 'camera images', 'image_transport: raw'),
    Input(
        'image/compressed',
        'sensor_msgs/CompressedImage',
        'camera images as JPEG or PNG',
        'image_transport: compressed',
    ),
    Input(
        'camera_info',
        'sensor_msgs/CameraInfo',
        'calibration of the camera; also a latched one (transient local)',
    ),
    Input(
        '/tf_static',
        'tf2_msgs/TFMessage',
        'static transforms, for the height and the pitch of the camera; latched',
        'ground_frame: not empty',
    ),
    Input(
        'depth',
        'sensor_msgs/Image',
        'depth aligned to the image, `32FC1` metres or `16UC1` millimetres (REP 118); a topic '
        'that ends in `/compressedDepth` or `/compressed` is sensor_msgs/CompressedImage',
        'depth: true',
    ),
    Input(
        'depth/camera_info',
        'sensor_msgs/CameraInfo',
        'calibration of the depth images; needed if they differ in size from the image',
        'depth: true',
    ),
    Input(
        'virtual_depth',
        'sensor_msgs/Image',
        'depth images of virtual objects, with the size and the stamp of the image',
        'virtual_depth: true',
    ),
)
"""All topics the node can subscribe to."""
