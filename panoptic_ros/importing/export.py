"""From a torch network to ONNX files in float32 and float16."""

import copy
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from panoptic_ros.errors import ModelError, one_line
from panoptic_ros.importing.network import OUTPUTS, Deployed
from panoptic_ros.training.onnx_files import strip, write_onnx

LARGE_BYTES = 64 << 10
"""Float32 tensors of a float16 file above this are worth a word: they cost memory and time."""

_SCOPES = 'pkg.torch.onnx.name_scopes'  # what the exporter writes at each node


def to_float16(network: Deployed, keep_float32: Collection[str] = ()) -> Deployed:
    """Return a copy in float16 in which some modules stay in float32.

    Parameters
    ----------
    network
        In float32.
    keep_float32
        Names of modules; what goes in is cast to float32 and what comes out to float16.
    """
    half = copy.deepcopy(network).half()
    for name in keep_float32:
        keep_in_float32(half.get_submodule(name))
    return half


def keep_in_float32(module: nn.Module) -> None:
    """Let a module of a float16 network compute in float32, with float16 around it."""
    module.float()
    module.register_forward_pre_hook(_cast_inputs, with_kwargs=True)
    module.register_forward_hook(_cast_outputs)


def _cast_inputs(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return _cast(args, torch.float16, torch.float32), _cast(kwargs, torch.float16, torch.float32)


def _cast_outputs(module: nn.Module, args: Any, output: Any) -> Any:
    return _cast(output, torch.float32, torch.float16)


def _cast(tree: Any, source: torch.dtype, target: torch.dtype) -> Any:
    return pytree.tree_map(
        lambda x: x.to(target) if isinstance(x, Tensor) and x.dtype == source else x, tree
    )


def export_onnx(
    network: Deployed,
    size_wh: tuple[int, int],
    path: Path,
    environment: Mapping[str, str] | None = None,
    outputs: Sequence[str] = OUTPUTS,
) -> None:
    """Write a network as self-contained ONNX whose nodes name the modules they come from.

    Raises ModelError if the network cannot be exported at that size.
    """
    image = torch.zeros(1, size_wh[1], size_wh[0], 3, dtype=torch.uint8)
    try:
        with _environment(environment or {}), torch.inference_mode():
            write_onnx(network, image, path, outputs)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        cause = one_line(error.__cause__ or error)
        raise ModelError(
            f'the network cannot be exported at {size_wh[0]}x{size_wh[1]}: {cause}; try another '
            '--size'
        ) from error


def publish_onnx(source: Path, target: Path) -> None:
    """Copy an ONNX file without what the exporter notes for debugging, and check it."""
    model = onnx.load(source)
    strip(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def module_of(node: onnx.NodeProto) -> str:
    """Return the name of the module that a node of :func:`export_onnx` comes from."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = [s.strip(' \'"[]') for s in entry.value.split(',')]
            # The last one is the operation itself.
            return scopes[-2] if len(scopes) > 1 else ''
    return ''


def large_float32(path: Path) -> dict[str, int]:
    """Return the bytes of the large float32 tensors of a float16 file, by the module's name."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    found: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.output:
            size = 4
            for side in shapes.get(name, [0]):
                size *= side
            if size > LARGE_BYTES:
                module = module_of(node)
                found[module] = max(found.get(module, 0), size)
    return found


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
