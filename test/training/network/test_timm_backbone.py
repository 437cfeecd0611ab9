"""Backbones of timm: a training step, export, ONNX Runtime, build with TensorRT-RTX."""

import importlib.util
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from panoptic_ros.errors import PanopticRosError
from panoptic_ros.training.centres.losses import centre_losses
from panoptic_ros.training.centres.targets import CentreTargets
from panoptic_ros.training.config import TrainingConfig
from panoptic_ros.training.export import export_model
from panoptic_ros.training.golden_image import golden_image
from panoptic_ros.training.loss_weights import LossWeights

SIZE_WH = (256, 256)
BACKBONES = (
    'resnet18',
    'resnet50',
    'swin_tiny_patch4_window7_224',
    'vit_small_patch16_224',
    'convnext_tiny',
    'mobilenetv4_conv_small',
)


_TORCHVISION = [
    'torchvision',
    *(
        f'torchvision.{name}'
        for name in (
            'datasets',
            'models',
            'models.feature_extraction',
            'ops',
            'ops.misc',
            'transforms',
            'transforms.functional',
        )
    ),
]


@pytest.fixture(scope='module', autouse=True)
def timm() -> None:
    """Import timm with stubs for torchvision, whose operators no backbone uses.

    The torchvision of PyPI does not load beside a CPU build of torch.
    """
    if importlib.util.find_spec('timm') is None:
        pytest.skip("timm is not installed: pip install 'panoptic_ros[backbones]'")
    if 'timm' in sys.modules:
        return
    stubs = {name: MagicMock(__path__=[]) for name in _TORCHVISION if name not in sys.modules}
    sys.modules.update(stubs)
    try:
        importlib.import_module('timm')
    finally:
        for name in stubs:
            del sys.modules[name]


def config(name: str, **changes: object) -> TrainingConfig:
    return TrainingConfig.of(
        {
            'name': 'tiny',
            'backbone': f'timm:{name}',
            'backbone_weights': 'none',
            'frozen_stages': 0,
            'pyramid_channels': 32,
            'semantic_channels': 32,
            'centre_channels': 32,
            'augmentation': {'crop_wh': list(SIZE_WH)},
        }
        | changes
    )


def random_targets(size_wh: tuple[int, int]) -> CentreTargets:
    width, height = size_wh
    cells = (1, height // 4, width // 4)
    return CentreTargets(
        semantic=torch.randint(3, (1, height, width), dtype=torch.uint8),
        pixel_weight=torch.ones(1, height, width),
        centre=torch.rand(cells),
        centre_weight=torch.ones(cells),
        offset_xy=torch.rand(1, 2, *cells[1:]),
        offset_weight=torch.ones(cells),
    )


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize('name', BACKBONES)
def test_a_backbone_learns_and_is_exported(name: str, tmp_path: Path, rtx) -> None:
    torch.manual_seed(0)
    network = config(name).build_network(3).train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    before = {key: value.clone() for key, value in network.backbone.named_parameters()}
    width, height = SIZE_WH
    image = torch.randint(256, (1, 3, height, width)).float()
    losses = centre_losses(network(image), random_targets(SIZE_WH), LossWeights())
    (losses.semantic + losses.centre + losses.offset).backward()
    optimizer.step()
    assert all(value.grad is not None for value in network.backbone.parameters())
    changed = [k for k, v in network.backbone.named_parameters() if not torch.equal(v, before[k])]
    assert len(changed) > len(before) / 5  # timm starts residual branches at zero

    size_wh = (320, 256)  # not the size of training
    model = export_model(
        network.eval(),
        tmp_path / 'model',
        golden_image=golden_image('coco', size_wh),
        label_set=_labels(tmp_path / 'model'),
        peaks=16,
    )
    image, golden = model.golden()
    for precision, tolerance in (('float32', 2e-3), ('float16', 0.1)):
        session = onnxruntime.InferenceSession(
            model.onnx_path(precision), providers=['CPUExecutionProvider']
        )
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(None, {'image': image[None]}), strict=True))
        same = (found['semantic'][0] == golden['semantic']).mean()
        assert same > 1 - tolerance / 2
        scale = np.abs(golden['offset_xy']).max() + 1
        np.testing.assert_allclose(
            found['offset_xy'][0], golden['offset_xy'], atol=tolerance * scale, rtol=0
        )
    graph = onnx.load(model.onnx_path('float32')).graph
    assert not any(node.op_type == 'BatchNormalization' for node in graph.node)
    # All large weights are stored in two bytes.
    large = [t for t in graph.initializer if np.prod(t.dims) > 1000]
    assert all(t.data_type == onnx.TensorProto.FLOAT16 for t in large if t.data_type != 7)
    built = rtx(model.onnx_path('float16'))
    assert built['parsed'], built['errors']
    assert built['plan_bytes'] > 0, built['build_errors']


def _labels(folder: Path) -> str:
    folder.mkdir()
    (folder / 'labels.yaml').write_text(
        'name: three\nclasses:\n'
        '- {name: ground, category_id: 1, thing: false, color: [1, 1, 1]}\n'
        '- {name: wall, category_id: 2, thing: false, color: [2, 2, 2]}\n'
        '- {name: box, category_id: 3, thing: true, color: [3, 3, 3]}\n'
    )
    return 'labels.yaml'


def test_maps_have_the_promised_strides_and_channels() -> None:
    for name, strides in (
        ('resnet18', (2, 4, 8, 16, 32)),
        ('vit_small_patch16_224', (4, 8, 16, 32)),
    ):
        backbone = config(name).build_network(3).backbone.eval()
        assert backbone.strides == strides
        with torch.inference_mode():
            maps = backbone(torch.zeros(1, 3, *SIZE_WH))
        assert [m.shape[1] for m in maps] == list(backbone.channels)
        assert [256 // m.shape[2] for m in maps] == list(strides)


def test_frozen_stages_are_the_first_ones() -> None:
    backbone = config('resnet18', frozen_stages=2).build_network(3).train().backbone
    learns = {name.split('.')[1] for name, p in backbone.named_parameters() if p.requires_grad}
    assert learns == {'layer3', 'layer4'}
    assert not backbone.model.bn1.training
    assert not backbone.model.layer2[0].bn1.training
    assert backbone.model.layer3[0].bn1.training


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    saved = config('resnet18').build_network(3).backbone.model
    torch.save(saved.state_dict(), tmp_path / 'weights.pth')
    loaded = config('resnet18', backbone_weights=str(tmp_path / 'weights.pth')).build_network(3)
    assert torch.equal(loaded.backbone.model.conv1.weight, saved.conv1.weight)


@pytest.mark.parametrize(
    ('name', 'changes', 'message'),
    [
        ('resnet19', {}, "no model 'resnet19'; it has .*resnet18"),
        ('resnet18', {'backbone_weights': 'none.pth'}, r'weights none\.pth do not exist'),
        ('vit_small_patch14_dinov2', {}, r'maps at strides \[14\]; expected \[4, 8, 16, 32\], or'),
    ],
)
def test_what_cannot_be_used_is_named(name: str, changes: dict, message: str) -> None:
    with pytest.raises(PanopticRosError, match=message):
        config(name, **changes).build_network(3)


def test_detail_needs_a_map_at_stride_2() -> None:
    with pytest.raises(ValueError, match='detail_channels is 8, but the backbone has no map'):
        config('vit_small_patch16_224', detail_channels=8).build_network(3)
