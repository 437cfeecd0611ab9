import json
from array import array
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.benchmark.checks import (
    Check,
    Checks,
    FrameAudit,
    diagnostics_fault,
    free_road_fault,
    label_info_fault,
    pixels,
)
from panoptic_ros.benchmark.client import Status
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.ros.messages import Picture, image_message
from panoptic_ros.ros.messages.points import point_cloud
from panoptic_ros.scene.geometry import CameraModel

LABELS = LabelSet.load('cityscapes')
ROAD, CAR = LABELS.class_id('road'), LABELS.class_id('car')
HEADER = Header(frame_id='camera')
SENT = CameraInfo(header=HEADER, width=3, height=2, k=[2.0, 0, 1, 0, 2, 0.5, 0, 0, 1])

MAPS = 'semantic, instance: every thing pixel has an id, nothing else has'
OF_A_THING = 'markers: namespace and id are those of a thing'
SANE = 'markers: finite, with lifetime, each once'
DELETED = 'markers: deleted when gone'
POINTS = 'points: one for every pixel, labelled as the maps are'


def marker(ns='car', marker_id=1, action=Marker.ADD, z=5.0):
    made = Marker(header=HEADER, ns=ns, id=marker_id, action=action)
    made.pose.position.z = z
    made.lifetime.nanosec = 1
    return made


def good_outputs():
    semantic = np.array([[ROAD, CAR, CAR], [ROAD, ROAD, 255]], np.uint8)
    instance = np.array([[0, 1, 1], [0, 0, 0]], np.uint16)
    return {
        'semantic': image_message(semantic, HEADER),
        'instance': image_message(instance, HEADER),
        'confidence': image_message(semantic, HEADER),
        'overlay': image_message(np.zeros((2, 3, 3), np.uint8), HEADER),
        'panoptic': image_message(np.zeros((2, 3), np.int32), HEADER),
        'camera_info': SENT,
        'markers': MarkerArray(markers=[marker(), marker('text')]),
    }


def audit(*frames, sent=SENT):
    checks = Checks()
    auditor = FrameAudit(LABELS, checks)
    for outputs in frames:
        auditor.audit(sent, outputs)
    return checks


def failed(checks):
    return [check.name for check in checks if not check.passed]


def test_a_good_frame_passes_every_check():
    checks = audit(good_outputs(), good_outputs())
    assert checks.passed, failed(checks)
    assert {check.looked for check in checks} == {1, 2}  # markers can only go in a second frame
    assert checks[DELETED].looked == 1


def test_audit_returns_the_map_it_checked():
    panoptic = FrameAudit(LABELS, Checks()).audit(SENT, good_outputs())
    assert panoptic.segments.things.id.tolist() == [1]


def test_a_header_that_was_never_sent():
    checks = audit(good_outputs(), sent=None)
    assert len(failed(checks)) == 7
    assert 'was never sent' in checks['semantic: header is that of a frame sent'].examples[0]


@pytest.mark.parametrize(
    ('topic', 'field', 'value'),
    [
        ('semantic', 'encoding', '8UC1'),
        ('instance', 'encoding', 'mono16'),
        ('confidence', 'width', 2),
        ('overlay', 'step', 12),
        ('overlay', 'height', 1),
    ],
)
def test_a_wrong_image(topic, field, value):
    outputs = good_outputs()
    setattr(outputs[topic], field, value)
    assert f'{topic}: encoding and size' in failed(audit({topic: outputs[topic]}))


def test_missing_bytes():
    overlay = good_outputs()['overlay']
    overlay.data = overlay.data[:-1]
    assert failed(audit({'overlay': overlay})) == ['overlay: encoding and size']


@pytest.mark.parametrize(
    ('row', 'column', 'semantic', 'instance'),
    [
        (0, 1, CAR, 0),  # a thing without an id
        (0, 0, ROAD, 1),  # an id without a thing
        (1, 2, 255, 1),  # an id on void
        (0, 0, 77, 0),  # no such class
    ],
)
def test_maps_that_disagree(row, column, semantic, instance):
    outputs = {topic: good_outputs()[topic] for topic in ('semantic', 'instance')}
    maps = {topic: pixels(message).copy() for topic, message in outputs.items()}
    maps['semantic'][row, column] = semantic
    maps['instance'][row, column] = instance
    broken = {topic: image_message(array, HEADER) for topic, array in maps.items()}
    assert failed(audit(broken)) == [MAPS]


