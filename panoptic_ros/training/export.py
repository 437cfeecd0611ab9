"""Export a trained network to a model folder: ONNX files, card and golden file."""

import copy
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from panoptic_ros.errors import PanopticRosError
from panoptic_ros.fusion import Fusion
from panoptic_ros.model import Model, write_model
from panoptic_ros.model.card import TrainingData
from panoptic_ros.training.head_kinds import make_graph
from panoptic_ros.training.network.panoptic_network import PanopticNetwork
from panoptic_ros.training.onnx_files import store_weights_as_float16, strip, write_onnx


def export_model(
    network: PanopticNetwork,
    folder: str | Path,
    *,
    golden_image: np.ndarray,
    label_set: str,
    scale: float | None = None,
    peaks: int = 128,
    semantic_stride: int = 2,
    fusion: Fusion | None = None,
    provenance: dict[str, str] | None = None,
    data: tuple[TrainingData, ...] = (),
) -> Model:
    """Write a model folder whose float32 and float16 ONNX files have the same weights.

    Batch normalisation is folded into the convolutions and all weights are rounded to float16
    once. The float32 file stores them as float16 too (runtimes widen them when they load it), so
    that it is half as large and the two differ in arithmetic only.

    Parameters
    ----------
    network
        The trained network; it is not changed.
    folder
        The model folder.
    golden_image
        uint8 [H, W, 3] RGB at the input size, multiples of 32. The float32 network's outputs for
        it, computed in torch, prove every engine.
    label_set
        Name of a label set, or a ``.yaml`` file in the model folder.
    scale, fusion, provenance, data
        For the card; see :class:`~panoptic_ros.model.ModelCard`.
    peaks, semantic_stride
        Of head kind ``centres``; see
        :class:`~panoptic_ros.training.centres.inference_graph.CentreGraph`.

    Raises PanopticRosError for a semantic stride that does not fit windows.
    """
    if scale is not None and semantic_stride not in (1, 2, 4):
        raise PanopticRosError(
            f'the semantic stride is {semantic_stride}; a model with a scale needs 1, 2 or 4, so '
            'that windows meet at whole cells'
        )
    height, width = golden_image.shape[:2]
    network = copy.deepcopy(network)
    network.backbone.set_input_size((width, height))
    network = fold_batch_norm(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())
    batch = torch.from_numpy(np.ascontiguousarray(golden_image))[None]
    grid = {'peaks': peaks, 'semantic_stride': semantic_stride}
    graph = make_graph(network, **grid)
    with torch.inference_mode():
        tensors = graph(batch)
    outputs = {
        name: tensor[0].numpy() for name, tensor in zip(graph.outputs, tensors, strict=True)
    }
    with tempfile.TemporaryDirectory() as scratch:
        files = {}
        for precision in ('float32', 'float16'):
            half = precision == 'float16'
            graph = make_graph(copy.deepcopy(network), half=half, **grid)
            path = Path(scratch) / f'{precision}.onnx'
            write_onnx(graph, batch, path, graph.outputs)
            model = onnx.load(path)
            if not half:
                store_weights_as_float16(model)
            strip(model)
            onnx.checker.check_model(model, full_check=True)
            onnx.save(model, path)
            files[precision] = path
        return write_model(
            folder,
            onnx_by_precision=files,
            label_set=label_set,
            size_wh=(width, height),
            head=network.head,
            golden_image=golden_image,
            scale=scale,
            golden_outputs=outputs,
            fusion=vars(fusion) if fusion else {},
            provenance=provenance,
            data=data,
        )


def fold_batch_norm(network: PanopticNetwork) -> PanopticNetwork:
    """Return a copy in evaluation mode whose batch normalisations are part of the convolutions.

    A batch normalisation is folded where its input is the output of a convolution, whatever the
    modules are called. An activation inside it, as timm has it, stays.
    """
    network = copy.deepcopy(network).eval()
    for convolution, norm_name in _convolutions_with_norm(network):
        parent, _, child = norm_name.rpartition('.')
        holder = network.get_submodule(parent)
        norm = getattr(holder, child)
        fused = fuse_conv_bn_eval(convolution, norm)
        convolution.weight, convolution.bias = fused.weight, fused.bias
        setattr(holder, child, getattr(norm, 'act', nn.Identity()))
    return network


def _convolutions_with_norm(network: PanopticNetwork) -> list[tuple[nn.Conv2d, str]]:
    """Return each convolution followed by a batch normalisation, and the name of the latter."""
    made_by: dict[int, nn.Conv2d] = {}
    kept: list[torch.Tensor] = []  # a tensor that is freed would give its id to another
    found = []

    def after_convolution(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        made_by[id(output)] = module
        kept.append(output)

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d):

            def before_norm(module: nn.Module, inputs: tuple, name: str = name) -> None:
                if id(inputs[0]) in made_by:
                    found.append((made_by[id(inputs[0])], name))

            hooks.append(module.register_forward_pre_hook(before_norm))
    width, height = network.backbone.input_size_wh
    with torch.inference_mode():
        network(torch.zeros(1, 3, height, width))
    for hook in hooks:
        hook.remove()
    return found


def blend(network: PanopticNetwork, other: PanopticNetwork, share: float) -> PanopticNetwork:
    """Return the weighted mean of two networks' weights, batch normalisation folded.

    A network and the one that its training started from lie in one basin, and a point between
    them often does better than both on new images (WiSE-FT, arXiv 2109.01903). ``share``
    0..1 is the share of ``other``.

    Raises PanopticRosError for a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise PanopticRosError(f'--blend-share is {share}; expected 0..1')
    network, other = fold_batch_norm(network), fold_batch_norm(other)
    mixed = other.state_dict()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            value.lerp_(mixed[name], share)
    return network
