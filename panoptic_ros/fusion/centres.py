"""Semantic map, object centres and offsets to a panoptic map (Panoptic-DeepLab)."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy import ndimage

from panoptic_ros.fusion.common import Fused, check_fraction, check_image, check_max_instances
from panoptic_ros.fusion.grid import Candidates, fuse_grid, majority_class, number_patches
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import NO_INSTANCE
from panoptic_ros.runs import Runs


@dataclass(frozen=True, eq=False)
class CentreHeads:
    """The outputs of a network with a centre head for one image.

    Parameters
    ----------
    semantic
        uint8 [h2, w2], class ids on the fine grid.
    confidence
        uint8 [h4, w4], 0..255, largest class probability on the coarse grid.
    centre_score
        float [K], 0..1; rows with score 0 are padding.
    centre_index
        int32 [K], the cell of each centre, flat index into the coarse grid.
    offset_xy
        float32 or float16 [2, h4, w4], (dx, dy) from each cell to the centre of its object, in
        cells of the coarse grid.

    Raises ValueError if a shape or dtype differs.
    """

    semantic: np.ndarray
    confidence: np.ndarray
    centre_score: np.ndarray
    centre_index: np.ndarray
    offset_xy: np.ndarray

    def __post_init__(self) -> None:
        check_image('CentreHeads.semantic', self.semantic)
        check_image('CentreHeads.confidence', self.confidence)
        score, index = self.centre_score, self.centre_index
        if score.ndim != 1 or score.dtype.kind != 'f':
            raise ValueError(
                f'CentreHeads.centre_score is {score.dtype} {score.shape}; expected float [K]'
            )
        if index.shape != score.shape or index.dtype.kind not in 'iu':
            raise ValueError(
                f'CentreHeads.centre_index is {index.dtype} {index.shape}; expected int32 '
                f'{score.shape}'
            )
        cells = self.confidence.size
        if len(index) and not 0 <= index.min() <= index.max() < cells:
            raise ValueError(
                f'CentreHeads.centre_index runs from {index.min()} to {index.max()}; expected '
                f'0..{cells - 1}, cells of the grid {self.confidence.shape}'
            )
        offset, expected = self.offset_xy, (2, *self.confidence.shape)
        if offset.shape != expected or offset.dtype not in (np.float32, np.float16):
            raise ValueError(
                f'CentreHeads.offset_xy is {offset.dtype} {offset.shape}; expected float32 or '
                f'float16 {expected}'
            )


@dataclass(frozen=True, eq=False)
class CentreMaps:
    """The outputs of a network with a centre head whose graph assigns cells to centres.

    Parameters
    ----------
    semantic, confidence, centre_score
        As in :class:`CentreHeads`.
    owner
        uint8 [h2, w2], 1 + the centre that owns each thing cell, 0 for none and for stuff.

    Raises ValueError if a shape or dtype differs.
    """

    semantic: np.ndarray
    confidence: np.ndarray
    centre_score: np.ndarray
    owner: np.ndarray

    def __post_init__(self) -> None:
        for name in ('semantic', 'confidence', 'owner'):
            check_image(f'CentreMaps.{name}', getattr(self, name))
        centres = len(self.centre_score)
        if self.owner.shape != self.semantic.shape or self.owner.max() > centres:
            raise ValueError(
                f'CentreMaps.owner is {self.owner.shape} with values up to {self.owner.max()}; '
                f'expected {self.semantic.shape} and 0..{centres}'
            )


@dataclass(frozen=True)
class CentreFusion:
    """Fuse semantic map, centres and offsets (Panoptic-DeepLab, arXiv 1911.10194).

    1. Each thing cell of the fine grid points to a position: its own plus its offset, interpolated
       between the thing cells around it (see :func:`pointed_positions`). The cell belongs to the
       centre nearest to the coarse cell at this position.
    2. All cells of a centre take the class that most of them have (the lower class id in a tie).
    3. Thing cells without a centre are *orphans*: each connected patch (8 neighbours) of one
       class becomes an instance.
    4. The score of an instance is the score of its centre times the mean confidence of its cells.
       Orphans take ``centre_threshold`` as the score of the centre. The score of stuff is its
       mean confidence.
    5. Instances and stuff classes with too small an area or score become void.
    6. Instances are numbered 1..n by falling score.

    Parameters
    ----------
    centre_threshold
        0..1; centres with a lower score, or score 0, are ignored.
    max_centre_distance_fraction
        0..1, fraction of the grid's diagonal. A cell that points to a position farther than this
        from every centre is an orphan. 1 accepts any distance.
    min_thing_area_fraction
        0..1, fraction of the image; instances smaller than this become void.
    min_orphan_area_fraction
        0..1, fraction of the image; orphan patches smaller than this become void. 1 makes every
        orphan void.
    min_stuff_area_fraction
        0..1, fraction of the image; stuff classes smaller than this become void.
    max_instances
        1..65535; the instances with the lowest scores beyond this number become void.
    min_thing_score, min_stuff_score
        0..1; instances and stuff classes with a lower score become void. A ``min_thing_score``
        above ``centre_threshold`` removes all orphans.

    Raises ValueError if a value is outside its range.
    """

    centre_threshold: float = 0.1
    max_centre_distance_fraction: float = 1.0
    min_thing_area_fraction: float = 0.0001
    min_orphan_area_fraction: float = 0.001
    min_stuff_area_fraction: float = 0.0005
    max_instances: int = 1000
    min_thing_score: float = 0.0
    min_stuff_score: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            'centre_threshold',
            'max_centre_distance_fraction',
            'min_thing_area_fraction',
            'min_orphan_area_fraction',
            'min_stuff_area_fraction',
            'min_thing_score',
            'min_stuff_score',
        ):
            check_fraction(name, getattr(self, name))
        check_max_instances(self.max_instances)

    def __call__(
        self, heads: CentreHeads | CentreMaps, label_set: LabelSet, size_wh: tuple[int, int]
    ) -> Fused:
        """Return the panoptic map of one image at ``size_wh`` (width, height) pixels.

        Raises LabelSetError if the semantic map has a class id that the label set lacks.
        """
        semantic = heads.semantic
        is_thing = cv2.LUT(semantic, label_set.is_thing.astype(np.uint8))
        instance = heads.owner if isinstance(heads, CentreMaps) else self._assign(heads, is_thing)
        centres = len(heads.centre_score)
        orphan = (instance == NO_INSTANCE) & (is_thing > 0)
        orphans = 0
        if orphan.any():
            instance = instance.astype(np.int32)
            orphans = number_patches(orphan, semantic, instance, centres)
        runs = Runs.of(semantic, instance)
        class_id, candidate = runs.sample(semantic), runs.sample(instance)
        candidates = Candidates(
            class_id=majority_class(runs, class_id, candidate, centres + orphans),
            evidence=np.append(
                heads.centre_score.astype(np.float32),
                np.full(orphans, self.centre_threshold, np.float32),
            ),
            min_area=np.repeat(
                [self.min_thing_area_fraction, self.min_orphan_area_fraction],
                [centres, orphans],
            ),
        )
        panoptic = fuse_grid(
            runs,
            class_id,
            candidate,
            heads.confidence,
            candidates,
            label_set,
            size_wh,
            min_stuff_area_fraction=self.min_stuff_area_fraction,
            max_instances=self.max_instances,
            min_thing_score=self.min_thing_score,
            min_stuff_score=self.min_stuff_score,
        )
        return Fused(panoptic, heads.confidence)

    def _assign(self, heads: CentreHeads, is_thing: np.ndarray) -> np.ndarray:
        """Return 1 + the centre that owns each fine cell, uint16, 0 for none and for stuff."""
        chosen = np.flatnonzero(
            (heads.centre_score >= self.centre_threshold) & (heads.centre_score > 0)
        )
        if not len(chosen):
            return np.zeros(is_thing.shape, np.uint16)
        height, width = heads.confidence.shape
        reach = self.max_centre_distance_fraction * np.hypot(width, height)
        nearest = nearest_centre(heads.centre_index[chosen], (width, height), reach)
        nearest = np.append(0, chosen + 1).astype(np.uint16)[nearest]
        x, y = pointed_positions(heads.offset_xy, is_thing)
        # Look up the nearest cell; positions outside the grid take the cell at its border.
        instance = cv2.remap(nearest, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        instance *= is_thing
        return instance


def pointed_positions(
    offset_xy: np.ndarray, is_thing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the position each fine cell points to, in cells of the coarse grid.

    Offsets are interpolated bilinearly, weighted with the share of thing cells (normalised
    convolution). The network is not trained to predict offsets outside of things, so unweighted
    interpolation would give wrong offsets at the borders of things.

    Parameters
    ----------
    offset_xy
        float32 or float16 [2, h4, w4], in cells of the coarse grid.
    is_thing
        uint8 [h2, w2], 1 for thing cells of the fine grid, else 0.

    Returns
    -------
    x, y
        float32 [h2, w2]; undefined outside of things.
    """
    height, width = is_thing.shape
    coarse_height, coarse_width = offset_xy.shape[1:]
    weight = cv2.resize(
        is_thing.astype(np.float32), (coarse_width, coarse_height), interpolation=cv2.INTER_AREA
    )
    total = cv2.resize(weight, (width, height), interpolation=cv2.INTER_LINEAR)
    np.maximum(total, 1e-6, out=total)  # The total is 0 away from things.
    x, y = (
        cv2.resize(plane * weight, (width, height), interpolation=cv2.INTER_LINEAR)
        for plane in offset_xy
    )
    x /= total
    y /= total
    x += cell_centres(width, coarse_width)
    y += cell_centres(height, coarse_height)[:, None]
    return x, y


