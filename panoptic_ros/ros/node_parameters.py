"""Parameters of a running node: declared, checked and kept up to date; overrides of QoS."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import Field, fields, replace
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
from rclpy.qos import InvalidQoSProfileException, QoSPolicyKind
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions

from panoptic_ros.labels import LabelSet
from panoptic_ros.ros.parameters import (
    OF_CAMERA,
    PARAMETERS,
    Declaration,
    ParameterError,
    Structure,
    Tuning,
    declaration,
    listed,
)

QOS_OVERRIDES = QoSOverridingOptions(
    [
        QoSPolicyKind.HISTORY,
        QoSPolicyKind.DEPTH,
        QoSPolicyKind.RELIABILITY,
        QoSPolicyKind.DURABILITY,
    ]
)
"""Policies that ``qos_overrides.<topic>.<publisher or subscription>`` can set."""

Group = TypeVar('Group', Structure, Tuning)

_STRUCTURE = frozenset(f.name for f in fields(Structure))
_QOS_OVERRIDES = 'qos_overrides.'


class NodeParameters:
    """The parameters of a node.

    Parameters
    ----------
    node
        Declares them; values given at start (YAML file, ``-p``) replace the defaults.

    Attributes
    ----------
    structure, tuning
        Current values.
    is_structure_fixed
        If true, changes of :class:`Structure` are refused; set while the node is configured.
    label_set
        Classes of the model while the node is configured, else None.
    unknown
        Names given at start that are not parameters of this node; ROS ignores them silently.

    Raises ParameterError if a value given at start has the wrong type or is out of range.
    """

    def __init__(self, node: Node) -> None:
        self.is_structure_fixed = False
        self.label_set: LabelSet | None = None
        self.structure = _declare(node, Structure)
        self.tuning = _declare(node, Tuning)
        self._own = {
            name: _declare_own(node, name, self.tuning) for name in listed(self.structure.cameras)
        }
        self._node = node
        unused = self._unused()
        self.unknown = [name for name in unused if not name.startswith(_QOS_OVERRIDES)]
        if hasattr(node, 'add_post_set_parameters_callback'):
            node.add_on_set_parameters_callback(self._check)
            node.add_post_set_parameters_callback(self._apply)
        else:  # Humble
            node.add_on_set_parameters_callback(self._check_and_apply)

    def tuning_of(self, camera: str) -> Tuning:
        """Return the current parameters of a camera; an empty name is the only one."""
        return self._own.get(camera, self.tuning)

    @property
    def unused_qos_overrides(self) -> list[str]:
        """QoS overrides given at start that no topic has used, complete once all topics exist."""
        return [name for name in self._unused() if name.startswith(_QOS_OVERRIDES)]

    def _unused(self) -> list[str]:
        # rclpy has no public way to list what was given.
        given = self._node._parameter_overrides
        return sorted(name for name in given if not self._node.has_parameter(name))

    def _check(self, changes: list[Parameter]) -> SetParametersResult:
        # rclpy has checked types and ranges already.
        reasons = (self._fixed_error(change) or _choice_error(change) for change in changes)
        reason = next(filter(None, reasons), '') or self._contradiction(changes)
        return SetParametersResult(successful=not reason, reason=reason)

    def _check_and_apply(self, changes: list[Parameter]) -> SetParametersResult:
        result = self._check(changes)
        if result.successful:
            self._apply(changes)
        return result

    def _contradiction(self, changes: list[Parameter]) -> str:
        try:
            tuning = _changed(self.tuning, changes)
            self._changed_own(changes)
        except ValueError as error:
            return f'parameter {error}'
        return tuning.unknown_class(self.label_set) if self.label_set else ''

    def _fixed_error(self, change: Parameter) -> str:
        # The current value is accepted, so that `ros2 param load` takes what `dump` wrote. (The
        # read-only flag of rclpy would refuse it.)
        name = change.name
        if name not in _STRUCTURE or change.value == getattr(self.structure, name):
            return ''
        if declaration(PARAMETERS[name]).read_only:
            return f'parameter {name} can be set at start only'
        if self.is_structure_fixed:
            return (
                f'parameter {name} is fixed while the node is configured; clean the node up, set '
                'it, then configure again'
            )
        return ''

    def _apply(self, changes: list[Parameter]) -> None:
        self.structure = _changed(self.structure, changes)
        self.tuning = _changed(self.tuning, changes)
        self._own = self._changed_own(changes)

    def _changed_own(self, changes: list[Parameter]) -> dict[str, Tuning]:
        """Return the parameters of each camera after changes of its own and of common ones."""
        common = [change for change in changes if change.name not in OF_CAMERA]
        return {
            camera: _changed(tuning, [*common, *_changes_of(camera, changes)])
            for camera, tuning in self._own.items()
        }


def descriptor(declared: Declaration, default: object) -> ParameterDescriptor:
    """Return the descriptor of a parameter."""
    unit = f' [{declared.unit}]' if declared.unit else ''
    fixed = ' (fixed at start)' if declared.read_only else ''
    result = ParameterDescriptor(
        description=declared.description + unit + fixed,
        additional_constraints=declared.constraint,
    )
    limits = {'from_value': declared.low, 'to_value': declared.high}
    if isinstance(default, float):
        result.floating_point_range = [FloatingPointRange(**limits)]
    elif isinstance(default, int) and not isinstance(default, bool):
        result.integer_range = [IntegerRange(**limits)]
    return result


def _declare(node: Node, group: type[Group]) -> Group:
    values = []
    for declared in fields(group):
        values.append(_declare_one(node, declared, declared.default))
    try:
        return _changed(group(), values)
    except ValueError as error:
        raise ParameterError(f'parameter {error}') from error


def _declare_one(
    node: Node, declared: 'Field[Any]', default: object, prefix: str = ''
) -> Parameter:
    name = prefix + declared.name
    try:
        parameter = node.declare_parameter(
            name, default, descriptor(declaration(declared), default)
        )
    except ParameterException as error:
        raise ParameterError(
            f'parameter {name} is {node._parameter_overrides[name].value!r}; expected '
            f'{declaration(declared).expected(default)}'
        ) from error
    if choice_error := _choice_error(parameter):
        raise ParameterError(choice_error)
    return parameter


def _declare_own(node: Node, camera: str, tuning: Tuning) -> Tuning:
    """Declare the parameters of a camera; the values of the common ones are the defaults."""
    values = [
        _declare_one(node, PARAMETERS[name], getattr(tuning, name), f'{camera}.')
        for name in OF_CAMERA
    ]
    try:
        return _changed(tuning, _changes_of(camera, values))
    except ValueError as error:
        raise ParameterError(f'parameter {camera}.{error}') from error


def _changes_of(camera: str, changes: Iterable[Parameter]) -> list[Parameter]:
    """Return the changes of a camera's own parameters, named like the common ones."""
    return [
        Parameter(name, value=change.value)
        for change in changes
        for of, _, name in [change.name.partition('.')]
        if of == camera and name in OF_CAMERA
    ]


