from itertools import pairwise
from pathlib import Path

import pytest
import torch

from panoptic_ros.cli import main
from panoptic_ros.datasets.street.scene import synthetic_samples
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.labels import LabelSet
from panoptic_ros.resources import resource
from panoptic_ros.training.config import TrainingConfig
from panoptic_ros.training.head_kinds import Losses
from panoptic_ros.training.network.panoptic_network import PanopticNetwork
from panoptic_ros.training.run_folder import final_weights, open_run, run_labels
from panoptic_ros.training.trainer import MovingAverage, Trainer, learning_rate_factor
from panoptic_ros.training.validation import validate

TINY = {
    'name': 'tiny',
    'images': 8,
    'batch': 2,
    'warmup_images': 2,
    'pyramid_channels': 16,
    'semantic_channels': 16,
    'centre_channels': 16,
    'bfloat16': False,
    'validate_every': 0,
    'augmentation': {'crop_wh': [64, 64]},
}


def test_the_shipped_configuration_loads() -> None:
    config = TrainingConfig.load(resource('config', 'training', 'street-lite2.yaml'), images=16)
    assert config.images == 16
    assert config.augmentation.crop_wh == (768, 384)


def test_every_shipped_configuration_builds_its_network() -> None:
    paths = sorted(resource('config', 'training').glob('*.yaml'))
    assert paths
    for path in paths:
        TrainingConfig.load(path).build_network(19, pretrained=False)


@pytest.mark.process
@pytest.mark.slow
def test_only_the_part_that_is_named_is_trained(tmp_path: Path) -> None:
    config = TrainingConfig.of(
        TINY | {'images': 2, 'detail_channels': 4, 'trained_part': 'semantic_head.detail'}
    )
    trainer = Trainer(config, tmp_path)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.run(list(synthetic_samples(1, 2, (128, 64))))
    changed = {
        name
        for name, value in trainer.network.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert 'semantic_head.detail.classes.weight' in changed
    assert all(name.startswith('semantic_head.detail.') for name in changed)


def test_a_part_that_is_not_there_is_named() -> None:
    config = TrainingConfig.of(TINY | {'trained_part': 'semantic_head.detial'})
    with pytest.raises(ValueError, match=r"trained_part is 'semantic_head\.detial'"):
        config.build_network(19, pretrained=False)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'imges': 3}, r"unknown keys \['imges'\]"),
        ({'losses': {'center': 1}}, r"unknown keys \['center'\]"),
        ({'images': 0}, 'images is 0; expected above 0'),
        ({'backbone': 'resnet50'}, "backbone is 'resnet50'; .* or timm: and the name"),
        ({'backbone': 'timm:resnet18', 'backbone_blocks': 3}, 'takes no block_channels'),
        ({'backbone_weights': 'x.pth'}, "backbone_weights is 'x.pth'; expected imagenet or none"),
        ({'patience': -1}, 'patience is -1; expected 0 or more'),
        ({'dataset': 'kitti'}, "dataset is 'kitti'"),
    ],
)
def test_wrong_options_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig.of(TINY | change)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = TrainingConfig.of(TINY | {'images': 100, 'batch': 1, 'warmup_images': 10})
    factors = [learning_rate_factor(i, 0.0, config) for i in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9]
    assert all(a > b for a, b in pairwise(factors[9:]))
    assert factors[100] == 0.0


def test_the_learning_rate_falls_to_zero_when_the_time_is_over() -> None:
    config = TrainingConfig.of(
        TINY | {'images': 100, 'batch': 1, 'warmup_images': 0, 'minutes': 2.0}
    )
    assert learning_rate_factor(50, 30.0, config) == pytest.approx(0.5**0.9)  # images lead
    assert learning_rate_factor(50, 90.0, config) == pytest.approx(0.25**0.9)  # time leads
    assert learning_rate_factor(50, 121.0, config) == 0.0


def test_the_moving_average_follows_quickly_at_first() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    average = MovingAverage(network, decay=0.99)
    torch.nn.init.ones_(network.weight)
    average.update(network, step=0)
    assert average.state['weight'].item() == pytest.approx(0.9)
    average.update(network, step=10**6)
    assert average.state['weight'].item() == pytest.approx(0.901)


@pytest.mark.process
@pytest.mark.slow
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    real = list(synthetic_samples(1, 3, (128, 64)))
    config = TrainingConfig.of(TINY)
    whole = Trainer(config, tmp_path / 'whole')
    start = {k: v.clone() for k, v in whole.network.state_dict().items()}
    whole.run(real)
    assert whole.images_seen == 8

    class Interrupted(Trainer):
        def _step(self, *maps: torch.Tensor) -> Losses:
            if self.images_seen == 4:
                raise KeyboardInterrupt
            return super()._step(*maps)

    stopped = Interrupted(config, tmp_path / 'parts')
    with pytest.raises(KeyboardInterrupt):
        stopped.run(real)
    stopped.save()
    resumed = Trainer(config, tmp_path / 'parts')
    assert resumed.images_seen == 4
    resumed.run(real)
    for name, value in whole.average.state.items():
        torch.testing.assert_close(value, resumed.average.state[name])
    changed = [k for k, v in whole.network.state_dict().items() if not torch.equal(v, start[k])]
    assert any(k.startswith('centre_head') for k in changed)
    assert any(k.startswith('backbone') for k in changed)


