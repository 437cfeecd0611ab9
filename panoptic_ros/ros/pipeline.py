"""From an image message to published topics.

::

    first stage:   image message -> Picture -> network input -> network outputs
    second stage:  Segmentation -> Frame -> Frame with Scene -> messages

Image callbacks run on the executor's thread and put the newest image into the worker's slot. The
stages run on the worker's threads: while an image is published, the engine computes the next one.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from threading import Event
from time import monotonic_ns
from typing import Any, Protocol

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from panoptic_ros.errors import EngineError, FrameError
from panoptic_ros.fusion import Fused
from panoptic_ros.ros.diagnostics import MAX_AGE_NS, FrameLog, FrameTimes, Work
from panoptic_ros.ros.frame import Frame, Needs
from panoptic_ros.ros.inputs.calibration import CalibrationInput
from panoptic_ros.ros.inputs.depth import DepthInput
from panoptic_ros.ros.inputs.ground import GroundInput
from panoptic_ros.ros.messages.headers import stamp_ns
from panoptic_ros.ros.messages.images import Picture, decode_compressed_image, decode_image
from panoptic_ros.ros.parameters import Tuning, listed
from panoptic_ros.ros.publishing import FramePublisher
from panoptic_ros.ros.scene import Proximity, SceneEstimator, proximity
from panoptic_ros.ros.worker import StagedWorker
from panoptic_ros.scene.selection import Region, keep_classes, place
from panoptic_ros.scene.tracking import CLOCK_JUMP_NS, Tracker
from panoptic_ros.segmenter import Inference, Prepared, Segmentation, Segmenter

WARN_PERIOD_S = 5.0
"""Warnings about messages are throttled to one in this period."""

PROXIMITY_AGE_NS = 2_000_000_000
"""Diagnostics report obstacles and collision times of frames not older than this."""


class NodeApi(Protocol):
    """The part of ``rclpy.node.Node`` that is used to log and to read the time."""

    def get_logger(self) -> Any:
        """Return the logger."""

    def get_clock(self) -> Any:
        """Return the clock of the stamps."""


@dataclass(frozen=True, eq=False)
class Arrival:
    """An image as it arrived; times are of the steady clock."""

    pipeline: 'Pipeline'
    topic: str
    message: Image | CompressedImage
    received_ns: int


@dataclass(frozen=True, eq=False)
class Job:
    """An image that is ready for the network.

    Parameters
    ----------
    arrival
        The image as it arrived.
    tuning
        Parameters it is processed with.
    picture
        Decoded image.
    region
        Part of the image that is segmented; None for all of it.
    prepared
        Input of the network.
    is_once
        Whether it is published on all topics, see :meth:`Pipeline.segment_once`.
    taken_ns, decoded_ns
        Begin and end of decoding.
    """

    arrival: Arrival
    tuning: Tuning
    picture: Picture
    region: Region | None
    prepared: Prepared
    is_once: bool
    taken_ns: int
    decoded_ns: int


Inferred = tuple[Job, Inference, int]
"""An image, the network's outputs, and the time at which they were complete."""


def infer(segmenter: Segmenter, arrivals: Sequence[Arrival]) -> list[Inferred]:
    """Return the outputs of the network for images: the first stage.

    Images that cannot be used, or on which the engine fails, are counted, logged and left out.
    """
    with ExitStack() as at_work:
        for arrival in arrivals:
            log = arrival.pipeline.log
            at_work.enter_context(log.at_work(Work.ENGINE, monotonic_ns()))
        jobs = [job for a in arrivals if (job := a.pipeline.prepare(a)) is not None]
        try:
            inferences = segmenter.infer_all([job.prepared for job in jobs])
        except EngineError as error:
            for job in jobs:
                job.arrival.pipeline.skip(job, error)
            return []
    inferred_ns = monotonic_ns()
    return [(job, inference, inferred_ns) for job, inference in zip(jobs, inferences, strict=True)]


def publish(inferred: Sequence[Inferred]) -> None:
    """Fuse, track and publish images: the second stage."""
    for job, inference, inferred_ns in inferred:
        pipeline = job.arrival.pipeline
        with pipeline.log.at_work(Work.PUBLISHING, monotonic_ns()):
            pipeline.publish(job, inference, inferred_ns)


