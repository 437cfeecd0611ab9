"""From an image message to published topics: what exists between configure and cleanup."""

from dataclasses import replace
from functools import partial
from time import monotonic_ns

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from panoptic_ros.errors import EngineError, FrameError
from panoptic_ros.ros import messages
from panoptic_ros.ros.depth_input import DepthInput
from panoptic_ros.ros.diagnostics import MAX_AGE_NS, FrameLog, FrameTimes, Surroundings
from panoptic_ros.ros.messages import stamp_ns
from panoptic_ros.ros.outputs import Outputs, Result, no_depth
from panoptic_ros.ros.parameters import NodeParameters, Tuning
from panoptic_ros.ros.worker import NewestWorker
from panoptic_ros.scene.tracking import Tracker
from panoptic_ros.segmenter import Segmenter

WARN_PERIOD_S = 5.0
"""A warning about messages is not repeated within so many seconds."""


class Pipeline:
    """Takes messages on the executor's thread, segments and publishes on the worker's.

    Parameters
    ----------
    node
        Names the topics, tells the time and logs.
    segmenter
        Opened on the worker's thread.
    worker
        Used by nobody else.
    outputs
        Where results go.
    parameters
        Read anew for every frame.

    Attributes
    ----------
    segmenter
        As given.
    log
        What became of the frames.
    depth
        Where depth images go; None where the parameters want none.
    virtual_depth
        Where depth images of virtual things go; None where the parameters want none.
    """

    def __init__(
        self,
        node: LifecycleNode,
        segmenter: Segmenter,
        worker: NewestWorker,
        outputs: Outputs,
        parameters: NodeParameters,
    ) -> None:
        self.segmenter = segmenter
        self.log = FrameLog()
        self.depth = DepthInput(node, self.log) if parameters.structure.depth else None
        self.virtual_depth = None
        if parameters.structure.virtual_depth:
            self.virtual_depth = DepthInput(node, self.log, 'virtual_depth', may_be_empty=True)
        self._node = node
        self._worker = worker
        self._outputs = outputs
        self._parameters = parameters
        self._card_fusion = segmenter.fusion
        self._tracker = Tracker()
        self._tuning: Tuning | None = None
        self._calibration: CameraInfo | None = None
        self._last_header: Header | None = None

    @property
    def surroundings(self) -> Surroundings | None:
        """What was around lately; None where nobody wants to know."""
        return self._outputs.surroundings

    # On the executor's thread.

    def take_image(self, topic: str, message: Image | CompressedImage) -> None:
        """Have an image segmented, unless nobody wants it or a newer one comes first."""
        received_ns = monotonic_ns()
        self._outputs.events.is_due = False
        self.log.count_received(received_ns)
        if not self._outputs.is_wanted:
            self.log.count_unwatched()
        elif self._worker.submit(partial(self._process, topic, message, received_ns)):
            self.log.count_dropped()

    def take_camera_info(self, topic: str, message: CameraInfo) -> None:
        """Use a calibration for the images to come; one that makes no sense counts as none."""
        try:
            messages.check_camera_info(message)
        except FrameError as error:
            self._calibration = None
            self._node.get_logger().warning(
                f'{topic}: {error}; until a good one comes there are no markers and no '
                '~/camera_info',
                throttle_duration_sec=WARN_PERIOD_S,
            )
        else:
            self._calibration = message

    def look_after_events(self) -> None:
        """Let the executor see to the publishers' events, until the next image."""
        self._outputs.events.is_due = True

    def start(self) -> None:
        """Publish what comes before the first frame."""
        stamp = self._node.get_clock().now().to_msg()
        self._outputs.publish_label_info(self.segmenter.model.label_set, Header(stamp=stamp))

    def halt(self) -> None:
        """Let the frame in work finish, forget the one that waits and all tracks and markers."""
        if self._worker.drain():
            self.log.count_dropped()
        self._tracker.reset()
        if self._last_header is not None:
            self._outputs.clear_markers(self._last_header)

    def close(self) -> None:
        """Close the engine, end the thread, destroy the publishers."""
        self._worker.stop(last=self.segmenter.engine.close)
        self._outputs.destroy()

    # On the worker's thread.

    def _process(self, topic: str, message: Image | CompressedImage, received_ns: int) -> None:
        taken_ns = monotonic_ns()
        self.log.count_begun(taken_ns)
        logger = self._node.get_logger()
        for depth_input in filter(None, (self.depth, self.virtual_depth)):
            depth_input.begin(message.header)
        try:
            if isinstance(message, Image):
                picture = messages.decode_image(message)
            else:
                picture = messages.decode_compressed_image(message)
            decoded_ns = monotonic_ns()
            tuning = self._tune()
            segmentation = self.segmenter.segment(picture.pixels, picture.encoding)
        except FrameError as error:
            self.log.count_bad(monotonic_ns(), f'{topic}: {error}')
            logger.warning(
                f'{topic}: {error}; this image is skipped', throttle_duration_sec=WARN_PERIOD_S
            )
            return
        except EngineError as error:
            self.log.count_failed(monotonic_ns(), str(error))
            logger.error(f'{error}; this image is skipped', throttle_duration_sec=WARN_PERIOD_S)
            return
        header = message.header
        segmented_ns = monotonic_ns()
        self._compare_stamps(topic, header)
        calibration = self._calibration
        find_depth, find_virtual_depth = (
            no_depth
            if depth_input is None
            else partial(depth_input.find, picture.size_wh, calibration, tuning)
            for depth_input in (self.depth, self.virtual_depth)
        )
        result = Result(
            header=header,
            picture=picture,
            segmentation=segmentation,
            label_set=self.segmenter.model.label_set,
            calibration=calibration,
            tuning=tuning,
            find_depth=find_depth,
            find_virtual_depth=find_virtual_depth,
            tracker=self._tracker if tuning.tracking else None,
        )
        # Whoever wants to know where the road is need not wait for ids.
        self._outputs.publish_classes(result)
        classes_ns = monotonic_ns()
        if tuning.tracking:
            panoptic = self._tracker.update(segmentation.panoptic, stamp_ns(header))
            result = replace(result, segmentation=segmentation.with_panoptic(panoptic))
        tracked_ns = monotonic_ns()
        self._outputs.publish(result)
        done_ns = monotonic_ns()
        stages = segmentation.stages_ns
        times = FrameTimes(
            wait_ns=taken_ns - received_ns,
            decode_ns=decoded_ns - taken_ns,
            preprocess_ns=stages.preprocess_ns,
            inference_ns=stages.inference_ns,
            fusion_ns=stages.fusion_ns,
            tracking_ns=tracked_ns - classes_ns,
            publish_ns=classes_ns - segmented_ns + done_ns - tracked_ns,
            total_ns=done_ns - received_ns,
            age_ns=self._age_ns(header),
        )
        self.log.count_processed(done_ns, times)
        self._outputs.publish_timing(header, times)

    def _tune(self) -> Tuning:
        tuning = self._parameters.tuning
        if tuning is not self._tuning:
            self._tuning = tuning
            self.segmenter.fusion = tuning.tune(self._card_fusion)
            self._tracker.settings = tuning.tracker_settings
            if not tuning.tracking:
                self._tracker.reset()
        return tuning

    def _compare_stamps(self, topic: str, header: Header) -> None:
        last, self._last_header = self._last_header, header
        if last is not None and stamp_ns(header) < stamp_ns(last):
            back_s = (stamp_ns(last) - stamp_ns(header)) / 1e9
            self._node.get_logger().info(
                f'{topic}: stamps jumped back by {back_s:.3f} s (a recording that starts over?); '
                'markers are cleared',
                throttle_duration_sec=WARN_PERIOD_S,
            )
            self._outputs.clear_markers(header)

    def _age_ns(self, header: Header) -> int | None:
        age_ns = self._node.get_clock().now().nanoseconds - stamp_ns(header)
        return age_ns if 0 <= age_ns < MAX_AGE_NS else None
