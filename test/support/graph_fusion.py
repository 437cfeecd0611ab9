"""Run the fusion that is appended to ONNX files, on heads that are given."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from panoptic_ros.fusion import CentreFusion, QueryFusion
from panoptic_ros.fusion.graph import fuse_onnx
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic

_TYPES = {
    'float32': TensorProto.FLOAT,
    'float16': TensorProto.FLOAT16,
    'uint8': TensorProto.UINT8,
    'int32': TensorProto.INT32,
}


def write_identity(path: Path, outputs: dict[str, np.ndarray], size_wh: tuple[int, int]) -> None:
    """Write a network that returns its inputs, beside an image that only states the size."""
    info = helper.make_tensor_value_info
    image = info('image', TensorProto.UINT8, [1, size_wh[1], size_wh[0], 3])
    inputs, results, nodes = [image], [], []
    for name, array in outputs.items():
        dtype, shape = _TYPES[array.dtype.name], [1, *array.shape]
        inputs.append(info(f'{name}_in', dtype, shape))
        results.append(info(name, dtype, shape))
        nodes.append(helper.make_node('Identity', [f'{name}_in'], [name]))
    graph = helper.make_graph(nodes, 'identity', inputs, results)
    opset = helper.make_opsetid('', 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


class GraphFusion:
    """The appended fusion alone, on ONNX Runtime.

    Parameters
    ----------
    folder
        Two ONNX files are written there.
    outputs
        Heads with the shapes and dtypes of those to come.
    size_wh
        Width and height of the network's input.
    """

    def __init__(
        self,
        folder: Path,
        fusion: CentreFusion | QueryFusion,
        label_set: LabelSet,
        outputs: dict[str, np.ndarray],
        size_wh: tuple[int, int],
    ) -> None:
        write_identity(folder / 'heads.onnx', outputs, size_wh)
        fuse_onnx(folder / 'heads.onnx', folder / 'maps.onnx', fusion, label_set)
        self._session = ort.InferenceSession(
            folder / 'maps.onnx', providers=['CPUExecutionProvider']
        )
        self._names = [output.name for output in self._session.get_outputs()]
        self._inputs = {node.name for node in self._session.get_inputs()}
        self._image = np.zeros((1, size_wh[1], size_wh[0], 3), np.uint8)

    def __call__(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the maps and tables of the graph, without the batch axis."""
        feed = {f'{name}_in': array[None] for name, array in outputs.items()}
        feed['image'] = self._image
        feed = {name: array for name, array in feed.items() if name in self._inputs}
        found = self._session.run(self._names, feed)
        return {name: array[0] for name, array in zip(self._names, found, strict=True)}


def differing_pixels(a: Panoptic, b: Panoptic) -> int:
    """Count the pixels with another class, or in another instance than most of theirs."""
    differs = a.semantic != b.semantic
    same = ~differs
    pairs, count = np.unique(
        np.stack([a.instance[same], b.instance[same]]), axis=1, return_counts=True
    )
    # Of each instance of a, the most frequent partner is the right one.
    order = np.lexsort((-count, pairs[0]))
    _, first = np.unique(pairs[0][order], return_index=True)
    return int(differs.sum() + count.sum() - count[order][first].sum())
