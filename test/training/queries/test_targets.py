import numpy as np
import torch

from panoptic_ros.training.queries.targets import UNKNOWN, SegmentTargets, make_segments


def segments_of(semantic: np.ndarray, instance: np.ndarray) -> SegmentTargets:
    """Return the segments of one image as arrays without the batch dimension."""
    targets = make_segments(*(torch.from_numpy(array)[None] for array in (semantic, instance)))
    return SegmentTargets(*(tensor[0].numpy() for tensor in targets))


def blocks(cells: list[list[int]], dtype: type) -> np.ndarray:
    """Return the cells enlarged to 4x4 pixels each."""
    return np.kron(np.array(cells, dtype), np.ones((4, 4), dtype))


def test_segments_are_numbered_by_falling_area() -> None:
    semantic = blocks([[0, 0, 0], [0, 7, 7], [255, 7, 2]], np.uint8)
    instance = blocks([[0, 0, 0], [0, 1, 1], [0, 2, 0]], np.int16)
    targets = segments_of(semantic, instance)
    assert targets.segment.dtype == np.uint8
    # Stuff 0 has four cells, the first 7 two; 2 comes before the second 7 by its key.
    assert targets.segment.tolist() == [[0, 0, 0], [0, 1, 1], [UNKNOWN, 3, 2]]
    assert targets.class_id.shape == (255,)
    assert targets.class_id[:5].tolist() == [0, 7, 2, 7, 255]


def test_crowds_are_unknown() -> None:
    semantic = blocks([[0, 7]], np.uint8)
    instance = blocks([[0, -1]], np.int16)
    targets = segments_of(semantic, instance)
    assert targets.segment.tolist() == [[0, UNKNOWN]]
    assert targets.class_id[:2].tolist() == [0, 255]


def test_segments_beyond_the_255th_are_unknown() -> None:
    instance = np.kron(np.arange(1, 301, dtype=np.int16)[None], np.ones((4, 4), np.int16))
    semantic = np.zeros(instance.shape, np.uint8)
    targets = segments_of(semantic, instance)
    assert targets.segment.tolist() == [[*range(255), *[UNKNOWN] * 45]]
    assert (targets.class_id == 0).all()


def test_an_image_of_void_has_no_segments() -> None:
    targets = segments_of(np.full((8, 8), 255, np.uint8), np.zeros((8, 8), np.int16))
    assert (targets.segment == UNKNOWN).all()
    assert (targets.class_id == 255).all()
