"""From images to messages, without DDS: publishers, engine and node are stand-ins."""

from itertools import chain, combinations

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image
from support.pipeline import CAR, Bench, calibration, header, street
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.errors import EngineError
from panoptic_ros.ros.frame import Frame
from panoptic_ros.ros.messages.images import image_message
from panoptic_ros.ros.outputs import OUTPUTS
from panoptic_ros.ros.parameters import Tuning
from panoptic_ros.ros.pipeline import Arrival, infer, publish

SIZE_WH, FOCAL_PX, HEIGHT_M = (320, 240), 250.0, 1.5
MS = 1_000_000
FRAME_NS = 150 * MS
SPEED_M_S = 5.0
TOPICS = ('markers', 'objects', 'free_space', 'points', 'support_surfaces')
HALF_HEIGHT = SIZE_WH[1] // 2


def car_box(distance_m: float) -> tuple[int, int, int, int]:
    """Return the box of a car, 1.6 m wide and high, straight ahead on flat ground."""
    per_m = FOCAL_PX / distance_m
    foot = round(119.5 + HEIGHT_M * per_m) + 1
    return (
        round(159.5 - 0.8 * per_m),
        round(foot - 1.6 * per_m),
        round(160.5 + 0.8 * per_m),
        foot,
    )


class Approach:
    """A car comes closer at 5 m/s, from 20 m, in ten frames."""

    def __init__(self, topics: tuple[str, ...], *, depth: bool, is_diagnosed: bool) -> None:
        self.distance_m = 20.0
        find_depth = self.depth if depth else None
        self.bench = Bench(topics, is_diagnosed=is_diagnosed, find_depth=find_depth)
        self.bench.pipeline.take_camera_info('/camera_info', calibration(SIZE_WH, FOCAL_PX))
        for number in range(10):
            self.distance_m = 20.0 - SPEED_M_S * FRAME_NS / 1e9 * number
            self.last = self.bench.process(
                street([car_box(self.distance_m)], SIZE_WH), FRAME_NS * number
            )
        self.times_s = self.bench.pipeline.proximity.time_to_collision_s

    def depth(self, frame: Frame) -> np.ndarray:
        """The car is flat, everything else 50 m away."""
        is_car = frame.panoptic.semantic == CAR
        return np.where(is_car, self.distance_m, 50.0).astype(np.float32)

    def text(self, topic: str) -> str:
        (data,) = [message for sent, message in self.last if sent == f'~/{topic}']
        markers = deserialize_message(data, MarkerArray).markers
        (text,) = [m.text for m in markers if m.type == Marker.TEXT_VIEW_FACING]
        return text.removesuffix('\non road')


SUBSETS = list(chain.from_iterable(combinations(TOPICS, n) for n in range(1, len(TOPICS) + 1)))


