import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from panoptic_ros.cli.training.export import parse_fusion
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.fusion import CentreFusion
from panoptic_ros.model import Model
from panoptic_ros.training.centres.inference_graph import CentreGraph
from panoptic_ros.training.export import blend, fold_batch_norm
from panoptic_ros.training.head_kinds import infer_heads
from panoptic_ros.training.network.centre_network import CentreNetwork
from panoptic_ros.training.network.efficientnet_lite import EfficientNetLite
from panoptic_ros.training.network.panoptic_network import PanopticNetwork


def run(model: Model, precision: str) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.onnx_path(precision), providers=['CPUExecutionProvider']
    )
    image, _ = model.golden()
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, (o[0] for o in session.run(None, {'image': image[None]})), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(('precision', 'tolerance'), [('float32', 1e-3), ('float16', 0.1)])
def test_onnx_runtime_agrees_with_torch(exported: Model, precision: str, tolerance: float) -> None:
    _, golden = exported.golden()
    outputs = run(exported, precision)
    assert (outputs['semantic'] == golden['semantic']).mean() > 1 - tolerance / 10
    assert np.abs(outputs['confidence'].astype(int) - golden['confidence']).max() <= 2
    np.testing.assert_allclose(outputs['centre_score'], golden['centre_score'], atol=tolerance)
    np.testing.assert_allclose(outputs['offset_xy'], golden['offset_xy'], atol=10 * tolerance)


@pytest.mark.slow
def test_both_files_have_the_same_weights_in_half_the_bytes(exported: Model) -> None:
    def weights(precision: str) -> list[np.ndarray]:
        graph = onnx.load(exported.onnx_path(precision)).graph
        arrays = [onnx.numpy_helper.to_array(t) for t in graph.initializer]
        kernels = [a for a in arrays if a.ndim == 4 and a.size > 64]
        return sorted(kernels, key=lambda a: (a.shape, a.tobytes()))

    narrow, wide = weights('float16'), weights('float32')
    assert len(narrow) == len(wide) > 50
    for a, b in zip(narrow, wide, strict=True):
        assert a.dtype == b.dtype == np.float16
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_graphs_are_fit_for_tensorrt(exported: Model) -> None:
    for precision in ('float32', 'float16'):
        graph = onnx.load(exported.onnx_path(precision)).graph
        first = next(n for n in graph.node if 'image' in n.input)
        assert first.op_type == 'Cast'
        assert not {n.op_type for n in graph.node} & {
            'NonZero',
            'Loop',
            'If',
            'BatchNormalization',
        }
        assert all(n.doc_string == '' and not n.metadata_props for n in graph.node)
        for value in (*graph.input, *graph.output):
            sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
            assert all(size > 0 for size in sizes), value.name


def test_folding_changes_nothing() -> None:
    torch.manual_seed(1)
    network = CentreNetwork(EfficientNetLite(0, pretrained=False), 5).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    x = torch.rand(1, 3, 64, 64) * 255
    folded = fold_batch_norm(network)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        for a, b in zip(network(x), folded(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_heads_come_in_the_shapes_fusion_takes() -> None:
    network = CentreNetwork(EfficientNetLite(0, pretrained=False), 19)
    heads = infer_heads(CentreGraph(network, peaks=8), np.zeros((64, 96, 3), np.uint8))
    assert heads.semantic.shape == (32, 48)
    assert heads.confidence.shape == (16, 24)
    assert heads.offset_xy.shape == (2, 16, 24)
    assert heads.centre_score.shape == heads.centre_index.shape == (8,)


def test_thresholds_are_read_as_they_are_written() -> None:
    fusion = parse_fusion(['centre_threshold=0.2', 'max_instances=50'], CentreFusion())
    assert (fusion.centre_threshold, fusion.max_instances) == (0.2, 50)
    assert isinstance(fusion.max_instances, int)


@pytest.mark.parametrize('text', ['threshold=1', 'centre_threshold', 'centre_threshold=2'])
def test_unusable_thresholds_are_named(text: str) -> None:
    with pytest.raises(PanopticRosError, match=f'--fusion {text} is not usable'):
        parse_fusion([text], CentreFusion())


def test_blending_takes_the_mean_of_what_two_networks_compute_with() -> None:
    def network() -> PanopticNetwork:
        return CentreNetwork(EfficientNetLite(0, pretrained=False), 19).eval()

    one, other = network(), network()
    images = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        torch.testing.assert_close(blend(one, other, 0.0)(images), one(images))
        torch.testing.assert_close(blend(one, other, 1.0)(images), other(images))
    weights = [n.semantic_head.layers[1].weight for n in (one, other, blend(one, other, 0.25))]
    torch.testing.assert_close(weights[2], 0.75 * weights[0] + 0.25 * weights[1])
    with pytest.raises(PanopticRosError, match=r'--blend-share is 1.5; expected 0..1'):
        blend(one, other, 1.5)
