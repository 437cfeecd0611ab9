"""Semantic map and instance masks to a panoptic map (Panoptic FPN, COCO panoptic tools)."""

from dataclasses import dataclass

import numpy as np

from panoptic_ros.errors import LabelSetError
from panoptic_ros.fusion.common import Fused, check_fraction, check_image, check_max_instances
from panoptic_ros.fusion.grid import Candidates, fuse_grid
from panoptic_ros.labels import LabelSet
from panoptic_ros.runs import Runs


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
        bool or uint8 [N, h, w], the instance masks, 0 outside; they may overlap.
    class_id
        Integers [N], the thing class of each mask.
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
        check_image('MaskHeads.semantic', self.semantic)
        check_image('MaskHeads.confidence', self.confidence)
        count = len(self.score)
        for name, kinds, shape in (
            ('mask', 'bu', (count, *self.semantic.shape)),
            ('class_id', 'iu', (count,)),
            ('score', 'f', (count,)),
        ):
            value = getattr(self, name)
            if value.shape != shape or value.dtype.kind not in kinds:
                expected = {'bu': 'uint8', 'iu': 'int32', 'f': 'float32'}[kinds]
                raise ValueError(
                    f'MaskHeads.{name} is {value.dtype} {value.shape}; expected {expected} {shape}'
                )
        if count and not 0 <= self.class_id.min() <= self.class_id.max() <= 255:
            raise ValueError(
                f'MaskHeads.class_id has {self.class_id.min()}..{self.class_id.max()}; expected '
                '0..255'
            )


@dataclass(frozen=True)
class MaskFusion:
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
            check_fraction(name, getattr(self, name))
        check_max_instances(self.max_instances)

    def __call__(self, heads: MaskHeads, label_set: LabelSet, size_wh: tuple[int, int]) -> Fused:
        """Return the panoptic map of one image at ``size_wh`` (width, height) pixels.

        Raises LabelSetError if the semantic map has a class id that the label set lacks, or a
        mask has one that is not a thing there.
        """
        chosen = np.flatnonzero(heads.score >= self.score_threshold)
        chosen = chosen[np.argsort(-heads.score[chosen], kind='stable')]
        class_id = heads.class_id[chosen]
        wrong = class_id[~label_set.is_thing[class_id]]
        if len(wrong):
            raise LabelSetError(
                f'the instance masks have class ids {sorted(set(wrong.tolist()))}, which are no '
                f'things in label set {label_set.name!r}; choose the label set the model was '
                'trained with'
            )
        owner = _claim(heads.mask, chosen, self.min_kept_fraction)
        runs = Runs.of(heads.semantic, owner)
        panoptic = fuse_grid(
            runs,
            runs.sample(heads.semantic),
            runs.sample(owner),
            heads.confidence,
            Candidates(
                class_id=class_id.astype(np.uint8),
                evidence=heads.score[chosen].astype(np.float32),
                min_area=np.zeros(len(chosen)),
            ),
            label_set,
            size_wh,
            min_stuff_area_fraction=self.min_stuff_area_fraction,
            max_instances=self.max_instances,
        )
        return Fused(panoptic, heads.confidence)


def _claim(mask: np.ndarray, order: np.ndarray, min_kept_fraction: float) -> np.ndarray:
    """Let masks claim cells one after the other; return 1 + the place in ``order``, 0 for none.

    Whether a mask is dropped depends on the masks before it, so the rule is sequential. Each step
    reads only the bounding box of its mask.
    """
    owner = np.zeros(mask.shape[1:], np.uint16)
    for number, index in enumerate(order, start=1):
        # Not cv2.boundingRect: OpenCV 4.6, Ubuntu 24.04's, misses parts of masks below 8 columns.
        rows = np.flatnonzero(mask[index].any(axis=1))
        if not len(rows):
            continue
        columns = np.flatnonzero(mask[index].any(axis=0))
        inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        own = mask[index][inside] != 0
        box = owner[inside]
        claimed = own & (box == 0)
        if np.count_nonzero(claimed) >= min_kept_fraction * np.count_nonzero(own):
            box[claimed] = number
    return owner
