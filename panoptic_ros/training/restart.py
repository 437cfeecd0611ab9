"""From a model folder back to a network to train: ``panoptic train --init MODEL``."""

from collections.abc import Collection, Iterable, Iterator

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from panoptic_ros.errors import ModelError
from panoptic_ros.model import Model
from panoptic_ros.training.network import PanopticNetwork

_PREFIX = 'network.'  # what the exporter puts before the names of the network's own weights
_DETAIL = 'semantic_head.detail.'
_FLOAT16 = '.float16'  # and the export behind those it stores as float16


def load_exported(network: PanopticNetwork, model: Model) -> set[str]:
    """Give a network the weights of an exported model, batch normalisations as identities.

    The export folds every batch normalisation into its convolution; here each convolution keeps
    the folded weights and its batch normalisation only adds the bias, so that in evaluation mode
    the network computes what the model does. Follow with :func:`renormalise` before training.

    A network with a :class:`~panoptic_ros.training.heads.Detail` that the model lacks keeps it as
    it was initialised, when it adds nothing. Returns the names of the batch normalisations in it.

    Raises ModelError if the model's ONNX file is not an export of this network.
    """
    weights = _exported_weights(model)
    state: dict[str, Tensor] = {}
    fresh: set[str] = set()
    has_detail = any(name.startswith(_DETAIL) for name in weights)
    try:
        for name, _, norm in _convolutions(network):
            if name.startswith(_DETAIL) and not has_detail:
                if norm is not None:
                    fresh.add(_norm_name(name))
                continue
            state[f'{name}.weight'] = weights.pop(f'{name}.weight')
            bias = weights.pop(f'{name}.bias')
            if norm is None:
                state[f'{name}.bias'] = bias
            else:
                norm_name = _norm_name(name)
                state[f'{norm_name}.running_mean'] = torch.zeros_like(bias)
                state[f'{norm_name}.running_var'] = torch.ones_like(bias)
                state[f'{norm_name}.weight'] = torch.full_like(bias, (1 + norm.eps) ** 0.5)
                state[f'{norm_name}.bias'] = bias
        if weights:
            raise KeyError(', '.join(sorted(weights)))
        network.load_state_dict(network.state_dict() | state)
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f'the weights of model {model.card.name!r} do not fit the network of the training '
            f'configuration ({error}); give the backbone and the channels it was trained with'
        ) from error
    return fresh


def renormalise(
    network: PanopticNetwork, images: Iterable[Tensor], fresh: Collection[str] = ()
) -> None:
    """Make identities normalise again without changing what the network computes.

    Measures mean and variance before each trainable batch normalisation over batches float
    [N, 3, H, W], makes them its statistics, and has its scale and bias undo them. Afterwards
    training, which normalises by the batch's own statistics, starts from about the same function.
    The normalisations named in ``fresh``, which have not been trained, only take the statistics.
    """
    norms = {
        norm: _norm_name(name)
        for name, _, norm in _convolutions(network)
        if norm is not None and norm.weight.requires_grad
    }
    moments = {norm: torch.zeros(2, norm.num_features) for norm in norms}

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].float()
        moments[norm] += torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    was_training = network.training
    network.eval()
    count = 0
    with torch.inference_mode():
        for batch in images:
            network(batch)
            count += 1
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        for norm, name in norms.items():
            mean, square = moments[norm] / count
            variance = (square - mean.square()).clamp(min=0)
            if name in fresh:
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)
                continue
            # What comes out is (x - running_mean) / sqrt(running_var + eps) * weight + bias.
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            norm.bias += (mean - norm.running_mean) * scale
            norm.weight.copy_((variance + norm.eps).sqrt() * scale)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)


def _norm_name(convolution_name: str) -> str:
    return convolution_name.removesuffix('0') + '1'


def _exported_weights(model: Model) -> dict[str, Tensor]:
    graph = onnx.load(model.onnx_path('float32')).graph
    buffers = ('backbone.mean', 'backbone.std')
    names = {
        t.name.removeprefix(_PREFIX).removesuffix(_FLOAT16): t
        for t in graph.initializer
        if t.name.startswith(_PREFIX)
    }
    return {
        name: torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32))
        for name, tensor in names.items()
        if name not in buffers
    }


def _convolutions(
    network: nn.Module,
) -> Iterator[tuple[str, nn.Conv2d, nn.BatchNorm2d | None]]:
    """Yield every convolution with its name and the batch normalisation behind it, if any."""
    modules = dict(network.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):
            behind = modules.get(_norm_name(name)) if name.endswith('.0') else None
            yield name, module, behind if isinstance(behind, nn.BatchNorm2d) else None
