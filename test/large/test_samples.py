import cv2
import numpy as np
import pytest

from panoptic_ros.large.samples import AERIAL, Sample, aerial, slide, volume

SIZE_WH = (700, 500)


@pytest.fixture(params=['slide', 'aerial', 'after'])
def sample(request) -> Sample:
    if request.param == 'slide':
        return slide(SIZE_WH, seed=3)
    return aerial(SIZE_WH, seed=3, after=request.param == 'after')


def test_windows_agree_with_the_whole(sample: Sample) -> None:
    whole = sample.read(0, 0, *SIZE_WH)
    for x0, y0, x1, y1 in ((0, 0, 100, 90), (133, 77, 400, 301), (650, 480, 700, 500)):
        patch = sample.read(x0, y0, x1, y1)
        place = np.s_[y0:y1, x0:x1]
        np.testing.assert_array_equal(patch.image_rgb, whole.image_rgb[place])
        np.testing.assert_array_equal(patch.semantic, whole.semantic[place])
        np.testing.assert_array_equal(patch.instance, whole.instance[place])
        semantic, instance = sample.labels(x0, y0, x1, y1)
        np.testing.assert_array_equal(semantic, patch.semantic)
        np.testing.assert_array_equal(instance, patch.instance)


def test_objects_are_connected_things_of_one_class(sample: Sample) -> None:
    whole = sample.read(0, 0, *SIZE_WH)
    is_thing = sample.label_set.is_thing[whole.semantic]
    np.testing.assert_array_equal(is_thing, whole.instance > 0)
    ids = np.unique(whole.instance[is_thing])
    assert len(ids) > 20
    for value in ids:
        mask = whole.instance == value
        assert cv2.connectedComponents(mask.astype(np.uint8))[0] == 2
        assert len(np.unique(whole.semantic[mask])) == 1


def test_later_date_differs() -> None:
    before, after = (aerial((1500, 1500), after=a).read(0, 0, 1500, 1500) for a in (False, True))
    water = AERIAL.class_id('water')
    assert (after.semantic == water).sum() > (before.semantic == water).sum() > 0
    gone = np.setdiff1d(before.instance, after.instance)
    new = np.setdiff1d(after.instance, before.instance)
    assert len(gone) > 5
    assert len(new) > 5


def test_volume_has_connected_objects() -> None:
    made = volume((100, 90, 50))
    assert made.image.shape == made.instance.shape == (50, 90, 100)
    np.testing.assert_array_equal(made.semantic == 1, made.instance > 0)
    assert made.instance.max() >= 8
    bright = made.image > 100
    np.testing.assert_array_equal(bright, made.instance > 0)
