from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from panoptic_ros.cli import main
from panoptic_ros.training.config import TrainingConfig
from panoptic_ros.training.network.centre_network import CentreNetwork
from panoptic_ros.training.network.efficientnet_lite import EfficientNetLite
from panoptic_ros.training.pruning import (
    Activations,
    Elimination,
    choose_widths,
    eliminate,
    prune,
    refit,
    widened_layers,
)
from panoptic_ros.training.run_folder import CHECKPOINT

CONFIG = {
    'name': 'tiny',
    'dataset': 'synthetic',
    'pyramid_channels': 16,
    'semantic_channels': 16,
    'centre_channels': 16,
    'detail_channels': 8,
}


def known(cost: float, output_variance: float = 1.0) -> Activations:
    return Activations(np.zeros(48), np.eye(48), output_variance, cost)


def test_what_is_least_missed_goes_first() -> None:
    found = eliminate(np.diag([1.0, 4.0, 1.0]), np.array([[3.0, 1.0, 1.0]]))
    assert found.order.tolist() == [2, 1, 0]
    # Independent inputs: the variance of each, times its weight squared.
    np.testing.assert_allclose(found.loss, [1, 1 + 4, 1 + 4 + 9], rtol=1e-4)


def test_a_channel_that_others_can_stand_in_for_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 500))
    x[2] = x[0] + x[1]
    covariance, weight = np.cov(x), np.array([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]])
    found = eliminate(covariance, weight)
    assert found.loss[0] < 1e-3 < found.loss[1]
    kept = np.sort(found.order[1:])
    np.testing.assert_allclose(refit(covariance, weight, kept) @ x[kept], weight @ x, atol=1e-2)


def test_the_loss_is_that_of_the_best_fit() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, 5)) @ rng.normal(size=(5, 400))
    x -= x.mean(1, keepdims=True)
    weight = rng.normal(size=(4, 5))
    found = eliminate(np.cov(x), weight)
    for gone in (1, 2, 3):
        kept = np.sort(found.order[gone:])
        best, *_ = np.linalg.lstsq(x[kept].T, (weight @ x).T, rcond=None)
        error = np.square(best.T @ x[kept] - weight @ x).sum() / (x.shape[1] - 1)
        assert found.loss[gone - 1] == pytest.approx(error, rel=1e-2)


def test_widths_fall_where_it_costs_least_error_for_the_time() -> None:
    order = np.arange(48)
    cheap = Elimination(order, np.linspace(0, 0.01, 48))
    dear = Elimination(order, np.linspace(0, 1.0, 48))
    alike = [known(1.0), known(1.0)]
    assert choose_widths([cheap, dear], alike, 1.0) == [48, 48]
    assert choose_widths([cheap, dear], alike, 0.8) == [16, 48]
    assert choose_widths([cheap, dear], alike, 0.6) == [16, 32]
    # The same error matters less where the output varies more, and where it saves more time.
    assert choose_widths([dear, dear], [known(1.0), known(1.0, 9.0)], 0.8) == [48, 16]
    assert choose_widths([dear, dear], [known(9.0), known(1.0)], 0.8) == [32, 48]


@pytest.mark.slow
def test_channels_that_nothing_uses_go_without_a_trace() -> None:
    torch.manual_seed(0)
    network = CentreNetwork(EfficientNetLite(0, pretrained=False), 3, pyramid_channels=16)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.rand(2, 3, 64, 64) * 255)
        modules = dict(network.named_modules())
        for layer in widened_layers(network):
            weight = modules[layer.user][0].weight
            unused = torch.randperm(weight.shape[1])[: weight.shape[1] // 2]
            weight[:, unused] = 0
    network.eval()
    images = torch.rand(2, 3, 64, 96) * 255
    state, widths = prune(network, [images, images.flip(3)], 0.6)
    narrow = CentreNetwork(
        EfficientNetLite(0, pretrained=False, block_channels=widths), 3, pyramid_channels=16
    )
    narrow.load_state_dict(state)
    assert sum(widths) < 0.8 * sum(
        len(modules[layer.makers[0]][0].weight) for layer in widened_layers(network)
    )
    with torch.inference_mode():
        for a, b in zip(network(images), narrow.eval()(images), strict=True):
            torch.testing.assert_close(a, b, atol=0.02 * float(a.std()), rtol=0)


def test_the_first_width_is_the_stems() -> None:
    widths = [16, 16, 32, *[48] * 12]
    backbone = EfficientNetLite(0, pretrained=False, block_channels=widths)
    assert backbone.stem[0].out_channels == 16
    assert backbone.stages[0][0].layers[1][0].in_channels == 16
    assert backbone.stages[1][1].layers[1][0].groups == 32
    with pytest.raises(ValueError, match='2 block_channels; expected one a block: 15'):
        EfficientNetLite(0, pretrained=False, block_channels=[16, 16])
    with pytest.raises(ValueError, match='no ImageNet weights; expected pretrained=False'):
        EfficientNetLite(0, block_channels=widths)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    config = TrainingConfig.of(CONFIG)
    torch.manual_seed(0)
    state = {
        'average': config.build_network(19, pretrained=False).state_dict(),
        'config': asdict(config),
        'images_seen': 8,
        'seconds': 1.0,
    }
    folder = tmp_path / 'run'
    folder.mkdir()
    torch.save(state, folder / CHECKPOINT)
    return folder


@pytest.mark.slow
def test_the_command_leaves_weights_to_start_from(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_folder.parent / 'pruned'
    command = ['prune', str(run_folder), '--data', 'none', '--out', str(out)]
    command += ['--share', '0.7', '--images', '2', '--without-detail']
    assert main(command) == 0
    state = torch.load(out / CHECKPOINT, weights_only=True)
    config = TrainingConfig.of(state['config'])
    assert config.detail_channels == 0
    assert f'block_channels: {list(config.block_channels)}' in capsys.readouterr().out
    config.build_network(19).load_state_dict(state['average'])
    assert main(command) == 2
    assert f'{out / CHECKPOINT} exists; name another folder' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (['--share', '1.5'], '--share is 1.5; expected between 0 and 1'),
        (['--images', '0'], '--images is 0; expected 1 or more'),
    ],
)
def test_unusable_arguments_are_named(
    run_folder: Path, change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ['prune', str(run_folder), '--data', 'none', '--out', 'none', *change]
    assert main(command) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['prune', str(tmp_path), '--data', 'none', '--out', 'none']) == 2
    assert f'{tmp_path} has no {CHECKPOINT}' in capsys.readouterr().err