@pytest.fixture(scope='module', params=[False, True], ids=['ground', 'depth'])
def depth(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(params=SUBSETS, ids='+'.join)
def topics(request: pytest.FixtureRequest, depth: bool) -> tuple[str, ...]:
    if request.param == ('points',) and not depth:
        pytest.skip('without depth there is no ~/points')
    return request.param


@pytest.fixture(scope='module')
def alone(depth: bool) -> Approach:
    """Return the run with one subscriber, of the markers."""
    return Approach(('markers',), depth=depth, is_diagnosed=False)


def test_an_approaching_car_has_its_speed_and_its_time_to_collision(alone: Approach) -> None:
    ((name, seconds),) = alone.times_s
    assert name == 'car 1'
    # At 13.25 m, to 1.5 m, at 5 m/s.
    assert seconds == pytest.approx(2.35, abs=0.3)
    speed = float(alone.text('markers').rpartition('\n')[2].removesuffix(' m/s'))
    assert speed == pytest.approx(SPEED_M_S, abs=0.5)


def test_velocities_do_not_depend_on_the_other_subscribers(
    topics: tuple[str, ...], depth: bool, alone: Approach
) -> None:
    run = Approach(topics, depth=depth, is_diagnosed=True)
    assert run.times_s == alone.times_s
    for topic in {'markers', 'objects'} & set(topics):
        assert run.text(topic) == alone.text('markers')


def test_velocities_do_not_depend_on_diagnostics(
    topics: tuple[str, ...], depth: bool, alone: Approach
) -> None:
    run = Approach(topics, depth=depth, is_diagnosed=False)
    if {'markers', 'objects'} & set(topics):
        assert run.times_s == alone.times_s
    else:  # nothing needs velocities
        assert run.times_s == ()


def test_without_tracking_there_are_no_velocities() -> None:
    bench = Bench(['markers'], is_diagnosed=True, tuning=Tuning(tracking=False))
    bench.pipeline.take_camera_info('/camera_info', calibration(SIZE_WH, FOCAL_PX))
    for number in range(10):
        bench.process(street([car_box(20.0 - number)], SIZE_WH), FRAME_NS * number)
    assert bench.pipeline.proximity.time_to_collision_s == ()


def test_maps_are_published_before_depth_is_waited_for() -> None:
    published = []

    def find_depth(frame: Frame) -> None:
        published.extend(topic for topic, _ in bench.sent)

    topics = ['semantic', 'instance', 'points', 'markers', 'overlay']
    bench = Bench(topics, find_depth=find_depth)
    sent = bench.process(street([], SIZE_WH), 0)
    assert published == ['~/semantic', '~/instance']
    # No depth, no calibration: no points, and no marker in the message.
    assert [topic for topic, _ in sent] == ['~/semantic', '~/instance', '~/markers', '~/overlay']


def test_every_message_has_the_header_of_its_image() -> None:
    images = {o.topic.removeprefix('~/') for o in OUTPUTS if o.message_type in (Image, CameraInfo)}
    bench = Bench(images - {'occlusion'})
    bench.pipeline.take_camera_info('/camera_info', calibration(SIZE_WH, FOCAL_PX))
    sent = bench.process(street([car_box(20.0)], SIZE_WH), 12_345_678_901)
    assert {topic.removeprefix('~/') for topic, _ in sent} == images - {'occlusion'}
    for topic, message in sent:
        if isinstance(message, bytes):
            message = deserialize_message(message, Image)
        assert message.header == header(12_345_678_901), topic


def counts(bench: Bench) -> tuple[int, ...]:
    values = bench.pipeline.log.values(0)
    names = 'received', 'processed', 'unwatched', 'bad', 'failed'
    return tuple(int(values[f'frames {name}']) for name in names)


def test_without_subscribers_images_are_not_segmented() -> None:
    bench = Bench()
    bench.segmenter.error = AssertionError('segmented')
    assert bench.process(street([], SIZE_WH), 0) == []
    assert counts(bench) == (1, 0, 1, 0, 0)


def test_a_bad_image_and_an_engine_error_are_counted_and_logged() -> None:
    bench = Bench(['semantic'])
    bench.pipeline.take_image('/image', Image(encoding='bgr9', width=1, height=1))
    ((level, text),) = bench.node.logged
    assert level == 'warning'
    assert text.startswith("/image: encoding 'bgr9'")
    bench.segmenter.error = EngineError('no memory')
    assert bench.process(street([], SIZE_WH), 0) == []
    assert bench.node.logged[1:] == [('error', 'no memory; this image is skipped')]
    assert counts(bench) == (2, 0, 0, 1, 1)
    assert bench.pipeline.log.camera_state(0, 1e9) == (DiagnosticStatus.ERROR, 'no memory')
    bench.segmenter.error = None
    bench.process(street([], SIZE_WH), FRAME_NS)
    assert counts(bench) == (3, 1, 0, 1, 1)


def test_an_error_after_the_engine_is_counted_and_logged() -> None:
    bench = Bench(['semantic'])
    bench.segmenter.fusion_error = EngineError('NaN in output heat')
    assert bench.process(street([], SIZE_WH), 0) == []
    assert bench.node.logged == [('error', 'NaN in output heat; this image is skipped')]
    bench.segmenter.fusion_error = None
    assert len(bench.process(street([], SIZE_WH), FRAME_NS)) == 1
    assert counts(bench) == (2, 1, 0, 0, 1)


def test_a_request_for_one_image_outlives_images_that_are_skipped() -> None:
    bench = Bench()
    bench.pipeline.is_enabled = False
    bench.pipeline.segment_once()
    bench.pipeline.take_image('/image', Image(encoding='bgr9', width=1, height=1))
    bench.segmenter.error = EngineError('no memory')
    assert bench.process(street([], SIZE_WH), 0) == []
    bench.segmenter.error = None
    bench.segmenter.fusion_error = EngineError('NaN in output heat')
    assert bench.process(street([], SIZE_WH), 1) == []
    bench.segmenter.fusion_error = None
    assert bench.process(street([], SIZE_WH), 2)
    assert bench.process(street([], SIZE_WH), 3) == []
    assert counts(bench) == (5, 1, 1, 1, 2)


def test_a_bad_image_does_not_hold_up_those_of_other_cameras() -> None:
    cameras = [Bench(['semantic']) for _ in range(3)]
    segmenter = cameras[0].segmenter
    for camera in cameras:
        camera.segmenter.panoptic = street([], SIZE_WH)
    good = image_message(np.zeros((240, 320, 3), np.uint8), header(0))
    bad = Image(encoding='bgr9', width=1, height=1)
    arrivals = [
        Arrival(camera.pipeline, '/image', message, 0)
        for camera, message in zip(cameras, (good, bad, good), strict=True)
    ]
    publish(infer(segmenter, arrivals))
    assert [len(camera.sent) for camera in cameras] == [1, 0, 1]
    assert [counts(camera)[1:] for camera in cameras] == [
        (1, 0, 0, 0),
        (0, 0, 1, 0),
        (1, 0, 0, 0),
    ]
    segmenter.error = EngineError('no memory')
    publish(infer(segmenter, arrivals))
    assert [counts(camera)[1:] for camera in cameras] == [
        (1, 0, 0, 1),
        (0, 0, 2, 0),
        (1, 0, 0, 1),
    ]


def test_stage_times_add_up() -> None:
    bench = Bench(['semantic', 'markers'])
    bench.process(street([], SIZE_WH), 1_000_000_000_000 - 7)  # 7 ns before now
    (times,) = bench.times
    assert (times.preprocess_ns, times.inference_ns, times.fusion_ns) == (1, 2, 3)
    parts = times.wait_ns + times.decode_ns + times.handover_ns + times.tracking_ns
    assert 0 < parts + times.publish_ns <= times.total_ns
    assert times.age_ns == 7


def test_markers_are_deleted_when_stamps_jump_back_and_when_the_node_halts() -> None:
    bench = Bench(['markers'])
    bench.pipeline.take_camera_info('/camera_info', calibration(SIZE_WH, FOCAL_PX))
    bench.process(street([car_box(20.0)], SIZE_WH), 10 * FRAME_NS)
    sent = bench.process(street([car_box(20.0)], SIZE_WH), 0)
    cleared = [m.markers[0].action for _, m in sent if isinstance(m, MarkerArray)]
    assert cleared == [Marker.DELETEALL] * 3  # markers, objects, support surfaces
    before = len(bench.sent)
    bench.pipeline.halt()
    cleared = [m.markers[0].action for _, m in bench.sent[before:]]
    assert cleared == [Marker.DELETEALL] * 3


def test_an_unusable_calibration_counts_as_none() -> None:
    bench = Bench(['camera_info'])
    bench.pipeline.take_camera_info('/camera_info', calibration(SIZE_WH, FOCAL_PX))
    assert len(bench.process(street([], SIZE_WH), 0)) == 1
    bench.pipeline.take_camera_info('/camera_info', CameraInfo(width=320, height=240))
    assert bench.process(street([], SIZE_WH), FRAME_NS) == []
    (warning,) = bench.node.logged
    assert warning[1].startswith('/camera_info: camera_info.')


def test_a_calibration_that_never_comes_is_reported_once() -> None:
    bench = Bench(['markers'])
    for number in range(20):
        bench.process(street([], SIZE_WH), FRAME_NS * number)
    ((level, text),) = bench.node.logged
    assert level == 'warning'
    assert text.startswith('/camera_info: no usable calibration has come')
    level, text = bench.pipeline.log.camera_state(0, 1e9)
    assert (level, text[:13]) == (DiagnosticStatus.WARN, '/camera_info:')


def test_without_outputs_in_space_no_calibration_is_needed() -> None:
    bench = Bench(['semantic'])
    for number in range(20):
        bench.process(street([], SIZE_WH), FRAME_NS * number)
    assert bench.node.logged == []


def test_a_fisheye_lens_places_nothing_and_says_why() -> None:
    bench = Bench(['free_space', 'camera_info'])
    info = calibration(SIZE_WH, FOCAL_PX)
    info.distortion_model, info.d = 'equidistant', [0.0] * 4
    bench.pipeline.take_camera_info('/camera_info', info)
    for number in range(2):
        sent = bench.process(street([car_box(20.0)], SIZE_WH), FRAME_NS * number)
        assert [topic for topic, _ in sent] == ['~/camera_info']
    ((_, text),) = bench.node.logged
    assert "distortion_model 'equidistant'" in text
    bench.tuning = Tuning(camera_matrix='P')
    sent = bench.process(street([car_box(20.0)], SIZE_WH), FRAME_NS * 2)
    assert [topic for topic, _ in sent] == ['~/camera_info', '~/free_space']


def images(sent: list[tuple[str, object]]) -> dict[str, np.ndarray]:
    """Return the pixels of the mono8 images by topic."""
    found = {topic: deserialize_message(m, Image) for topic, m in sent if isinstance(m, bytes)}
    return {
        topic: np.frombuffer(m.data, np.uint8).reshape(m.height, m.width)
        for topic, m in found.items()
    }


def test_only_the_chosen_classes_are_published() -> None:
    bench = Bench(['semantic'], tuning=Tuning(classes='car, person'))
    panoptic = street([car_box(20.0)], SIZE_WH)
    semantic = images(bench.process(panoptic, 0))['~/semantic']
    assert np.array_equal(semantic, np.where(panoptic.semantic == CAR, CAR, 255))


def test_a_region_is_segmented_and_the_outputs_keep_the_size_of_the_image() -> None:
    bench = Bench(['semantic', 'confidence'], tuning=Tuning(roi='1, 2, 4, 3'))
    bench.segmenter.panoptic = street([(0, 1, 2, 3)], (4, 3))
    image = image_message(np.zeros((6, 8, 3), np.uint8), header(0))
    bench.pipeline.take_image('/image', image)
    found = images(bench.sent)
    expected = np.full((6, 8), 255)
    expected[2:5, 1:5] = bench.segmenter.panoptic.semantic
    assert np.array_equal(found['~/semantic'], expected)
    assert np.array_equal(found['~/confidence'], np.where(expected == 255, 0, 200))
    assert bench.segmenter.size_wh == (4, 3)


def test_a_region_outside_the_image_is_refused() -> None:
    bench = Bench(['semantic'], tuning=Tuning(roi='320, 0, 4, 3'))
    assert bench.process(street([], SIZE_WH), 0) == []
    ((_, text),) = bench.node.logged
    assert "parameter roi is '320, 0, 4, 3'; expected a region of the image" in text


def test_a_disabled_node_segments_once_on_request() -> None:
    bench = Bench(['semantic'])
    bench.pipeline.is_enabled = False
    assert bench.process(street([], SIZE_WH), 0) == []
    bench.pipeline.segment_once()
    sent = bench.process(street([], SIZE_WH), FRAME_NS)
    # On all topics, whether they have a subscriber or not; those without calibration are left out.
    assert {'~/semantic', '~/instance', '~/overlay', '~/markers'} <= {topic for topic, _ in sent}
    assert bench.process(street([], SIZE_WH), 2 * FRAME_NS) == []
    bench.pipeline.is_enabled = True
    assert [topic for topic, _ in bench.process(street([], SIZE_WH), 3 * FRAME_NS)] == [
        '~/semantic'
    ]
    assert counts(bench) == (4, 2, 2, 0, 0)
