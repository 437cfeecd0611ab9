from collections.abc import Sequence

import numpy as np
import pytest
import torch

from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.street.scene import synthetic_samples
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.training.augmentation import Augmentation
from panoptic_ros.training.examples import TrainingExamples, _maps, repeat_factors

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


def test_a_quarter_turn_turns_everything_alike() -> None:
    turned = Augmentation(**{**vars(STILL), 'crop_wh': (64, 64), 'turn': True})
    image_rgb, semantic, instance = (np.repeat(a, 2, axis=0) for a in picture())
    found = set()
    for seed in range(20):
        result = turned.apply(image_rgb, semantic, instance, np.random.default_rng(seed))
        same = [np.array_equal(result[1], np.rot90(semantic, k)) for k in range(4)]
        quarters = same.index(True)
        np.testing.assert_array_equal(result[0], np.rot90(image_rgb, quarters))
        np.testing.assert_array_equal(result[2], np.rot90(instance, quarters))
        found.add(quarters)
    assert found == {0, 1, 2, 3}


def test_an_aimed_crop_contains_an_object() -> None:
    semantic = np.zeros((512, 512), np.uint8)
    instance = np.zeros((512, 512), np.uint16)
    instance[500:503, 20:23] = 1
    image_rgb = np.zeros((512, 512, 3), np.uint8)
    aimed = Augmentation(**{**vars(STILL), 'aim_share': 1.0, 'flip': 0.5})
    for seed in range(20):
        rng = np.random.default_rng(seed)
        _, crop, crop_instance = aimed.apply(image_rgb, semantic, instance, rng)
        assert crop_instance.any()
        assert (crop != 255).all()  # the crop stays inside the image


def test_the_gamma_curve_moves_the_middle_and_keeps_the_ends() -> None:
    image_rgb = np.zeros((32, 64, 3), np.uint8)
    image_rgb[:, 20:40] = 64
    image_rgb[:, 40:] = 255
    _, semantic, instance = picture()
    varied = Augmentation(**{**vars(STILL), 'gamma': 2.0})
    middles = set()
    for seed in range(10):
        result, *_ = varied.apply(image_rgb, semantic, instance, np.random.default_rng(seed))
        assert (result[:, :20] == 0).all()
        assert (result[:, 40:] == 255).all()
        middles.add(int(result[0, 30, 0]))
    assert min(middles) < 55
    assert max(middles) > 75


def test_crowded_images_are_shown_more_often() -> None:
    def sample(objects: int) -> Sample:
        semantic = np.zeros((64, 64), np.uint8)
        instance = np.zeros((64, 64), np.uint16)
        instance.ravel()[:objects] = np.arange(1, objects + 1)
        semantic[instance > 0] = 1
        image_rgb = np.full((64, 64, 3), objects, np.uint8)
        truth = Panoptic.from_maps(semantic, instance, LabelSet.load('nuclei'))
        return Sample(str(objects), image_rgb, truth, np.zeros(0, np.uint16))

    examples = TrainingExamples(
        [sample(1), sample(4), sample(64)],
        LabelSet.load('nuclei'),
        Augmentation(**{**vars(STILL), 'crop_wh': (64, 64)}),
        repeat_crowded=True,
    )
    shown = [int(examples[i][0].max()) for i in range(60)]
    # Factors 1, 1 and sqrt(64 / 4) = 4: an epoch is six images.
    assert [shown.count(objects) for objects in (1, 4, 64)] == [10, 10, 40]


def test_examples_depend_only_on_seed_and_index() -> None:
    label_set = LabelSet.load('cityscapes')
    real = list(synthetic_samples(1, 2))

    def examples(seed: int) -> TrainingExamples:
        return TrainingExamples(real, label_set, Augmentation(), seed=seed)

    first, again = examples(1)[5], examples(1)[5]
    assert [a.dtype for a in first] == [torch.uint8, torch.uint8, torch.int16]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0], examples(1)[6][0])
    assert not torch.equal(first[0], examples(2)[5][0])


def test_every_image_comes_once_an_epoch() -> None:
    real = list(synthetic_samples(1, 4, (64, 32)))
    plain = TrainingExamples(real, LabelSet.load('cityscapes'), STILL)
    seen = sorted(int(plain[i][0].sum()) for i in range(4))
    assert seen == sorted(int(s.image_rgb.sum()) for s in real)


