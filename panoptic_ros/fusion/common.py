"""What the three fusions share: their result, range checks, and the final numbering."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from panoptic_ros.labels import VOID
from panoptic_ros.panoptic import Panoptic, Segments
from panoptic_ros.runs import Runs

FIRST_OBJECT = 256
"""Keys below this are class ids (stuff and VOID); key ``FIRST_OBJECT + k`` is object k."""


@dataclass(frozen=True, eq=False)
class Fused:
    """A panoptic map at the requested size, and the network's confidence.

    Parameters
    ----------
    panoptic
        The panoptic map.
    coarse_confidence
        uint8 [h, w], 0..255, the confidence on the network's grid.
    """

    panoptic: Panoptic
    coarse_confidence: np.ndarray

    @cached_property
    def confidence(self) -> np.ndarray:
        """Confidence at the size of the panoptic map, uint8 [H, W]; resized on first access."""
        return cv2.resize(
            self.coarse_confidence, self.panoptic.size_wh, interpolation=cv2.INTER_LINEAR
        )


def build_panoptic(
    runs: Runs,
    key: np.ndarray,
    is_kept: np.ndarray,
    object_class_id: np.ndarray,
    score: np.ndarray,
    area: np.ndarray,
    box_xyxy: np.ndarray,
    max_instances: int,
) -> Panoptic:
    """Number the kept segments, build their table and return the map.

    Things are numbered 1..n by falling score. What is not kept becomes void.

    Parameters
    ----------
    runs
        The runs of the output.
    key
        intp [runs], the key of each run (see :data:`FIRST_OBJECT`).
    is_kept
        bool [keys], False for keys without pixels.
    object_class_id
        uint8 [keys - FIRST_OBJECT], the class of each object.
    score
        float [keys], 0..1.
    area, box_xyxy
        int32 [keys] and [keys, 4], pixels of the output.
    max_instances
        The things with the lowest scores beyond this number become void.
    """
    stuff = np.flatnonzero(is_kept[:VOID])
    things = np.flatnonzero(is_kept[FIRST_OBJECT:]) + FIRST_OBJECT
    things = things[np.argsort(-score[things], kind='stable')[:max_instances]]
    keys = np.concatenate([stuff, things])
    is_thing = keys >= FIRST_OBJECT
    class_of_key = np.append(np.arange(FIRST_OBJECT, dtype=np.uint8), object_class_id)
    ids = np.append(
        np.zeros(len(stuff), np.uint16), np.arange(1, len(things) + 1, dtype=np.uint16)
    )
    segments = Segments(
        id=ids,
        class_id=class_of_key[keys],
        is_thing=is_thing,
        score=score[keys].astype(np.float32),
        area=area[keys],
        box_xyxy=box_xyxy[keys],
        track_id=ids.astype(np.int32),
    )
    row_of_key = np.full(len(is_kept), -1, np.intp)
    row_of_key[keys] = np.arange(len(keys))
    return Panoptic(runs, row_of_key[key], segments)


def void_panoptic(size_wh: tuple[int, int]) -> Panoptic:
    """Return a map that is void everywhere."""
    runs = Runs.of(np.zeros((1, 1), np.uint8)).resized(size_wh)
    void = np.full(1, VOID, np.uint8)
    return Panoptic.from_runs(runs, void, np.zeros(1, np.uint16))


def check_image(name: str, image: np.ndarray) -> None:
    """Raise ValueError unless an image is uint8 [h, w] with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 2 or not image.size:
        raise ValueError(f'{name} is {image.dtype} {image.shape}; expected uint8 [height, width]')


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless a parameter lies in 0..1."""
    if not 0 <= value <= 1:
        raise ValueError(f'{name} is {value}; expected a number from 0 to 1')


def check_max_instances(value: int) -> None:
    """Raise ValueError unless the number of instances fits uint16 ids."""
    if not 1 <= value <= 65535:
        raise ValueError(f'max_instances is {value}; expected 1..65535, the ids that fit uint16')