class Pipeline:
    """Prepares and publishes the images of a camera.

    Parameters
    ----------
    node
        Logger and clock.
    segmenter
        Segments the images.
    worker
        Runs :func:`infer` and :func:`publish`.
    tracker, estimator
        Of this pipeline; the estimator uses the same tracker.
    publisher
        Publishes the frames.
    tuning
        Returns the current parameters.
    ground
        Finds the ground plane; None for the parameters only.
    camera_info_topic
        Resolved name, for warnings.
    depth_inputs
        Inputs that have to know of every image.
    is_diagnosed
        Returns whether ``/diagnostics`` has a subscriber.
    publish_timing
        Publishes the stage times of a frame.

    Attributes
    ----------
    segmenter
        As given.
    log
        Counts and times of the frames.
    is_enabled
        If false, images are ignored, apart from :meth:`segment_once`.
    """

    def __init__(
        self,
        node: NodeApi,
        segmenter: Segmenter,
        worker: StagedWorker[Arrival, list[Inferred]],
        tracker: Tracker,
        estimator: SceneEstimator,
        publisher: FramePublisher,
        tuning: Callable[[], Tuning],
        *,
        log: FrameLog,
        ground: GroundInput | None = None,
        camera_info_topic: str = '/camera_info',
        depth_inputs: tuple[DepthInput, ...] = (),
        is_diagnosed: Callable[[], bool] = lambda: False,
        publish_timing: Callable[[Header, FrameTimes], None] = lambda header, times: None,
    ) -> None:
        self.segmenter = segmenter
        self.log = log
        self.is_enabled = True
        self._node = node
        self._worker = worker
        self._tracker = tracker
        self._estimator = estimator
        self._publisher = publisher
        self._tuning = tuning
        self._depth_inputs = depth_inputs
        self._is_diagnosed = is_diagnosed
        self._publish_timing = publish_timing
        self._card_fusion = segmenter.fusion
        self._fusion = segmenter.fusion
        self._applied: Tuning | None = None
        self._calibration = CalibrationInput(node.get_logger(), log, camera_info_topic)
        self._ground = ground or GroundInput('', lambda text: None)
        self._last_header: Header | None = None
        self._latest: tuple[int, Frame] | None = None
        self._once = Event()

    # On the executor's thread.

    @property
    def proximity(self) -> Proximity | None:
        """Obstacles and collision times of the latest frame; None if there is no recent one."""
        latest = self._latest
        if latest is None or monotonic_ns() - latest[0] > PROXIMITY_AGE_NS:
            return None
        return proximity(latest[1])

    def take_image(self, topic: str, message: Image | CompressedImage) -> None:
        """Put an image into the slot, if it is wanted."""
        received_ns = monotonic_ns()
        self.log.count_received(received_ns)
        is_wanted = self.is_enabled and self._publisher.is_subscribed
        if not (is_wanted or self._once.is_set()):
            self.log.count_unwatched()
        elif self._worker.submit(self, Arrival(self, topic, message, received_ns)):
            self.log.count_dropped()

    def segment_once(self) -> None:
        """Publish the next image on all topics, also without subscribers or while disabled."""
        self._once.set()

    def take_camera_info(self, topic: str, message: CameraInfo) -> None:
        """Use a calibration for the following images; an unusable one counts as none."""
        self._calibration.take(message)

    def halt(self) -> None:
        """Finish the frames in work, drop the waiting one, forget tracks and delete markers."""
        if self._worker.drain(self):
            self.log.count_dropped()
        self._tracker.reset()
        if self._last_header is not None:
            self._publisher.clear_markers(self._last_header)

    # In the first stage.

    def prepare(self, arrival: Arrival) -> Job | None:
        """Return an image as the network takes it; None if it cannot be used."""
        taken_ns = monotonic_ns()
        for depth_input in self._depth_inputs:
            depth_input.begin(arrival.message.header)
        tuning = self._tuning()
        try:
            picture = _decode(arrival.message, tuning.image_levels)
            decoded_ns = monotonic_ns()
            region = _region(tuning, picture)
            pixels = picture.pixels if region is None else region.crop(picture.pixels)
            prepared = self.segmenter.prepare(pixels, picture.encoding)
        except FrameError as error:
            self.log.count_bad(monotonic_ns(), f'{arrival.topic}: {error}')
            self._node.get_logger().warning(
                f'{arrival.topic}: {error}; this image is skipped',
                throttle_duration_sec=WARN_PERIOD_S,
            )
            return None
        is_once = self._once.is_set()
        self._once.clear()
        return Job(arrival, tuning, picture, region, prepared, is_once, taken_ns, decoded_ns)

    def skip(self, job: Job, error: EngineError) -> None:
        """Count and log an image on which the engine failed."""
        if job.is_once:
            self._once.set()  # for the next image
        self.log.count_failed(monotonic_ns(), str(error))
        self._node.get_logger().error(
            f'{error}; this image is skipped', throttle_duration_sec=WARN_PERIOD_S
        )

    # In the second stage.

    def publish(self, job: Job, inference: Inference, inferred_ns: int) -> None:
        """Fuse and track an image, estimate its scene and publish it."""
        begun_ns = monotonic_ns()
        tuning, picture = job.tuning, job.picture
        topic, header = job.arrival.topic, job.arrival.message.header
        self._apply(tuning)
        try:
            segmentation = self._segment(job, inference)
        except EngineError as error:
            self.skip(job, error)
            return
        segmented_ns = monotonic_ns()
        if tuning.tracking:
            panoptic = self._tracker.update(segmentation.panoptic, stamp_ns(header))
            segmentation = segmentation.with_panoptic(panoptic)
        tracked_ns = monotonic_ns()
        self._compare_stamps(topic, header)
        frame = Frame(
            header=header,
            picture=picture,
            segmentation=segmentation,
            label_set=self.segmenter.model.label_set,
            calibration=self._calibration.info,
            camera=self._calibration.camera(picture.size_wh, tuning.camera_matrix),
            ground=self._ground.plane(header.frame_id, tuning),
            tuning=tuning,
        )
        self._publisher.publish_maps(frame, to_all=job.is_once)
        needs = self._needs(tuning, to_all=job.is_once)
        if needs:
            self._calibration.report(picture.size_wh, tuning.camera_matrix)
        frame = replace(frame, scene=self._estimator.estimate(frame, needs))
        self._publisher.publish_rest(frame, to_all=job.is_once)
        done_ns = monotonic_ns()
        self._latest = done_ns, frame
        stages = segmentation.stages_ns
        times = FrameTimes(
            wait_ns=job.taken_ns - job.arrival.received_ns,
            decode_ns=job.decoded_ns - job.taken_ns,
            preprocess_ns=stages.preprocess_ns,
            inference_ns=stages.inference_ns,
            handover_ns=begun_ns - inferred_ns,
            fusion_ns=stages.fusion_ns,
            tracking_ns=tracked_ns - segmented_ns,
            publish_ns=done_ns - tracked_ns,
            total_ns=done_ns - job.arrival.received_ns,
            age_ns=self._age_ns(header),
        )
        self.log.count_processed(done_ns, times)
        self._publish_timing(header, times)

    def _segment(self, job: Job, inference: Inference) -> Segmentation:
        """Fuse an image, and drop the classes that are not published."""
        tuning = job.tuning
        segmentation = self.segmenter.fuse(inference, self._fusion)
        if job.region is not None:
            confidence = np.zeros(job.picture.pixels.shape[:2], np.uint8)
            job.region.crop(confidence)[:] = segmentation.confidence
            panoptic = place(segmentation.panoptic, job.region, job.picture.size_wh)
            segmentation = replace(segmentation, fused=Fused(panoptic, confidence))
        if not tuning.classes:
            return segmentation
        is_kept = np.zeros(256, bool)
        names = self.segmenter.model.label_set.names
        is_kept[[names.index(name) for name in listed(tuning.classes)]] = True
        return segmentation.with_panoptic(keep_classes(segmentation.panoptic, is_kept))

    def _needs(self, tuning: Tuning, to_all: bool) -> Needs:
        needs = self._publisher.all_needs if to_all else self._publisher.needs
        # Collision times are part of the diagnostics.
        if tuning.tracking and self._is_diagnosed():
            needs |= Needs.OBJECTS
        return needs

    def _apply(self, tuning: Tuning) -> None:
        if tuning is self._applied:
            return
        self._applied = tuning
        self._fusion = tuning.override(self._card_fusion)
        self._tracker.settings = tuning.tracker_settings
        if not tuning.tracking:
            self._tracker.reset()

    def _compare_stamps(self, topic: str, header: Header) -> None:
        last, self._last_header = self._last_header, header
        if last is not None and stamp_ns(header) < stamp_ns(last) - CLOCK_JUMP_NS:
            back_s = (stamp_ns(last) - stamp_ns(header)) / 1e9
            self._node.get_logger().info(
                f'{topic}: stamps jumped back by {back_s:.3f} s (a recording that starts over?); '
                'markers are cleared',
                throttle_duration_sec=WARN_PERIOD_S,
            )
            self._publisher.clear_markers(header)

    def _age_ns(self, header: Header) -> int | None:
        age_ns = self._node.get_clock().now().nanoseconds - stamp_ns(header)
        return age_ns if 0 <= age_ns < MAX_AGE_NS else None


def _decode(message: Image | CompressedImage, levels: tuple[int, int]) -> Picture:
    if isinstance(message, Image):
        return decode_image(message, levels)
    return decode_compressed_image(message, levels)


def _region(tuning: Tuning, picture: Picture) -> Region | None:
    """Return the part of an image that is segmented; FrameError if it is outside the image."""
    region = tuning.region
    if region is None:
        return None
    inside = region.within(picture.size_wh)
    if inside is None:
        width, height = picture.size_wh
        raise FrameError(
            f'parameter roi is {tuning.roi!r}; expected a region of the image, which is '
            f'{width}x{height}'
        )
    return inside
