"""Queries with class and mask logits to a panoptic map (DETR, MaskFormer, Mask2Former, EoMT)."""

from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np

from panoptic_ros.errors import LabelSetError
from panoptic_ros.fusion.common import (
    FIRST_OBJECT,
    Fused,
    build_panoptic,
    check_fraction,
    check_image,
    check_max_instances,
    void_panoptic,
)
from panoptic_ros.fusion.grid import Candidates, fuse_grid, majority_class, number_patches
from panoptic_ros.fusion.ownership import Assignment, own_pixels
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.runs import Runs


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


NOBODY = 255
"""Owner of the pixels that no query owns, in :class:`QueryMaps`."""


@dataclass(frozen=True, eq=False)
class QueryMaps:
    """The outputs of a network with object queries whose graph assigns pixels to queries.

    Parameters
    ----------
    owner
        uint8 [H, W], the query that owns each pixel, :data:`NOBODY` for none.
    confidence
        uint8 [h, w], 0..255, the largest weighted probability.
    class_id
        int32 [Q], the likeliest class of each query.
    score
        float [Q], its probability.
    owned_area
        int32 [Q], pixels where the query has the largest value, above the threshold or not.
    mask_area
        int32 [Q], pixels where the mask is above the threshold of the rule.

    Raises ValueError if a shape or dtype differs.
    """

    owner: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray
    score: np.ndarray
    owned_area: np.ndarray
    mask_area: np.ndarray

    def __post_init__(self) -> None:
        check_image('QueryMaps.owner', self.owner)
        check_image('QueryMaps.confidence', self.confidence)
        count = len(self.score)
        for name in ('class_id', 'score', 'owned_area', 'mask_area'):
            kinds = 'f' if name == 'score' else 'iu'
            column = getattr(self, name)
            if column.shape != (count,) or column.dtype.kind not in kinds:
                raise ValueError(
                    f'QueryMaps.{name} is {column.dtype} {column.shape}; expected '
                    f'{"float32" if kinds == "f" else "int32"} ({count},)'
                )
        if count > NOBODY:
            raise ValueError(f'QueryMaps has {count} queries; expected {NOBODY} at most')


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
            check_fraction(name, getattr(self, name))
        if self.mask_threshold == 0:
            raise ValueError('mask_threshold is 0; expected a number above 0, up to 1')
        if not 0 <= self.logit_grid <= 4096 or self.logit_grid != int(self.logit_grid):
            raise ValueError(f'logit_grid is {self.logit_grid}; expected 0 (none) or 1..4096')
        check_max_instances(self.max_instances)
        if self.rule not in RULES:
            raise ValueError(f'rule is {self.rule!r}; expected one of {", ".join(RULES)}')

    def __call__(
        self,
        heads: QueryHeads | QueryMaps,
        label_set: LabelSet,
        size_wh: tuple[int, int],
        extent_wh: tuple[float, float] = (1.0, 1.0),
    ) -> Fused:
        """Return the panoptic map of one image at ``size_wh`` (width, height) pixels.

        ``extent_wh`` is the part of the masks that shows the image, from the upper left corner;
        the rest is padding. Raises LabelSetError if the number of classes is not that of the label
        set.
        """
        if isinstance(heads, QueryMaps):
            return self._fuse_maps(heads, label_set, size_wh, extent_wh)
        classes = heads.class_logits.shape[1] - 1
        if classes != len(label_set):
            raise LabelSetError(
                f'the queries know {classes} classes and "no object", label set '
                f'{label_set.name!r} has {len(label_set)}: choose the label set the model was '
                'trained with'
            )
        assignment = RULES[self.rule]
        if assignment is Assignment.RAW:
            return self._fuse_classes(heads, label_set, size_wh, self.grid_side, extent_wh)
        score, class_id = _most_likely(heads.class_logits.astype(np.float32, copy=False))
        chosen = np.flatnonzero((class_id < classes) & (score > self.score_threshold))
        score, class_id = score[chosen], class_id[chosen]
        logit = heads.mask_logits[chosen].astype(np.float32, copy=False)
        if not len(chosen):
            return Fused(void_panoptic(size_wh), np.zeros(logit.shape[1:], np.uint8))
        owner, mask_area, confidence, is_above = own_pixels(
            logit, score, size_wh, self.mask_threshold, self.grid_side, assignment, extent_wh
        )
        runs = Runs.of(owner) if is_above is None else Runs.of(owner, is_above)
        query = runs.sample(owner)
        is_kept = self._keep(np.bincount(query, runs.length, len(chosen)), mask_area)
        if is_above is not None:
            # One more query, which has no segment.
            query = np.where(runs.sample(is_above), query, len(chosen))
        owned_area = np.bincount(query, runs.length, len(chosen) + 1)[: len(chosen)]
        panoptic = self._panoptic(runs, query, is_kept, class_id, score, label_set, owned_area)
        return Fused(panoptic, _coarse_confidence(confidence, extent_wh))

    @property
    def grid_side(self) -> int:
        """Side of the square that the logits are enlarged to first, cells; 0 for none."""
        return int(self.logit_grid) or (384 if self.rule == 'mask2former' else 0)

    def _keep(self, owned_area: np.ndarray, mask_area: np.ndarray) -> np.ndarray:
        """Return which queries keep their pixels, bool [Q]."""
        if RULES[self.rule] is Assignment.FIRST:
            return owned_area > 0
        # Divided in float32 and compared in float64, as PyTorch does.
        kept_fraction = owned_area.astype(np.float32) / np.maximum(mask_area, 1).astype(np.float32)
        return (mask_area > 0) & (kept_fraction.astype(np.float64) > self.min_kept_fraction)

    def _panoptic(
        self,
        runs: Runs,
        query: np.ndarray,
        is_kept: np.ndarray,
        class_id: np.ndarray,
        score: np.ndarray,
        label_set: LabelSet,
        owned_area: np.ndarray,
    ) -> Panoptic:
        """Merge the queries of each stuff class and build the map.

        ``query`` is [runs], 0..Q, where Q is no query; the columns are [Q].
        """
        is_thing = label_set.is_thing[class_id]
        key_of_query = np.where(is_thing, np.arange(len(class_id)) + FIRST_OBJECT, class_id)
        key_of_query[~is_kept] = VOID
        key = np.append(key_of_query, VOID)[query]
        count = FIRST_OBJECT + len(class_id)
        area, box_xyxy = runs.measure(key, count)
        # The score of stuff is the mean of its queries, weighted by pixels.
        total = np.bincount(key_of_query, owned_area, count)
        mean_score = np.bincount(key_of_query, score * owned_area, count) / np.maximum(total, 1)
        mean_score[FIRST_OBJECT:] = score
        is_present = area > 0
        is_present[VOID] = False
        return build_panoptic(
            runs,
            key,
            is_present,
            class_id.astype(np.uint8),
            mean_score,
            area,
            box_xyxy,
            self.max_instances,
        )

    def _fuse_maps(
        self,
        maps: QueryMaps,
        label_set: LabelSet,
        size_wh: tuple[int, int],
        extent_wh: tuple[float, float],
    ) -> Fused:
        owner = _crop(maps.owner, extent_wh)
        confidence = _crop(maps.confidence, extent_wh)
        if RULES[self.rule] is Assignment.RAW:
            return self._fuse_class_map(owner, confidence, label_set, size_wh)
        count = len(maps.score)
        is_kept = self._keep(maps.owned_area, maps.mask_area)
        is_kept &= maps.class_id < len(label_set)
        class_id = np.minimum(maps.class_id, VOID)
        # Queries of one stuff class become one before runs are made, and dropped ones nobody.
        first_of_class = np.full(VOID + 1, NOBODY)
        first_of_class[class_id[is_kept][::-1]] = np.flatnonzero(is_kept)[::-1]
        segment = np.full(256, NOBODY, np.uint8)
        is_thing = label_set.is_thing[class_id]
        segment[:count] = np.where(is_thing, np.arange(count), first_of_class[class_id])
        segment[:count][~is_kept] = NOBODY
        owner = cv2.LUT(owner, segment)
        runs = Runs.of(owner)
        query = np.minimum(runs.sample(owner), count)
        resized = runs if runs.size_wh == size_wh else runs.resized(size_wh)
        panoptic = self._panoptic(
            resized, query, is_kept, class_id, maps.score, label_set, maps.owned_area
        )
        return Fused(panoptic, confidence)

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
        owner = own_pixels(
            logit, weight, size_wh, 0.5, logit_grid, Assignment.RAW, extent_wh
        ).owner
        if self.rule == 'semantic':
            likely = 1 / np.exp(logit - logit.max(axis=0)).sum(axis=0)
        else:
            likely = logit.max(axis=0).clip(0, 1)
        confidence = _coarse_confidence(likely, extent_wh)
        return self._fuse_class_map(owner.astype(np.uint8), confidence, label_set, size_wh)

    def _fuse_class_map(
        self,
        semantic: np.ndarray,
        confidence: np.ndarray,
        label_set: LabelSet,
        size_wh: tuple[int, int],
    ) -> Fused:
        """Make connected patches of thing classes instances."""
        instance = np.zeros(semantic.shape, np.int32)
        count = number_patches(label_set.is_thing[semantic], semantic, instance, 0)
        runs = Runs.of(semantic, instance)
        class_id, patch = runs.sample(semantic), runs.sample(instance)
        panoptic = fuse_grid(
            runs,
            class_id,
            patch,
            confidence,
            Candidates(
                class_id=majority_class(runs, class_id, patch, count),
                evidence=np.ones(count, np.float32),
                min_area=np.zeros(count),
            ),
            label_set,
            size_wh,
            min_stuff_area_fraction=0.0,
            max_instances=self.max_instances,
        )
        return Fused(panoptic, confidence)