def _choice_error(parameter: Parameter) -> str:
    # The parameters of a camera have its name before theirs.
    declared = PARAMETERS.get(parameter.name.rpartition('.')[2])
    if declared is None or declaration(declared).accepts(parameter.value):
        return ''
    expected = declaration(declared).expected(declared.default)
    return f'parameter {parameter.name} is {parameter.value!r}; expected {expected}'


def _changed(group: Group, changes: Iterable[Parameter]) -> Group:
    names = {f.name for f in fields(group)}
    return replace(group, **{c.name: _clip(c) for c in changes if c.name in names})


def _clip(parameter: Parameter) -> Any:
    # rclpy accepts values that are outside the range by a millionth.
    declared = PARAMETERS[parameter.name]
    if isinstance(declared.default, float):
        limits = declaration(declared)
        return min(max(parameter.value, limits.low), limits.high)
    return parameter.value


@contextmanager
def qos_errors(topic: str) -> Iterator[None]:
    """Turn the exceptions of rclpy for an unusable QoS override of a topic into ParameterError."""
    try:
        yield
    except (
        RuntimeError,  # unknown policy value
        ParameterException,
        InvalidQosOverridesError,
        InvalidQoSProfileException,
    ) as error:
        raise ParameterError(
            f'the parameters qos_overrides.{topic} cannot be used: {error}; expected history '
            'keep_last or keep_all, depth a whole number, reliability reliable or best_effort, '
            'durability volatile or transient_local'
        ) from error
