"""Checks of the node's topic contract on the messages of one image after the other.

The checks take messages and return faults; they do not communicate.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.benchmark.cdr import frame_key
from panoptic_ros.benchmark.client import Status
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.ros.diagnostics import Counts
from panoptic_ros.ros.messages.markers import TEXT_NAMESPACE
from panoptic_ros.ros.messages.points import FIELDS, POINT, read_points
from panoptic_ros.scene.free_space import FREE
from panoptic_ros.scene.geometry import CameraModel

if TYPE_CHECKING:
    from nav_msgs.msg import OccupancyGrid

IMAGE_ENCODINGS = {
    'semantic': 'mono8',
    'instance': '16UC1',
    'confidence': 'mono8',
    'overlay': 'bgr8',
    'semantic_color': 'bgr8',
    'instance_color': 'bgr8',
    'panoptic': '32SC1',
    'mask': 'mono8',
}
"""Image topics of the node and their encodings."""

OUTCOMES = tuple(field.name for field in fields(Counts) if field.name != 'received')
"""What can become of an image that the node received, as its diagnostics count it."""

MIN_ROAD, MIN_FREE = 0.1, 0.01
"""Share of an image that is road from which on that share of a grid has to be free."""

BYTES_PER_PIXEL = {'mono8': 1, '16UC1': 2, 'bgr8': 3, '32SC1': 4, '32FC1': 4}

_DTYPES = {'mono8': np.uint8, '16UC1': np.uint16, '32SC1': np.int32, '32FC1': np.float32}


def pixels(message: Image) -> np.ndarray:
    """Return an image message's pixels without a copy; [H, W], or [H, W, 3] for bgr8."""
    if message.encoding == 'bgr8':
        return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
    dtype = _DTYPES[message.encoding]
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)


@dataclass
class Check:
    """One promise of the node, and how often it was kept.

    Parameters
    ----------
    name
        The promise in a few words.
    looked
        How many times it was checked.
    broken
        How many times it did not hold.
    examples
        Descriptions of the first three faults.
    skipped
        Why it cannot be checked here; empty if it can.
    """

    name: str
    looked: int = 0
    broken: int = 0
    examples: list[str] = field(default_factory=list)
    skipped: str = ''

    @property
    def passed(self) -> bool:
        """Whether it was checked and held every time, or cannot be checked here."""
        return bool(self.skipped) or (self.looked > 0 and not self.broken)

    def add(self, fault: str = '') -> None:
        """Count one check; an empty text means no fault."""
        self.looked += 1
        if fault:
            self.broken += 1
            if len(self.examples) < 3:
                self.examples.append(fault)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {'name': self.name, 'passed': self.passed} | asdict(self)


class Checks:
    """The checks by name, in the order of their first use."""

    def __init__(self) -> None:
        self._by_name: dict[str, Check] = {}

    def __iter__(self) -> Iterator[Check]:
        return iter(self._by_name.values())

    def __getitem__(self, name: str) -> Check:
        return self._by_name.setdefault(name, Check(name))

    @property
    def passed(self) -> bool:
        """Whether there are any, and all passed."""
        return bool(self._by_name) and all(check.passed for check in self)

    @classmethod
    def from_json(cls, content: Iterable[Mapping[str, Any]]) -> 'Checks':
        """Return the checks whose :meth:`Check.as_json` is given."""
        checks = cls()
        for entry in content:
            values = {name: value for name, value in entry.items() if name != 'passed'}
            checks._by_name[entry['name']] = Check(**values)
        return checks

    def lines(self) -> list[str]:
        """Return one line for each check, and one for each example of a fault."""
        lines = []
        for check in self:
            mark = 'skip' if check.skipped else 'ok' if check.passed else 'FAIL'
            detail = f': {check.skipped}' if check.skipped else ''
            lines.append(f'{mark:<5}{check.looked:>6}  {check.name}{detail}')
            lines += [f'{"":13}{check.broken} times: {example}' for example in check.examples]
        return lines


