"""The output topics: a table of them, and how each message is built from a frame.

Every ``build`` is a pure function of a :class:`~panoptic_ros.ros.frame.Frame`; it returns the
message, the bytes of the serialised message, or None if this frame has none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from panoptic_ros import packing, visualize
from panoptic_ros.labels import VOID
from panoptic_ros.ros.frame import Frame, Needs
from panoptic_ros.ros.messages.calibration import fit_camera_info
from panoptic_ros.ros.messages.cdr import MarkerRow, occupancy_grid_cdr
from panoptic_ros.ros.messages.detections import detections_3d_message, detections_message
from panoptic_ros.ros.messages.images import compressed_image_message
from panoptic_ros.ros.messages.markers import object_markers, surface_markers
from panoptic_ros.ros.messages.optional import OccupancyGrid, vision_msgs
from panoptic_ros.ros.messages.points import point_cloud
from panoptic_ros.ros.parameters import listed
from panoptic_ros.scene.occlusion import occlusion_mask, scene_depth, support_planes
from panoptic_ros.scene.supports import NONE, find_supports, with_roles

# Run lengths suit label maps: faster than the default strategy, and smaller.
PNG_OPTIONS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
)
JPEG_OPTIONS = (cv2.IMWRITE_JPEG_QUALITY, 90)


@dataclass(frozen=True)
class Output:
    """One output topic.

    Parameters
    ----------
    topic
        Name, relative to the node.
    type_name
        Message type, ``package/Type``.
    message_type
        Class of the message; None where its package is not installed.
    build
        Returns the message of a frame; for MarkerArray the rows of the markers.
    description
        Contents, for ``doc/topics.md``.
    needs
        Parts of the scene the message is built from.
    parameter
        Boolean parameter that offers the topic; empty for always.
    is_for_people
        Published after everything else.
    """

    topic: str
    type_name: str
    message_type: type | None
    build: Callable[[Frame], Any]
    description: str
    needs: Needs = Needs.NOTHING
    parameter: str = ''
    is_for_people: bool = False


def _semantic(frame: Frame) -> bytes:
    return frame.image(frame.panoptic.semantic)


def _confidence(frame: Frame) -> bytes:
    # 0 where void, however confident the network was. (cv2.compare would take a map of one pixel
    # for a scalar.)
    has_class = cv2.inRange(frame.panoptic.semantic, 0, VOID - 1)
    return frame.image(cv2.bitwise_and(frame.segmentation.confidence, has_class))


def _mask(frame: Frame) -> bytes:
    value_of_class = frame.label_set.with_role(frame.tuning.mask_role) * np.uint8(255)
    return frame.image(cv2.LUT(frame.panoptic.semantic, value_of_class))


def _instance(frame: Frame) -> bytes:
    return frame.image(frame.panoptic.instance)


def _panoptic(frame: Frame) -> bytes:
    return frame.image(packing.PANOPTIC_PACKINGS[frame.tuning.panoptic_packing](frame.panoptic))


def _camera_info(frame: Frame) -> CameraInfo | None:
    if frame.calibration is None:
        return None
    return fit_camera_info(frame.calibration, frame.header, frame.panoptic.size_wh)


def _detections(frame: Frame) -> Any:
    return detections_message(frame.things, frame.label_set.names, frame.header)


def _detections_3d(frame: Frame) -> Any:
    if frame.scene.measured is None:
        return None
    boxes = frame.scene.measured.boxes
    return detections_3d_message(frame.things, boxes, frame.label_set.names, frame.header)


def _object_detections(frame: Frame) -> Any:
    rows = _object_rows(frame)
    things, names = frame.things.where(rows), frame.label_set.names
    return detections_message(things, names, frame.header, _supports(frame, rows))


def _points(frame: Frame) -> PointCloud2 | bytes | None:
    if frame.camera is None or frame.scene.depth_m is None:
        return None
    return point_cloud(
        frame.header, frame.camera, frame.scene.depth_m, frame.panoptic, frame.picture
    )


def _free_space(frame: Frame) -> bytes | None:
    ground = frame.scene.ground_grid
    if ground is None:
        return None
    return occupancy_grid_cdr(
        ground.header,
        ground.grid.resolution_m,
        ground.origin_xyz_m,
        ground.orientation_xyzw,
        ground.free_space.occupancy,
    )


def _occlusion(frame: Frame) -> bytes | None:
    scene, depth_m = frame.scene, frame.scene.depth_m
    if scene.virtual_depth_m is None:
        return None
    if depth_m is None:
        if frame.camera is None or scene.placement is None:
            return None
        object_depth_m = scene.placement.base_m[:, 2]
        depth_m = scene_depth(
            frame.panoptic, frame.label_set, frame.camera, frame.ground, object_depth_m
        )
    return frame.image(occlusion_mask(scene.virtual_depth_m, depth_m) * np.uint8(255))


def _markers(frame: Frame) -> list[MarkerRow]:
    scene = frame.scene
    if scene.placement is None:
        return []
    return object_markers(
        frame.things, scene.placement, frame.ground, frame.label_set, scene.velocity_m_s
    )


def _objects(frame: Frame) -> list[MarkerRow]:
    scene = frame.scene
    if scene.placement is None:
        return []
    rows = _object_rows(frame)
    velocity_m_s = scene.velocity_m_s
    return object_markers(
        frame.things.where(rows),
        scene.placement.where(rows),
        frame.ground,
        frame.label_set,
        None if velocity_m_s is None else velocity_m_s[rows],
        _supports(frame, rows),
    )


def _support_surfaces(frame: Frame) -> list[MarkerRow]:
    if frame.camera is None:
        return []
    planes = support_planes(
        frame.panoptic, frame.label_set, frame.camera, frame.ground, frame.scene.depth_m
    )
    return surface_markers(planes, frame.panoptic.segments.where(planes.row), frame.label_set)


def _overlay(frame: Frame) -> bytes:
    opacity = frame.tuning.overlay_opacity
    image_bgr = frame.picture.bgr()
    return frame.image(visualize.overlay(image_bgr, frame.panoptic, frame.label_set, opacity))


def _semantic_color(frame: Frame) -> bytes:
    return frame.image(visualize.semantic_color(frame.panoptic.semantic, frame.label_set))


def _instance_color(frame: Frame) -> bytes:
    return frame.image(visualize.instance_color(frame.panoptic, frame.label_set))


def _png(frame: Frame, array: np.ndarray, image_format: str) -> CompressedImage:
    """Return an array, uint8 or uint16, [H, W] or [H, W, 3] blue first, as lossless PNG."""
    return compressed_image_message(
        frame.header, cv2.imencode('.png', array, PNG_OPTIONS)[1], image_format
    )


def _semantic_compressed(frame: Frame) -> CompressedImage:
    return _png(frame, frame.panoptic.semantic, 'mono8; png compressed ')


def _instance_compressed(frame: Frame) -> CompressedImage:
    return _png(frame, frame.panoptic.instance, '16UC1; png compressed ')


def _panoptic_compressed(frame: Frame) -> CompressedImage:
    packed = packing.PANOPTIC_PACKINGS[frame.tuning.panoptic_packing](frame.panoptic)
    # All packings need 24 bits: value = R + 256 G + 65536 B.
    rgb = packed.astype('<i4').view(np.uint8).reshape(*packed.shape, 4)[..., :3]
    return _png(frame, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), 'rgb8; png compressed bgr8')


def _overlay_compressed(frame: Frame) -> CompressedImage:
    opacity = frame.tuning.overlay_opacity
    drawn = visualize.overlay(frame.picture.bgr(), frame.panoptic, frame.label_set, opacity)
    data = cv2.imencode('.jpg', drawn, JPEG_OPTIONS)[1]
    return compressed_image_message(frame.header, data, 'bgr8; jpeg compressed bgr8')


def _object_rows(frame: Frame) -> np.ndarray:
    """Return the rows of the things that have one of ``object_roles``, intp [n]."""
    roles = listed(frame.tuning.object_roles)
    return np.flatnonzero(with_roles(frame.things, frame.label_set, roles))


def _supports(frame: Frame, rows: np.ndarray) -> list[str]:
    """Return class and track id of the support of some things; '' where there is none."""
    segments, names = frame.panoptic.segments, frame.label_set.names
    supports = find_supports(frame.panoptic, frame.label_set, frame.scene.depth_m)
    return [
        names[segments.class_id[row]] + f' {segments.track_id[row]}' * bool(segments.is_thing[row])
        if row != NONE
        else ''
        for row in supports.row[segments.is_thing][rows].tolist()
    ]


_IMAGE = 'sensor_msgs/Image', Image
_COMPRESSED = 'sensor_msgs/CompressedImage', CompressedImage
_MARKERS = 'visualization_msgs/MarkerArray', MarkerArray
_DETECTIONS = 'vision_msgs/Detection2DArray', getattr(vision_msgs, 'Detection2DArray', None)
_Detection3DArray = getattr(vision_msgs, 'Detection3DArray', None)

OUTPUTS = (
    Output('~/semantic', *_IMAGE, _semantic, '`mono8`: class id of every pixel, 255 where void'),
    Output(
        '~/confidence',
        *_IMAGE,
        _confidence,
        '`mono8`: confidence of the network, 0 to 255, 0 where void',
    ),
    Output(
        '~/mask',
        *_IMAGE,
        _mask,
        '`mono8`: 255 where the class has the role `mask_role`, 0 elsewhere',
    ),
    Output(
        '~/instance', *_IMAGE, _instance, '`16UC1`: track id of every object pixel, 0 elsewhere'
    ),
    Output(
        '~/panoptic',
        *_IMAGE,
        _panoptic,
        '`32SC1`: class and instance in one value, packed as `panoptic_packing` says',
    ),
    Output(
        '~/camera_info',
        'sensor_msgs/CameraInfo',
        CameraInfo,
        _camera_info,
        'calibration for the pixels of the maps, without binning and region of interest',
    ),
    Output(
        '~/detections',
        *_DETECTIONS,
        _detections,
        'box, class name, score and track id of every object',
    ),
    Output(
        '~/points',
        'sensor_msgs/PointCloud2',
        PointCloud2,
        _points,
        'organised cloud `x y z rgb label instance`, one point a pixel, NaN without depth',
        Needs.DEPTH,
        parameter='depth',
    ),
    Output(
        '~/detections_3d',
        'vision_msgs/Detection3DArray',
        _Detection3DArray,
        _detections_3d,
        'box in space of every object that depth measured',
        Needs.OBJECTS,
        parameter='depth',
    ),
    Output(
        '~/free_space',
        'nav_msgs/OccupancyGrid',
        OccupancyGrid,
        _free_space,
        'ground seen from above: 0 free to 100 occupied, -1 unknown, in `target_frame` or in the '
        "camera's frame",
        Needs.GRID,
    ),
    Output(
        '~/occlusion',
        *_IMAGE,
        _occlusion,
        '`mono8`: 255 where a real object hides the virtual one of `virtual_depth`, 0 elsewhere',
        Needs.OBJECTS | Needs.VIRTUAL_DEPTH,
        parameter='virtual_depth',
    ),
    Output(
        '~/object_detections',
        *_DETECTIONS,
        _object_detections,
        'as `~/detections`, only objects with one of `object_roles`, and the surface each one '
        'stands on',
        Needs.DEPTH,
    ),
    Output(
        '~/markers',
        *_MARKERS,
        _markers,
        'box and text of every object in space: class, track id, distance, how it was placed, '
        'speed relative to the camera',
        Needs.OBJECTS,
    ),
    Output(
        '~/objects',
        *_MARKERS,
        _objects,
        'as `~/markers`, only objects with one of `object_roles`, and the surface each one '
        'stands on',
        Needs.OBJECTS,
    ),
    Output(
        '~/support_surfaces',
        *_MARKERS,
        _support_surfaces,
        'level surfaces that can carry objects, as slabs',
        Needs.DEPTH,
    ),
    Output(
        '~/semantic_color',
        *_IMAGE,
        _semantic_color,
        '`bgr8`: colour of the class of every pixel, black where void',
        is_for_people=True,
    ),
    Output(
        '~/instance_color',
        *_IMAGE,
        _instance_color,
        '`bgr8`: every object in a shade of its class colour that it keeps, black elsewhere',
        is_for_people=True,
    ),
    Output(
        '~/semantic/compressed',
        *_COMPRESSED,
        _semantic_compressed,
        '`~/semantic` as PNG, lossless',
        is_for_people=True,
    ),
    Output(
        '~/instance/compressed',
        *_COMPRESSED,
        _instance_compressed,
        '`~/instance` as PNG with 16 bits, lossless',
        is_for_people=True,
    ),
    Output(
        '~/panoptic/compressed',
        *_COMPRESSED,
        _panoptic_compressed,
        '`~/panoptic` as colour PNG, lossless: value = R + 256 G + 65536 B',
        is_for_people=True,
    ),
    Output(
        '~/overlay/compressed',
        *_COMPRESSED,
        _overlay_compressed,
        '`~/overlay` as JPEG',
        is_for_people=True,
    ),
    Output(
        '~/overlay',
        *_IMAGE,
        _overlay,
        '`bgr8`: the image with class colours and outlines of objects',
        is_for_people=True,
    ),
)
"""All topics built from frames, in the order they are published."""

LABEL_INFO, TIMING, DIAGNOSTICS = '~/label_info', '~/timing', '/diagnostics'

OTHER_OUTPUTS = {
    LABEL_INFO: (
        'vision_msgs/LabelInfo',
        'class names of the values of `~/semantic`, 255 is `void`; latched (transient local)',
    ),
    TIMING: (
        'diagnostic_msgs/DiagnosticArray',
        'milliseconds of each stage of every frame; a subscriber of this topic alone does not '
        'start the segmentation',
    ),
    DIAGNOSTICS: (
        'diagnostic_msgs/DiagnosticArray',
        'once a second: state, engine, counts of images, rates, percentiles of the stages, '
        'obstacles and collision times',
    ),
}
"""Type and contents of the topics that are not built from a single frame."""
