"""From a candidate object for each cell of the network's grid to a panoptic map.

The centre and mask fusions decide which candidate owns each cell; the steps after that are the
same: filter by area and score, number, measure and enlarge. They work on runs of equal cells, and
only the finished maps are enlarged, so the cost depends on the network's grid and the complexity
of the picture, hardly on the output size.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from panoptic_ros.errors import LabelSetError
from panoptic_ros.fusion.common import FIRST_OBJECT, build_panoptic
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import NO_INSTANCE, Panoptic
from panoptic_ros.runs import Runs


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


def majority_class(
    runs: Runs, class_id: np.ndarray, candidate: np.ndarray, count: int
) -> np.ndarray:
    """Return the class that most cells of each candidate have, uint8 [count].

    ``class_id`` and ``candidate`` are those of the runs, see :func:`fuse_grid`.
    """
    owned = np.flatnonzero(candidate)
    class_id = class_id[owned]
    classes = int(class_id.max(initial=0)) + 1
    vote = (candidate[owned].astype(np.intp) - 1) * classes + class_id
    votes = np.bincount(vote, weights=runs.length[owned], minlength=count * classes)
    return votes.reshape(count, classes).argmax(1).astype(np.uint8)


def fuse_grid(
    runs: Runs,
    class_id: np.ndarray,
    candidate: np.ndarray,
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
        The runs of the grid.
    class_id
        uint8 [runs].
    candidate
        Unsigned integers [runs], 1 + the candidate that owns each run, 0 for none. Thing cells
        without a candidate become void.
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
    enlarged = runs.resized(size_wh)
    count = FIRST_OBJECT + len(candidates.class_id)
    key = np.where(candidate > 0, candidate.astype(np.intp) + FIRST_OBJECT - 1, class_id)
    key[label_set.is_thing[class_id] & (candidate == NO_INSTANCE)] = VOID
    area, box_xyxy = enlarged.measure(key, count)
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
    is_kept = (area > 0) & (area >= min_area * (size_wh[0] * size_wh[1]))
    is_kept[:VOID] &= score[:VOID] >= min_stuff_score
    is_kept[FIRST_OBJECT:] &= score[FIRST_OBJECT:] >= min_thing_score
    is_kept[VOID] = False
    return build_panoptic(
        enlarged, key, is_kept, candidates.class_id, score, area, box_xyxy, max_instances
    )


def _mean_confidence(
    runs: Runs, key: np.ndarray, count: int, confidence: np.ndarray
) -> np.ndarray:
    """Return the mean confidence of each key's cells, 0..1, float32 [count], 0 without cells."""
    height, width = len(runs.copies), runs.width
    confidence = cv2.resize(confidence, (width, height), interpolation=cv2.INTER_LINEAR).ravel()
    total = np.bincount(
        key, weights=np.add.reduceat(confidence, runs.first, dtype=np.int64), minlength=count
    )
    cells = np.bincount(key, weights=runs.length, minlength=count)
    return (total / np.maximum(cells * 255, 1)).astype(np.float32)
