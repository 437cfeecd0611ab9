"""Parameters of the node, as two frozen dataclasses.

This table is the only statement of the parameters: ``config/segment.yaml`` and
``doc/parameters.md`` are generated from it, and the launch file reads it for its arguments.

:class:`Structure` decides what is loaded; it is fixed from configure to cleanup. :class:`Tuning`
can change at any time and applies from the next frame on.
"""

import re
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from panoptic_ros.engines import ENGINES, PRECISIONS
from panoptic_ros.engines.batching import MAX_BATCH
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.fusion import Fusion
from panoptic_ros.labels import ROLES, LabelSet
from panoptic_ros.packing import PANOPTIC_PACKINGS
from panoptic_ros.scene.ground_view import DEFAULT_TOLERANCE, PoseTolerance
from panoptic_ros.scene.motion import TrackerSettings
from panoptic_ros.scene.selection import Region

FROM_CARD = -1.0
"""A fusion threshold below 0 stands for the value on the model's card."""


_NAME = re.compile('[A-Za-z][A-Za-z0-9_]*')

OVERLAP = ('auto', 'always', 'never')
"""Values of ``overlap``. (YAML reads on and off as true and false.)"""

OF_CAMERA = ('roi', 'camera_matrix', 'camera_height_m', 'camera_pitch_rad')
"""Parameters that each camera has too, as ``<camera>.<name>``, if there are several."""


class ParameterError(PanopticRosError):
    """A parameter has the wrong type or is out of range."""


@dataclass(frozen=True)
class Declaration:
    """How a parameter is declared, apart from its name and its default.

    Parameters
    ----------
    description
        For ``ros2 param describe`` and the documentation.
    unit
        Unit, empty for none.
    low, high
        Range of a number.
    choices
        Allowed values of a text; empty for any.
    is_list
        The text is a list, separated by commas, of ``choices`` or of any names.
    read_only
        Can be set at start only.
    """

    description: str
    unit: str = ''
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    is_list: bool = False
    read_only: bool = False

    @property
    def constraint(self) -> str:
        """Allowed values of a text, in words; empty for any."""
        if self.is_list:
            some = f'some of {", ".join(self.choices)}' if self.choices else 'names'
            return f'nothing or, separated by commas, {some}'
        return f'one of {", ".join(self.choices)}' if self.choices else ''

    def expected(self, default: object) -> str:
        """Return the allowed type and values, in words."""
        if isinstance(default, bool):
            return 'true or false'
        if isinstance(default, str):
            return self.constraint or 'a text'
        kind = 'number with a decimal point' if isinstance(default, float) else 'whole number'
        return f'a {kind}, {self.low} to {self.high} {self.unit}'.rstrip()

    def accepts(self, value: object) -> bool:
        """Return whether a text is one of the choices; rclpy checks types and ranges itself."""
        if not self.choices or value in self.choices:
            return True
        return self.is_list and set(listed(str(value))) <= set(self.choices)


def listed(text: str) -> tuple[str, ...]:
    """Return the entries of a text that are separated by commas."""
    return tuple(entry.strip() for entry in text.split(',') if entry.strip())


def declaration(declared: 'Field[Any]') -> Declaration:
    """Return the declaration of a field of :class:`Structure` or :class:`Tuning`."""
    return declared.metadata['declaration']


def _parameter(default: Any, description: str, **details: Any) -> Any:
    return field(default=default, metadata={'declaration': Declaration(description, **details)})


def _fusion_fraction(description: str, unit: str) -> Any:
    return _parameter(
        FROM_CARD,
        f"{description}; below 0 for the value on the model's card",
        unit=unit,
        low=-1.0,
        high=1.0,
    )


