"""``vision_msgs``: label info, 2D and 3D detections.

The functions need ``vision_msgs``, which comes with ROS and not from PyPI.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion
from std_msgs.msg import Header

from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Segments
from panoptic_ros.ros.messages.optional import vision_msgs
from panoptic_ros.scene.geometry import PlacedBy, Placement

if TYPE_CHECKING:
    from vision_msgs.msg import (
        Detection2D,
        Detection2DArray,
        Detection3D,
        Detection3DArray,
        LabelInfo,
        ObjectHypothesisWithPose,
    )


def label_info_message(label_set: LabelSet, header: Header) -> 'LabelInfo':
    """Return the class names of the semantic map's values; 255 is named ``void``."""
    classes = [*enumerate(label_set.names), (VOID, 'void')]
    return vision_msgs.LabelInfo(
        header=header,
        class_map=[vision_msgs.VisionClass(class_id=i, class_name=name) for i, name in classes],
        threshold=0.0,
    )


def detections_message(
    things: Segments,
    names: tuple[str, ...],
    header: Header,
    carried_by: Sequence[str] = (),
) -> 'Detection2DArray':
    """Return one detection for every thing: its box, class name, score and track id.

    Boxes are in pixels of the image; a box of one pixel at x=0 has its centre at 0.5 and size 1.
    If ``carried_by`` names the support of a thing, it is added as a second hypothesis with score
    0: ``on dining table 5``.
    """
    detections = [
        _detection(names[class_id], score, box, track_id, header)
        for class_id, score, box, track_id in _rows(things)
    ]
    for detection, carrier in zip(detections, carried_by, strict=False):
        if carrier:
            detection.results.append(_hypothesis(f'on {carrier}', 0.0))
    return vision_msgs.Detection2DArray(header=header, detections=detections)


def detections_3d_message(
    things: Segments, boxes: Placement, names: tuple[str, ...], header: Header
) -> 'Detection3DArray':
    """Return one detection for every thing that was measured by depth.

    Parameters
    ----------
    things
        The objects, n rows.
    boxes
        Their boxes, n rows, in the header's frame. Rows that were not placed by depth are left
        out.
    names
        Class names by class id.
    header
        Copied into the message and its detections.

    The pose of a detection is the pose of its box; the covariance is 0, which means unknown.
    """
    rows = np.flatnonzero(boxes.method == PlacedBy.DEPTH)
    detections = [
        _detection_3d(names[class_id], score, _pose(*pose), size, track_id, header)
        for (class_id, score, _, track_id), pose, size in zip(
            _rows(things.where(rows)),
            zip(
                boxes.position_m[rows].tolist(),
                boxes.orientation_xyzw[rows].tolist(),
                strict=True,
            ),
            boxes.size_m[rows].tolist(),
            strict=True,
        )
    ]
    return vision_msgs.Detection3DArray(header=header, detections=detections)


def _pose(position_m: Sequence[float], orientation_xyzw: Sequence[float]) -> Pose:
    x, y, z = position_m
    turn_x, turn_y, turn_z, turn_w = orientation_xyzw
    return Pose(
        position=Point(x=x, y=y, z=z),
        orientation=Quaternion(x=turn_x, y=turn_y, z=turn_z, w=turn_w),
    )


def _detection_3d(
    name: str, score: float, pose: Pose, size_m: Sequence[float], track_id: int, header: Header
) -> 'Detection3D':
    detection = vision_msgs.Detection3D(header=header, id=str(track_id))
    detection.bbox.center = pose
    detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z = size_m
    result = _hypothesis(name, score)
    result.pose.pose = pose
    detection.results.append(result)
    return detection


def _rows(things: Segments) -> Iterable[tuple[int, float, list[int], int]]:
    return zip(
        things.class_id.tolist(),
        things.score.tolist(),
        things.box_xyxy.tolist(),
        things.track_id.tolist(),
        strict=True,
    )


def _detection(
    name: str, score: float, box: list[int], track_id: int, header: Header
) -> 'Detection2D':
    x0, y0, x1, y1 = box
    detection = vision_msgs.Detection2D(header=header, id=str(track_id))
    detection.bbox.center.position.x = (x0 + x1) / 2
    detection.bbox.center.position.y = (y0 + y1) / 2
    detection.bbox.size_x = float(x1 - x0)
    detection.bbox.size_y = float(y1 - y0)
    detection.results.append(_hypothesis(name, score))
    return detection


def _hypothesis(name: str, score: float) -> 'ObjectHypothesisWithPose':
    result = vision_msgs.ObjectHypothesisWithPose()
    result.hypothesis.class_id = name
    result.hypothesis.score = score
    return result
