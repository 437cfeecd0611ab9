import numpy as np

from panoptic_ros.training.golden_image import blobs, golden_image


def test_streets_for_models_of_streets_and_blobs_for_others() -> None:
    street, other = (golden_image(name, (128, 96)) for name in ('cityscapes', 'coco'))
    for image in (street, other):
        assert image.shape == (96, 128, 3)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
    np.testing.assert_array_equal(other, golden_image('coco', (128, 96)))
    assert not np.array_equal(street, other)


def test_blobs_stand_out_from_the_ground() -> None:
    image = blobs((256, 256), seed=1)
    bright = (image.max(2) > 60).mean()
    assert 0.05 < bright < 0.6
    assert not np.array_equal(image, blobs((256, 256), seed=2))
