"""Heads, a label set and checks that the tests of fusion share."""

from typing import NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import strategies as st

from panoptic_ros.fusion import (
    CentreFusion,
    CentreHeads,
    Fused,
    MaskHeads,
)
from panoptic_ros.labels import VOID, LabelClass, LabelSet
from panoptic_ros.panoptic import Panoptic, Segments, check_maps, measure_segments

ROAD, SKY, CAR, PERSON = range(4)


LABELS = LabelSet(
    'four',
    (
        LabelClass('road', False, (128, 64, 128), 1),
        LabelClass('sky', False, (0, 0, 255), 2),
        LabelClass('car', True, (0, 0, 142), 3),
        LabelClass('person', True, (220, 20, 60), 4),
    ),
)


class Expected(NamedTuple):
    """What a reference implementation returns."""

    semantic: np.ndarray
    instance: np.ndarray
    segments: Segments


KEEP_ALL = CentreFusion(
    min_thing_area_fraction=0, min_orphan_area_fraction=0, min_stuff_area_fraction=0
)


def centre_heads(
    semantic: list[list[int]],
    centres: list[tuple[float, int]] = (),
    offset_xy: np.ndarray | None = None,
    confidence: int = 255,
) -> CentreHeads:
    """Heads whose coarser grid is half the semantic map; centres are (score, index)."""
    grid = np.array(semantic, np.uint8)
    height, width = grid.shape[0] // 2, grid.shape[1] // 2
    return CentreHeads(
        semantic=grid,
        confidence=np.full((height, width), confidence, np.uint8),
        centre_score=np.array([score for score, _ in centres], np.float32),
        centre_index=np.array([index for _, index in centres], np.int32),
        offset_xy=np.zeros((2, height, width), np.float32) if offset_xy is None else offset_xy,
    )


def mask_heads(
    semantic: list[list[int]],
    masks: list[list[list[int]]],
    class_id: list[int],
    score: list[float],
) -> MaskHeads:
    grid = np.array(semantic, np.uint8)
    return MaskHeads(
        semantic=grid,
        confidence=np.full(grid.shape, 255, np.uint8),
        mask=np.array(masks, bool).reshape(-1, *grid.shape),
        class_id=np.array(class_id, np.uint8),
        score=np.array(score, np.float32),
    )


def plain_assemble(
    semantic: np.ndarray,
    instance: np.ndarray,
    class_of: dict[int, int],
    evidence: dict[int, float],
    min_area: dict[int, float],
    min_stuff_area: float,
    max_instances: int,
    confidence: np.ndarray,
    size_wh: tuple[int, int],
    min_thing_score: float = 0.0,
    min_stuff_score: float = 0.0,
) -> Expected:
    """Do what _assemble does, pixel by pixel on the enlarged maps."""
    grid_height, grid_width = semantic.shape
    # Which cell each pixel shows is OpenCV's affair.
    cell = np.arange(semantic.size, dtype=np.float32).reshape(semantic.shape)
    cell = cv2.resize(cell, size_wh, interpolation=cv2.INTER_NEAREST_EXACT).astype(int)
    sure = cv2.resize(confidence, (grid_width, grid_height), interpolation=cv2.INTER_LINEAR)
    name = {}  # of each cell: ('stuff', class), ('thing', number) or None
    for at in range(semantic.size):
        if instance.flat[at]:
            name[at] = ('thing', int(instance.flat[at]))
        elif semantic.flat[at] == VOID or LABELS.is_thing[semantic.flat[at]]:
            name[at] = None
        else:
            name[at] = ('stuff', int(semantic.flat[at]))
    kept = []
    for segment in {n for n in name.values() if n}:
        cells = [at for at, n in name.items() if n == segment]
        area = sum(int((cell == at).sum()) for at in cells)
        if area == 0:
            continue
        total = sum(int(sure.flat[at]) for at in cells)
        mean = np.float32(total / (len(cells) * 255))
        kind, number = segment
        limit = min_stuff_area if kind == 'stuff' else min_area[number]
        if area >= limit * size_wh[0] * size_wh[1]:
            score = mean * np.float32(evidence[number]) if kind == 'thing' else mean
            if score >= (min_thing_score if kind == 'thing' else min_stuff_score):
                kept.append((segment, score))
    things = [entry for entry in kept if entry[0][0] == 'thing']
    things = sorted(things, key=lambda entry: (-entry[1], entry[0][1]))[:max_instances]
    out_semantic = np.full(cell.shape, VOID, np.uint8)
    out_instance = np.zeros(cell.shape, np.uint16)
    for y, x in np.ndindex(cell.shape):
        segment = name[cell[y, x]]
        for new_id, (thing, _) in enumerate(things, start=1):
            if thing == segment:
                out_instance[y, x] = new_id
                out_semantic[y, x] = class_of[segment[1]]
        if segment in [entry[0] for entry in kept if entry[0][0] == 'stuff']:
            out_semantic[y, x] = segment[1]
    segments = measure_segments(
        out_semantic, out_instance, np.array([0, *(score for _, score in things)], np.float32)
    )
    for segment, score in kept:
        if segment[0] == 'stuff':
            segments.score[(segments.class_id == segment[1]) & ~segments.is_thing] = score
    return Expected(out_semantic, out_instance, segments)


def assert_same(fused: Fused, expected: Expected) -> None:
    panoptic = fused.panoptic
    assert panoptic.semantic.tolist() == expected.semantic.tolist()
    assert panoptic.instance.tolist() == expected.instance.tolist()
    for name in ('id', 'class_id', 'is_thing', 'area', 'box_xyxy', 'track_id'):
        ours, theirs = getattr(panoptic.segments, name), getattr(expected.segments, name)
        assert ours.tolist() == theirs.tolist(), name
    assert panoptic.segments.score == pytest.approx(expected.segments.score, abs=1e-6)


def assert_keeps_the_promises(panoptic: Panoptic) -> None:
    check_maps(panoptic.semantic, panoptic.instance, LABELS)
    ids = np.unique(panoptic.instance[panoptic.instance > 0])
    assert ids.tolist() == list(range(1, len(ids) + 1))
    assert panoptic.segments.things.id.tolist() == ids.tolist()
    assert (np.diff(panoptic.segments.things.score) <= 0).all()


class_ids = st.sampled_from([ROAD, SKY, CAR, PERSON, CAR, PERSON, VOID])


bytes_ = st.integers(0, 255)


sizes_wh = st.tuples(st.integers(1, 20), st.integers(1, 20))


fractions = st.sampled_from([0.0, 1 / 16, 1 / 4, 1.0])  # exact in binary, like the areas


min_scores = st.sampled_from([0.0, 0.30007, 0.60007])  # what no score is exactly
