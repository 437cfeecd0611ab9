"""The node on a thread of the test's process, with stages that can be held."""

import threading
from collections.abc import Callable
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from panoptic_ros.ros.node import SegmentNode, load_segmenter
from panoptic_ros.ros.parameters import Structure
from panoptic_ros.segmenter import Segmenter
from support.ros import TIMEOUT_S


class Held:
    """A function whose calls wait while it is held."""

    def __init__(self, function: Callable) -> None:
        self.calls = 0
        self._function = function
        self._open = threading.Event()
        self._open.set()

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def __call__(self, *arguments: object) -> object:
        self.calls += 1
        assert self._open.wait(TIMEOUT_S)
        return self._function(*arguments)


class NodeInThread:
    """The node, active; ``infer_all`` and ``fuse`` of its segmenter can be held."""

    def __init__(self, model: Path, namespace: str, **parameters: object) -> None:
        self._context = Context()
        rclpy.init(context=self._context, args=[])
        values = {'model': str(model), 'engine': 'onnxruntime', **parameters}
        self.node = SegmentNode(
            self._load,
            context=self._context,
            namespace=namespace,
            parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
        )
        assert self.node.start()
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()

    def _load(self, structure: Structure) -> Segmenter:
        segmenter = load_segmenter(structure)
        self.infer = segmenter.infer_all = Held(segmenter.infer_all)
        self.fuse = segmenter.fuse = Held(segmenter.fuse)
        return segmenter

    def counts(self, camera: int = 0) -> dict[str, int]:
        """Return the counts of images of a camera."""
        values = self.node._session.cameras[camera].log.values(0)
        names = ('received', 'processed', 'dropped', 'unwatched')
        return {name: int(values[f'frames {name}']) for name in names}

    def stop_spinning(self) -> None:
        self._executor.shutdown()
        self._thread.join()

    def close(self) -> None:
        self.infer.release()
        self.fuse.release()
        self.stop_spinning()
        self.node.finish()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)
