"""Training examples: labelled images, augmented."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from panoptic_ros.datasets import Sample
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import measure_segments
from panoptic_ros.training.augmentation import Augmentation

_Maps = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Image uint8 [H, W, 3], semantic uint8 and instance int16 [H, W], -1 for crowds."""

_Cutout = tuple[int, int, tuple[int, int, int, int]]
"""An object to paste: number of the image, instance id, box_xyxy."""


class TrainingExamples(Dataset):
    """An endless, repeatable stream: example ``i`` depends only on the seed and on ``i``.

    An example is image uint8 [H, W, 3] RGB, semantic uint8 [H, W] and instance int16 [H, W], -1
    for crowds.

    Parameters
    ----------
    real
        Labelled images.
    in_memory
        Read the images once and hold them, 7 bytes a pixel. Otherwise they are read each time
        they are shown, which takes a few percent of a training step on a CPU.
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
        *,
        in_memory: bool = False,
        made: Sequence[Sample] = (),
        made_share: float = 0.0,
        repeat_rare: float = 0.0,
        repeat_crowded: bool = False,
        paste_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.label_set = label_set
        self.augmentation = augmentation
        self.made_share = made_share if len(made) else 0.0
        self.seed = seed
        self._real = real
        self._held = (
            [_maps(s) for s in tqdm(real, desc='Reading images', unit='image')]
            if in_memory
            else None
        )
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
        for number in tqdm(range(len(self._real)), desc='Finding objects', unit='image'):
            _, semantic, instance = self._maps_of(number)
            shows[number, np.unique(semantic)] = True
            objects[number] = instance.max()
            if self.paste_share:
                for class_id, instance_id, box in self._find_objects(semantic, instance):
                    by_class.setdefault(class_id, []).append((number, instance_id, box))
        self._repeats = repeat_factors(shows, repeat_rare)
        if repeat_crowded:
            objects = np.maximum(1, objects)
            self._repeats *= np.maximum(1.0, np.sqrt(objects / np.median(objects)))
        self._cutouts = [by_class[class_id] for class_id in sorted(by_class)]

    def _find_objects(
        self, semantic: np.ndarray, instance: np.ndarray
    ) -> list[tuple[int, int, tuple[int, int, int, int]]]:
        """Return (class id, instance id, box_xyxy) of each object that can be pasted."""
        things = measure_segments(semantic, instance.clip(0).astype(np.uint16)).things
        usable = (things.area >= self._PASTE_MIN_AREA) & (things.area <= semantic.size // 4)
        usable &= self.label_set.is_thing[things.class_id]
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
            maps = self._maps_of(self._pick(index))
            if self._cutouts and rng.uniform() < self.paste_share:
                maps = self._paste(maps, rng)
        image_rgb, semantic, instance = self.augmentation.apply(*maps, rng)
        return tuple(map(torch.from_numpy, (image_rgb, semantic, instance)))

    def _maps_of(self, number: int) -> _Maps:
        return self._held[number] if self._held is not None else _maps(self._real[number])

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
        image_rgb, semantic, instance = (array.copy() for array in maps)
        next_id = int(instance.max()) + 1
        width = semantic.shape[1]
        for _ in range(rng.integers(1, self._PASTE_MOST + 1)):
            cutouts = self._cutouts[rng.choice(len(self._cutouts), p=self._cutout_share)]
            number, instance_id, (x0, y0, x1, y1) = cutouts[rng.integers(len(cutouts))]
            source_rgb, source_semantic, source_instance = self._maps_of(number)
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
            instance[target][mask] = next_id
            next_id += 1
        return image_rgb, semantic, instance


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
    """Return the arrays of a sample; its objects are numbered from 1 without gaps."""
    truth = sample.truth
    is_object = np.bincount(truth.instance.ravel()) > 0
    is_object[0] = is_object[sample.crowd_ids] = False
    new_id = np.where(is_object, np.cumsum(is_object), -1).astype(np.int16)
    new_id[0] = 0
    return sample.image_rgb, truth.semantic, new_id[truth.instance]
