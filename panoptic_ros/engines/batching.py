"""Networks for several images at once, made from those for one image."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from panoptic_ros.errors import EngineError, one_line

MAX_BATCH = 32

_SHAPE_INPUT = {'Reshape': 1, 'Resize': 3}
"""Operators with an input that holds a shape with the batch axis, and its position."""


def with_batch(path: str | Path, batch: int) -> bytes:
    """Return an ONNX file with another size of the batch axis.

    The first size of inputs and outputs becomes ``batch``, and so does that of constant shapes.
    Networks that have the size 1 in other places, such as learned queries that are joined to the
    images' features, cannot be changed. The caller has to compare the outputs of the network with
    those of the original: that the sizes fit does not prove that images do not mix.

    Raises EngineError if the package onnx is missing or the sizes do not fit.
    """
    try:
        import onnx
    except ImportError as error:
        raise EngineError(
            f'{batch} images at once need the package onnx ({error}); install it with pip, or '
            'compute one image at a time'
        ) from error
    network = onnx.load(path)
    graph = network.graph
    del graph.value_info[:]
    for tensor in (*graph.input, *graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = batch
    replaced: set[str] = set()
    for node, position, shape in list(_constant_shapes(onnx, graph)):
        if len(shape) > 1 and shape[0] == 1:
            name = f'{node.input[position]}_{batch}_{node.output[0]}'
            shape[0] = batch
            graph.initializer.append(onnx.numpy_helper.from_array(shape, name))
            replaced.add(node.input[position])
            node.input[position] = name
    unused = replaced - {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name in unused]:
        graph.initializer.remove(tensor)
    try:
        onnx.shape_inference.infer_shapes(network, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise EngineError(
            f'{path} cannot compute {batch} images at once '
            f'({one_line(error)}); compute one image at a time'
        ) from error
    return network.SerializeToString()


def _constant_shapes(onnx: Any, graph: Any) -> Iterator[tuple[Any, int, Any]]:
    """Yield nodes with a constant shape, the position of that input, and a copy of the shape."""
    constants = {i.name: i for i in graph.initializer}
    for node in graph.node:
        if node.op_type == 'Constant' and node.attribute[0].name == 'value':
            constants[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        position = _SHAPE_INPUT.get(node.op_type)
        if position is not None and len(node.input) > position:
            tensor = constants.get(node.input[position])
            if tensor is not None:
                yield node, position, onnx.numpy_helper.to_array(tensor).copy()
