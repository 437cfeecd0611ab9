"""Weights to start a training from: ``panoptic train --init MODEL``."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from panoptic_ros.errors import ModelError
from panoptic_ros.model import Model
from panoptic_ros.training.network.panoptic_network import PanopticNetwork

_PREFIX = 'network.'  # precedes the names of the network's weights in the ONNX file
_DETAIL = 'semantic_head.detail.'
_CLASS_LAYERS = ('semantic_head.layers.1', 'semantic_head.detail.classes', 'query_head.classes')
_NO_OBJECT = 'no object'  # the last row of the queries' class layer
_FLOAT16 = '.float16'  # follows the names of weights that are stored as float16


def import_weights(
    network: PanopticNetwork, model: Model, class_names: Sequence[str] | None = None
) -> set[str]:
    """Give a network the weights of an exported model, batch normalisations as identities.

    The export folds every batch normalisation into its convolution. Here each convolution keeps
    the folded weights and its batch normalisation only adds the bias, so that in evaluation mode
    the network computes the same as the model. Call :func:`restore_normalisation` before training.

    Parameters
    ----------
    network
        A network of convolutions; its weights are replaced.
    model
        The exported model.
    class_names
        The classes of the network; the model's if None. Classes that the model lacks keep their
        present weights.

    Returns
    -------
    The names of the batch normalisations that stay untrained: those of heads that the model lacks,
    and those in a :class:`~panoptic_ros.training.network.heads.Detail` that it lacks. These parts
    keep their present weights.

    Raises ModelError if the model has queries, whose weights the exporter rearranges, or if its
    ONNX file is not an export of this network.
    """
    if model.card.head == 'queries':
        raise ModelError(
            f'model {model.card.name!r} has head kind queries, whose ONNX file cannot be trained; '
            'start from its training run, or from a file of panoptic export --weights'
        )
    present = network.state_dict()
    needed = {_part(name) for name in present}
    weights = {
        name: value for name, value in _exported_weights(model).items() if _part(name) in needed
    }
    parts = {_part(name) for name in weights}
    state: dict[str, Tensor] = {}
    untrained: set[str] = set()
    has_detail = any(name.startswith(_DETAIL) for name in weights)
    try:
        for name, _, norm in _convolutions(network):
            if _part(name) not in parts or (name.startswith(_DETAIL) and not has_detail):
                if norm is not None:
                    untrained.add(_norm_name(name))
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
        names = model.label_set.names
        state = fit_classes(state, names, present, class_names or names)
        network.load_state_dict(present | state)
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f'the weights of model {model.card.name!r} do not fit the network of the training '
            f'configuration ({error}); give the backbone and the channels it was trained with'
        ) from error
    return untrained


def fit_classes(
    state: Mapping[str, Tensor],
    names: Sequence[str],
    present: Mapping[str, Tensor],
    wanted: Sequence[str],
) -> dict[str, Tensor]:
    """Return weights for other classes.

    Parameters
    ----------
    state, names
        The weights, and the class names they were trained for.
    present, wanted
        The weights of the new network, and its class names. A class that is not in ``names``
        keeps its present weights.
    """
    fitted = dict(state)
    if tuple(names) == tuple(wanted):
        return fitted
    for layer in _CLASS_LAYERS:
        for part in (f'{layer}.weight', f'{layer}.bias'):
            if part in fitted and part in present:
                rows = present[part].clone()
                for row, name in enumerate((*wanted, _NO_OBJECT)[: len(rows)]):
                    if name in names:
                        rows[row] = fitted[part][list(names).index(name)]
                    elif name == _NO_OBJECT:
                        rows[row] = fitted[part][-1]
                fitted[part] = rows
    return fitted


def keep_shared_parts(
    state: Mapping[str, Tensor], present: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return ``state`` without the heads that ``present`` lacks, completed with those it has."""
    given, needed = ({_part(name) for name in names} for names in (state, present))
    shared = {name: value for name, value in state.items() if _part(name) in needed}
    return shared | {name: v for name, v in present.items() if _part(name) not in given}


def _part(name: str) -> str:
    """Return the part of the network a weight belongs to, like ``backbone``."""
    return name.partition('.')[0]


def restore_normalisation(
    network: PanopticNetwork, images: Iterable[Tensor], untrained: Collection[str] = ()
) -> None:
    """Make identities normalise again without changing what the network computes.

    Measure mean and variance of the input of each trainable batch normalisation over batches
    float [N, 3, H, W], make them its statistics, and set its scale and bias to undo them.
    Training, which normalises by the statistics of the batch, then starts from about the same
    function. The normalisations named in ``untrained`` only take the statistics.
    """
    norms = {
        norm: _norm_name(name)
        for name, _, norm in _convolutions(network)
        if norm is not None and norm.weight.requires_grad
    }
    moments = {norm: torch.zeros_like(norm.weight).repeat(2, 1) for norm in norms}

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
            if name in untrained:
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)
                continue
            # The output is (x - running_mean) / sqrt(running_var + eps) * weight + bias.
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
    """Yield every convolution with its name and the batch normalisation after it, if any."""
    modules = dict(network.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):
            behind = modules.get(_norm_name(name)) if name.endswith('.0') else None
            yield name, module, behind if isinstance(behind, nn.BatchNorm2d) else None
