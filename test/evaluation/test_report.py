import json
import math
from pathlib import Path

import numpy as np
import pytest

from panoptic_ros.datasets import Sample
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.evaluation import report
from panoptic_ros.evaluation.overlap import ClassOverlap, OverlapResult
from panoptic_ros.evaluation.quality import PanopticQuality, QualityResult
from panoptic_ros.labels import VOID, LabelClass, LabelSet
from panoptic_ros.panoptic import Panoptic

LABELS = LabelSet(
    'toy',
    (
        LabelClass('road', False, (10, 20, 30), 7),
        LabelClass('sky', False, (40, 50, 60), 23),
        LabelClass('traffic light', True, (70, 80, 90), 26),
    ),
)


def maps(semantic: list, instance: list) -> Panoptic:
    return Panoptic.from_maps(np.array(semantic, np.uint8), np.array(instance, np.uint16), LABELS)


TRUTH = maps([[0, 0, 0, 0], [2, 2, 2, VOID]], [[0, 0, 0, 0], [1, 1, 1, 0]])
PREDICTION = maps([[0, 0, 0, 2], [0, 0, VOID, 2]], [[0, 0, 0, 3], [0, 0, 0, 3]])


def figures(prediction: Panoptic, truth: Panoptic) -> tuple[QualityResult, OverlapResult]:
    quality, overlap = PanopticQuality(LABELS), ClassOverlap(LABELS)
    quality.update(prediction, truth)
    overlap.update(prediction, truth)
    return quality.result(), overlap.result()


def test_summary_table_literal() -> None:
    quality, _ = figures(TRUTH, TRUTH)
    assert report.summary_table(quality).splitlines() == [
        '          |     PQ     SQ     RQ     N',
        '--------------------------------------',
        'All       |  100.0  100.0  100.0     2',
        'Things    |  100.0  100.0  100.0     1',
        'Stuff     |  100.0  100.0  100.0     1',
    ]


def test_what_does_not_exist_is_a_dash_and_null() -> None:
    quality, overlap = figures(maps([[0]], [[0]]), maps([[0]], [[0]]))
    assert (
        report.summary_table(quality).splitlines()[3] == 'Things    |      -      -      -     0'
    )
    content = report.as_json(quality, overlap)
    assert content['PQ_things'] is None
    assert content['per_class']['sky']['PQ'] is None
    assert content['per_class']['road']['PQ'] == 100
    assert 'null' in json.dumps(content, allow_nan=False)


def test_class_table_has_the_classes_that_occur() -> None:
    table = report.class_table(*figures(PREDICTION, TRUTH))
    lines = [' '.join(line.split()) for line in table.splitlines()]
    assert lines[0] == 'class kind | PQ SQ RQ IoU TP FP FN'
    # Road: 3 pixels shared, 6 in the union; light: none shared. One half does not match.
    assert lines[2] == 'road stuff | 0.0 0.0 0.0 50.0 0 1 1'
    assert lines[3] == 'traffic light thing | 0.0 0.0 0.0 0.0 0 1 1'
    assert len(lines) == 4


def test_confusion_table_names_what_the_worst_are_taken_for() -> None:
    quality, overlap = figures(PREDICTION, TRUTH)
    lines = report.confusion_table(quality, overlap, LABELS).splitlines()
    assert lines[2].split('|')[1].strip() == '0.0  traffic light 25.0 %'
    assert lines[3].split('|')[1].strip() == '0.0  road 66.7 %, void 33.3 %'
    assert len(report.confusion_table(quality, overlap, LABELS, worst=1).splitlines()) == 3


def test_json_has_the_keys_that_programs_read() -> None:
    content = report.as_json(*figures(PREDICTION, TRUTH))
    keys = 'PQ SQ RQ PQ_things SQ_things RQ_things PQ_stuff SQ_stuff RQ_stuff per_class images'
    assert set(keys.split()) <= set(content)
    assert content['images'] == 1
    assert content['mIoU'] == pytest.approx(25)
    assert content['per_class']['traffic light'] == {
        'isthing': True,
        'PQ': 0,
        'SQ': 0,
        'RQ': 0,
        'IoU': 0,
        'tp': 0,
        'fp': 1,
        'fn': 1,
    }


def test_write_json_makes_the_folder_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / 'a' / 'b.json'
    report.write_json(path, {'PQ': 1.5})
    assert json.loads(path.read_text()) == {'PQ': 1.5}
    with pytest.raises(ValueError, match='JSON compliant'):
        report.write_json(path, {'PQ': math.nan})


def test_write_json_names_a_path_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(PanopticRosError, match=r'cannot write .*b\.json'):
        report.write_json(tmp_path / 'file' / 'b.json', {})


def test_worst_sheet_shows_image_truth_and_prediction() -> None:
    image_rgb = np.full((2, 4, 3), (200, 100, 0), np.uint8)
    sample = Sample('one', image_rgb, TRUTH, np.zeros(0, np.uint16))
    scored = report.ScoredImage(0.0, sample, PREDICTION)
    sheet = report.worst_sheet([scored, scored], LABELS)
    height, width = sheet.shape[:2]
    assert sheet.dtype == np.uint8
    assert width % 3 == 0
    tile_width = width // 3
    bottom = sheet[height // 2 - 2]  # last rows of the first row of pictures
    assert tuple(bottom[5]) == (0, 100, 200)  # the image itself, BGR
    assert tuple(bottom[2 * tile_width - 5]) == (0, 100, 200)  # the truth is void there
    # The prediction has road there: 0.3 of the image and 0.7 of the class's colour.
    assert np.abs(bottom[2 * tile_width + 5].astype(int) - (21, 44, 67)).max() <= 1


def test_numbers_that_json_lacks() -> None:
    assert report.finite_or_none(float('inf')) is None
    assert report.finite_or_none(float('nan')) is None
    assert json.dumps(report.finite_or_none(np.float32(2))) == '2.0'
