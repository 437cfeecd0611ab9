from dataclasses import replace

import pytest
import torch

from panoptic_ros import cli
from panoptic_ros.datasets.street.scene import synthetic_samples
from panoptic_ros.errors import ModelError
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.resources import resource
from panoptic_ros.training import warm_start
from panoptic_ros.training.centres.inference_graph import CentreGraph
from panoptic_ros.training.config import TrainingConfig
from panoptic_ros.training.network.panoptic_network import PanopticNetwork
from panoptic_ros.training.trainer import Trainer
from panoptic_ros.training.warm_start import (
    fit_classes,
    import_weights,
    restore_normalisation,
)


@pytest.fixture(scope='module')
def config() -> TrainingConfig:
    path = resource('config', 'training', 'street-lite.yaml')
    return TrainingConfig.load(path, batch=2, augmentation={'crop_wh': [128, 64]})


@pytest.fixture(scope='module')
def restarted(config: TrainingConfig) -> PanopticNetwork:
    network = config.build_network(19, pretrained=False)
    import_weights(network, Model.load('street-lite'))
    return network


@pytest.mark.slow
def test_the_network_computes_what_the_model_does(restarted: PanopticNetwork) -> None:
    image, golden = Model.load('street-lite').golden()
    with torch.inference_mode():
        outputs = CentreGraph(restarted)(torch.from_numpy(image)[None])
    ours = dict(zip(CentreGraph.outputs, (o[0].numpy() for o in outputs), strict=True))
    assert (ours['semantic'] == golden['semantic']).mean() > 0.999
    assert abs(ours['offset_xy'] - golden['offset_xy']).max() < 0.01


def test_renormalising_changes_the_statistics_and_not_the_function(
    config: TrainingConfig,
) -> None:
    network = config.build_network(19, pretrained=False)
    import_weights(network, Model.load('street-lite'))
    images = torch.rand(2, 3, 64, 128) * 255
    network.eval()
    with torch.inference_mode():
        before = network(images)
        restore_normalisation(network, [images])
        after = network(images)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-3)
    norm = network.pyramid.lateral[0][1]
    assert norm.running_mean.abs().max() > 0
    frozen = network.backbone.stem[1]
    assert frozen.running_mean.abs().max() == 0
    # On the very batch that was measured, training mode normalises as evaluation mode does.
    network.train()
    with torch.no_grad():
        trained = network(images)
    torch.testing.assert_close(trained.centre, after.centre, atol=0.05, rtol=0.05)


def test_detail_that_the_model_lacks_adds_nothing_at_first(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = warm_start._exported_weights(Model.load('street-lite'))
    without = {k: v for k, v in weights.items() if not k.startswith('semantic_head.detail.')}
    monkeypatch.setattr(warm_start, '_exported_weights', lambda model: dict(without))
    network = replace(config, detail_channels=32).build_network(19, pretrained=False)
    untrained = import_weights(network, Model.load('street-lite'))
    assert untrained == {
        f'semantic_head.detail.{n}.1' for n in ('coarse', 'fine', 'mix.0', 'mix.1')
    }
    images = torch.rand(2, 3, 64, 128) * 255
    network.eval()
    with torch.inference_mode():
        before = network(images)
        restore_normalisation(network, [images], untrained)
        after = network(images)
    torch.testing.assert_close(before.semantic, after.semantic, atol=2e-3, rtol=1e-3)
    norm = network.semantic_head.detail.fine[1]
    assert norm.running_mean.abs().max() > 0
    assert norm.weight.tolist() == [1.0] * 32


def test_a_network_of_another_shape_is_refused() -> None:
    other = TrainingConfig('other', pyramid_channels=32).build_network(19, pretrained=False)
    with pytest.raises(ModelError, match="weights of model 'street-lite' do not fit"):
        import_weights(other, Model.load('street-lite'))


@pytest.mark.slow
def test_training_goes_on_from_an_exported_model(config: TrainingConfig, tmp_path) -> None:
    trainer = Trainer(config, tmp_path)
    trainer.start_from_model(Model.load('street-lite'), list(synthetic_samples(1, 2)), batches=2)
    weight = trainer.network.semantic_head.layers[1].weight
    assert torch.equal(weight, trainer.average.state['semantic_head.layers.1.weight'])
    assert weight.abs().max() > 0.1
    assert trainer.initial_weights.startswith('model street-lite (')


def test_narrower_blocks_have_nothing_to_start_from(tmp_path, capsys) -> None:
    path = resource('config', 'training', 'street-lite.yaml')
    assert cli.main(['train', str(path), '--data', str(tmp_path), '--out', str(tmp_path / 'run')])
    (line,) = capsys.readouterr().err.splitlines()
    assert 'street-lite.yaml has block_channels' in line
    assert 'give --init a run' in line
    assert not (tmp_path / 'run').exists()


def test_classes_of_the_same_name_keep_their_weights() -> None:
    layer = 'semantic_head.layers.1'
    old = {f'{layer}.weight': torch.arange(6.0).reshape(3, 2), f'{layer}.bias': torch.arange(3.0)}
    present = {
        f'{layer}.weight': torch.full((4, 2), -1.0),
        f'{layer}.bias': torch.full((4,), -1.0),
    }
    fitted = fit_classes(
        old | {'other': torch.ones(1)},
        ('road', 'car', 'sky'),
        present,
        ('car', 'nucleus', 'road', 'bus'),
    )
    assert fitted[f'{layer}.weight'].tolist() == [[2, 3], [-1, -1], [0, 1], [-1, -1]]
    assert fitted[f'{layer}.bias'].tolist() == [1, -1, 0, -1]
    assert fitted['other'].tolist() == [1]
    same = fit_classes(old, ('a', 'b', 'c'), present, ('a', 'b', 'c'))
    assert same[f'{layer}.bias'] is old[f'{layer}.bias']


def test_a_model_can_start_a_network_of_other_classes(config: TrainingConfig) -> None:
    network = config.build_network(2, pretrained=False)
    untrained = network.semantic_head.layers[1].weight.detach().clone()
    import_weights(network, Model.load('street-lite'), ('background', 'car'))
    original = config.build_network(19, pretrained=False)
    import_weights(original, Model.load('street-lite'))
    weight, before = (
        network.semantic_head.layers[1].weight,
        original.semantic_head.layers[1].weight,
    )
    assert torch.equal(weight[0], untrained[0])
    assert torch.equal(weight[1], before[LabelSet.load('cityscapes').class_id('car')])
    assert torch.equal(network.centre_head.offset.weight, original.centre_head.offset.weight)
