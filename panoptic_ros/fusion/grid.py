"""From a candidate object for each cell of the network's grid to a panoptic map.

The centre and mask fusions decide which candidate owns each cell; the steps after that are the
same: filter by area and score, number, measure and enlarge. They work on runs of equal cells, and
only the finished maps are enlarged, so the cost depends on the network's grid and the complexity
of the picture, hardly on the output size.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from panoptic_ros.errors import LabelSetError
from panoptic_ros.fusion.common import FIRST_OBJECT, build_panoptic
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import NO_INSTANCE, Panoptic, Runs, bound_runs


@dataclass(frozen=True, eq=False)
class Candidates:
    """Objects before filtering; object k has the number k + 1 in the map of candidates.

    Parameters
    ----------
    class_id
        uint8 [n].
    evidence
        float32 [n], 0..1; the score is this times the mean confidence of the object's cells.
    min_area
        float [n], fraction of the image; smaller objects become void.
    """

    class_id: np.ndarray
    evidence: np.ndarray
    min_area: np.ndarray


def number_patches(
    orphan: np.ndarray, semantic: np.ndarray, instance: np.ndarray, taken: int
) -> int:
    """Give each connected patch of one class a number above ``taken``, in place; count them."""
    found = 0
    for class_id in np.flatnonzero(np.bincount(semantic[orphan])):
        mask = orphan & (semantic == class_id)
        # This algorithm numbers patches in reading order; OpenCV's default has no stated order.
        count, patch = cv2.connectedComponentsWithAlgorithm(
            mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S, ccltype=cv2.CCL_SAUF
        )
        np.add(patch, taken + found, out=instance, where=mask)
        found += count - 1
    return found


def majority_class(runs: Runs, count: int) -> np.ndarray:
    """Return the class that most cells of each candidate have, uint8 [count]."""
    mine = np.flatnonzero(runs.instance)
    semantic = runs.semantic[mine]
    classes = int(semantic.max(initial=0)) + 1
    vote = (runs.instance[mine].astype(np.intp) - 1) * classes + semantic
    cells = runs.stop[mine] - runs.start[mine]
    votes = np.bincount(vote, weights=cells, minlength=count * classes)
    return votes.reshape(count, classes).argmax(1).astype(np.uint8)


def fuse_grid(
    runs: Runs,
    confidence: np.ndarray,
    candidates: Candidates,
    label_set: LabelSet,
    size_wh: tuple[int, int],
    *,
    min_stuff_area_fraction: float,
    max_instances: int,
    min_thing_score: float = 0.0,
    min_stuff_score: float = 0.0,
) -> Panoptic:
    """Filter, number, measure and enlarge the segments of a grid.

    Areas and boxes are exactly those of the output: how many of its rows and columns show a cell
    is known before anything is enlarged.

    Parameters
    ----------
    runs
        The runs of the grid's semantic map and of its map of candidates: 1 + the candidate that
        owns each cell, 0 for none. Thing cells without a candidate become void.
    confidence
        uint8 on any grid, 0..255.
    candidates
        The candidates' columns.
    size_wh
        Width and height of the output, pixels.
    min_stuff_area_fraction
        0..1, fraction of the image; stuff classes smaller than this become void.
    max_instances
        The instances with the lowest scores beyond this number become void.
    min_thing_score, min_stuff_score
        0..1; segments with a lower score become void.

    Raises LabelSetError if the semantic map has a class id that the label set lacks.
    """
    grid_height, grid_width = len(runs.copies), runs.width
    width, height = size_wh
    column = first_pixel(grid_width, width)
    row = first_pixel(grid_height, height)
    box_xyxy = column[runs.start], row[runs.row], column[runs.stop], row[runs.row + 1]

    count = FIRST_OBJECT + len(candidates.class_id)
    key = np.where(
        runs.instance > 0, runs.instance.astype(np.intp) + FIRST_OBJECT - 1, runs.semantic
    )
    key[label_set.is_thing[runs.semantic] & (runs.instance == NO_INSTANCE)] = VOID
    shown = slice(None)
    if width < grid_width or height < grid_height:
        shown = (box_xyxy[0] < box_xyxy[2]) & (box_xyxy[1] < box_xyxy[3])
    area, box_of_key = bound_runs(key[shown], count, tuple(edge[shown] for edge in box_xyxy))
    unknown = np.flatnonzero(area[len(label_set) : VOID])
    if len(unknown):
        raise LabelSetError(
            f'the semantic map has class ids {(unknown + len(label_set)).tolist()}; label set '
            f'{label_set.name!r} has 0..{len(label_set) - 1}: choose the label set the model was '
            'trained with'
        )
    score = _mean_confidence(runs, key, count, confidence)
    score[FIRST_OBJECT:] *= candidates.evidence

    min_area = np.full(count, min_stuff_area_fraction, np.float64)
    min_area[FIRST_OBJECT:] = candidates.min_area
    is_kept = (area > 0) & (area >= min_area * (width * height))
    is_kept[:VOID] &= score[:VOID] >= min_stuff_score
    is_kept[FIRST_OBJECT:] &= score[FIRST_OBJECT:] >= min_thing_score
    is_kept[VOID] = False
    enlarged = replace(runs, start=box_xyxy[0], stop=box_xyxy[2], width=width, copies=np.diff(row))
    return build_panoptic(
        enlarged, key, is_kept, candidates.class_id, score, area, box_of_key, max_instances
    )


def _mean_confidence(
    runs: Runs, key: np.ndarray, count: int, confidence: np.ndarray
) -> np.ndarray:
    """Return the mean confidence of each key's cells, 0..1, float32 [count], 0 without cells."""
    height, width = len(runs.copies), runs.width
    confidence = cv2.resize(confidence, (width, height), interpolation=cv2.INTER_LINEAR).ravel()
    first = runs.row * width + runs.start
    total = np.bincount(
        key, weights=np.add.reduceat(confidence, first, dtype=np.int64), minlength=count
    )
    cells = np.bincount(key, weights=runs.stop - runs.start, minlength=count)
    return (total / np.maximum(cells * 255, 1)).astype(np.float32)


@lru_cache(maxsize=8)
def first_pixel(cells: int, pixels: int) -> np.ndarray:
    """Return the first output pixel that shows each cell or a later one.

    intp [cells + 1], read-only.
    """
    grid = np.arange(cells, dtype=np.float32)[None]
    shown = cv2.resize(grid, (pixels, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]
    first = np.searchsorted(shown, np.arange(cells + 1))
    first.setflags(write=False)
    return first
