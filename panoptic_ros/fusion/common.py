"""What the three fusions share: their result, range checks, and the final numbering."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from panoptic_ros.labels import VOID
from panoptic_ros.panoptic import Panoptic, Runs, Segments, measure_segments

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
    """Number the kept segments, build their table and paint the maps.

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
    id_of_key = np.zeros(len(is_kept), np.uint16)
    id_of_key[things] = np.arange(1, len(things) + 1)
    class_of_key = np.full(len(is_kept), VOID, np.uint8)
    class_of_key[stuff] = stuff
    class_of_key[things] = object_class_id[things - FIRST_OBJECT]
    ids = id_of_key[keys]
    segments = Segments(
        id=ids,
        class_id=class_of_key[keys],
        is_thing=keys >= FIRST_OBJECT,
        score=score[keys].astype(np.float32),
        area=area[keys],
        box_xyxy=box_xyxy[keys],
        track_id=ids.astype(np.int32),
    )
    painted = Runs(
        row=runs.row,
        start=runs.start,
        stop=runs.stop,
        semantic=class_of_key[key],
        instance=id_of_key[key],
        width=runs.width,
        copies=runs.copies,
    )
    return Panoptic.from_runs(painted, segments)


def void_panoptic(size_wh: tuple[int, int]) -> Panoptic:
    """Return a map that is void everywhere."""
    semantic = np.full(size_wh[::-1], VOID, np.uint8)
    instance = np.zeros(size_wh[::-1], np.uint16)
    return Panoptic(semantic, instance, measure_segments(semantic, instance))


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