def nearest_centre(
    centre_index: np.ndarray, size_wh: tuple[int, int], reach: float = np.inf
) -> np.ndarray:
    """Return 1 + the index of the centre nearest to each cell, uint16 [h, w].

    Distances are Euclidean and exact. Of equally near centres the leftmost counts, then the
    topmost. The value is 0 where no centre is within ``reach`` cells. OpenCV's distance transform
    with labels is faster but approximate: about one cell in a hundred gets the wrong centre.

    Parameters
    ----------
    centre_index
        int [n], at least one, flat index of the cell of each centre.
    size_wh
        Width and height of the grid in cells.
    reach
        Largest distance in cells.
    """
    width, height = size_wh
    number = np.zeros((height, width), np.uint16)
    number.ravel()[centre_index] = np.arange(1, len(centre_index) + 1)
    empty = number == 0
    if reach >= np.hypot(width, height):  # the largest distance in the grid
        y, x = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
        y *= width
        y += x
        return number.take(y)
    distance, (y, x) = ndimage.distance_transform_edt(empty, return_indices=True)
    nearest = number[y, x]
    nearest[distance > reach] = NO_INSTANCE
    return nearest


@lru_cache(maxsize=8)
def cell_centres(cells: int, coarse_cells: int) -> np.ndarray:
    """Return the centres of cells in coordinates of a coarser grid, float32 [cells], read-only."""
    # In both grids the outermost centres are half a cell away from the border.
    centres = ((np.arange(cells) + 0.5) * (coarse_cells / cells) - 0.5).astype(np.float32)
    centres.setflags(write=False)
    return centres
