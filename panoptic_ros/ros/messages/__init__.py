"""Conversions between messages and arrays: pure functions without a node and without state.

``images``, ``depth`` and ``calibration`` read the inputs; ``images``, ``calibration``,
``detections``, ``markers``, ``points`` and ``cdr`` (serialised messages) write the outputs;
``optional`` imports the message packages that may be missing.
"""

from panoptic_ros.ros.messages.calibration import check_camera_info, fit_camera, fit_camera_info
from panoptic_ros.ros.messages.depth import (
    ALIGNMENT_TOLERANCE,
    DEPTH_ENCODINGS,
    decode_depth,
    fit_depth,
)
from panoptic_ros.ros.messages.detections import (
    detections_3d_message,
    detections_message,
    label_info_message,
)
from panoptic_ros.ros.messages.headers import stamp_ns
from panoptic_ros.ros.messages.images import (
    ENCODING_NAMES,
    ENCODINGS,
    Picture,
    decode_compressed_image,
    decode_image,
    image_message,
)
from panoptic_ros.ros.messages.optional import OccupancyGrid, vision_msgs

__all__ = [
    'ALIGNMENT_TOLERANCE',
    'DEPTH_ENCODINGS',
    'ENCODINGS',
    'ENCODING_NAMES',
    'OccupancyGrid',
    'Picture',
    'check_camera_info',
    'decode_compressed_image',
    'decode_depth',
    'decode_image',
    'detections_3d_message',
    'detections_message',
    'fit_camera',
    'fit_camera_info',
    'fit_depth',
    'image_message',
    'label_info_message',
    'stamp_ns',
    'vision_msgs',
]