def test_camera_info_of_another_camera():
    other = CameraInfo(header=HEADER, width=3, height=2, k=[3.0, 0, 1, 0, 2, 0.5, 0, 0, 1])
    assert failed(audit({'camera_info': other})) == ['camera_info: that of the masks']


@pytest.mark.parametrize(
    ('added', 'name'),
    [
        ([marker('car', 2)], OF_A_THING),  # there is no car 2
        ([marker('bus', 1)], OF_A_THING),  # 1 is a car
        ([marker(), marker()], SANE),  # twice
        ([marker(z=float('nan'))], SANE),
        ([marker(z=-1.0)], SANE),
    ],
)
def test_bad_markers(added, name):
    outputs = good_outputs() | {'markers': MarkerArray(markers=added)}
    assert failed(audit(outputs)) == [name]


def test_a_marker_without_lifetime():
    stays = marker()
    stays.lifetime.nanosec = 0
    assert failed(audit(good_outputs() | {'markers': MarkerArray(markers=[stays])})) == [SANE]


@pytest.mark.parametrize(
    ('second', 'faults'),
    [
        ([marker('text'), marker(action=Marker.DELETE)], []),
        ([marker('text')], [DELETED]),
        ([marker(action=Marker.DELETEALL)], []),
    ],
)
def test_markers_are_deleted_when_gone(second, faults):
    checks = audit(good_outputs(), good_outputs() | {'markers': MarkerArray(markers=second)})
    assert failed(checks) == faults


def test_markers_are_not_blamed_for_a_message_that_was_lost():
    first, second, third = good_outputs(), good_outputs(), good_outputs()
    del second['markers']
    third['markers'] = MarkerArray(markers=[marker('text')])
    checks = audit(first, second, third)
    assert checks.passed
    assert DELETED not in [check.name for check in checks]


def detections(*ids):
    return SimpleNamespace(header=HEADER, detections=[SimpleNamespace(id=i) for i in ids])


@pytest.mark.parametrize(('ids', 'faults'), [(['1'], 0), ([], 1), (['1', '2'], 1)])
def test_detections(ids, faults):
    checks = audit(good_outputs() | {'detections': detections(*ids)})
    assert len(failed(checks)) == faults


def label_info(names):
    return SimpleNamespace(
        class_map=[SimpleNamespace(class_id=i, class_name=name) for i, name in names.items()]
    )


def test_label_info():
    names = dict(enumerate(LABELS.names))
    assert not label_info_fault(label_info(names | {255: 'void'}), LABELS)
    assert 'void' in label_info_fault(label_info(names), LABELS)
    assert "'tram'" in label_info_fault(label_info(names | {0: 'tram', 255: 'void'}), LABELS)


def status(level=DiagnosticStatus.OK, **counts):
    frames = {'received': 5, 'processed': 3, 'dropped': 1, 'unwatched': 0, 'bad': 0, 'failed': 0}
    return Status(level, 'text', {f'frames {n}': str(c) for n, c in (frames | counts).items()})


@pytest.mark.parametrize(
    ('given', 'fault'),
    [
        (status(), ''),
        (status(level=DiagnosticStatus.WARN), 'level 1: text'),
        (status(received=9), '9 frames received'),
        (status(received=3), '3 frames received'),
        (status(bad=1), '1 frames could not be decoded'),
        (Status(DiagnosticStatus.OK), "no value 'frames received'"),
    ],
)
def test_diagnostics(given, fault):
    found = diagnostics_fault(given)
    assert fault in found
    assert bool(found) == bool(fault)


def test_checks_survive_json():
    checks = Checks()
    checks['one'].add()
    checks['two'].add('broken')
    checks['three'].skipped = 'not here'
    content = json.loads(json.dumps([check.as_json() for check in checks]))
    assert [entry['passed'] for entry in content] == [True, False, True]
    assert Checks.from_json(content).lines() == checks.lines()
    assert checks.lines() == [
        'ok        1  one',
        'FAIL      1  two',
        '             1 times: broken',
        'skip      0  three: not here',
    ]


def test_a_check_that_was_never_looked_at_has_not_passed():
    assert not Check('promise').passed
    assert Check('promise', skipped='nothing to look at').passed
    assert not Checks().passed


def test_a_check_keeps_the_first_three_faults():
    check = Check('promise')
    for number in range(5):
        check.add(f'fault {number}')
    check.add()
    assert (check.looked, check.broken) == (6, 5)
    assert check.examples == ['fault 0', 'fault 1', 'fault 2']


