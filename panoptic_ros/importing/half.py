"""Which modules of a network cannot compute in float16."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from panoptic_ros.importing.export import module_of

LARGEST = 65504.0
"""The largest float16."""

FEW = 64
"""A sum of at most this many float16 values has about three correct digits in float16."""

_MARGIN = 0.5  # other pictures have larger values
_SENTINEL = 1e30  # float32 values from here on stand for minus infinity in attention masks


@dataclass(frozen=True)
class Overflow:
    """A value of the float32 network that float16 cannot hold.

    Parameters
    ----------
    value
        Its name in the ONNX file.
    module
        The module that computes it.
    largest
        Its largest magnitude.
    """

    value: str
    module: str
    largest: float

    def __str__(self) -> str:
        return f'{self.module or "the network"} reaches {self.largest:.3g}'


def find_overflows(path: Path, images: Sequence[np.ndarray]) -> list[Overflow]:
    """Run a float32 file of :func:`export_onnx` and return what leaves the range of float16.

    Runtimes for CPUs compute parts of a float16 file in float32, so an overflow need not show
    there; a GPU has it. Half the range is left for other pictures.

    Parameters
    ----------
    path
        The file; its nodes must name their modules.
    images
        uint8 [H, W, 3] of the network's input size.
    """
    model = onnx.load(path)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    floats = {
        value.name
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    values = {name: node for node in model.graph.node for name in node.output if name in floats}
    largest = _largest_magnitudes(model, list(values), images)
    return [
        Overflow(name, module_of(node), largest[name])
        for name, node in values.items()
        if largest[name] > LARGEST * _MARGIN
    ]


def _largest_magnitudes(
    model: onnx.ModelProto, names: Sequence[str], images: Sequence[np.ndarray]
) -> dict[str, float]:
    """Return the largest magnitude of values over the images, those of masks left out."""
    # The network finds the extremes itself: all values together need 12 GB in DETR at 640x480.
    extremes = [f'{name}/{kind}' for name in names for kind in ('ReduceMin', 'ReduceMax')]
    session = _session_with_outputs(model, extremes)
    runs = [session.run(extremes, {'image': image[None]}) for image in images]
    sides = np.abs(runs).max(0).reshape(-1, 2)
    largest = dict(zip(names, sides.max(1).tolist(), strict=True))
    masks = [name for name in names if largest[name] >= _SENTINEL]
    session = _session_with_outputs(model, masks)
    for name in masks:
        arrays = [np.abs(session.run([name], {'image': image[None]})[0]) for image in images]
        largest[name] = max(float(a[a < _SENTINEL].max(initial=0)) for a in arrays)
    return largest


def _session_with_outputs(
    model: onnx.ModelProto, names: Sequence[str]
) -> onnxruntime.InferenceSession:
    """Return a session with other outputs: values, or extremes of values (``VALUE/ReduceMax``)."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    for name in names:
        value, _, kind = name.rpartition('/')
        if kind.startswith('Reduce'):
            exposed.graph.node.append(helper.make_node(kind, [value], [name], keepdims=0))
        exposed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # it keeps the memory of all values
    # Optimising takes longer than the few runs there are, and would remove values.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        exposed.SerializeToString(), options, ['CPUExecutionProvider']
    )


def modules_to_keep(path: Path, overflows: Sequence[Overflow], network: nn.Module) -> set[str]:
    """Return the modules that have to stay in float32 so that no overflow reaches another.

    A module's output is cast to float16, so where that overflows, the module around it has to stay
    in float32 too. The whole network is ``''``.
    """
    model = onnx.load(path)
    consumers: dict[str, set[str]] = defaultdict(set)
    for node in model.graph.node:
        for name in node.input:
            consumers[name].add(module_of(node))
    for output in model.graph.output:
        consumers[output.name].add('')
    kept: set[str] = set()
    for overflow in overflows:
        module = overflow.module
        while not all(_is_inside(user, module) for user in consumers[overflow.value]):
            module = _parent(module, network)
        kept.add(module)
    return {m for m in kept if not any(m != other and _is_inside(m, other) for other in kept)}


def mixing_module(half: nn.Module, size_wh: tuple[int, int]) -> str | None:
    """Return the innermost module of a float16 network in which torch fails; None if none does.

    Products of a float16 and a float32 matrix are what fails, for example where a network makes
    the mask of its attention in float32. Nothing is computed, unless the network depends on
    values of its tensors.
    """
    names = {module: name for name, module in half.named_modules()}
    running = ['']
    hooks = [
        # Modules that the network makes as it runs have no name: that of the one around them.
        register_module_forward_pre_hook(
            lambda module, args: running.append(names.get(module, running[-1]))
        ),
        register_module_forward_hook(lambda module, args, output: (running.pop(), None)[1]),
    ]
    shape = (1, size_wh[1], size_wh[0], 3)
    try:
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
                half(torch.zeros(shape, dtype=torch.uint8))
        except (DataDependentOutputException, DynamicOutputShapeException):
            del running[1:]
            with torch.no_grad():
                half(torch.zeros(shape, dtype=torch.uint8))
    except RuntimeError:
        return running[-1]
    finally:
        for hook in hooks:
            hook.remove()
    return None


def narrow_sums(path: Path, keep_float32: Collection[str] = ()) -> None:
    """Let sums of few values in a float16 file of :func:`export_onnx` compute in float16.

    torch adds float16 values in float32 and rounds once. The exporter writes that as casts around
    the sum, so the whole operand exists in float32: 100 MB in the deformable attention of
    Mask2Former at 640x640. Up to :data:`FEW` values lose nothing that matters.

    Parameters
    ----------
    path
        The file, which is replaced.
    keep_float32
        Names of modules whose sums stay as they are.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    graph = model.graph
    type_of = {value.name: value.type.tensor_type for value in graph.value_info}
    axes_of = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    removed = []
    for narrow in graph.node:
        total = producers.get(narrow.input[0]) if _is_cast(narrow, TensorProto.FLOAT16) else None
        if total is None or total.op_type != 'ReduceSum' or total.input[-1] not in axes_of:
            continue
        wide = producers.get(total.input[0])
        if wide is None or not _is_cast(wide, TensorProto.FLOAT):
            continue
        operand = type_of.get(wide.input[0])
        if operand is None or operand.elem_type != TensorProto.FLOAT16:
            continue
        summed = math.prod(operand.shape.dim[axis].dim_value for axis in axes_of[total.input[-1]])
        is_shared = uses[wide.output[0]] > 1 or uses[total.output[0]] > 1
        if summed <= FEW and not is_shared and not is_kept(module_of(total), keep_float32):
            total.input[0], total.output[0] = wide.input[0], narrow.output[0]
            removed += [wide, narrow]
    for node in removed:
        graph.node.remove(node)
    del graph.value_info[:]
    onnx.save(model, path)


def _is_cast(node: onnx.NodeProto, dtype: int) -> bool:
    return node.op_type == 'Cast' and node.attribute[0].i == dtype


def is_kept(module: str, kept: Collection[str]) -> bool:
    """Return whether a module lies in one of those that stay in float32."""
    return any(_is_inside(module, name) for name in kept)


def _is_inside(module: str, outer: str) -> bool:
    return not outer or module == outer or module.startswith(f'{outer}.')


def _parent(name: str, network: nn.Module) -> str:
    """Return the module around another; lists of modules compute nothing themselves."""
    while name:
        name = name.rpartition('.')[0]
        if not isinstance(network.get_submodule(name), nn.ModuleList | nn.ModuleDict):
            break
    return name