@dataclass(frozen=True)
class Structure:
    """Parameters that decide what is loaded and connected."""

    autostart: bool = _parameter(
        True,
        'Configure and activate at start; if false, a lifecycle manager does it',
        read_only=True,
    )
    model: str = _parameter(
        'street-lite', 'Name of an embedded model, or path of a folder with a card.yaml'
    )
    engine: str = _parameter(
        'auto',
        'Inference engine; auto is the fastest one that runs on this machine',
        choices=('auto', *ENGINES),
    )
    engine_precision: str = _parameter(
        'auto',
        'Arithmetic of CPU engines; auto is the fastest that gives good results',
        choices=PRECISIONS,
    )
    engine_threads: int = _parameter(
        0, 'CPU threads of the engine, 0 for one a core', unit='threads', low=0, high=256
    )
    engine_cache: str = _parameter(
        '',
        'Folder for engines compiled on this machine (TensorRT), for robots with a read-only '
        'home; empty for ~/.cache/panoptic_ros/tensorrt',
    )
    engine_batch: int = _parameter(
        1,
        'Images that the engine computes at once, those of different cameras. tensorrt, '
        'tensorrt_rtx and onnxruntime can; the others compute one after the other, as with 1. '
        'Fewer images take as long as all',
        unit='images',
        low=1,
        high=MAX_BATCH,
    )
    fast_resize: bool = _parameter(
        False,
        'Sample where the card of the model says to filter when an image is reduced: faster, but '
        'the network sees aliases of fine detail that it was not trained with',
    )
    overlap: str = _parameter(
        'auto',
        'Publish an image while the engine computes the next one: a higher rate. auto does so '
        'with engines on a GPU, and not with those on a CPU, which share its cores with the '
        'publishing',
        choices=OVERLAP,
    )
    image_transport: str = _parameter(
        'raw',
        'Type of the images: raw is sensor_msgs/Image on image, compressed is '
        'sensor_msgs/CompressedImage (JPEG or PNG) on image/compressed',
        choices=('raw', 'compressed'),
    )
    cameras: str = _parameter(
        '',
        'Names of cameras that share the engine. Each one has its inputs, NAME/image and so on, '
        'its outputs, ~/NAME/semantic and so on, and its parameters NAME.roi, NAME.camera_matrix, '
        'NAME.camera_height_m and NAME.camera_pitch_rad, which have the values of roi and so on '
        'if they are not given. Empty for one camera, image',
        is_list=True,
        read_only=True,
    )
    depth: bool = _parameter(
        False,
        'Subscribe to depth (32FC1 metres or 16UC1 millimetres, aligned to the image) and '
        'depth/camera_info, and measure objects with it',
    )
    virtual_depth: bool = _parameter(
        False,
        'Subscribe to virtual_depth, depth images of virtual objects with the size and stamp of '
        'the image, and publish ~/occlusion: which of their pixels real objects hide',
    )
    ground_frame: str = _parameter(
        'base_footprint',
        'Frame on the ground below the robot. If /tf_static has the pose of the camera in it, '
        'height and pitch come from there instead of camera_height_m and camera_pitch_rad, as the '
        'log says; empty for the parameters only',
    )
    target_frame: str = _parameter(
        '',
        'Frame of ~/free_space, found through tf2; its x-y plane is the ground, as that of '
        'base_footprint, odom and map. Empty for the frame of the image, in which the grid is '
        "tilted (see info.origin). Planners that ignore that orientation, such as Nav2's static "
        'layer, need a target frame',
    )

    def __post_init__(self) -> None:
        """Raise ValueError for names of cameras that cannot be part of a topic."""
        names = listed(self.cameras)
        if len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
            raise ValueError(
                f'cameras is {self.cameras!r}; expected names that differ, of letters, digits and '
                "underscores, separated by commas, such as 'front, left'"
            )

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of the cameras; one empty name if there is only one."""
        return listed(self.cameras) or ('',)


@dataclass(frozen=True)
class Tuning:
    """Parameters that may change while the node runs."""

    centre_threshold: float = _fusion_fraction(
        'Minimum score of an object centre: lower finds more objects, and more false ones',
        'score 0..1',
    )
    max_centre_distance_fraction: float = _fusion_fraction(
        'Pixels that point farther than this from every object centre belong to no object',
        "fraction of the image's diagonal",
    )
    min_thing_area_fraction: float = _fusion_fraction(
        'Smaller objects become void', 'fraction of the image'
    )
    min_orphan_area_fraction: float = _fusion_fraction(
        'Smaller regions of a thing class without an object centre become void',
        'fraction of the image',
    )
    min_stuff_area_fraction: float = _fusion_fraction(
        'Stuff classes with a smaller area become void', 'fraction of the image'
    )
    min_thing_score: float = _fusion_fraction(
        'Objects with a lower score (that of the centre times the mean confidence) become void',
        'score 0..1',
    )
    min_stuff_score: float = _fusion_fraction(
        'Stuff classes with a lower score (the mean confidence) become void', 'score 0..1'
    )
    score_threshold: float = _fusion_fraction(
        'Queries with a lower class probability are dropped (head kind queries)', 'score 0..1'
    )
    min_kept_fraction: float = _fusion_fraction(
        'Queries that keep no more than this of their mask become void (head kind queries)',
        'fraction of the mask',
    )
    classes: str = _parameter(
        '',
        'Names of the classes that are published, separated by commas; the pixels of all others '
        'become void. Empty for all',
    )
    roi: str = _parameter(
        '',
        'Region of the image that is segmented: x, y, width, height in pixels; outside everything '
        'is void, and the outputs keep the size of the image. Empty for the whole image',
    )
    tracking: bool = _parameter(
        True,
        'Objects keep their id from frame to frame, 1 to 65535; if false, ids are 1, 2, ... in '
        'each frame',
    )
    track_max_gap_s: float = _parameter(
        TrackerSettings.max_gap_s,
        'An object that was out of sight for longer gets a new id',
        unit='s',
        low=0.0,
        high=60.0,
    )
    track_min_overlap: float = _parameter(
        TrackerSettings.min_overlap,
        'Minimum overlap of the masks of an object in consecutive frames, after compensating its '
        'motion',
        unit='intersection over union',
        low=0.0,
        high=1.0,
    )
    panoptic_packing: str = _parameter(
        'class_instance',
        'Values of ~/panoptic: class_instance is class << 16 | instance, thing_instance is the '
        'same for objects and 0 elsewhere, segment_id is (class + 1) << 16 | instance and 0 where '
        'void',
        choices=tuple(PANOPTIC_PACKINGS),
    )
    mask_role: str = _parameter(
        'dynamic_agent',
        'Classes shown by ~/mask: those with this role in the label set',
        choices=tuple(sorted(ROLES)),
    )
    object_roles: str = _parameter(
        '',
        'Objects on ~/objects and ~/object_detections: those with one of these roles; empty for '
        'all',
        choices=tuple(sorted(ROLES)),
        is_list=True,
    )
    camera_height_m: float = _parameter(
        1.5,
        'Height of the camera above flat ground; places objects without depth, and ~/free_space',
        unit='m',
        low=0.05,
        high=100.0,
    )
    camera_pitch_rad: float = _parameter(
        0.0,
        'Angle the camera looks down, negative for up; places objects without depth, and '
        '~/free_space',
        unit='rad',
        low=-1.5,
        high=1.5,
    )
    camera_height_tolerance: float = _parameter(
        DEFAULT_TOLERANCE.height_fraction,
        'Largest error of the height of the camera; ground without depth on which a person or '
        'vehicle may stand with it is occupied in ~/free_space',
        unit='fraction of the height',
        low=0.0,
        high=0.9,
    )
    camera_pitch_tolerance_rad: float = _parameter(
        DEFAULT_TOLERANCE.pitch_rad,
        'Largest error of the pitch of the camera, from its mounting, from braking and from '
        'slopes; used like camera_height_tolerance',
        unit='rad',
        low=0.0,
        high=0.5,
    )
    ground_range_m: float = _parameter(
        60.0,
        'Range within which the ground counts as flat; beyond it, the usual height of its class '
        'places an object',
        unit='m',
        low=1.0,
        high=1000.0,
    )
    camera_matrix: str = _parameter(
        'auto',
        'Matrix of camera_info that describes the images: P for rectified images, K for raw ones; '
        'auto is P where it is filled in, else K',
        choices=('auto', 'P', 'K'),
    )
    image_black_level: int = _parameter(
        0, 'Value of 16-bit images that becomes black', low=0, high=65534
    )
    image_white_level: int = _parameter(
        65535,
        'Value of 16-bit images that becomes white, for example 4095 for a 12-bit camera',
        low=1,
        high=65535,
    )
    depth_tolerance_s: float = _parameter(
        0.02,
        'Maximum difference of the stamps of image and depth; 0.0 for equal stamps only',
        unit='s',
        low=0.0,
        high=1.0,
    )
    depth_wait_s: float = _parameter(
        0.02,
        'Maximum time a segmented image waits for its depth; its maps are published before',
        unit='s',
        low=0.0,
        high=1.0,
    )
    turn_boxes: bool = _parameter(
        False,
        'Boxes measured by depth are upright and turned to fit closely, which needs the right '
        'camera_pitch_rad; if false, they are aligned with the axes of the camera',
    )
    transform_wait_s: float = _parameter(
        0.05,
        'Maximum time an image waits for the transform to target_frame at its stamp',
        unit='s',
        low=0.0,
        high=1.0,
    )
    transform_max_age_s: float = _parameter(
        0.5,
        'If the transform to target_frame is late, the latest one is used with a warning if it is '
        'not older than the image by more than this; 0.0 for never',
        unit='s',
        low=0.0,
        high=10.0,
    )
    grid_length_m: float = _parameter(
        20.0, 'Extent of ~/free_space ahead of the camera', unit='m', low=1.0, high=100.0
    )
    grid_width_m: float = _parameter(
        10.0,
        'Extent of ~/free_space across, the camera in the middle',
        unit='m',
        low=1.0,
        high=100.0,
    )
    grid_resolution_m: float = _parameter(
        0.1, 'Side of a cell of ~/free_space', unit='m', low=0.05, high=5.0
    )
    walkable_cost: int = _parameter(
        50,
        'Value of cells of ~/free_space with ground to walk but not to drive on: 0 as free as a '
        'road, 100 occupied',
        low=0,
        high=100,
    )
    agent_margin_m: float = _parameter(
        0.5,
        'Distance around people and vehicles that counts as occupied in ~/free_space',
        unit='m',
        low=0.0,
        high=10.0,
    )
    obstacle_height_m: float = _parameter(
        2.0,
        'With depth, obstacles higher above the ground than this do not occupy ~/free_space',
        unit='m',
        low=0.1,
        high=100.0,
    )
    collision_radius_m: float = _parameter(
        1.5,
        'Distance from the camera that counts as a collision for the times in /diagnostics',
        unit='m',
        low=0.1,
        high=100.0,
    )
    overlay_opacity: float = _parameter(
        0.5, 'Share of class colour in ~/overlay; the rest is the image', low=0.0, high=1.0
    )
    marker_lifetime_s: float = _parameter(
        2.0,
        'Time after which rviz removes markers that are not updated, more than between two images '
        'of the camera; 0.0 for never',
        unit='s',
        low=0.0,
        high=60.0,
    )
    image_timeout_s: float = _parameter(
        2.0, 'Time without an image until /diagnostics warns', unit='s', low=0.1, high=3600.0
    )

    def __post_init__(self) -> None:
        """Raise ValueError for values that contradict each other."""
        if self.image_white_level <= self.image_black_level:
            raise ValueError(
                f'image_white_level is {self.image_white_level}; expected more than '
                f'image_black_level, {self.image_black_level}'
            )

        if self.roi:
            try:
                Region.parse(self.roi)
            except ValueError as error:
                raise ValueError(f'roi: {error}') from error

    @property
    def region(self) -> Region | None:
        """Region of the image that is segmented; None for all of it."""
        return Region.parse(self.roi) if self.roi else None

    def unknown_class(self, label_set: LabelSet) -> str:
        """Return an error for a name in ``classes`` that is not a class, else ''."""
        unknown = [name for name in listed(self.classes) if name not in label_set.names]
        if not unknown:
            return ''
        return (
            f'parameter classes has {unknown[0]!r}; expected names of the label set '
            f'{label_set.name!r}: {", ".join(label_set.names)}'
        )

    @property
    def image_levels(self) -> tuple[int, int]:
        """Black and white level of 16-bit images."""
        return self.image_black_level, self.image_white_level

    @property
    def pose_tolerance(self) -> PoseTolerance:
        """Error that the pose of the camera may have."""
        return PoseTolerance(self.camera_height_tolerance, self.camera_pitch_tolerance_rad)

    @property
    def tracker_settings(self) -> TrackerSettings:
        """Settings of the tracker."""
        return TrackerSettings(max_gap_s=self.track_max_gap_s, min_overlap=self.track_min_overlap)

    def override(self, fusion: Fusion) -> Fusion:
        """Return the fusion of a card with the thresholds that are set here (not below 0)."""
        names = {f.name for f in fields(fusion)} & {f.name for f in fields(self)}
        values = {name: getattr(self, name) for name in names}
        return replace(fusion, **{name: value for name, value in values.items() if value >= 0})


PARAMETERS: dict[str, 'Field[Any]'] = {f.name: f for g in (Structure, Tuning) for f in fields(g)}
"""The fields of both groups by name."""

SECTIONS = {
    'Start and model': 'autostart',
    'Inputs': 'image_transport',
    'Frames': 'ground_frame',
    'Fusion': 'centre_threshold',
    'Selection': 'classes',
    'Tracking': 'tracking',
    'Maps and objects': 'panoptic_packing',
    'Camera above the ground': 'camera_height_m',
    'Images': 'camera_matrix',
    'Depth': 'depth_tolerance_s',
    'Transforms': 'transform_wait_s',
    'Free space and collisions': 'grid_length_m',
    'Display and diagnostics': 'overlay_opacity',
}
"""Headings of the documentation, and the parameter that each one begins with."""
