"""From a training run to a model folder: ``panoptic export RUN --out models/NAME``."""

import argparse
import copy
import datetime
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from panoptic_ros.datasets.street.scene import synthetic_samples
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.fusion import CentreFusion
from panoptic_ros.model import Model, write_model
from panoptic_ros.model.card import TrainingData
from panoptic_ros.training.deployed import OUTPUTS, DeployedNetwork
from panoptic_ros.training.network import PanopticNetwork
from panoptic_ros.training.restart import load_exported
from panoptic_ros.training.training import open_run

OPSET = 18
_DATA_TERMS = {
    'cityscapes': TrainingData(
        'Cityscapes, 1,971 images of 12 cities at 640x320',
        'uploaded as CC BY 4.0; the original Cityscapes terms are for non-commercial research: '
        'check both before you ship a product',
    ),
    'coco': TrainingData('COCO Panoptic', 'annotations CC BY 4.0; images under their own terms'),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = 'Export a training run to a model folder: ONNX files, card, golden.'
    parser.add_argument('run', help='folder of the training run')
    parser.add_argument('--out', required=True, help='model folder, for example models/NAME')
    parser.add_argument(
        '--size', default='640x320', metavar='WxH', help='input size (default: %(default)s)'
    )
    parser.add_argument(
        '--fusion',
        nargs='*',
        default=[],
        metavar='NAME=VALUE',
        help='thresholds for the card, for example min_stuff_area_fraction=0.002',
    )
    parser.add_argument(
        '--semantic-stride',
        type=int,
        default=2,
        choices=(1, 2, 3, 4),
        help='input pixels a cell of the class map (default: %(default)s)',
    )
    parser.add_argument(
        '--blend',
        metavar='MODEL',
        help='mix in the weights of the exported model that the run started from',
    )
    parser.add_argument(
        '--blend-share',
        type=float,
        default=0.3,
        metavar='SHARE',
        help='how much of them, 0..1 (default: %(default)s)',
    )
    parser.add_argument('--peaks', type=int, default=128, help='most objects in a picture')


def run(args: argparse.Namespace) -> int:
    """Export; returns the exit code."""
    size_wh = parse_size(args.size)
    fusion = parse_fusion(args.fusion)
    config, state = open_run(args.run)
    network = config.build_network(pretrained=False)
    network.load_state_dict(state['average'])
    provenance = {
        'trained': f'{state["images_seen"]} images in {state["seconds"] / 60:.0f} minutes',
        'initial_weights': state.get('initial_weights', 'not known'),
        'synthetic_share': f'{config.made_share:.2f}',
        'command': f'panoptic train config/training/{config.name}.yaml --data ROOT',
        'exported': datetime.date.today().isoformat(),
    }
    if args.blend:
        other = config.build_network(pretrained=False)
        blended_in = Model.load(args.blend)
        load_exported(other, blended_in)
        network = blend(network, other, args.blend_share)
        provenance['blended'] = f'{args.blend_share:g} of {blended_in.card.name}'
    model = export_model(
        network,
        args.out,
        size_wh=size_wh,
        label_set=config.label_set,
        peaks=args.peaks,
        semantic_stride=args.semantic_stride,
        fusion=fusion,
        provenance=provenance,
        data=(
            _DATA_TERMS.get(config.dataset)
            or TrainingData(config.dataset, "see the data set's own terms"),
        ),
    )
    for precision, entry in model.card.files.items():
        print(f'{model.folder / entry.path}  {precision}  {entry.bytes / 1e6:.1f} MB')
    return 0


def parse_size(text: str) -> tuple[int, int]:
    """Read ``640x320``; raises PanopticRosError unless both are multiples of 32."""
    parts = text.lower().split('x')
    if len(parts) != 2 or not all(p.isdigit() and int(p) and int(p) % 32 == 0 for p in parts):
        raise PanopticRosError(
            f'size {text!r} is not usable; expected WIDTHxHEIGHT in multiples of 32, like 640x320'
        )
    return int(parts[0]), int(parts[1])


def parse_fusion(texts: Sequence[str]) -> CentreFusion:
    """Read ``NAME=VALUE`` texts; raises PanopticRosError for an unknown or unusable one."""
    try:
        pairs = (text.split('=', 1) for text in texts)
        values = {name: float(value) for name, value in pairs}
        if 'max_instances' in values:
            values['max_instances'] = int(values['max_instances'])
        return CentreFusion(**values)
    except (TypeError, ValueError) as error:
        raise PanopticRosError(
            f'--fusion {" ".join(texts)} is not usable ({error}); expected NAME=VALUE of '
            f'{", ".join(vars(CentreFusion()))}'
        ) from error


def export_model(
    network: PanopticNetwork,
    folder: str | Path,
    *,
    size_wh: tuple[int, int],
    label_set: str,
    peaks: int = 128,
    semantic_stride: int = 2,
    fusion: CentreFusion | None = None,
    provenance: dict[str, str] | None = None,
    data: tuple[TrainingData, ...] = (),
) -> Model:
    """Write a model folder whose float32 and float16 ONNX files have the very same weights.

    Batch normalisation is folded into the convolutions and all weights are rounded to float16
    once; the float32 file stores them as float16 too (runtimes widen them when they load it), so
    that it is half as large and the two differ in arithmetic only.

    The golden image is a synthetic street, its outputs are the float32 network's in torch.
    """
    network = fold_batch_norm(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())
    width, height = size_wh
    image = synthetic_samples(seed=7, count=1, size_wh=size_wh)[0].image_rgb
    batch = torch.from_numpy(np.ascontiguousarray(image))[None]
    grid = {'peaks': peaks, 'semantic_stride': semantic_stride}
    deployed = DeployedNetwork(network, **grid)
    with torch.inference_mode():
        outputs = {
            name: tensor[0].numpy() for name, tensor in zip(OUTPUTS, deployed(batch), strict=True)
        }
    with tempfile.TemporaryDirectory() as scratch:
        files = {}
        for precision in ('float32', 'float16'):
            half = precision == 'float16'
            deployed = DeployedNetwork(copy.deepcopy(network), half=half, **grid)
            path = Path(scratch) / f'{precision}.onnx'
            _export_onnx(deployed, batch, path)
            model = onnx.load(path)
            if not half:
                _store_weights_as_float16(model)
            strip(model)
            onnx.checker.check_model(model, full_check=True)
            onnx.save(model, path)
            files[precision] = path
        return write_model(
            folder,
            onnx_by_precision=files,
            label_set=label_set,
            size_wh=(width, height),
            golden_image=image,
            golden_outputs=outputs,
            fusion=vars(fusion) if fusion else {},
            provenance=provenance,
            data=data,
        )


def _export_onnx(deployed: DeployedNetwork, batch: torch.Tensor, path: Path) -> None:
    # The exporter reports at length that torchvision is not there and what it will deprecate.
    exporter_log = logging.getLogger('torch.onnx')
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            torch.onnx.export(
                deployed,
                (batch,),
                path,
                input_names=['image'],
                output_names=list(OUTPUTS),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                optimize=True,
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)


def fold_batch_norm(network: PanopticNetwork) -> PanopticNetwork:
    """Return a copy in evaluation mode whose batch normalisations live in the convolutions."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if (
            isinstance(module, nn.Sequential)
            and len(module) >= 2
            and isinstance(module[0], nn.Conv2d)
            and isinstance(module[1], nn.BatchNorm2d)
        ):
            module[0] = fuse_conv_bn_eval(module[0], module[1])
            module[1] = nn.Identity()
    return network


def blend(network: PanopticNetwork, other: PanopticNetwork, share: float) -> PanopticNetwork:
    """Return the weighted mean of two networks' weights, batch normalisation folded.

    A network that was trained on and the one it started from lie in one basin, and a point
    between them often does better than both on new images (WiSE-FT, arXiv 2109.01903). ``share``
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


def _store_weights_as_float16(model: onnx.ModelProto) -> None:
    """Keep each large float32 weight as float16 with a Cast behind it; changes no value."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        value = numpy_helper.to_array(tensor)
        narrow = value.astype(np.float16)
        if value.size < 64 or not np.array_equal(narrow.astype(np.float32), value):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(narrow, f'{name}.float16'))
        casts.append(helper.make_node('Cast', [f'{name}.float16'], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def strip(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes for debugging: file paths of this machine, stack traces."""
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
