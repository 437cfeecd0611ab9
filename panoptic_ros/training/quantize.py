"""Quantize a model to 8-bit integers after training.

Convolutions compute in integers (Jacob et al., arXiv 1712.05877). Weights have one scale per
output channel, activations one per tensor, from their range on calibration images. The first
convolutions and the last ones of the heads stay in float32, because integers cost the most quality
and save the least time there. The file is ONNX with QuantizeLinear and DequantizeLinear, which
ONNX Runtime and OpenVINO turn into integer kernels.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx

from panoptic_ros.engines import open_engine
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.model import Model, add_onnx
from panoptic_ros.segmenter import prepare_all
from panoptic_ros.training.onnx_files import strip

FLOAT_CONVOLUTIONS = 3
"""Number of convolutions, from the image on, that stay in float32: the stem and the first block
of EfficientNet-Lite. With them in integers street-lite loses 0.6 PQ, without 0.2, in the same
time."""

_QUANTIZED = ('Conv', 'Add', 'Resize', 'MaxPool', 'AveragePool', 'Concat', 'Clip', 'Relu')


def quantize(model: Model, images_rgb: Sequence[np.ndarray], command: str = '') -> Model:
    """Add an int8 file to a model's folder and card, and verify it on the golden image.

    Parameters
    ----------
    model
        A model with a float32 file.
    images_rgb
        uint8 [H, W, 3] of any size, from which the ranges of the activations are measured. Fifty
        typical images are enough.
    command
        Command line for the card's provenance.

    Raises PanopticRosError without images, ModelError without a float32 file, EngineError if the
    results for the golden image are wrong; then the model is not changed.
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
        log.setLevel(logging.ERROR)  # it recommends the pre-processing that was done
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
                # Processors without VNNI add 8-bit products in 16 bits: 7-bit weights fit.
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

    The first :data:`FLOAT_CONVOLUTIONS` convolutions, the last ones (without a convolution after
    them), and everything after those.
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
