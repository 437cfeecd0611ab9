import numpy as np
import torch

from panoptic_ros.training.centres.targets import CentreTargets, make_targets
from panoptic_ros.training.loss_weights import LossWeights


def targets_of(semantic: np.ndarray, instance: np.ndarray, **weights: float) -> CentreTargets:
    """Return the targets of one image as arrays without the batch dimension."""
    maps = (torch.from_numpy(array)[None] for array in (semantic, instance))
    targets = make_targets(*maps, LossWeights(**weights))
    return CentreTargets(*(tensor[0].numpy() for tensor in targets))


def street(height: int = 16, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """One object, class 13, on columns 4..11 and rows 8..15."""
    semantic = np.zeros((height, width), np.uint8)
    instance = np.zeros((height, width), np.int16)
    semantic[8:16, 4:12] = 13
    instance[8:16, 4:12] = 1
    return semantic, instance


def test_offsets_lead_to_the_centre_of_mass() -> None:
    targets = targets_of(*street())
    # The object covers cells x 1..2, y 2..3; its centre lies between them, at (1.5, 2.5).
    np.testing.assert_array_equal(
        targets.offset_weight, [[0, 0, 0, 0, 0, 0]] * 2 + [[0, 1, 1, 0, 0, 0]] * 2
    )
    np.testing.assert_allclose(targets.offset_xy[:, 2, 1], [0.5, 0.5])
    np.testing.assert_allclose(targets.offset_xy[:, 3, 2], [-0.5, -0.5])


def test_heatmap_is_one_at_the_centre_cell_and_falls_off() -> None:
    targets = targets_of(*street())
    peak = np.unravel_index(targets.centre.argmax(), targets.centre.shape)
    assert targets.centre.max() == 1.0
    assert peak == (2, 2)  # (1.5, 2.5) rounds to even: y 2, x 2
    assert 0 < targets.centre[2, 3] < 1
    assert targets.centre[0, 5] < 0.02


def test_small_objects_weigh_more() -> None:
    semantic, instance = street()
    targets = targets_of(semantic, instance, small_area=65)
    assert np.unique(targets.pixel_weight[instance == 1]) == [3.0]
    assert np.unique(targets.pixel_weight[instance == 0]) == [1.0]
    targets = targets_of(semantic, instance, small_area=64)
    assert np.unique(targets.pixel_weight) == [1.0]


def test_small_segments_and_what_surrounds_them_weigh_more() -> None:
    semantic = np.zeros((32, 32), np.uint8)
    instance = np.zeros((32, 32), np.int16)
    semantic[0:2, 0:2] = 5  # stuff of 4 pixels: sqrt(64 / 4) = 4, at most 3
    semantic[16:20, 16:20], instance[16:20, 16:20] = 13, 1  # 16 pixels: sqrt(64 / 16) = 2
    semantic[28:32, 28:32], instance[28:32, 28:32] = 13, -1  # a crowd
    semantic[28:32, 0:4] = 255
    targets = targets_of(
        semantic,
        instance,
        small_area=64,
        small_weight=3.0,
        by_segment=True,
    )
    weight = targets.pixel_weight
    assert weight[:2, :2].tolist() == [[3.0, 3.0]] * 2
    assert np.unique(weight[16:20, 16:20]) == [2.0]
    assert weight[0].tolist() == [3.0] * 2 + [1.5] * 4 + [1.0] * 26
    assert np.unique(weight[28:]) == [1.0]
    assert targets.offset_weight[4, 4] == 2.0
    assert targets.offset_weight[7, 7] == targets.offset_weight[0, 0] == 0.0


def test_offsets_of_large_objects_weigh_less() -> None:
    targets = targets_of(*street(), small_area=16, by_segment=True)
    assert np.unique(targets.offset_weight).tolist() == [0.0, 0.5]  # sqrt(16 / 64)
    assert np.unique(targets.pixel_weight).tolist() == [1.0]


def test_crowds_have_classes_but_neither_centres_nor_offsets() -> None:
    semantic, instance = street()
    instance[instance == 1] = -1
    targets = targets_of(semantic, instance)
    assert targets.centre.max() == 0.0
    assert targets.offset_weight.max() == 0.0
    np.testing.assert_array_equal(targets.centre_weight[2:, 1:3], 0.0)
    assert targets.centre_weight[0, 0] == 1.0
    np.testing.assert_array_equal(targets.semantic, semantic)


def test_nobody_knows_about_centres_in_void() -> None:
    semantic, instance = street()
    semantic[:8] = 255
    targets = targets_of(semantic, instance)
    np.testing.assert_array_equal(targets.centre_weight[:2], 0.0)
    np.testing.assert_array_equal(targets.centre_weight[2:], 1.0)


def test_an_image_without_objects() -> None:
    semantic = np.zeros((8, 8), np.uint8)
    targets = targets_of(semantic, np.zeros((8, 8), np.int16))
    assert targets.centre.shape == (2, 2)
    assert targets.centre.max() == 0.0
    assert targets.offset_weight.max() == 0.0


def test_a_batch_has_the_targets_of_its_images() -> None:
    rng = np.random.default_rng(0)
    cells = rng.integers(-1, 5, (3, 8, 8)).astype(np.int16)
    instance = np.kron(cells, np.ones((1, 4, 4), np.int16))
    semantic = np.where(instance == 0, rng.integers(0, 3, instance.shape), 13).astype(np.uint8)
    semantic[0, :8] = 255
    instance[0, :8] = 0
    for by_segment in (False, True):
        weights = LossWeights(by_segment=by_segment)
        together = make_targets(*map(torch.from_numpy, (semantic, instance)), weights)
        for image, maps in enumerate(zip(semantic, instance, strict=True)):
            alone = targets_of(*maps, by_segment=by_segment)
            for name in CentreTargets._fields:
                np.testing.assert_array_equal(getattr(together, name)[image], getattr(alone, name))
