import numpy as np
import pytest

from panoptic_ros.datasets import Sample
from panoptic_ros.errors import DatasetError
from panoptic_ros.evaluation.accuracy import measure_accuracy, median_stages_ms
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.segmenter import StageTimes

LABELS = LabelSet.load('cityscapes')
SKY, CAR = (LABELS.class_id(n) for n in ('sky', 'car'))
NO_CROWD = np.zeros(0, np.uint16)


def sample(name: str, width: int) -> Sample:
    """Sky, and a car as wide as given, in an image of 10 pixels."""
    semantic = np.array([[CAR] * width + [SKY] * (10 - width)], np.uint8)
    instance = (semantic == CAR).astype(np.uint16)
    truth = Panoptic.from_maps(semantic, instance, LABELS)
    return Sample(name, np.zeros((1, 10, 3), np.uint8), truth, NO_CROWD)


def test_the_worst_images_come_worst_first() -> None:
    prediction = sample('', 8).truth
    widths = {'exact': 8, 'near': 7, 'far': 5, 'wrong': 2, 'also exact': 8}
    pairs = ((prediction, sample(name, width)) for name, width in widths.items())
    accuracy = measure_accuracy(pairs, LABELS, worst=3)
    assert [w.sample.image_id for w in accuracy.worst] == ['wrong', 'far', 'near']
    assert [w.PQ for w in accuracy.worst] == sorted(w.PQ for w in accuracy.worst)
    assert accuracy.quality.images == 5
    assert accuracy.overlap.confusion.sum() == 50


def test_near_borders_only_pixels_close_to_a_true_border_count() -> None:
    # The car is as wide as 5 pixels in truth and 8 in the prediction: wrong pixels 5, 6 and 7.
    pairs = [(sample('', 8).truth, sample('a', 5))]
    accuracy = measure_accuracy(pairs, LABELS, edge_px=2)
    assert accuracy.edges is not None
    # Pixels 3 to 6: the car has 2 right of 4, the sky 0 of 2.
    assert accuracy.edges.mean_iou == pytest.approx(25)
    assert accuracy.overlap.pixel_accuracy == pytest.approx(70)
    assert 'mean IoU near borders 25.00' in accuracy.tables(LABELS)
    assert measure_accuracy(pairs, LABELS).edges is None


def test_equal_images_keep_their_order() -> None:
    pairs = ((sample('', 5).truth, sample(name, 5)) for name in 'abc')
    accuracy = measure_accuracy(pairs, LABELS, worst=2)
    assert [w.sample.image_id for w in accuracy.worst] == ['a', 'b']


def test_an_image_without_truth_is_not_among_the_worst() -> None:
    empty = Panoptic.from_maps(
        np.full((1, 10), 255, np.uint8), np.zeros((1, 10), np.uint16), LABELS
    )
    nothing = Sample('nothing', np.zeros((1, 10, 3), np.uint8), empty, NO_CROWD)
    accuracy = measure_accuracy([(sample('', 3).truth, nothing)], LABELS)
    assert accuracy.worst == ()
    assert accuracy.quality.images == 1


def test_groups_are_excused() -> None:
    crowd = sample('crowd', 8)
    crowd = Sample('crowd', crowd.image_rgb, crowd.truth, np.array([1], np.uint16))
    accuracy = measure_accuracy([(sample('', 4).truth, crowd)], LABELS)
    assert not accuracy.quality.per_class[CAR].occurs


def test_a_prediction_of_another_size_names_the_image() -> None:
    small = Panoptic.from_maps(np.zeros((1, 3), np.uint8), np.zeros((1, 3), np.uint16), LABELS)
    with pytest.raises(DatasetError, match='image here: the prediction is 3x1, the truth is 10x1'):
        measure_accuracy([(small, sample('here', 4))], LABELS)


def test_median_stages() -> None:
    times = [StageTimes(1_000_000, 5_000_000, 0), StageTimes(3_000_000, 5_000_000, 2_000_000)]
    assert median_stages_ms(times) == {
        'preprocess': 2,
        'inference': 5,
        'fusion': 1,
        'total': 8,
    }
    assert median_stages_ms([]) == {}
