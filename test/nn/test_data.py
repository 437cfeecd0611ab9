import numpy as np
import pytest
import torch

from panoptic_ros.datasets.synthetic import synthetic_samples
from panoptic_ros.labels import LabelSet
from panoptic_ros.nn.data import Augmentation, TrainingExamples
from panoptic_ros.nn.losses import Batch, LossWeights

STILL = Augmentation(
    crop_wh=(64, 32),
    scale=(1.0, 1.0),
    stretch=1.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    flip=0.0,
)


def picture() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    semantic = np.arange(32 * 64, dtype=np.uint16).reshape(32, 64)
    instance = semantic.copy()
    semantic = (semantic % 19).astype(np.uint8)
    return np.repeat(semantic[..., None], 3, 2), semantic, instance


def test_no_variation_is_the_image_itself() -> None:
    for before, after in zip(
        picture(), STILL.apply(*picture(), np.random.default_rng(0)), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_a_mirror_mirrors_everything_alike() -> None:
    mirror = Augmentation(**{**vars(STILL), 'flip': 1.0})
    for before, after in zip(
        picture(), mirror.apply(*picture(), np.random.default_rng(0)), strict=True
    ):
        np.testing.assert_array_equal(before[:, ::-1], after)


def test_a_smaller_picture_is_padded_with_void() -> None:
    small = Augmentation(**{**vars(STILL), 'scale': (0.5, 0.5)})
    _, semantic, instance = small.apply(*picture(), np.random.default_rng(0))
    assert semantic.shape == (32, 64)
    assert 0.7 < (semantic == 255).mean() < 0.8
    assert (instance[semantic == 255] == 0).all()


def test_examples_depend_only_on_seed_and_index() -> None:
    label_set = LabelSet.load('cityscapes')
    real = list(synthetic_samples(1, 2))

    def examples(seed: int) -> TrainingExamples:
        return TrainingExamples(real, label_set, Augmentation(), LossWeights(), seed=seed)

    first, again = examples(1)[5], examples(1)[5]
    assert len(first) == len(Batch._fields)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0], examples(1)[6][0])
    assert not torch.equal(first[0], examples(2)[5][0])


def test_every_image_comes_once_an_epoch() -> None:
    real = list(synthetic_samples(1, 4, (64, 32)))
    plain = TrainingExamples(real, LabelSet.load('cityscapes'), STILL, LossWeights())
    seen = sorted(int(plain[i][0].sum()) for i in range(4))
    assert seen == sorted(int(s.image_rgb.sum()) for s in real)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        ({'crop_wh': (100, 64)}, r'crop_wh is \(100, 64\); expected multiples of 32'),
        ({'scale': (2.0, 1.0)}, 'two rising factors'),
        ({'stretch': 0.5}, 'stretch is 0.5; expected 1 or more'),
    ],
)
def test_wrong_options_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**wrong)
