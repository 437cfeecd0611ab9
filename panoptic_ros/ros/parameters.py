"""Everything that can be set on the node, declared once and read as frozen dataclasses.

The fields of :class:`Structure` decide what is loaded: they can be set while nothing is, and are
refused from configure to cleanup. The fields of :class:`Tuning` can change at any time and count
from the next frame on.
"""

from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from panoptic_ros.engines import ENGINES, PRECISIONS
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.fusion import CentreFusion, QueryFusion
from panoptic_ros.labels import ROLES
from panoptic_ros.packing import PANOPTIC_PACKINGS
from panoptic_ros.scene.tracking import TrackerSettings

OF_MODEL = -1.0
"""A fusion threshold below 0 is taken from the model's card; this is the usual way to say so."""


class ParameterError(PanopticRosError):
    """A parameter was given a value of the wrong type or out of range."""


def _parameter(
    default: Any,
    description: str,
    *,
    unit: str = '',
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    several: bool = False,
    read_only: bool = False,
) -> Any:
    constraint = f'one of {", ".join(choices)}' if choices else ''
    if several:
        constraint = f'nothing or, with commas between them, some of {", ".join(choices)}'
    descriptor = ParameterDescriptor(
        description=f'{description} [{unit}]' if unit else description,
        additional_constraints=constraint,
        read_only=read_only,
    )
    expected = {bool: 'true or false', str: constraint or 'a text'}.get(type(default), '')
    if isinstance(default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        expected = f'a number with a decimal point, {low} to {high} {unit}'.rstrip()
    elif not expected:
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
        expected = f'a whole number, {low} to {high} {unit}'.rstrip()
    metadata = {
        'descriptor': descriptor,
        'choices': choices,
        'several': several,
        'expected': expected,
    }
    return field(default=default, metadata=metadata)


def _fusion_fraction(what: str, unit: str) -> Any:
    return _parameter(
        OF_MODEL,
        f"{what}; below 0 for the value on the model's card",
        unit=unit,
        low=-1.0,
        high=1.0,
    )


@dataclass(frozen=True)
class Structure:
    """What is loaded and connected."""

    autostart: bool = _parameter(
        True,
        'Configure and activate at start; if false, a lifecycle manager has to',
        read_only=True,
    )
    model: str = _parameter(
        'street-lite', 'Name of an embedded model, or path of a folder with a card.yaml'
    )
    engine: str = _parameter(
        'auto',
        'What runs the network; auto is the fastest that can run here',
        choices=('auto', *ENGINES),
    )
    engine_precision: str = _parameter(
        'auto',
        'Arithmetic of the engine; auto is the fastest that gives good results',
        choices=PRECISIONS,
    )
    engine_threads: int = _parameter(
        0, 'CPU threads of the engine, 0 for one a core', unit='threads', low=0, high=256
    )
    engine_cache: str = _parameter(
        '',
        'Folder for engines compiled on this machine (TensorRT), for robots whose home is '
        'read-only; empty for ~/.cache/panoptic_ros/tensorrt',
    )
    image_transport: str = _parameter(
        'raw',
        'Type of the topic image: raw for sensor_msgs/Image, compressed for '
        'sensor_msgs/CompressedImage (JPEG or PNG)',
        choices=('raw', 'compressed'),
    )
    depth: bool = _parameter(
        False,
        'Take depth images that are aligned to the image from the topic depth (32FC1 metres, or '
        '16UC1 millimetres), for objects and points in space',
    )
    virtual_depth: bool = _parameter(
        False,
        'Take depth images of virtual things from the topic virtual_depth and say on ~/occlusion '
        'which of their pixels real things hide',
    )
    target_frame: str = _parameter(
        '',
        'Frame of ~/free_space, through tf2, whose x-y plane is the ground, such as '
        'base_footprint or odom; empty for the frame of the image',
    )


@dataclass(frozen=True)
class Tuning:
    """What may change while the node runs."""

    centre_threshold: float = _fusion_fraction(
        'Object centres with a lower score do not count', 'score 0..1'
    )
    max_centre_distance_fraction: float = _fusion_fraction(
        'Pixels that point farther than this from every centre belong to none',
        "fraction of the image's diagonal",
    )
    min_thing_area_fraction: float = _fusion_fraction(
        'Objects smaller than this become void', 'fraction of the image'
    )
    min_orphan_area_fraction: float = _fusion_fraction(
        'Patches of a thing class without a centre smaller than this become void',
        'fraction of the image',
    )
    min_stuff_area_fraction: float = _fusion_fraction(
        'Stuff classes smaller than this become void', 'fraction of the image'
    )
    min_thing_score: float = _fusion_fraction(
        "Objects with a lower score, their centre's times the mean confidence, become void",
        'score 0..1',
    )
    min_stuff_score: float = _fusion_fraction(
        'Stuff classes with a lower score, the mean confidence, become void', 'score 0..1'
    )
    score_threshold: float = _fusion_fraction(
        'Queries with a lower class probability do not count (head kind queries)', 'score 0..1'
    )
    min_kept_fraction: float = _fusion_fraction(
        'Queries that keep no more than this of their mask become void (head kind queries)',
        'fraction of the mask',
    )
    tracking: bool = _parameter(
        True,
        'Objects keep their ids from frame to frame; if false, ids mean nothing beyond a frame',
    )
    track_max_gap_s: float = _parameter(
        TrackerSettings.max_gap_s,
        'Objects that were out of sight for longer come back with a new id',
        unit='s',
        low=0.0,
        high=60.0,
    )
    track_min_overlap: float = _parameter(
        TrackerSettings.min_overlap,
        'Masks of an object overlap by more than this from frame to frame, its motion taken out',
        unit='intersection over union',
        low=0.0,
        high=1.0,
    )
    panoptic_packing: str = _parameter(
        'class_instance',
        'What the values of ~/panoptic are: class_instance is class << 16 | instance, '
        'thing_instance the same for objects and 0 elsewhere, segment_id is '
        '(class + 1) << 16 | instance and 0 where void',
        choices=tuple(PANOPTIC_PACKINGS),
    )
    mask_role: str = _parameter(
        'dynamic_agent',
        'What ~/mask shows: the classes that have this role in the label set',
        choices=tuple(sorted(ROLES)),
    )
    overlay_opacity: float = _parameter(
        0.5, 'How much of the overlay is class colour, the rest is picture', low=0.0, high=1.0
    )
    camera_height_m: float = _parameter(
        1.5,
        'Height of the camera above flat ground; places the markers',
        unit='m',
        low=0.05,
        high=100.0,
    )
    camera_pitch_rad: float = _parameter(
        0.0,
        'How far the camera looks down, negative for up; places the markers',
        unit='rad',
        low=-1.5,
        high=1.5,
    )
    ground_range_m: float = _parameter(
        60.0,
        'How far the ground counts as flat; beyond, the usual height of a class places markers',
        unit='m',
        low=1.0,
        high=1000.0,
    )
    marker_lifetime_s: float = _parameter(
        0.5,
        'Markers vanish if nothing is published for so long; 0 for never',
        unit='s',
        low=0.0,
        high=60.0,
    )
    depth_tolerance_s: float = _parameter(
        0.02,
        'How far the stamps of image and depth may differ; 0 for equal stamps only',
        unit='s',
        low=0.0,
        high=1.0,
    )
    depth_wait_s: float = _parameter(
        0.02,
        'How long a segmented image waits for its depth at most; its masks are out by then',
        unit='s',
        low=0.0,
        high=1.0,
    )
    turn_boxes: bool = _parameter(
        False,
        'Boxes measured by depth stand upright on the ground and are turned to fit closely, which '
        'needs camera_pitch_rad; if false, they lie along the axes of the camera',
    )
    object_roles: str = _parameter(
        '',
        'Only objects with one of these roles are on ~/objects; empty for all',
        choices=tuple(sorted(ROLES)),
        several=True,
    )
    grid_length_m: float = _parameter(
        20.0, 'How far ~/free_space reaches ahead of the camera', unit='m', low=1.0, high=100.0
    )
    grid_width_m: float = _parameter(
        10.0, 'How wide ~/free_space is, the camera in the middle', unit='m', low=1.0, high=100.0
    )
    grid_resolution_m: float = _parameter(
        0.1, 'Side of a cell of ~/free_space', unit='m', low=0.05, high=5.0
    )
    walkable_cost: int = _parameter(
        50,
        'What cells of ~/free_space are worth where one may walk but not drive: from 0, as good '
        'as a road, to 100, as bad as a wall',
        low=0,
        high=100,
    )
    agent_margin_m: float = _parameter(
        0.5,
        'How far around people and vehicles ~/free_space is occupied too',
        unit='m',
        low=0.0,
        high=10.0,
    )
    obstacle_height_m: float = _parameter(
        2.0,
        'What is higher above the ground is no obstacle in ~/free_space; counts with depth',
        unit='m',
        low=0.1,
        high=100.0,
    )
    collision_radius_m: float = _parameter(
        1.5,
        'Diagnostics tell when people and vehicles come so near to the camera',
        unit='m',
        low=0.1,
        high=100.0,
    )
    image_timeout_s: float = _parameter(
        2.0, 'Diagnostics warn after so long without an image', unit='s', low=0.1, high=3600.0
    )

    @property
    def tracker_settings(self) -> TrackerSettings:
        """The tracker's settings."""
        return TrackerSettings(max_gap_s=self.track_max_gap_s, min_overlap=self.track_min_overlap)

    def tune(self, fusion: CentreFusion | QueryFusion) -> CentreFusion | QueryFusion:
        """Return the card's fusion with the thresholds that are set here (0 or above) replaced."""
        names = {f.name for f in fields(fusion)} & _FIELDS[Tuning].keys()
        values = {name: getattr(self, name) for name in names}
        return replace(fusion, **{name: v for name, v in values.items() if v >= 0})


Group = TypeVar('Group', Structure, Tuning)

_FIELDS: dict[type, dict[str, Field[Any]]] = {
    group: {f.name: f for f in fields(group)} for group in (Structure, Tuning)
}

_QOS_OVERRIDES = 'qos_overrides.'


class NodeParameters:
    """The parameters of a node: declared, checked, and kept up to date.

    Parameters
    ----------
    node
        Where they are declared; values given at start (YAML file, ``-p``) replace the defaults.

    Attributes
    ----------
    structure, tuning
        The present values.
    is_structure_fixed
        True refuses changes of :class:`Structure`; the node sets it while it is configured.
    unknown
        Names given at start that mean nothing here, which ROS itself passes over.

    Raises ParameterError if a value given at start has the wrong type or is out of range.
    """

    def __init__(self, node: Node) -> None:
        self.is_structure_fixed = False
        self.structure = _declare(node, Structure)
        self.tuning = _declare(node, Tuning)
        self._node = node
        unused = self._unused()
        self.unknown = [name for name in unused if not name.startswith(_QOS_OVERRIDES)]
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._take)

    @property
    def unused_qos_overrides(self) -> list[str]:
        """QoS overrides given at start that no topic has used, which ROS passes over too.

        A topic uses those of its own when it is made: they mean something only after that.
        """
        return [name for name in self._unused() if name.startswith(_QOS_OVERRIDES)]

    def _unused(self) -> list[str]:
        # rclpy has no public way to ask what was given.
        given = self._node._parameter_overrides
        return sorted(name for name in given if not self._node.has_parameter(name))

    def _check(self, changes: list[Parameter]) -> SetParametersResult:
        # Types and ranges are rclpy's to check, from the descriptors, before this is called.
        for change in changes:
            if change.name in _FIELDS[Structure] and self.is_structure_fixed:
                return SetParametersResult(
                    successful=False,
                    reason=f'parameter {change.name} is fixed while the node is configured; '
                    'clean the node up, set it, then configure again',
                )
        reason = next((f for f in map(_choice_fault, changes) if f), '')
        return SetParametersResult(successful=not reason, reason=reason)

    def _take(self, changes: list[Parameter]) -> None:
        self.structure = _changed(self.structure, changes)
        self.tuning = _changed(self.tuning, changes)


