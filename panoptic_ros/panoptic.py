"""The one data type everything exchanges: a panoptic map and the table of its segments."""

from dataclasses import dataclass, fields, replace

import numpy as np
from scipy import ndimage

from panoptic_ros.labels import VOID, LabelSet

NO_INSTANCE = 0
"""Instance id of pixels that belong to stuff or to nothing."""


@dataclass(frozen=True, eq=False)
class Segments:
    """One row a segment: first the stuff by class id, then the things by instance id.

    Parameters
    ----------
    id
        uint16 [n], the value in the instance map; 0 for stuff.
    class_id
        uint8 [n].
    is_thing
        bool [n].
    score
        float32 [n], confidence 0..1; 1 where nothing is known.
    area
        int32 [n], pixels.
    box_xyxy
        int32 [n, 4], pixels, x0 y0 inclusive, x1 y1 exclusive.
    track_id
        int32 [n], the id that stays with an object from frame to frame; equals ``id`` where
        nothing tracks, 0 for stuff.
    """

    id: np.ndarray
    class_id: np.ndarray
    is_thing: np.ndarray
    score: np.ndarray
    area: np.ndarray
    box_xyxy: np.ndarray
    track_id: np.ndarray

    _DTYPES = {
        'id': np.uint16,
        'class_id': np.uint8,
        'is_thing': np.bool_,
        'score': np.float32,
        'area': np.int32,
        'box_xyxy': np.int32,
        'track_id': np.int32,
    }

    def __post_init__(self) -> None:
        count = len(self.id)
        for name, dtype in self._DTYPES.items():
            column = getattr(self, name)
            shape = (count, 4) if name == 'box_xyxy' else (count,)
            if column.dtype != dtype or column.shape != shape:
                raise ValueError(
                    f'Segments.{name} is {column.dtype} {column.shape}; expected '
                    f'{np.dtype(dtype).name} {shape}'
                )

    def __len__(self) -> int:
        return len(self.id)

    def where(self, rows: np.ndarray) -> 'Segments':
        """Return the rows chosen by a mask or an index array."""
        return Segments(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def things(self) -> 'Segments':
        """The rows that are things."""
        return self.where(self.is_thing)


@dataclass(frozen=True, eq=False)
class Panoptic:
    """One class for every pixel, and one instance id for every pixel of a thing.

    Parameters
    ----------
    semantic
        uint8 [H, W], class id, 255 (VOID) where there is none.
    instance
        uint16 [H, W], 0 for stuff and void; an id belongs to one object of one class.
    segments
        The table of what is in the two maps.

    Construction checks shapes and dtypes. :meth:`from_maps` also checks every pixel; use it for
    maps that come from outside.
    """

    semantic: np.ndarray
    instance: np.ndarray
    segments: Segments

    def __post_init__(self) -> None:
        if self.semantic.dtype != np.uint8 or self.semantic.ndim != 2:
            raise ValueError(
                f'semantic is {self.semantic.dtype} {self.semantic.shape}; expected uint8 [H, W]'
            )
        if self.instance.dtype != np.uint16 or self.instance.shape != self.semantic.shape:
            raise ValueError(
                f'instance is {self.instance.dtype} {self.instance.shape}; expected uint16 '
                f'{self.semantic.shape}'
            )

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.semantic.shape
        return width, height

    @classmethod
    def from_maps(
        cls,
        semantic: np.ndarray,
        instance: np.ndarray,
        label_set: LabelSet,
        score_by_id: np.ndarray | None = None,
    ) -> 'Panoptic':
        """Check two maps pixel by pixel and build the segment table.

        ``score_by_id`` is float [largest instance id + 1], the score of each instance id.

        Raises ValueError if a class id is not in the label set, a thing pixel has no instance
        id, a stuff or void pixel has one, or one instance id covers two classes.
        """
        check_maps(semantic, instance, label_set)
        return cls(semantic, instance, measure_segments(semantic, instance, score_by_id))

    def with_track_ids(self, track_id: np.ndarray) -> 'Panoptic':
        """Return the same maps with the segments' ``track_id`` column replaced."""
        return replace(self, segments=replace(self.segments, track_id=track_id))


def check_maps(semantic: np.ndarray, instance: np.ndarray, label_set: LabelSet) -> None:
    """Raise ValueError unless the two maps keep the promises of :class:`Panoptic`."""
    if semantic.shape != instance.shape:
        raise ValueError(
            f'semantic is {semantic.shape}, instance is {instance.shape}; expected one shape'
        )
    present = np.flatnonzero(np.bincount(semantic.ravel(), minlength=256))
    unknown = present[(present >= len(label_set)) & (present != VOID)]
    if len(unknown):
        raise ValueError(
            f'semantic has class ids {unknown.tolist()}; label set {label_set.name!r} has '
            f'0..{len(label_set) - 1} and void is {VOID}'
        )
    wrong = label_set.is_thing[semantic] != (instance > 0)
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        raise ValueError(
            f'pixel x={x} y={y} has class {semantic[y, x]} and instance {instance[y, x]}; things '
            f'need an instance above 0, stuff and void need 0 ({int(wrong.sum())} pixels break '
            'this)'
        )
    flat = instance.ravel()
    class_of_id = np.zeros(int(flat.max(initial=0)) + 1, np.uint8)
    class_of_id[flat] = semantic.ravel()
    split = (class_of_id[flat] != semantic.ravel()) & (flat > 0)
    if split.any():
        raise ValueError(
            f'instance id {flat[split][0]} covers more than one class; an id belongs to one '
            'object of one class'
        )


def measure_segments(
    semantic: np.ndarray, instance: np.ndarray, score_by_id: np.ndarray | None = None
) -> Segments:
    """Build the segment table of two maps that already agree, in two passes over the pixels."""
    # One key a pixel: 0 void, 1..255 stuff class + 1, 256 + instance id for things.
    key = semantic.astype(np.uint16)
    key += 1
    key[semantic == VOID] = 0
    np.copyto(key, instance, where=instance > 0)
    is_thing_pixel = instance > 0
    key[is_thing_pixel] += 256
    area_of_key = np.bincount(key.ravel())
    keys = np.flatnonzero(area_of_key)
    keys = keys[keys > 0]
    slices = ndimage.find_objects(key, max_label=len(area_of_key) - 1)
    box_xyxy = np.array(
        [
            (columns.start, rows.start, columns.stop, rows.stop)
            for rows, columns in (slices[k - 1] for k in keys)
        ],
        np.int32,
    ).reshape(-1, 4)
    is_thing = keys > 256
    ids = np.where(is_thing, keys - 256, 0).astype(np.uint16)
    class_id = (keys - 1).astype(np.uint8)
    # The class of an instance is read at one of its pixels: the first in its box's top row.
    for row in np.flatnonzero(is_thing):
        x0, y0, x1, _ = box_xyxy[row]
        x = x0 + int(np.argmax(instance[y0, x0:x1] == ids[row]))
        class_id[row] = semantic[y0, x]
    score = np.ones(len(keys), np.float32)
    if score_by_id is not None:
        score[is_thing] = score_by_id[ids[is_thing]]
    return Segments(
        id=ids,
        class_id=class_id,
        is_thing=is_thing,
        score=score,
        area=area_of_key[keys].astype(np.int32),
        box_xyxy=box_xyxy,
        track_id=ids.astype(np.int32),
    )