class FrameAudit:
    """Checks all outputs for one image against the image that the camera sent.

    Parameters
    ----------
    label_set
        Label set of the node's model.
    checks
        Where the results are counted.
    """

    def __init__(self, label_set: LabelSet, checks: Checks) -> None:
        self._label_set = label_set
        self._checks = checks
        self._shown_markers: set[tuple[str, int]] | None = None

    def audit(self, sent: CameraInfo | None, outputs: Mapping[str, Any]) -> Panoptic | None:
        """Check the outputs for one image; call this in the order of the stamps.

        Parameters
        ----------
        sent
            The camera's calibration with the same header; None if the camera sent none.
        outputs
            Messages by topic of the node (``semantic``, ``markers`` ...), all with one header.

        Returns
        -------
        The panoptic map; None if it is missing or invalid.
        """
        for topic, message in outputs.items():
            self._checks[f'{topic}: header is that of a frame sent'].add(
                '' if sent is not None else f'{_header_of(message)} was never sent'
            )
        if sent is None:
            return None
        for topic, encoding in IMAGE_ENCODINGS.items():
            if topic in outputs:
                self._checks[f'{topic}: encoding and size'].add(
                    _image_fault(outputs[topic], encoding, (sent.width, sent.height))
                )
        if 'camera_info' in outputs:
            self._checks['camera_info: that of the masks'].add(
                _camera_info_fault(outputs['camera_info'], sent)
            )
        panoptic = self._audit_maps(outputs)
        self._audit_markers(outputs.get('markers'), panoptic)
        if 'detections' in outputs and panoptic is not None:
            self._checks['detections: one for every thing'].add(
                _detections_fault(outputs['detections'], panoptic)
            )
        if 'points' in outputs and panoptic is not None:
            self._checks['points: one for every pixel, labelled as the maps are'].add(
                _points_fault(outputs['points'], panoptic)
            )
        if 'free_space' in outputs and panoptic is not None:
            self._checks['free_space: what is free shows ground in the picture'].add(
                _free_space_fault(outputs['free_space'], sent, panoptic, self._label_set)
            )
        return panoptic

    def _audit_maps(self, outputs: Mapping[str, Any]) -> Panoptic | None:
        if not {'semantic', 'instance'} <= outputs.keys():
            return None
        check = self._checks['semantic, instance: every thing pixel has an id, nothing else has']
        try:
            panoptic = Panoptic.from_maps(
                pixels(outputs['semantic']), pixels(outputs['instance']), self._label_set
            )
        except (ValueError, KeyError) as error:
            check.add(str(error))
            return None
        check.add()
        return panoptic

    def _audit_markers(self, message: MarkerArray | None, panoptic: Panoptic | None) -> None:
        if message is None:
            self._shown_markers = None  # the message was lost
            return
        if any(m.action == Marker.DELETEALL for m in message.markers):
            self._shown_markers = set()
        added = [m for m in message.markers if m.action == Marker.ADD]
        named = {(m.ns, m.id) for m in added}
        gone = {(m.ns, m.id) for m in message.markers if m.action == Marker.DELETE}
        if panoptic is not None:
            things = panoptic.segments.things
            names = [self._label_set.names[class_id] for class_id in things.class_id]
            known = set(zip(names, things.track_id.tolist(), strict=True))
            known |= {(TEXT_NAMESPACE, track_id) for track_id in things.track_id.tolist()}
            strangers = named - known
            self._checks['markers: namespace and id are those of a thing'].add(
                f'{sorted(strangers)[:3]} are markers of no thing in the frame'
                if strangers
                else ''
            )
        fault = next(filter(None, map(_marker_fault, added)), '')
        if not fault and len(named) != len(added):
            fault = 'two markers have one namespace and id'
        self._checks['markers: finite, with lifetime, each once'].add(fault)
        if self._shown_markers is not None:
            left = self._shown_markers - gone - named
            self._checks['markers: deleted when gone'].add(
                f'{sorted(left)[:3]} are neither shown again nor deleted' if left else ''
            )
        self._shown_markers = named


def diagnostics_fault(status: Status) -> str:
    """Return the fault of a report: its level is not OK, or images are not accounted for.

    Two images may be in work, see :class:`panoptic_ros.ros.diagnostics.Counts`.
    """
    if status.level != DiagnosticStatus.OK:
        return f'level {status.level[0]}: {status.message}'
    try:
        received = int(status.values['frames received'])
        ended = {outcome: int(status.values[f'frames {outcome}']) for outcome in OUTCOMES}
    except KeyError as error:
        return f'there is no value {error}'
    if not 0 <= received - sum(ended.values()) <= 2:
        return f'{received} frames received, but {ended}'
    if ended['bad'] or ended['failed']:
        return f'{ended["bad"]} frames could not be decoded, {ended["failed"]} not segmented'
    return ''


def label_info_fault(message: Any, label_set: LabelSet) -> str:
    """Return the fault of a vision_msgs/LabelInfo; empty if it has none."""
    declared = {c.class_id: c.class_name for c in message.class_map}
    expected = dict(enumerate(label_set.names))
    wrong = {i: declared.get(i) for i, name in expected.items() if declared.get(i) != name}
    if wrong:
        return f'classes {wrong} are not those of label set {label_set.name!r}'
    return '' if 255 in declared else 'void, 255, is not declared'


def _header_of(message: Any) -> str:
    if isinstance(message, MarkerArray):
        message = message.markers[0]
    key = frame_key(message.header)
    return f'stamp {key.sec}.{key.nanosec:09d} in {key.frame_id!r}'


