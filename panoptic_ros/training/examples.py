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
from panoptic_ros.training.head_kinds import HEAD_KINDS
from panoptic_ros.training.loss_weights import LossWeights

_Maps = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Image uint8 [H, W, 3], semantic uint8 and instance uint16 [H, W], is_crowd bool [ids]."""

_Cutout = tuple[int, int, tuple[int, int, int, int]]
"""An object to paste: number of the image, instance id, box_xyxy."""


class TrainingExamples(Dataset):
    """An endless, repeatable stream: example ``i`` depends only on the seed and on ``i``.

    Parameters
    ----------
    real
        Labelled images. They are read each time they are shown, so that memory does not grow with
        the data set; reading one takes a few percent of its training step.
    head
        Kind of the targets, a key of :data:`~panoptic_ros.training.head_kinds.HEAD_KINDS`.
    made
        Synthetic images, rendered once and held in memory; one is shown with probability
        ``made_share``.
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
        head: str = 'centres',
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
        self.head = head
        self.made_share = made_share if len(made) else 0.0
        self.seed = seed
        self._real = real
        self._made = [
            _maps(s)
            for s in tqdm(made, desc='Rendering images', unit='image', disable=not len(made))
        ]
        self.paste_share = paste_share
        self._repeats = np.ones(len(real))
        self._cutouts: list[list[_Cutout]] = []
        if repeat_rare or repeat_crowded or paste_share:
            self._survey(repeat_rare, repeat_crowded)
        # Between the share of each class (few trains, many cars) and equal shares (one train a
        # hundred times).
        frequency = np.array([len(cutouts) for cutouts in self._cutouts]) ** 0.25
        self._cutout_share = frequency / frequency.sum()

    def _survey(self, repeat_rare: float, repeat_crowded: bool) -> None:
        """Read every image once: how often to show it, and which objects can be pasted."""
        shows = np.zeros((len(self._real), 256), bool)
        objects = np.zeros(len(self._real))
        by_class: dict[int, list[_Cutout]] = {}
        for number, sample in enumerate(tqdm(self._real, desc='Reading images', unit='image')):
            _, semantic, instance, is_crowd = _maps(sample)
            shows[number, np.unique(semantic)] = True
            objects[number] = len(is_crowd) - 1  # ids run from 1
            if self.paste_share:
                for class_id, instance_id, box in self._find_objects(semantic, instance, is_crowd):
                    by_class.setdefault(class_id, []).append((number, instance_id, box))
        self._repeats = repeat_factors(shows, repeat_rare)
        if repeat_crowded:
            objects = np.maximum(1, objects)
            self._repeats *= np.maximum(1.0, np.sqrt(objects / np.median(objects)))
        self._cutouts = [by_class[class_id] for class_id in sorted(by_class)]

    def _find_objects(
        self, semantic: np.ndarray, instance: np.ndarray, is_crowd: np.ndarray
    ) -> list[tuple[int, int, tuple[int, int, int, int]]]:
        """Return (class id, instance id, box_xyxy) of each object that can be pasted."""
        things = measure_segments(semantic, instance).things
        usable = (things.area >= self._PASTE_MIN_AREA) & (things.area <= semantic.size // 4)
        usable &= ~is_crowd[things.id] & self.label_set.is_thing[things.class_id]
        things = things.where(usable)
        boxes = map(tuple, things.box_xyxy.tolist())
        return list(zip(things.class_id.tolist(), things.id.tolist(), boxes, strict=True))

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        rng = np.random.default_rng([self.seed, index])
        if rng.uniform() < self.made_share:
            maps = self._made[rng.integers(len(self._made))]
        else:
            maps = _maps(self._real[self._pick(index)])
            if self._cutouts and rng.uniform() < self.paste_share:
                maps = self._paste(maps, rng)
        image_rgb, semantic, instance, is_crowd = maps
        image_rgb, semantic, instance = self.augmentation.apply(image_rgb, semantic, instance, rng)
        targets = HEAD_KINDS[self.head].targets(semantic, instance, is_crowd, self.losses)
        return (
            torch.from_numpy(np.ascontiguousarray(image_rgb.transpose(2, 0, 1))),
            *map(torch.from_numpy, targets),
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

    def _paste(self, maps: _Maps, rng: np.random.Generator) -> _Maps:
        image_rgb, semantic, instance, is_crowd = (array.copy() for array in maps)
        width = semantic.shape[1]
        for _ in range(rng.integers(1, self._PASTE_MOST + 1)):
            cutouts = self._cutouts[rng.choice(len(self._cutouts), p=self._cutout_share)]
            number, instance_id, (x0, y0, x1, y1) = cutouts[rng.integers(len(cutouts))]
            source_rgb, source_semantic, source_instance, _ = _maps(self._real[number])
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


def repeat_factors(shows: np.ndarray, repeat_rare: float) -> np.ndarray:
    """Return how often each image is shown in an epoch, float64 [images], 1 or more.

    ``shows`` is bool [images, 256]: whether an image shows a class. See ``repeat_rare`` in
    :class:`TrainingExamples`.
    """
    is_class = np.arange(256) != VOID
    fraction = np.maximum(shows.mean(0), 1e-9)
    factor = np.sqrt(np.maximum(1.0, repeat_rare / fraction))
    return np.where(shows & is_class, factor, 1.0).max(1)


def _maps(sample: Sample) -> _Maps:
    truth = sample.truth
    is_crowd = np.zeros(int(truth.instance.max(initial=0)) + 1, bool)
    is_crowd[sample.crowd_ids] = True
    return sample.image_rgb, truth.semantic, truth.instance, is_crowd
