"""From what a network says to one panoptic map, in numpy and OpenCV, without a network at hand.

Ways to a panoptic map, one pair of classes each (the heads, and the rule that fuses them):

1. semantic map + instance masks: :class:`MaskHeads`, :class:`HeadsFusion`
2. queries with class and mask logits: :class:`QueryHeads`, :class:`QueryFusion`
3. semantic map + object centres + offsets: :class:`CentreHeads`, :class:`CentreFusion`

With 1 and 3 a rule decides which cell of the network's grid belongs to which candidate object;
what follows is the same (:func:`_assemble`): filter by area, rank by score, number, measure,
enlarge. That is done on runs of equal cells and only the two finished maps are enlarged, so the
cost depends on the network's grid and the picture's complexity, hardly on the size of the output.
Queries compete for every pixel of the output instead (:mod:`~panoptic_ros.fusion.ownership`).
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from types import MappingProxyType

import cv2
import numpy as np
from scipy import ndimage

from panoptic_ros.errors import LabelSetError
from panoptic_ros.fusion.ownership import Contest, own_pixels
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import (
    NO_INSTANCE,
    Panoptic,
    Runs,
    Segments,
    bound_runs,
    measure_segments,
)


@dataclass(frozen=True, eq=False)
class Fused:
    """A panoptic map at the size that was asked for, and how sure the network was of it.

    Parameters
    ----------
    panoptic
        The maps and the table of segments.
    coarse_confidence
        uint8 [h, w], 0..255, the confidence on the network's own grid.
    """

    panoptic: Panoptic
    coarse_confidence: np.ndarray

    @cached_property
    def confidence(self) -> np.ndarray:
        """Confidence at the size of the panoptic map, uint8 [H, W]; enlarged on first use."""
        return cv2.resize(
            self.coarse_confidence, self.panoptic.size_wh, interpolation=cv2.INTER_LINEAR
        )


@dataclass(frozen=True, eq=False)
class CentreHeads:
    """What a network with a centre head gives for one image.

    Parameters
    ----------
    semantic
        uint8 [h2, w2], class ids on the finer grid.
    confidence
        uint8 [h4, w4], 0..255, largest class probability on the coarser grid.
    centre_score
        float [K], 0..1; rows with score 0 are padding.
    centre_index
        int32 [K], the cell of each centre, flat index into the coarser grid.
    offset_xy
        float32 or float16 [2, h4, w4], (dx, dy) from each cell to the centre of its object, in
        cells of the coarser grid.

    Raises ValueError if a shape or dtype is another.
    """

    semantic: np.ndarray
    confidence: np.ndarray
    centre_score: np.ndarray
    centre_index: np.ndarray
    offset_xy: np.ndarray

    def __post_init__(self) -> None:
        _check_image('CentreHeads.semantic', self.semantic)
        _check_image('CentreHeads.confidence', self.confidence)
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


@dataclass(frozen=True)
class CentreFusion:
    """Fuse semantic map, centres and offsets (Panoptic-DeepLab, arXiv 1911.10194).

    1. Every thing cell of the finer grid points to a place: itself plus its offset, interpolated
       bilinearly between the thing cells around it (see :func:`pointed_places`). It belongs to
       the centre nearest to the cell of the coarser grid it points to.
    2. The cells of a centre vote for its class; all of them take the class of the majority (the
       lower class id if two have as many votes).
    3. Thing cells without a centre are *orphans*: each connected patch (8 neighbours) of one
       class becomes an instance of its own.
    4. The score of an instance is its centre's times the mean confidence of its cells; for
       orphans, which no centre supports, ``centre_threshold`` takes the place of the centre's
       score. The score of stuff is its mean confidence.
    5. Instances and stuff classes that are too small or score too low become void.
    6. Instances are numbered 1..n by falling score.

    Parameters
    ----------
    centre_threshold
        0..1, centres with a lower score do not count; neither do those with score 0.
    max_centre_distance_fraction
        0..1, fraction of the grid's diagonal. A cell that points to a place farther than this
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
        0..1; instances and stuff classes with a lower score become void. In panoptic quality a
        segment pays if the chance that it is right, times its overlap, is above half of what its
        class has. A ``min_thing_score`` above ``centre_threshold`` leaves no orphan.

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
            _check_fraction(name, getattr(self, name))
        _check_max_instances(self.max_instances)

    def __call__(self, heads: CentreHeads, label_set: LabelSet, size_wh: tuple[int, int]) -> Fused:
        """Return the panoptic map of one image at ``size_wh`` (width, height) pixels.

        Raises LabelSetError if the semantic map has a class id that the label set lacks.
        """
        semantic = heads.semantic
        is_thing = cv2.LUT(semantic, label_set.is_thing.astype(np.uint8))
        chosen = np.flatnonzero(
            (heads.centre_score >= self.centre_threshold) & (heads.centre_score > 0)
        )
        instance = self._assign(heads, is_thing, heads.centre_index[chosen])
        orphan = (instance == NO_INSTANCE) & (is_thing > 0)
        orphans = 0
        if orphan.any():
            instance = instance.astype(np.int32)
            orphans = _number_patches(orphan, semantic, instance, len(chosen))
        runs = Runs.of(semantic, instance)
        candidates = _Candidates(
            class_id=_majority_class(runs, len(chosen) + orphans),
            evidence=np.append(
                heads.centre_score[chosen].astype(np.float32),
                np.full(orphans, self.centre_threshold, np.float32),
            ),
            min_area=np.repeat(
                [self.min_thing_area_fraction, self.min_orphan_area_fraction],
                [len(chosen), orphans],
            ),
        )
        panoptic = _assemble(
            runs,
            candidates,
            heads,
            label_set,
            size_wh,
            self.min_stuff_area_fraction,
            self.max_instances,
            self.min_thing_score,
            self.min_stuff_score,
        )
        return Fused(panoptic, heads.confidence)

    def _assign(
        self, heads: CentreHeads, is_thing: np.ndarray, centre_index: np.ndarray
    ) -> np.ndarray:
        """Return 1 + the number of each finer cell's centre, uint16, 0 for none and stuff."""
        if not len(centre_index):
            return np.zeros(is_thing.shape, np.uint16)
        height, width = heads.confidence.shape
        reach = self.max_centre_distance_fraction * np.hypot(width, height)
        nearest = nearest_centre(centre_index, (width, height), reach)
        x, y = pointed_places(heads.offset_xy, is_thing)
        # A look-up that rounds to the nearest cell and stays inside the grid.
        instance = cv2.remap(nearest, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        instance *= is_thing
        return instance


def pointed_places(offset_xy: np.ndarray, is_thing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place each finer cell points to, in cells of the coarser grid.

    Offsets are interpolated bilinearly with the share of thing cells as weight (normalised
    convolution): off the things the network was never taught an offset, and a plain
    interpolation lets what it says there pull the things' borders away from their centres.

    Parameters
    ----------
    offset_xy
        float32 or float16 [2, h4, w4], in cells of the coarser grid.
    is_thing
        uint8 [h2, w2], 1 for thing cells of the finer grid, else 0.

    Returns
    -------
    x, y
        float32 [h2, w2]; of no meaning off the things.
    """
    height, width = is_thing.shape
    coarse_height, coarse_width = offset_xy.shape[1:]
    weight = cv2.resize(
        is_thing.astype(np.float32), (coarse_width, coarse_height), interpolation=cv2.INTER_AREA
    )
    total = cv2.resize(weight, (width, height), interpolation=cv2.INTER_LINEAR)
    np.maximum(total, 1e-6, out=total)  # All is 0 far from things.
    x, y = (
        cv2.resize(plane * weight, (width, height), interpolation=cv2.INTER_LINEAR)
        for plane in offset_xy
    )
    x /= total
    y /= total
    x += _middles(width, coarse_width)
    y += _middles(height, coarse_height)[:, None]
    return x, y


def nearest_centre(
    centre_index: np.ndarray, size_wh: tuple[int, int], reach: float = np.inf
) -> np.ndarray:
    """Return 1 + the number of the centre nearest to each cell, uint16 [h, w].

    Exact Euclidean distances (a distance transform that remembers where it came from); 0 where
    no centre is within ``reach`` cells. OpenCV's transform with labels is a little faster, but
    approximate: it gives about one cell in a hundred to the wrong centre.

    Parameters
    ----------
    centre_index
        int [n], at least one, flat index of each centre's cell.
    size_wh
        Width and height of the grid in cells.
    reach
        Largest distance in cells.
    """
    width, height = size_wh
    number = np.zeros((height, width), np.uint16)
    number.ravel()[centre_index] = np.arange(1, len(centre_index) + 1)
    empty = number == 0
    if reach >= np.hypot(width, height):  # farther than any cell is from another
        y, x = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
        y *= width
        y += x
        return number.take(y)
    distance, (y, x) = ndimage.distance_transform_edt(empty, return_indices=True)
    nearest = number[y, x]
    nearest[distance > reach] = NO_INSTANCE
    return nearest


@dataclass(frozen=True, eq=False)
class MaskHeads:
    """What a network with a semantic head and an instance head gives for one image.

    Parameters
    ----------
    semantic
        uint8 [h, w], class ids.
    confidence
        uint8 on any grid, 0..255, largest class probability of the semantic head.
    mask
        bool [N, h, w], the instance masks; they may overlap.
    class_id
        uint8 [N], the thing class of each mask.
    score
        float [N], 0..1.

    Raises ValueError if a shape or dtype is another.
    """

    semantic: np.ndarray
    confidence: np.ndarray
    mask: np.ndarray
    class_id: np.ndarray
    score: np.ndarray

    def __post_init__(self) -> None:
        _check_image('MaskHeads.semantic', self.semantic)
        _check_image('MaskHeads.confidence', self.confidence)
        count = len(self.score)
        for name, kinds, shape in (
            ('mask', 'b', (count, *self.semantic.shape)),
            ('class_id', 'iu', (count,)),
            ('score', 'f', (count,)),
        ):
            value = getattr(self, name)
            if value.shape != shape or value.dtype.kind not in kinds:
                expected = {'b': 'bool', 'iu': 'uint8', 'f': 'float32'}[kinds]
                raise ValueError(
                    f'MaskHeads.{name} is {value.dtype} {value.shape}; expected {expected} {shape}'
                )


@dataclass(frozen=True)
class HeadsFusion:
    """Fuse semantic map and instance masks (Panoptic FPN, arXiv 1901.02446; COCO's combination).

    1. Masks with a score of at least ``score_threshold`` come in falling score (the earlier one
       first where scores are equal). Each claims its cells that no mask before it has claimed.
    2. A mask whose claim is less than ``min_kept_fraction`` of its own area is dropped and claims
       nothing: what it would have had stays free for the masks after it.
    3. Cells that no mask claimed take the semantic map's class if that is stuff. Thing classes
       there become void: a thing pixel without a mask has no instance.
    4. Stuff classes that are too small become void.
    5. Instances are numbered 1..n by falling score: the mask's own times the mean confidence of
       the cells it has. The score of stuff is its mean confidence.

    Parameters
    ----------
    score_threshold
        0..1.
    min_kept_fraction
        0..1, fraction of a mask's area.
    min_stuff_area_fraction
        0..1, fraction of the image; stuff classes smaller than this become void.
    max_instances
        1..65535; the instances with the lowest scores beyond this number become void.

    Raises ValueError if a value is outside its range.
    """

    score_threshold: float = 0.5
    min_kept_fraction: float = 0.5
    min_stuff_area_fraction: float = 0.01
    max_instances: int = 1000

    def __post_init__(self) -> None:
        for name in ('score_threshold', 'min_kept_fraction', 'min_stuff_area_fraction'):
            _check_fraction(name, getattr(self, name))
        _check_max_instances(self.max_instances)

    def __call__(self, heads: MaskHeads, label_set: LabelSet, size_wh: tuple[int, int]) -> Fused:
        """Return the panoptic map of one image at ``size_wh`` (width, height) pixels.

        Raises LabelSetError if the semantic map has a class id that the label set lacks, or a
        mask has one that is not a thing there.
        """
        wrong = heads.class_id[~label_set.is_thing[heads.class_id]]
        if len(wrong):
            raise LabelSetError(
                f'the instance masks have class ids {sorted(set(wrong.tolist()))}, which are no '
                f'things in label set {label_set.name!r}; choose the label set the model was '
                'trained with'
            )
        chosen = np.flatnonzero(heads.score >= self.score_threshold)
        chosen = chosen[np.argsort(-heads.score[chosen], kind='stable')]
        instance = _claim(heads.mask, chosen, self.min_kept_fraction)
        panoptic = _assemble(
            Runs.of(heads.semantic, instance),
            _Candidates(
                class_id=heads.class_id[chosen].astype(np.uint8),
                evidence=heads.score[chosen].astype(np.float32),
                min_area=np.zeros(len(chosen)),
            ),
            heads,
            label_set,
            size_wh,
            self.min_stuff_area_fraction,
            self.max_instances,
        )
        return Fused(panoptic, heads.confidence)


def _claim(mask: np.ndarray, order: np.ndarray, min_kept_fraction: float) -> np.ndarray:
    """Let masks claim cells one after the other; return 1 + the place in ``order``, 0 for none.

    Whether a mask is dropped depends on which masks before it were, so the rule is sequential. A
    turn reads only the mask's own box, which measured faster than ways that settle many masks
    at once (two to eight times, at 20 to 100 masks).
    """
    owner = np.zeros(mask.shape[1:], np.uint16)
    for number, index in enumerate(order, start=1):
        # Not cv2.boundingRect: OpenCV 4.6, Ubuntu 24.04's, misses parts of masks below 8 columns.
        rows = np.flatnonzero(mask[index].any(axis=1))
        if not len(rows):
            continue
        columns = np.flatnonzero(mask[index].any(axis=0))
        inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        own = mask[index][inside]
        box = owner[inside]
        claimed = own & (box == 0)
        if np.count_nonzero(claimed) >= min_kept_fraction * np.count_nonzero(own):
            box[claimed] = number
    return owner


@dataclass(frozen=True, eq=False)
class QueryHeads:
    """What a network with object queries gives for one image.

    Parameters
    ----------
    class_logits
        float32 or float16 [Q, C + 1], before the softmax; the last column is "no object".
    mask_logits
        float32 or float16 [Q, h, w], before the sigmoid.

    Raises ValueError if a shape or dtype is another.
    """

    class_logits: np.ndarray
    mask_logits: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.class_logits)
        for name, axes, expected in (
            ('class_logits', 2, f'[{count}, classes + 1]'),
            ('mask_logits', 3, f'[{count}, height, width]'),
        ):
            value = getattr(self, name)
            fits = value.ndim == axes and len(value) == count and 0 not in value.shape[1:]
            if not fits or value.dtype not in (np.float32, np.float16):
                raise ValueError(
                    f'QueryHeads.{name} is {value.dtype} {value.shape}; expected float32 or '
                    f'float16 {expected}'
                )


@dataclass(frozen=True)
class QueryFusion:
    """Fuse queries by the rule that was published with the network.

    The result is that of the post-processing in transformers, with the stuff classes as
    ``label_ids_to_fuse``. Rule ``detr`` (DETR, MaskFormer, OneFormer: arXiv 2005.12872,
    2107.06278):

    1. Queries count whose likeliest class is an object with a probability above
       ``score_threshold``; that is their score.
    2. The mask probabilities are enlarged bilinearly to the output and weighted with the score.
       Each pixel goes to the query that has most there (the earlier one if two have as much).
    3. A query keeps its pixels if they are more than ``min_kept_fraction`` of those where its
       weighted probability is at least ``mask_threshold``; else they become void.
    4. Queries of one stuff class are one segment, whose score is their mean by pixels.
    5. Instances are numbered 1..n by falling score.

    The other rules differ in this:

    - ``mask2former`` (arXiv 2112.01527) enlarges the logits to a square of ``logit_grid`` cells
      (384 if that is 0), and the probabilities from there.
    - ``eomt`` (arXiv 2503.19108) enlarges the logits, through a square of ``logit_grid`` cells if
      that is above 0, and takes the probabilities at the pixels. ``mask_threshold`` is compared
      with probabilities without weights, and pixels below it are void.
    - ``rf_detr``: queries come in falling score, and each takes the pixels where its enlarged
      logit is above 0 and that no query before it has taken. There is no other filter.
    - ``semantic``: row k of the masks is the logit of class k. The largest enlarged logit decides;
      connected patches (8 neighbours) of a thing class are instances. ``mask_sum`` is the same
      for rows that are sums of mask probabilities, 0..1.

    Parameters
    ----------
    score_threshold
        0..1; of no effect with ``semantic`` and ``mask_sum``, like the next three.
    mask_threshold
        Above 0, up to 1.
    min_kept_fraction
        0..1, fraction of a mask's area.
    logit_grid
        Cells, see above. With ``detr`` a number above 0 means what it means with ``mask2former``.
    rule
        One of :data:`RULES`.
    max_instances
        1..65535; the instances with the lowest scores beyond this number become void.

    Raises ValueError if a value is outside its range.
    """

    score_threshold: float = 0.5
    mask_threshold: float = 0.5
    min_kept_fraction: float = 0.8
    logit_grid: int = 0
    max_instances: int = 1000
    rule: str = 'detr'

    def __post_init__(self) -> None:
        for name in ('score_threshold', 'mask_threshold', 'min_kept_fraction'):
            _check_fraction(name, getattr(self, name))
        if self.mask_threshold == 0:
            raise ValueError('mask_threshold is 0; expected a number above 0, up to 1')
        if not 0 <= self.logit_grid <= 4096 or self.logit_grid != int(self.logit_grid):
            raise ValueError(f'logit_grid is {self.logit_grid}; expected 0 (none) or 1..4096')
        _check_max_instances(self.max_instances)
        if self.rule not in RULES:
            raise ValueError(f'rule is {self.rule!r}; expected one of {", ".join(RULES)}')

    def __call__(
        self,
        heads: QueryHeads,
        label_set: LabelSet,
        size_wh: tuple[int, int],
        extent_wh: tuple[float, float] = (1.0, 1.0),
    ) -> Fused:
        """Return the panoptic map of one image at ``size_wh`` (width, height) pixels.

        ``extent_wh`` is the part of the masks that shows the image, from the upper left corner;
        the rest is padding. Raises LabelSetError if the number of classes is not that of the label
        set.
        """
        classes = heads.class_logits.shape[1] - 1
        if classes != len(label_set):
            raise LabelSetError(
                f'the queries know {classes} classes and "no object", label set '
                f'{label_set.name!r} has {len(label_set)}: choose the label set the model was '
                'trained with'
            )
        contest = RULES[self.rule]
        logit_grid = int(self.logit_grid) or (384 if self.rule == 'mask2former' else 0)
        if contest is Contest.RAW:
            return self._fuse_classes(heads, label_set, size_wh, logit_grid, extent_wh)
        score, class_id = _most_likely(heads.class_logits.astype(np.float32, copy=False))
        chosen = np.flatnonzero((class_id < classes) & (score > self.score_threshold))
        weight = score[chosen]
        if contest is Contest.FIRST:
            chosen = chosen[np.argsort(-weight, kind='stable')]
            weight = np.arange(len(chosen), 0, -1, dtype=np.float32) / max(1, len(chosen))
        score, class_id = score[chosen], class_id[chosen]
        logit = heads.mask_logits[chosen].astype(np.float32, copy=False)
        if not len(chosen):
            return Fused(_nothing(size_wh), np.zeros(logit.shape[1:], np.uint8))
        owner, mask_area, confidence, is_above = own_pixels(
            logit, weight, size_wh, self.mask_threshold, logit_grid, contest, extent_wh
        )
        runs = Runs.of(owner, owner)
        owned_area = np.bincount(
            runs.instance, weights=runs.stop - runs.start, minlength=len(chosen)
        )
        if contest is Contest.FIRST:
            kept = np.ones(len(chosen), bool)
        else:
            # Divided in float32 and compared in float64, as PyTorch does.
            kept_fraction = owned_area.astype(np.float32) / np.maximum(mask_area, 1).astype(
                np.float32
            )
            kept = (mask_area > 0) & (kept_fraction.astype(np.float64) > self.min_kept_fraction)
        if is_above is not None:
            # One more owner, who keeps nothing.
            nobody = len(chosen)
            owner = np.where(is_above, owner, np.uint16(nobody))
            runs = Runs.of(owner, owner)
            owned_area = np.bincount(
                runs.instance, weights=runs.stop - runs.start, minlength=nobody + 1
            )[:nobody]
            kept &= owned_area > 0

        # One key a query: the class id of stuff, VOID, or 256 + the query.
        is_thing = label_set.is_thing[class_id]
        key_of_query = np.where(is_thing, np.arange(len(chosen)) + 256, class_id)
        key_of_query[~kept] = VOID
        things = np.flatnonzero(is_thing & kept)
        things = things[np.argsort(-score[things], kind='stable')]
        key_of_query[things[self.max_instances :]] = VOID
        things = things[: self.max_instances]
        key = np.append(key_of_query, VOID)[runs.instance]
        count = 256 + len(chosen)
        area, box_xyxy = bound_runs(key, count, (runs.start, runs.row, runs.stop, runs.row + 1))
        mean_score = np.bincount(key_of_query, weights=score * owned_area, minlength=count)
        mean_score /= np.maximum(area, 1)
        mean_score[256:] = score

        stuff = np.flatnonzero(area[:VOID])
        keys = np.concatenate([stuff, things + 256])
        class_of_key = np.full(count, VOID, np.uint8)
        class_of_key[keys] = np.concatenate([stuff, class_id[things]])
        id_of_key = np.zeros(count, np.uint16)
        id_of_key[things + 256] = np.arange(1, len(things) + 1)
        semantic, instance = (
            np.repeat(value_of_key[key], runs.stop - runs.start).reshape(owner.shape)
            for value_of_key in (class_of_key, id_of_key)
        )
        ids = id_of_key[keys]
        segments = Segments(
            id=ids,
            class_id=class_of_key[keys],
            is_thing=keys >= 256,
            score=mean_score[keys].astype(np.float32),
            area=area[keys],
            box_xyxy=box_xyxy[keys],
            track_id=ids.astype(np.int32),
        )
        return Fused(
            Panoptic(semantic, instance, segments), _coarse_confidence(confidence, extent_wh)
        )

    def _fuse_classes(
        self,
        heads: QueryHeads,
        label_set: LabelSet,
        size_wh: tuple[int, int],
        logit_grid: int,
        extent_wh: tuple[float, float],
    ) -> Fused:
        logit = heads.mask_logits.astype(np.float32, copy=False)
        if len(logit) != len(label_set):
            raise LabelSetError(
                f'there are {len(logit)} class maps, label set {label_set.name!r} has '
                f'{len(label_set)} classes: choose the label set the model was trained with'
            )
        weight = np.ones(len(logit), np.float32)
        owner = own_pixels(logit, weight, size_wh, 0.5, logit_grid, Contest.RAW, extent_wh).owner
        semantic = owner.astype(np.uint8)
        is_thing = label_set.is_thing[semantic]
        instance = np.zeros(semantic.shape, np.int32)
        count = _number_patches(is_thing, semantic, instance, 0)
        if self.rule == 'semantic':
            likely = 1 / np.exp(logit - logit.max(axis=0)).sum(axis=0)
        else:
            likely = logit.max(axis=0).clip(0, 1)
        confidence = _coarse_confidence(likely, extent_wh)
        fine = cv2.resize(confidence, size_wh, interpolation=cv2.INTER_LINEAR).ravel()

        # The score of a segment is its mean confidence.
        def mean_confidence(key: np.ndarray, keys: int) -> np.ndarray:
            total = np.bincount(key.ravel(), weights=fine, minlength=keys)
            return total / (255 * np.maximum(np.bincount(key.ravel(), minlength=keys), 1))

        score = mean_confidence(instance, count + 1)
        best = 1 + np.argsort(-score[1:], kind='stable')[: self.max_instances]
        number = np.zeros(count + 1, np.uint16)
        number[best] = np.arange(1, len(best) + 1)
        instance = number[instance]
        semantic[is_thing & (instance == NO_INSTANCE)] = VOID
        segments = measure_segments(semantic, instance, np.append(0, score[best]))
        of_class = mean_confidence(semantic, 256)[segments.class_id]
        score = np.where(segments.is_thing, segments.score, of_class).astype(np.float32)
        return Fused(Panoptic(semantic, instance, replace(segments, score=score)), confidence)


RULES = MappingProxyType(
    {
        'detr': Contest.PROBABILITY,
        'mask2former': Contest.PROBABILITY,
        'eomt': Contest.LOGIT,
        'rf_detr': Contest.FIRST,
        'semantic': Contest.RAW,
        'mask_sum': Contest.RAW,
    }
)
"""The rules of :class:`QueryFusion`, and what the masks compete with in each."""


def _coarse_confidence(confidence: np.ndarray, extent_wh: tuple[float, float]) -> np.ndarray:
    """Return probabilities of the part that shows the image in 255 steps, uint8."""
    height, width = (
        max(1, round(side * extent))
        for side, extent in zip(confidence.shape, extent_wh[::-1], strict=True)
    )
    return np.rint(confidence[:height, :width] * 255).astype(np.uint8)


def _most_likely(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest probability of each row and its column, float32 and intp [Q]."""
    largest = logits.argmax(axis=1)
    shifted = logits - np.take_along_axis(logits, largest[:, None], axis=1)
    return 1 / np.exp(shifted).sum(axis=1), largest


def _nothing(size_wh: tuple[int, int]) -> Panoptic:
    semantic = np.full(size_wh[::-1], VOID, np.uint8)
    instance = np.zeros(size_wh[::-1], np.uint16)
    return Panoptic(semantic, instance, measure_segments(semantic, instance))


HEAD_KINDS = MappingProxyType(
    {'centres': (CentreHeads, CentreFusion), 'queries': (QueryHeads, QueryFusion)}
)
"""What a model's outputs become and what fuses them, by the head kind its card names."""


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Objects before the filter; object k has the number k + 1 in the instance map.

    Parameters
    ----------
    class_id
        uint8 [n].
    evidence
        float32 [n], 0..1, factor of the score.
    min_area
        float [n], fraction of the image; smaller objects become void.
    """

    class_id: np.ndarray
    evidence: np.ndarray
    min_area: np.ndarray


def _number_patches(
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


def _majority_class(runs: Runs, count: int) -> np.ndarray:
    """Return the class that most cells of each candidate have, uint8 [count]."""
    mine = np.flatnonzero(runs.instance)
    semantic = runs.semantic[mine]
    classes = int(semantic.max(initial=0)) + 1
    vote = (runs.instance[mine].astype(np.intp) - 1) * classes + semantic
    cells = runs.stop[mine] - runs.start[mine]
    votes = np.bincount(vote, weights=cells, minlength=count * classes)
    return votes.reshape(count, classes).argmax(1).astype(np.uint8)


def _assemble(
    runs: Runs,
    candidates: _Candidates,
    heads: CentreHeads | MaskHeads,
    label_set: LabelSet,
    size_wh: tuple[int, int],
    min_stuff_area_fraction: float,
    max_instances: int,
    min_thing_score: float = 0.0,
    min_stuff_score: float = 0.0,
) -> Panoptic:
    """Filter, rank, number, measure and enlarge what a rule has assigned on the grid.

    ``runs`` are those of the grid's semantic map and candidate numbers (0 for none). Areas and
    boxes are those of the output, exactly: how many of its rows and columns show a cell is known
    before anything is enlarged.
    """
    grid_height, grid_width = heads.semantic.shape
    width, height = size_wh
    column = _first_pixel(grid_width, width)
    row = _first_pixel(grid_height, height)
    box_xyxy = column[runs.start], row[runs.row], column[runs.stop], row[runs.row + 1]

    # One key a run: the class id of stuff and void, or 256 + the candidate's index.
    count = 256 + len(candidates.class_id)
    key = np.where(runs.instance > 0, runs.instance.astype(np.intp) + 255, runs.semantic)
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
    score = _mean_confidence(runs, key, count, heads)
    score[256:] *= candidates.evidence

    min_area = np.full(count, min_stuff_area_fraction, np.float64)
    min_area[256:] = candidates.min_area
    kept = (area > 0) & (area >= min_area * (width * height))
    kept[:VOID] &= score[:VOID] >= min_stuff_score
    kept[256:] &= score[256:] >= min_thing_score
    stuff = np.flatnonzero(kept[:VOID])
    things = np.flatnonzero(kept[256:]) + 256
    things = things[np.argsort(-score[things], kind='stable')[:max_instances]]
    keys = np.concatenate([stuff, things])

    id_of_key = np.zeros(count, np.uint16)
    id_of_key[things] = np.arange(1, len(things) + 1)
    class_of_key = np.full(count, VOID, np.uint8)
    class_of_key[stuff] = stuff
    class_of_key[things] = candidates.class_id[things - 256]
    ids = id_of_key[keys]
    segments = Segments(
        id=ids,
        class_id=class_of_key[keys],
        is_thing=keys >= 256,
        score=score[keys],
        area=area[keys],
        box_xyxy=box_of_key[keys],
        track_id=ids.astype(np.int32),
    )
    enlarged = Runs(
        row=runs.row,
        start=box_xyxy[0],
        stop=box_xyxy[2],
        semantic=class_of_key[key],
        instance=id_of_key[key],
        width=width,
        copies=np.diff(row),
    )
    return Panoptic.from_runs(enlarged, segments)


def _mean_confidence(
    runs: Runs, key: np.ndarray, count: int, heads: CentreHeads | MaskHeads
) -> np.ndarray:
    """Return the mean confidence of each key's cells, 0..1, float32 [count], 0 without cells."""
    height, width = heads.semantic.shape
    confidence = cv2.resize(
        heads.confidence, (width, height), interpolation=cv2.INTER_LINEAR
    ).ravel()
    begin = runs.row * width + runs.start
    total = np.bincount(
        key, weights=np.add.reduceat(confidence, begin, dtype=np.int64), minlength=count
    )
    cells = np.bincount(key, weights=runs.stop - runs.start, minlength=count)
    return (total / np.maximum(cells * 255, 1)).astype(np.float32)


# A network's grid and a camera's size hardly ever change, so what follows from them is kept.


@lru_cache(maxsize=8)
def _middles(cells: int, coarse_cells: int) -> np.ndarray:
    """Return where the middle of each cell lies in a coarser grid, float32 [cells], read-only."""
    # The middles of the outermost cells are half a cell from the border, in both grids.
    middles = ((np.arange(cells) + 0.5) * (coarse_cells / cells) - 0.5).astype(np.float32)
    middles.setflags(write=False)
    return middles


@lru_cache(maxsize=8)
def _first_pixel(cells: int, pixels: int) -> np.ndarray:
    """Return the first output pixel that shows each cell or a later one.

    intp [cells + 1], read-only.
    """
    grid = np.arange(cells, dtype=np.float32)[None]
    shown = cv2.resize(grid, (pixels, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]
    first = np.searchsorted(shown, np.arange(cells + 1))
    first.setflags(write=False)
    return first


def _check_image(name: str, image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 2 or not image.size:
        raise ValueError(f'{name} is {image.dtype} {image.shape}; expected uint8 [height, width]')


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f'{name} is {value}; expected a number from 0 to 1')


def _check_max_instances(value: int) -> None:
    if not 1 <= value <= 65535:
        raise ValueError(f'max_instances is {value}; expected 1..65535, the ids that fit uint16')