def _declare(node: Node, group: type[Group]) -> Group:
    values = {}
    for name, declared in _FIELDS[group].items():
        try:
            parameter = node.declare_parameter(
                name, declared.default, declared.metadata['descriptor']
            )
        except ParameterException as error:
            raise ParameterError(
                f'parameter {name} is {node._parameter_overrides[name].value!r}; expected '
                f'{declared.metadata["expected"]}'
            ) from error
        fault = _choice_fault(parameter)
        if fault:
            raise ParameterError(fault)
        values[name] = parameter
    return _changed(group(), values.values())


def listed(text: str) -> tuple[str, ...]:
    """Return the entries of a text with commas between them."""
    return tuple(entry.strip() for entry in text.split(',') if entry.strip())


def _choice_fault(parameter: Parameter) -> str:
    declared = _FIELDS[Structure].get(parameter.name) or _FIELDS[Tuning].get(parameter.name)
    choices = declared.metadata['choices'] if declared else ()
    if not choices or parameter.value in choices:
        return ''
    if declared.metadata['several'] and set(listed(parameter.value)) <= set(choices):
        return ''
    expected = declared.metadata['expected']
    return f'parameter {parameter.name} is {parameter.value!r}; expected {expected}'


def _changed(group: Group, changes: Iterable[Parameter]) -> Group:
    known = _FIELDS[type(group)]
    return replace(group, **{c.name: _clip(c, known[c.name]) for c in changes if c.name in known})


def _clip(parameter: Parameter, declared: Field[Any]) -> Any:
    # rclpy takes a value that is a millionth outside the range for one on its edge.
    for limits in declared.metadata['descriptor'].floating_point_range:
        return min(max(parameter.value, limits.from_value), limits.to_value)
    return parameter.value
