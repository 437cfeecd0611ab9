"""Fine-tuning from the command line, on a small data set of COCO panoptic layout."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.cli import main
from panoptic_ros.datasets.coco_writer import CocoPanopticWriter
from panoptic_ros.labels import LabelClass, LabelSet
from panoptic_ros.model import Model
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.training.run_folder import open_run, run_labels

LABELS = LabelSet(
    'parts',
    (
        LabelClass('table', False, (40, 40, 40), 7),
        LabelClass('screw', True, (220, 20, 60), 12),
    ),
)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A data set with one split: screws (bright squares) on a table."""
    root = tmp_path / 'parts'
    (root / 'train').mkdir(parents=True)
    rng = np.random.default_rng(0)
    with CocoPanopticWriter(root / 'annotations', LABELS, {}) as writer:
        for number in range(11):
            instance = np.zeros((64, 96), np.uint16)
            for instance_id in (1, 2, 3):
                top, left = rng.integers(0, 50), rng.integers(0, 80)
                instance[top : top + 12, left : left + 12] = instance_id
            _, ids = np.unique(instance, return_inverse=True)
            instance = ids.reshape(instance.shape).astype(np.uint16)
            semantic = (instance > 0).astype(np.uint8)
            image = np.where(instance > 0, 200, 40).astype(np.uint8)
            cv2.imwrite(str(root / 'train' / f'{number}.png'), np.repeat(image[..., None], 3, 2))
            panoptic = Panoptic.from_maps(semantic, instance, LABELS)
            writer.add(panoptic, str(number), file_name=f'{number}.png')
    annotations = root / 'annotations'
    (annotations / 'panoptic.json').rename(annotations / 'panoptic_train.json')
    (annotations / 'panoptic').rename(annotations / 'panoptic_train')
    return root


@pytest.mark.process
@pytest.mark.slow
def test_a_model_learns_the_classes_of_a_data_set(parts: Path, capsys) -> None:
    run, model = parts.parent / 'run', parts.parent / 'screws'
    command = ['train', '--init', 'street-lite', '--data', str(parts), '--out', str(run)]
    assert main([*command, '--images', '16', '--validate-every', '8', '--image-scale', '2']) == 0
    printed = capsys.readouterr().out
    # One image in ten is held out, because there is no validation split.
    assert '9 training images' in printed
    assert '2 validation images, 2 classes' in printed
    config, state = open_run(run)
    assert config.block_channels[0] == 32  # the network of street-lite
    assert config.augmentation.scale == (1.4, 3.0)
    assert state['images_seen'] == 16
    assert run_labels(run, config).names == ('table', 'screw')
    assert main(['export', str(run), '--out', str(model), '--size', '128x128']) == 0
    exported = Model.load(model)
    assert exported.label_set.category_ids.tolist() == [7, 12]
    assert exported.card.scale == 2.0
    assert main(['evaluate', str(model), 'coco', str(parts), '--split', 'train']) == 0
    # And it can be the start of the next one.
    again = ['train', '--init', str(model), '--data', str(parts), '--images', '8']
    assert main([*again, '--out', str(parts.parent / 'again')]) == 0
    assert open_run(parts.parent / 'again')[0].image_scale == 2.0


def test_a_card_that_does_not_describe_its_network_needs_a_configuration(
    tiny_model: Path, tmp_path: Path, capsys
) -> None:
    assert main(['train', '--init', str(tiny_model), '--data', str(tmp_path)]) == 2
    assert 'does not describe its network; expected a training conf' in capsys.readouterr().err


def test_a_configuration_or_a_start_is_needed(tmp_path: Path, capsys) -> None:
    assert main(['train', '--data', str(tmp_path)]) == 2
    assert 'expected a training configuration, or --init' in capsys.readouterr().err


def test_a_misspelt_option_is_named(tmp_path: Path, capsys) -> None:
    path = tmp_path / 'config.yaml'
    path.write_text(json.dumps({'name': 'x', 'imges': 3}))
    assert main(['train', str(path), '--data', str(tmp_path)]) == 2
    assert "unknown keys ['imges']" in capsys.readouterr().err


def test_export_wants_a_model_or_weights(tmp_path: Path, capsys) -> None:
    assert main(['export', str(tmp_path)]) == 2
    assert 'expected either --out or --weights' in capsys.readouterr().err
