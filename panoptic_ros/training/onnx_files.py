"""From a torch module to an ONNX file."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET = 18

_LOGGERS = ('torch.onnx', 'onnxscript')


def write_onnx(
    graph: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    path: str | Path,
    output_names: Sequence[str],
    *,
    input_names: Sequence[str] = ('image',),
    opset: int = OPSET,
) -> None:
    """Export a module to one self-contained ONNX file.

    ``inputs`` are examples that give the types and shapes. The nodes name the modules they come
    from until :func:`strip`.
    """
    with _quiet_exporter():
        torch.onnx.export(
            graph,
            inputs if isinstance(inputs, tuple) else (inputs,),
            path,
            input_names=list(input_names),
            output_names=list(output_names),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            optimize=True,
            verbose=False,
        )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter, which warns of missing packages and coming deprecations."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in _LOGGERS}
    for log in levels:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for log, level in levels.items():
            log.setLevel(level)


def strip(model: onnx.ModelProto) -> None:
    """Remove the debugging notes of the exporter: file paths of this machine, stack traces."""
    model.doc_string = ''
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ''
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.doc_string = ''
        del value.metadata_props[:]


def store_weights_as_float16(model: onnx.ModelProto) -> None:
    """Store each large float32 weight that float16 can hold as float16, followed by a Cast."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        value = numpy_helper.to_array(tensor)
        with np.errstate(over='ignore'):
            narrow = value.astype(np.float16)
        if value.size < 64 or not np.array_equal(narrow.astype(np.float32), value):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(narrow, f'{name}.float16'))
        casts.append(helper.make_node('Cast', [f'{name}.float16'], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
