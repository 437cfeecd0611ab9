"""An ONNX file in float16, where the network it was exported from is not at hand."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from panoptic_ros.errors import ModelError

_FLOAT32_INPUTS = {'Resize': (1, 2)}
"""Operators with inputs that stay float32: the region and scales of Resize."""


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose float32 tensors are float16, inputs of other types as they are.

    Raises ModelError if the file has branches or loops.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    if any(attribute.HasField('g') for node in graph.node for attribute in node.attribute):
        raise ModelError(
            'the file has branches or loops, which cannot be converted to float16; export it '
            'with a fixed size'
        )
    wide = {
        node.input[index]
        for node in graph.node
        for index in _FLOAT32_INPUTS.get(node.op_type, ())
        if index < len(node.input) and node.input[index]
    }
    for tensor in graph.initializer:
        if tensor.name not in wide:
            _halve(tensor)
    for node in graph.node:
        if not wide.intersection(node.output):
            for tensor in _tensors(node):
                _halve(tensor)
            for attribute in node.attribute:
                if attribute.name == 'to' and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del graph.value_info[:]
    return half


def _tensors(node: onnx.NodeProto) -> Iterator[TensorProto]:
    if node.op_type == 'Constant':
        _as_tensor(node)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t


def _as_tensor(node: onnx.NodeProto) -> None:
    """Write numbers of a Constant, which are float32, as a tensor."""
    attribute = node.attribute[0]
    if attribute.name in ('value_float', 'value_floats'):
        value = np.asarray(helper.get_attribute_value(attribute), np.float32)
        replacement = helper.make_attribute('value', numpy_helper.from_array(value))
        attribute.CopyFrom(replacement)


def _halve(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        largest = np.finfo(np.float16).max
        values = numpy_helper.to_array(tensor).clip(-largest, largest).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