def _image_fault(message: Image, encoding: str, size_wh: tuple[int, int]) -> str:
    width, height = size_wh
    step = width * BYTES_PER_PIXEL[encoding]
    came = (message.encoding, message.width, message.height, message.step, len(message.data))
    expected = (encoding, width, height, step, step * height)
    if came == expected:
        return ''
    return f'encoding, width, height, step, bytes are {came}; expected {expected}'


def _camera_info_fault(message: CameraInfo, sent: CameraInfo) -> str:
    if (message.width, message.height) != (sent.width, sent.height):
        return f'for {message.width}x{message.height}; expected {sent.width}x{sent.height}'
    if not np.allclose(message.k, sent.k) or not np.allclose(message.p, sent.p):
        return f'k is {np.round(message.k, 3).tolist()}; expected {np.round(sent.k, 3).tolist()}'
    return ''


def _marker_fault(marker: Marker) -> str:
    p, s = marker.pose.position, marker.scale
    if not all(map(math.isfinite, (p.x, p.y, p.z, s.x, s.y, s.z))):
        return f'{marker.ns} {marker.id} has a position or size that is not finite'
    if p.z <= 0:
        return f'{marker.ns} {marker.id} is {p.z:.1f} m behind the camera'
    if not (marker.lifetime.sec or marker.lifetime.nanosec):
        return f'{marker.ns} {marker.id} has no lifetime'
    return ''


def _points_fault(message: PointCloud2, panoptic: Panoptic) -> str:
    width, height = panoptic.size_wh
    came = (message.width, message.height, message.point_step, message.row_step, message.is_dense)
    expected = (width, height, POINT.itemsize, width * POINT.itemsize, False)
    if came != expected or len(message.data) != width * height * POINT.itemsize:
        return f'width, height, point_step, row_step, is_dense are {came}; expected {expected}'
    if list(message.fields) != FIELDS:
        return f'fields are {[f.name for f in message.fields]}; expected {POINT.names}'
    points = read_points(message)
    for name, of_map in (('label', panoptic.semantic), ('instance', panoptic.instance)):
        wrong = np.count_nonzero(points[name] != of_map)
        if wrong:
            return f'{name} of {wrong} points is not that of their pixels'
    known = points['z'] > 0
    for name in 'xyz':
        finite_or_nan = np.where(known, np.isfinite(points[name]), np.isnan(points[name]))
        if not finite_or_nan.all():
            return 'points without a depth have to be NaN in x, y and z, all others finite'
    return '' if known.any() else 'no point has a depth'


def _free_space_fault(
    message: 'OccupancyGrid', sent: CameraInfo, panoptic: Panoptic, label_set: LabelSet
) -> str:
    info, place, turn = message.info, message.info.origin.position, message.info.origin.orientation
    if len(message.data) != info.width * info.height:
        return f'{len(message.data)} cells; expected {info.width} * {info.height}'
    cells = np.frombuffer(message.data, np.int8)
    if not ((cells >= -1) & (cells <= 100)).all():
        return f'cells are {np.unique(cells)}; expected -1..100'
    row, column = np.divmod(np.flatnonzero((cells >= 0) & (cells < 100)), info.width)
    corner = np.stack([column + 0.5, row + 0.5, np.zeros(len(row))], -1) * info.resolution
    rotation = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
    point = corner @ rotation.T + [place.x, place.y, place.z]
    camera = CameraModel.from_k(sent.k, (sent.width, sent.height))
    u, v = np.rint(camera.project(point)).astype(int).T
    # A ray along the border between pixels may be rounded to either.
    inside = (u >= 0) & (v >= 0) & (u < sent.width) & (v < sent.height) & (point[:, 2] > 0)
    ground = label_set.with_role('drivable') | label_set.with_role('walkable')
    wrong = np.count_nonzero(~ground[panoptic.semantic[v[inside], u[inside]]])
    wrong += np.count_nonzero(~inside)
    return f'{wrong} of {len(row)} free cells' if wrong > 0.001 * len(row) else ''


def free_road_fault(
    message: 'OccupancyGrid', semantic: np.ndarray, truth: np.ndarray, label_set: LabelSet
) -> str:
    """Return a fault if much of the road is recognised and nothing of the grid is free.

    With depth, a wrong pose of the camera makes the whole grid unknown. ``semantic`` and ``truth``
    are uint8 [H, W].
    """
    is_drivable = label_set.with_role('drivable')
    road = float((is_drivable[semantic] & is_drivable[truth]).mean())
    free = float((np.frombuffer(message.data, np.int8) == FREE).mean())
    is_fault = road >= MIN_ROAD and free < MIN_FREE
    return f'{free:.1%} of the cells, {road:.0%} of the image is road' if is_fault else ''


def _detections_fault(message: Any, panoptic: Panoptic) -> str:
    found = sorted(detection.id for detection in message.detections)
    expected = sorted(map(str, panoptic.segments.things.track_id.tolist()))
    return '' if found == expected else f'ids are {found}; expected {expected}'