@pytest.mark.process
@pytest.mark.slow
def test_a_few_steps_lower_the_loss_and_leave_a_record(tmp_path: Path) -> None:
    real = list(synthetic_samples(3, 1, (128, 64)))
    still = {'crop_wh': [128, 64], 'scale': [1, 1], 'flip': 0.0, 'stretch': 1.0}
    config = TrainingConfig.of(
        TINY | {'images': 320, 'batch': 2, 'augmentation': still, 'warmup_images': 16}
    )
    trainer = Trainer(config, tmp_path)
    reports: list[str] = []
    trainer.run(real, validation=real, report=reports.append)
    rows = (tmp_path / 'losses.csv').read_text().splitlines()
    assert rows[0] == 'images,seconds,semantic,centre,offset'
    first, last = (float(rows[i].split(',')[2]) for i in (1, -1))
    assert last < 0.7 * first
    assert 'PQ' in reports[-1]
    assert (tmp_path / 'curve.png').stat().st_size > 1000


def test_validation_goes_through_fusion(tmp_path: Path) -> None:
    config = TrainingConfig.of(TINY)
    trainer = Trainer(config, tmp_path)
    network = trainer.averaged_network()
    assert isinstance(network, PanopticNetwork)
    result = validate(network, synthetic_samples(1, 1, (64, 64)), trainer.label_set)
    assert 0 <= result.PQ <= 100


@pytest.mark.process
@pytest.mark.slow
def test_a_run_without_gain_ends_early_and_keeps_the_best_weights(tmp_path: Path) -> None:
    real = list(synthetic_samples(1, 2, (64, 64)))
    config = TrainingConfig.of(
        TINY | {'images': 40, 'validate_every': 4, 'patience': 2, 'label_set': ''}
    )
    qualities = iter([10.0, 30.0, 20.0, 30.0, 99.0])

    class Measured(Trainer):
        def _validate(self, samples, count, report, weights=None) -> float:
            if weights is not None:
                self.validated_last = weights
            return next(qualities)

    trainer = Measured(config, tmp_path, label_set=LabelSet.load('cityscapes'))
    trainer.run(real, validation=real)
    assert trainer.images_seen == 16  # after two validations without a PQ above 30
    assert trainer.best_PQ == 30.0
    _, state = open_run(tmp_path)
    kept = final_weights(state)
    assert kept is not state['average']
    assert trainer.validated_last is trainer.best_average
    changed = [k for k, v in state['average'].items() if not torch.equal(v, kept[k])]
    assert any(k.startswith('centre_head') for k in changed)
    assert run_labels(tmp_path, config) == LabelSet.load('cityscapes')


@pytest.mark.process
@pytest.mark.slow
def test_the_last_weights_are_kept_if_they_are_the_best(tmp_path: Path) -> None:
    real = list(synthetic_samples(1, 2, (64, 64)))
    config = TrainingConfig.of(TINY | {'images': 6, 'validate_every': 4, 'patience': 2})
    qualities = iter([10.0, 20.0, 99.0])

    class Measured(Trainer):
        def _validate(self, samples, count, report, weights=None) -> float:
            return next(qualities)

    trainer = Measured(config, tmp_path)
    trainer.run(real, validation=real)
    assert trainer.best_PQ == 20.0
    for name, value in trainer.average.state.items():
        assert torch.equal(trainer.best_average[name], value)


def test_a_run_starts_from_exported_weights_of_other_classes(tmp_path: Path) -> None:
    first = Trainer(TrainingConfig.of(TINY), tmp_path / 'first')
    first.save()
    assert main(['export', str(tmp_path / 'first'), '--weights', str(tmp_path / 'w.npz')]) == 0
    config = TrainingConfig.of(TINY | {'label_set': 'nuclei'})
    second = Trainer(config, tmp_path / 'second')
    second.start_from_file(tmp_path / 'w.npz', list(synthetic_samples(1, 2, (64, 64))))
    assert second.initial_weights == 'file w.npz'
    assert second.network.semantic_head.layers[1].weight.shape[0] == 2
    torch.testing.assert_close(
        second.network.centre_head.offset.weight,
        first.network.centre_head.offset.weight,
        rtol=1e-3,
        atol=1e-6,
    )
    third = Trainer(TrainingConfig.of(TINY | {'pyramid_channels': 24}), tmp_path / 'third')
    with pytest.raises(PanopticRosError, match=r'weights of file w\.npz do not fit the network'):
        third.start_from_file(tmp_path / 'w.npz', [])