def good_points():
    outputs = good_outputs()
    maps = [pixels(outputs[name]) for name in ('semantic', 'instance')]
    cloud = point_cloud(
        HEADER,
        CameraModel.from_k(SENT.k, (3, 2)),
        np.array([[1, 2, np.nan], [3, 4, 5]], np.float32),
        Panoptic.from_maps(*maps, LABELS),
        Picture(np.zeros((2, 3, 3), np.uint8), 'bgr8'),
        module=None,
    )
    return deserialize_message(cloud, PointCloud2)


def test_good_points_pass():
    checks = audit(good_outputs() | {'points': good_points()})
    assert checks[POINTS].passed
    assert checks[POINTS].looked == 1


def no_depth_at_all(message):
    for start in range(0, len(message.data), 24):
        message.data[start : start + 12] = array('B', np.full(3, np.nan, np.float32).tobytes())


def half_known(message):
    message.data[8:12] = array('B', np.float32(np.nan).tobytes())


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (lambda m: setattr(m, 'is_dense', True), 'is_dense'),
        (lambda m: setattr(m, 'width', 2), 'expected (3, 2, 24'),
        (lambda m: m.data.pop(), 'row_step'),
        (lambda m: setattr(m.fields[3], 'name', 'colour'), "'colour'"),
        (lambda m: m.data.__setitem__(16, 99), 'label of 1 points'),
        (lambda m: m.data.__setitem__(20, 99), 'instance of 1 points'),
        (half_known, 'NaN in x, y and z'),
        (no_depth_at_all, 'no point has a depth'),
    ],
)
def test_points_that_break_their_promise(spoil, words):
    message = good_points()
    spoil(message)
    checks = audit(good_outputs() | {'points': message})
    assert failed(checks) == [POINTS]
    assert words in checks[POINTS].examples[0]


FREE_SPACE = 'free_space: what is free shows ground in the picture'


def free_space_frame(turn: tuple[float, ...], cells: list[int]) -> dict:
    """Return a frame of which a grid of two cells of 1 m shows pixels (0, 1) and (2, 1).

    The camera is 1 m above the ground and looks straight down; its grid begins at (-1, 0.25).
    """
    nav_msgs = pytest.importorskip('nav_msgs.msg', reason='nav_msgs is not installed')
    grid = nav_msgs.OccupancyGrid(header=HEADER, data=array('b', cells))
    grid.info.resolution, grid.info.width, grid.info.height = 1.0, 2, 1
    place, turned = grid.info.origin.position, grid.info.origin.orientation
    place.x, place.y, place.z = -1.0, -0.25, 1.0
    turned.x, turned.y, turned.z, turned.w = turn
    return good_outputs() | {'free_space': grid}


NOT_TURNED = (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ('turn', 'cells', 'passes'),
    [
        (NOT_TURNED, [0, -1], True),  # road
        (NOT_TURNED, [50, 100], True),
        (NOT_TURNED, [0, 0], False),  # the second cell shows nothing
        (NOT_TURNED, [0], False),  # a cell is missing
        (NOT_TURNED, [101, -1], False),
        ((0.0, 0.0, 1.0, 0.0), [0, -1], False),  # turned out of the picture
    ],
)
def test_free_space(turn: tuple[float, ...], cells: list[int], passes: bool) -> None:
    checks = audit(free_space_frame(turn, cells))
    assert checks[FREE_SPACE].looked == 1
    assert checks[FREE_SPACE].passed == passes


def test_some_of_the_road_has_to_be_free() -> None:
    nav_msgs = pytest.importorskip('nav_msgs.msg', reason='nav_msgs is not installed')
    road, sky = (np.full((10, 10), LABELS.class_id(name), np.uint8) for name in ('road', 'sky'))
    some = nav_msgs.OccupancyGrid(data=array('b', [-1] * 98 + [0, 0]))
    none = nav_msgs.OccupancyGrid(data=array('b', [-1] * 98 + [50, 100]))
    assert free_road_fault(some, road, road, LABELS) == ''
    fault = free_road_fault(none, road, road, LABELS)
    assert fault == '0.0% of the cells, 100% of the image is road'
    assert free_road_fault(none, road, sky, LABELS) == ''
    assert free_road_fault(none, sky, road, LABELS) == ''
