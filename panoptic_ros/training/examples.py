"""Training examples: labelled images, augmented, with their targets."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from panoptic_ros.datasets import Sample
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import measure_segments
from panoptic_ros.training.augmentation import Augmentation
from panoptic_ros.training.losses import Batch, LossWeights
from panoptic_ros.training.targets import make_targets

_Held = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # image, semantic, instance, crowd


class TrainingExamples(Dataset):
    """An endless, repeatable stream: example ``i`` depends only on the seed and on ``i``.

    Parameters
    ----------
    real
        Labelled images; decoded once and held in memory.
    made
        Images mixed in, taken with probability ``made_share``.
    repeat_rare
        Classes that fewer than this fraction of the images show have those images repeated
        ``sqrt(repeat_rare / fraction)`` times (LVIS, arXiv 1908.03195); 0 repeats none.
    repeat_crowded
        Repeat images with more objects than the median ``sqrt(objects / median)`` times, because
        panoptic quality counts objects.
    paste_share
        Probability 0..1 that objects of other real images are pasted in, rare classes first
        (arXiv 2012.07177). They keep their height in the picture, and so a likely size and place.
    """

    _PASTE_MIN_AREA = 150  # pixels; what is smaller cannot be told from its background
    _PASTE_MOST = 3  # objects an image

    def __init__(
        self,
        real: Sequence[Sample],
        label_set: LabelSet,
        augmentation: Augmentation,
        losses: LossWeights,
        *,
        made: Sequence[Sample] = (),
        made_share: float = 0.0,
        repeat_rare: float = 0.0,
        repeat_crowded: bool = False,
        paste_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.label_set = label_set
        self.augmentation = augmentation
        self.losses = losses
        self.made_share = made_share if len(made) else 0.0
        self.seed = seed
        self._real = [_hold(s) for s in tqdm(real, desc='Reading images', unit='image')]
        self._made = [_hold(s) for s in tqdm(made, desc='Making images', unit='image')]
        self._repeats = repeat_factors([held[1] for held in self._real], repeat_rare)
        if repeat_crowded:
            # Ids run from 1; the last element of a held image has one entry an id.
            objects = np.array([max(1, len(held[3]) - 1) for held in self._real])
            self._repeats *= np.maximum(1.0, np.sqrt(objects / np.median(objects)))
        self.paste_share = paste_share
        self._cutouts = (
            _find_cutouts(self._real, label_set, self._PASTE_MIN_AREA) if paste_share else []
        )
        # Between as often as they are (few train, many cars) and all alike (one train a hundred
        # times).
        frequency = np.array([len(cutouts) for cutouts in self._cutouts]) ** 0.25
        self._cutout_share = frequency / frequency.sum()

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        rng = np.random.default_rng([self.seed, index])
        if rng.uniform() < self.made_share:
            held = self._made[rng.integers(len(self._made))]
        else:
            held = self._real[self._pick(index)]
            if self._cutouts and rng.uniform() < self.paste_share:
                held = self._paste(held, rng)
        image_rgb, semantic, instance, is_crowd = held
        image_rgb, semantic, instance = self.augmentation.apply(image_rgb, semantic, instance, rng)
        targets = make_targets(
            semantic,
            instance,
            is_crowd,
            small_area=self.losses.small_area,
            small_weight=self.losses.small_weight,
            by_segment=self.losses.by_segment,
        )
        return (
            torch.from_numpy(np.ascontiguousarray(image_rgb.transpose(2, 0, 1))),
            *(torch.from_numpy(getattr(targets, name)) for name in Batch._fields[1:]),
        )

    def _pick(self, index: int) -> int:
        """Return which real image is example ``index``: shuffled anew every epoch."""
        length = int(np.ceil(self._repeats.sum()))
        epoch, position = divmod(index, length)
        rng = np.random.default_rng([self.seed, epoch, 1])
        # An image is repeated as often as the whole part of its factor, and once more with the
        # probability of the rest.
        times = np.floor(self._repeats + rng.uniform(size=len(self._repeats))).astype(np.intp)
        order = np.resize(rng.permutation(np.repeat(np.arange(len(times)), times)), length)
        return int(order[position])

    def _paste(self, held: _Held, rng: np.random.Generator) -> _Held:
        image_rgb, semantic, instance, is_crowd = (array.copy() for array in held)
        width = semantic.shape[1]
        for _ in range(rng.integers(1, self._PASTE_MOST + 1)):
            cutouts = self._cutouts[rng.choice(len(self._cutouts), p=self._cutout_share)]
            number, instance_id, (x0, y0, x1, y1) = cutouts[rng.integers(len(cutouts))]
            source_rgb, source_semantic, source_instance, _ = self._real[number]
            if source_semantic.shape != semantic.shape:
                continue
            window = np.s_[y0:y1, x0:x1]
            mask = source_instance[window] == instance_id
            class_id = source_semantic[window][mask][0]
            picture = source_rgb[window]
            if rng.uniform() < 0.5:
                mask, picture = mask[:, ::-1], picture[:, ::-1]
            left = int(np.clip(x0 + rng.uniform(-0.3, 0.3) * width, 0, width - (x1 - x0)))
            target = np.s_[y0:y1, left : left + x1 - x0]
            image_rgb[target][mask] = picture[mask]
            semantic[target][mask] = class_id
            instance[target][mask] = len(is_crowd)
            is_crowd = np.append(is_crowd, False)
        return image_rgb, semantic, instance, is_crowd


def repeat_factors(semantic_maps: Sequence[np.ndarray], repeat_rare: float) -> np.ndarray:
    """Return how often each image is shown in an epoch, float64 [images], 1 or more.

    ``semantic_maps`` are uint8 [H, W]; see ``repeat_rare`` in :class:`TrainingExamples`.
    """
    shows = np.zeros((len(semantic_maps), 256), bool)
    for row, semantic in zip(shows, semantic_maps, strict=True):
        row[np.unique(semantic)] = True
    shows[:, VOID] = False
    fraction = np.maximum(shows.mean(0), 1e-9)
    factor = np.sqrt(np.maximum(1.0, repeat_rare / fraction))
    return np.where(shows, factor, 1.0).max(1)


def _find_cutouts(
    held: Sequence[_Held], label_set: LabelSet, min_area: int
) -> list[list[tuple[int, int, tuple[int, int, int, int]]]]:
    """Return, for each thing class that has any, its objects: (image, instance id, box_xyxy)."""
    by_class: dict[int, list[tuple[int, int, tuple[int, int, int, int]]]] = {}
    for number, (_, semantic, instance, is_crowd) in enumerate(held):
        things = measure_segments(semantic, instance).things
        usable = (things.area >= min_area) & (things.area <= semantic.size // 4)
        usable &= ~is_crowd[things.id] & label_set.is_thing[things.class_id]
        things = things.where(usable)
        for instance_id, class_id, box in zip(
            things.id.tolist(), things.class_id.tolist(), things.box_xyxy.tolist(), strict=True
        ):
            by_class.setdefault(class_id, []).append((number, instance_id, tuple(box)))
    return [by_class[class_id] for class_id in sorted(by_class)]


def _hold(sample: Sample) -> _Held:
    truth = sample.truth
    is_crowd = np.zeros(int(truth.instance.max(initial=0)) + 1, bool)
    is_crowd[sample.crowd_ids] = True
    return sample.image_rgb, truth.semantic, truth.instance, is_crowd
