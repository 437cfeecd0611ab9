"""Queries from a few pictures to an exported model: overfit, export, parity, fusion, builder."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from panoptic_ros.cli import main
from panoptic_ros.datasets import Sample
from panoptic_ros.engines import open_engine
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.segmenter import Segmenter
from panoptic_ros.training.config import TrainingConfig
from panoptic_ros.training.export import export_model
from panoptic_ros.training.head_kinds import HEAD_KINDS, infer_heads, make_graph
from panoptic_ros.training.network.query_network import QueryNetwork
from panoptic_ros.training.trainer import Trainer
from panoptic_ros.training.validation import validate

NUCLEI = LabelSet.load('nuclei')
CONFIG = TrainingConfig.of(
    {
        'name': 'squares',
        'label_set': 'nuclei',
        'head': 'queries',
        'queries': 8,
        'query_channels': 32,
        'query_layers': 1,
        'pyramid_channels': 24,
        'images': 240,
        'frozen_stages': 6,
        'batch': 2,
        'learning_rate': 3e-3,
        'warmup_images': 40,
        'ema_decay': 0.9,
        'bfloat16': False,
        'validate_every': 0,
        'augmentation': {
            'crop_wh': [96, 64],
            'scale': [1.0, 1.0],
            'stretch': 1.0,
            'brightness': 0.0,
            'contrast': 0.0,
            'saturation': 0.0,
            'flip': 0.0,
        },
    }
)


def squares(*corners_xy: tuple[int, int]) -> Sample:
    """Return bright squares of 24 pixels, each a nucleus, on a dark ground."""
    semantic, instance = np.zeros((64, 96), np.uint8), np.zeros((64, 96), np.uint16)
    for number, (x, y) in enumerate(corners_xy, 1):
        semantic[y : y + 24, x : x + 24] = 1
        instance[y : y + 24, x : x + 24] = number
    image_rgb = np.repeat(np.where(semantic, 220, 30).astype(np.uint8)[..., None], 3, 2)
    truth = Panoptic.from_maps(semantic, instance, NUCLEI)
    return Sample(str(corners_xy), image_rgb, truth, np.empty(0, np.intp))


SAMPLES = [squares((4, 4), (60, 32)), squares((36, 20))]


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> QueryNetwork:
    trainer = Trainer(CONFIG, tmp_path_factory.mktemp('run'))
    trainer.run(SAMPLES, report=lambda _: None)
    return trainer.averaged_network()


@pytest.fixture(scope='module')
def exported(trained: QueryNetwork, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return export_model(
        trained,
        tmp_path_factory.mktemp('models') / 'squares',
        golden_image=SAMPLES[0].image_rgb,
        label_set='nuclei',
        fusion=HEAD_KINDS['queries'].fusion,
    )


@pytest.mark.process
@pytest.mark.slow
def test_a_few_pictures_are_learned_by_heart(trained: QueryNetwork) -> None:
    assert validate(trained, SAMPLES, NUCLEI).PQ > 90


@pytest.mark.process
@pytest.mark.slow
def test_the_card_names_the_head_and_its_rule(exported: Model) -> None:
    assert exported.card.head == 'queries'
    assert exported.card.fusion['rule'] == 'mask2former'
    assert exported.card.outputs('float16')['class_logits'].shape == (1, 'Q', 3)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(('precision', 'tolerance'), [('float32', 1e-3), ('float16', 0.1)])
def test_onnx_runtime_agrees_with_torch(exported: Model, precision: str, tolerance: float) -> None:
    image, golden = exported.golden()
    session = onnxruntime.InferenceSession(
        exported.onnx_path(precision), providers=['CPUExecutionProvider']
    )
    found = session.run(['class_logits', 'mask_logits'], {'image': image[None]})
    for array, name in zip(found, ('class_logits', 'mask_logits'), strict=True):
        assert array.dtype == precision
        scale = np.abs(golden[name]).max()
        np.testing.assert_allclose(array[0], golden[name], atol=tolerance * scale, rtol=0)


@pytest.mark.process
@pytest.mark.slow
def test_the_segmenter_and_torch_give_the_same_map(trained: QueryNetwork, exported: Model) -> None:
    image_rgb = SAMPLES[0].image_rgb
    heads = infer_heads(make_graph(trained), image_rgb)
    of_torch = HEAD_KINDS['queries'].fusion(heads, NUCLEI, (96, 64)).panoptic
    engine = open_engine(exported, 'onnxruntime')
    of_segmenter = Segmenter(exported, engine).segment(image_rgb, 'rgb8').panoptic
    assert (of_torch.semantic == of_segmenter.semantic).mean() > 0.995
    assert (of_torch.instance == of_segmenter.instance).mean() > 0.995
    assert len(of_segmenter.segments.things) == 2


@pytest.mark.process
@pytest.mark.slow
def test_tensorrt_rtx_builds_it(exported: Model, rtx) -> None:
    built = rtx(exported.onnx_path('float16'))
    assert built['parsed'], built['errors']
    assert built['plan_bytes'] > 0, built['build_errors']


def test_a_run_of_centres_starts_a_run_of_queries(tmp_path: Path) -> None:
    centres = TrainingConfig.of({**vars(CONFIG), 'head': 'centres'})
    first = Trainer(centres, tmp_path / 'first')
    first.save()
    assert main(['export', str(tmp_path / 'first'), '--weights', str(tmp_path / 'w.npz')]) == 0
    second = Trainer(CONFIG, tmp_path / 'second')
    untrained = second.network.query_head.classes.weight.clone()
    second.start_from_file(tmp_path / 'w.npz', SAMPLES)
    torch.testing.assert_close(
        second.network.pyramid.context.pooled.weight,
        first.network.pyramid.context.pooled.weight,
        rtol=1e-3,
        atol=1e-6,
    )
    assert torch.equal(second.network.query_head.classes.weight, untrained)


def test_options_of_centres_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(CONFIG, tmp_path / 'run').save()
    for option in (['--peaks', '5'], ['--semantic-stride', '2']):
        assert main(['export', str(tmp_path / 'run'), '--out', str(tmp_path / 'm'), *option]) == 2
        assert 'are queries; --peaks and --semantic-stride apply to' in capsys.readouterr().err
    command = ['export', str(tmp_path / 'run'), '--out', str(tmp_path / 'm'), '--size', '64x48']
    assert main(command) == 2
    assert '--size is 64x48; expected multiples of 32' in capsys.readouterr().err
    assert not (tmp_path / 'm').exists()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'head': 'masks'}, "head is 'masks'; expected one of centres, queries"),
        ({'queries': 256}, 'queries is 256; expected 1..255'),
        ({'query_channels': 30}, 'query_channels is 30; expected a multiple of 4'),
        ({'query_layers': -1}, 'query_layers is -1; expected 0 or more'),
        ({'image_scale': 2.0}, 'image_scale is 2.0 and head is queries; expected 0'),
    ],
)
def test_wrong_options_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig.of(vars(CONFIG) | change)