def test_images_of_rare_classes_come_more_often() -> None:
    shows = np.zeros((4, 256), bool)
    shows[:, 0] = True
    shows[1, [7, 255]] = True
    # Class 7 is in a quarter of the images: wanted in half, they come sqrt(0.5 / 0.25) times.
    np.testing.assert_allclose(repeat_factors(shows, 0.5), [1, 2**0.5, 1, 1])
    np.testing.assert_array_equal(repeat_factors(shows[:2], 0.0), [1, 1])


def test_real_images_are_read_when_they_are_shown_and_not_held() -> None:
    class Folder(Sequence):
        reads = 0

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Sample:
            if index >= 3:
                raise IndexError
            self.reads += 1
            return scene(50 + index, (8, 4, 28, 20))

    folder, label_set = Folder(), LabelSet.load('cityscapes')
    plain = TrainingExamples(folder, label_set, STILL)
    assert folder.reads == 0
    assert sorted(int(plain[i][0].min()) for i in range(3)) == [50, 51, 52]
    assert folder.reads == 3
    TrainingExamples(folder, label_set, STILL, repeat_rare=0.5)
    assert folder.reads == 6  # one survey


def test_images_can_be_held_in_memory() -> None:
    scenes = [scene(50, None), scene(100, (8, 4, 28, 20))]
    label_set = LabelSet.load('cityscapes')
    read, held = (
        TrainingExamples(scenes, label_set, STILL, paste_share=0.5, in_memory=in_memory)
        for in_memory in (False, True)
    )
    scenes.clear()  # no sample is read from now on
    with pytest.raises(IndexError):
        read[0]
    assert {int(held[i][0].min()) for i in range(8)} == {50, 100}


def test_objects_are_numbered_without_gaps_and_crowds_are_minus_one() -> None:
    semantic = np.full((32, 64), 13, np.uint8)
    instance = np.zeros((32, 64), np.uint16)
    instance[:, 8:16], instance[:, 16:24], instance[:, 24:32] = 7, 40000, 90
    semantic[instance == 0] = 0
    truth = Panoptic.from_maps(semantic, instance, LabelSet.load('cityscapes'))
    sample = Sample('', np.zeros((32, 64, 3), np.uint8), truth, np.array([90]))
    examples = TrainingExamples([sample], LabelSet.load('cityscapes'), STILL)
    row = examples[0][2][0]
    assert row.dtype == torch.int16
    assert row[4::8].tolist() == [0, 1, 2, -1, 0, 0, 0, 0]


def scene(colour: int, box: tuple[int, int, int, int] | None) -> Sample:
    """A road in one colour, with a car (id 1) in the box x0 y0 x1 y1 painted 200."""
    road, car = 0, 13
    image_rgb = np.full((32, 64, 3), colour, np.uint8)
    semantic, instance = np.full((32, 64), road, np.uint8), np.zeros((32, 64), np.uint16)
    if box:
        x0, y0, x1, y1 = box
        window = np.s_[y0:y1, x0:x1]
        image_rgb[window], semantic[window], instance[window] = 200, car, 1
    truth = Panoptic.from_maps(semantic, instance, LabelSet.load('cityscapes'))
    return Sample(str(colour), image_rgb, truth, np.empty(0, np.intp))


def test_a_pasted_object_brings_its_pixels_class_and_an_id_of_its_own() -> None:
    scenes = [scene(50, None), scene(100, (8, 4, 28, 20))]
    examples = TrainingExamples(scenes, LabelSet.load('cityscapes'), STILL, paste_share=1.0)
    rng = np.random.default_rng(3)
    before = _maps(scenes[0])
    image_rgb, semantic, instance = examples._paste(before, rng)
    ids = np.unique(instance[instance > 0])
    assert 1 <= len(ids) <= 3
    np.testing.assert_array_equal(semantic == 13, instance > 0)
    np.testing.assert_array_equal(image_rgb[..., 0] == 200, instance > 0)
    # It stays at its height in the picture; the picture it was taken for is left as it was.
    np.testing.assert_array_equal(np.flatnonzero((instance > 0).any(1)), np.arange(4, 20))
    assert not before[2].any()


def test_small_objects_and_crowds_are_not_pasted() -> None:
    small = scene(50, (0, 0, 10, 10))
    large = scene(60, (8, 4, 28, 20))
    crowd = Sample('crowd', large.image_rgb, large.truth, np.array([1]))
    for real in ([small], [crowd]):
        examples = TrainingExamples(real, LabelSet.load('cityscapes'), STILL, paste_share=1.0)
        np.testing.assert_array_equal(examples[0][0].numpy(), real[0].image_rgb)


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