RULES = MappingProxyType(
    {
        'detr': Assignment.PROBABILITY,
        'mask2former': Assignment.PROBABILITY,
        'eomt': Assignment.LOGIT,
        'rf_detr': Assignment.FIRST,
        'semantic': Assignment.RAW,
        'mask_sum': Assignment.RAW,
    }
)
"""The rules of :class:`QueryFusion`, and what the masks compete with in each."""


def _coarse_confidence(confidence: np.ndarray, extent_wh: tuple[float, float]) -> np.ndarray:
    """Return probabilities of the part that shows the image in 255 steps, uint8."""
    return np.rint(_crop(confidence, extent_wh) * 255).astype(np.uint8)


def _crop(image: np.ndarray, extent_wh: tuple[float, float]) -> np.ndarray:
    """Return the part of an image [h, w] that is not padding."""
    height, width = (
        max(1, round(side * extent))
        for side, extent in zip(image.shape, extent_wh[::-1], strict=True)
    )
    return np.ascontiguousarray(image[:height, :width])


def _most_likely(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest probability of each row and its column, float32 and intp [Q]."""
    largest = logits.argmax(axis=1)
    shifted = logits - np.take_along_axis(logits, largest[:, None], axis=1)
    return 1 / np.exp(shifted).sum(axis=1), largest
