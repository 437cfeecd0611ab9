"""A model in 8-bit integers: ``panoptic quantize MODEL DATASET ROOT``, without training.

Convolutions compute in integers (Jacob et al., arXiv 1712.05877): weights with one scale for each
output channel, activations with one for each tensor, which covers what they were for some images.
Two ends stay in float32, where integers cost the most quality and save the least time: what the
picture enters, and what the heads end with. The file is ONNX with QuantizeLinear and
DequantizeLinear, which ONNX Runtime and OpenVINO turn into integer kernels.
"""

import argparse
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from tqdm import tqdm

from panoptic_ros.datasets.opening import open_dataset
from panoptic_ros.datasets.subset import evenly_spaced
from panoptic_ros.engines import open_engine
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.model import Model, add_onnx
from panoptic_ros.segmenter import prepare_all
from panoptic_ros.training.export import strip

FLOAT_CONVOLUTIONS = 3
"""So many convolutions from the image on stay in float32: of EfficientNet-Lite the stem and the
first block. With them in integers street-lite loses 0.6 PQ, without 0.2, in the same time."""

_QUANTIZED = ('Conv', 'Add', 'Resize', 'MaxPool', 'AveragePool', 'Concat', 'Clip', 'Relu')


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        'Add an int8 file to a model, calibrated on images of a data set; engine_precision int8 '
        'and --precision int8 use it.'
    )
    parser.add_argument('model', help='folder of a model, for example models/NAME')
    parser.add_argument('dataset', help='what to calibrate on, as for panoptic evaluate')
    parser.add_argument('root', type=Path, nargs='?', help='its folder (synthetic needs none)')
    parser.add_argument('--split', default='train', help='part of the data set (%(default)s)')
    parser.add_argument(
        '--images', type=int, default=64, help='how many, evenly spread (%(default)s)'
    )


def run(args: argparse.Namespace) -> int:
    """Quantise; returns the exit code."""
    model = Model.load(args.model)
    samples, _ = open_dataset(args.dataset, args.root, args.split)
    samples = evenly_spaced(samples, args.images)
    progress = tqdm(samples, unit='image', desc='ranges', disable=None)
    command = f'panoptic quantize {model.card.name} {args.dataset} ROOT --split {args.split}'
    model = quantize(
        model, [sample.image_rgb for sample in progress], f'{command} --images {len(samples)}'
    )
    entry = model.card.files['int8']
    print(f'{model.folder / entry.path}  int8  {entry.bytes / 1e6:.1f} MB')
    return 0


def quantize(model: Model, images_rgb: Sequence[np.ndarray], command: str = '') -> Model:
    """Add an int8 file to a model's folder and card, and prove it on the golden picture.

    Parameters
    ----------
    model
        With a float32 file.
    images_rgb
        uint8 [H, W, 3] of any size, to see the ranges of the activations. Fifty pictures like
        those to come are enough.
    command
        What to say in the card's provenance.

    Raises PanopticRosError without images, ModelError without a float32 file, EngineError if the
    integers give wrong results for the golden picture; then the model is as it was.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not len(images_rgb):
        raise PanopticRosError('there are no images to calibrate on; expected one or more')

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self._inputs: Iterator[np.ndarray] = (
                network_image
                for image in images_rgb
                for network_image in prepare_all(image, 'rgb8', model.card)
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._inputs, None)
            return None if image is None else {'image': image[None]}

    log = logging.getLogger()
    level = log.level
    with tempfile.TemporaryDirectory() as scratch:
        plain, integer = Path(scratch, 'plain.onnx'), Path(scratch, 'int8.onnx')
        log.setLevel(logging.ERROR)  # it recommends what was done
        try:
            quant_pre_process(model.onnx_path('float32'), plain, skip_symbolic_shape=True)
            quantize_static(
                plain,
                integer,
                Images(),
                quant_format=QuantFormat.QDQ,
                calibrate_method=CalibrationMethod.MinMax,
                op_types_to_quantize=list(_QUANTIZED),
                nodes_to_exclude=float_nodes(onnx.load(plain).graph),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # Processors without VNNI add products of 8 bits up in 16: weights of 7 bits fit.
                reduce_range=True,
            )
        finally:
            log.setLevel(level)
        network = onnx.load(integer)
        strip(network)
        used = {node.domain for node in network.graph.node}
        kept = [opset for opset in network.opset_import if opset.domain in used]
        del network.opset_import[:]
        network.opset_import.extend(kept)
        onnx.checker.check_model(network, full_check=True)
        onnx.save(network, integer)
        trial = Path(scratch, model.folder.name)
        shutil.copytree(model.folder, trial)
        open_engine(
            add_onnx(Model.load(trial), 'int8', integer), 'onnxruntime', precision='int8'
        ).close()
        return add_onnx(model, 'int8', integer, {'int8': command} if command else {})


def float_nodes(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes that stay in float32, of a graph in topological order.

    The first :data:`FLOAT_CONVOLUTIONS` convolutions, the last ones (behind which there is no
    other), and all that follows those.
    """
    convolutions = [node.name for node in graph.node if node.op_type == 'Conv']
    leads_to_convolution: set[str] = set()  # names of values
    last = []
    for node in reversed(graph.node):
        if leads_to_convolution.isdisjoint(node.output):
            last.append(node.name)
        if node.op_type == 'Conv' or not leads_to_convolution.isdisjoint(node.output):
            leads_to_convolution.update(node.input)
    return [*convolutions[:FLOAT_CONVOLUTIONS], *last]
