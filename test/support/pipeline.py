"""Stand-ins for the parts of a node that the pipeline talks to, without DDS."""

from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from panoptic_ros.fusion import CentreFusion, Fused
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.ros.diagnostics import FrameLog, FrameTimes
from panoptic_ros.ros.messages.images import image_message
from panoptic_ros.ros.outputs import Output
from panoptic_ros.ros.parameters import Structure, Tuning
from panoptic_ros.ros.pipeline import Arrival, Pipeline, infer, publish
from panoptic_ros.ros.publishing import FramePublisher
from panoptic_ros.ros.scene import SceneEstimator
from panoptic_ros.scene.tracking import Tracker
from panoptic_ros.segmenter import Inference, Prepared, Segmentation, StageTimes

LABELS = LabelSet.load('cityscapes')
ROAD, SKY, CAR = (LABELS.class_id(name) for name in ('road', 'sky', 'car'))


class StubPublisher:
    """A topic with or without a subscriber."""

    def __init__(self, topic: str, sent: list[tuple[str, Any]], is_subscribed: bool) -> None:
        self.topic, self.is_subscribed = topic, is_subscribed
        self._sent = sent

    def get_subscription_count(self) -> int:
        return int(self.is_subscribed)

    def publish(self, message: Any) -> None:
        self._sent.append((self.topic, message))


class StubNode:
    """Logs into lists; its clock stands at 1000 s."""

    def __init__(self) -> None:
        self.logged: list[tuple[str, str]] = []

    def get_logger(self) -> Any:
        def log(level: str) -> Callable[..., None]:
            return lambda text, **_: self.logged.append((level, text))

        return SimpleNamespace(**{level: log(level) for level in ('info', 'warning', 'error')})

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=1_000_000_000_000))


class StubSegmenter:
    """Returns the maps it is given."""

    def __init__(self) -> None:
        self.panoptic: Panoptic | None = None
        self.error: Exception | None = None  # of the engine
        self.fusion_error: Exception | None = None
        self.fusion = CentreFusion()
        self.model = SimpleNamespace(label_set=LABELS)

    def prepare(self, image: np.ndarray, encoding: str) -> Prepared:
        self.size_wh = image.shape[1::-1]
        return Prepared((), self.size_wh, 1)

    def infer_all(self, frames: Sequence[Prepared]) -> list[Inference]:
        if self.error is not None:
            raise self.error
        return [Inference((), prepared, 2) for prepared in frames]

    def fuse(self, inference: Inference, fusion: CentreFusion) -> Segmentation:
        if self.fusion_error is not None:
            raise self.fusion_error
        confidence = np.full(self.panoptic.semantic.shape, 200, np.uint8)
        return Segmentation(Fused(self.panoptic, confidence), StageTimes(1, 2, 3))


class InlineWorker:
    """Runs both stages at once, on the caller's thread."""

    def __init__(self, segmenter: StubSegmenter) -> None:
        self._segmenter = segmenter

    def submit(self, source: object, arrival: Arrival) -> bool:
        publish(infer(self._segmenter, [arrival]))
        return False

    def drain(self, source: object) -> bool:
        return False


class Bench:
    """A pipeline on stand-ins.

    Parameters
    ----------
    topics
        Topics that have a subscriber, without ``~/``.
    find_depth
        Gives the estimator depth; None for a node without depth.
    """

    def __init__(
        self,
        topics: Iterable[str] = (),
        *,
        is_diagnosed: bool = False,
        find_depth: Callable[[Any], np.ndarray | None] | None = None,
        tuning: Tuning | None = None,
        **estimator: Any,
    ) -> None:
        topics = {f'~/{topic}' for topic in topics}
        self.node = StubNode()
        self.segmenter = StubSegmenter()
        self.sent: list[tuple[str, Any]] = []
        self.times: list[FrameTimes] = []
        self.tuning = tuning or Tuning()
        tracker = Tracker()

        def advertise(output: Output) -> StubPublisher:
            return StubPublisher(output.topic, self.sent, output.topic in topics)

        structure = Structure(depth=find_depth is not None)
        self.pipeline = Pipeline(
            self.node,
            self.segmenter,
            InlineWorker(self.segmenter),
            tracker,
            SceneEstimator(LABELS, tracker, find_depth=find_depth, **estimator),
            FramePublisher(structure, advertise),
            lambda: self.tuning,
            log=FrameLog(),
            is_diagnosed=lambda: is_diagnosed,
            publish_timing=lambda header, times: self.times.append(times),
        )

    def process(self, panoptic: Panoptic, stamp_ns: int) -> list[tuple[str, Any]]:
        """Process an image with a given content and return what was published."""
        self.segmenter.panoptic = panoptic
        before = len(self.sent)
        image = np.zeros((*panoptic.semantic.shape, 3), np.uint8)
        self.pipeline.take_image('/image', image_message(image, header(stamp_ns)))
        return self.sent[before:]


def header(stamp_ns: int) -> Header:
    message = Header(frame_id='camera')
    message.stamp.sec, message.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return message


def street(boxes_xyxy: Iterable[tuple[int, int, int, int]], size_wh: tuple[int, int]) -> Panoptic:
    """Return sky above road, with a car in each box."""
    width, height = size_wh
    semantic = np.full((height, width), ROAD, np.uint8)
    semantic[: height // 2] = SKY
    instance = np.zeros((height, width), np.uint16)
    for number, (x0, y0, x1, y1) in enumerate(boxes_xyxy, 1):
        semantic[y0:y1, x0:x1] = CAR
        instance[y0:y1, x0:x1] = number
    return Panoptic.from_maps(semantic, instance, LABELS)


def calibration(size_wh: tuple[int, int], focal_px: float) -> CameraInfo:
    width, height = size_wh
    k = [focal_px, 0.0, (width - 1) / 2, 0.0, focal_px, (height - 1) / 2, 0.0, 0.0, 1.0]
    p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]
    return CameraInfo(width=width, height=height, k=k, p=p, r=np.eye(3).ravel())
