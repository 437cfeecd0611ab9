from pathlib import Path

import pytest

from panoptic_ros.errors import PanopticRosError
from panoptic_ros.labels import LabelSet
from panoptic_ros.training.run_folder import (
    LABELS,
    append_row,
    final_weights,
    open_run,
    plot_curve,
    write_labels,
)


@pytest.mark.parametrize('name', ['cityscapes', 'nuclei', 'coco'])
def test_labels_are_read_as_they_were_written(name: str, tmp_path: Path) -> None:
    label_set = LabelSet.load(name)
    write_labels(tmp_path, label_set)
    assert LabelSet.load(tmp_path / LABELS) == label_set


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(PanopticRosError, match=r'has no checkpoint\.pt; expected a training run'):
        open_run(tmp_path)


def test_the_best_weights_are_final_where_there_are_any() -> None:
    assert final_weights({'average': {'a': 1}}) == {'a': 1}
    assert final_weights({'average': {'a': 1}, 'best_average': {'a': 2}}) == {'a': 2}


def test_the_log_has_one_header_and_becomes_a_curve(tmp_path: Path) -> None:
    for images in (8, 16):
        append_row(tmp_path / 'losses.csv', {'images': images, 'seconds': 1.0, 'semantic': 0.5})
    assert (tmp_path / 'losses.csv').read_text().splitlines() == [
        'images,seconds,semantic',
        '8,1.0,0.5',
        '16,1.0,0.5',
    ]
    plot_curve(tmp_path)
    assert (tmp_path / 'curve.png').read_bytes()[:4] == b'\x89PNG'
