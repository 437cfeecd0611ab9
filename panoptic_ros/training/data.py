"""Training examples: real and made images, augmented, with their targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from panoptic_ros.datasets import Sample
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import measure_segments
from panoptic_ros.training.losses import Batch, LossWeights
from panoptic_ros.training.targets import make_targets


@dataclass(frozen=True)
class Augmentation:
    """How a training image is varied.

    Parameters
    ----------
    crop_wh
        Size in pixels of what the network sees, multiples of 32.
    scale
        Range of the factor from the image's own size; below the size of the crop the rest is
        void.
    stretch
        Largest factor by which width and height are scaled apart, so that cameras of another
        aspect ratio still look familiar.
    brightness, contrast, saturation
        Largest relative change of each.
    gamma
        Largest factor by which the exponent of the brightness curve is varied, 1 or more.
    flip
        Probability of a mirror image.
    aim_share
        Probability that the crop is placed so that it contains a pixel of an object, each object
        as likely as the others; otherwise any place is as likely.
    turn
        Also turn by multiples of 90 degrees, for images without an upright direction.
    """

    crop_wh: tuple[int, int] = (512, 256)
    scale: tuple[float, float] = (0.7, 1.6)
    stretch: float = 1.2
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.3
    gamma: float = 1.0
    flip: float = 0.5
    aim_share: float = 0.0
    turn: bool = False

    def __post_init__(self) -> None:
        if any(size < 32 or size % 32 for size in self.crop_wh):
            raise ValueError(f'crop_wh is {self.crop_wh}; expected multiples of 32')
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f'scale is {self.scale}; expected two rising factors above 0')
        for name in ('stretch', 'gamma'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}; expected 1 or more')

    def apply(
        self,
        image_rgb: np.ndarray,
        semantic: np.ndarray,
        instance: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the varied image uint8 [h, w, 3], semantic uint8 and instance uint16 [h, w]."""
        if self.turn:
            quarters = rng.integers(4)
            image_rgb, semantic, instance = (
                np.ascontiguousarray(np.rot90(array, quarters))
                for array in (image_rgb, semantic, instance)
            )
        height, width = semantic.shape
        crop_w, crop_h = self.crop_wh
        scale = np.exp(rng.uniform(*np.log(self.scale)))
        stretch = np.exp(rng.uniform(-1, 1) * np.log(self.stretch) / 2)
        scale_x, scale_y = scale * stretch, scale / stretch
        left = rng.uniform(0, 1) * (width * scale_x - crop_w)
        top = rng.uniform(0, 1) * (height * scale_y - crop_h)
        if self.aim_share and rng.uniform() < self.aim_share:
            rows, columns = np.nonzero(instance == rng.integers(1, max(2, instance.max() + 1)))
            if len(rows):
                middle = rng.integers(len(rows))
                left = _start_near(columns[middle] * scale_x, crop_w, width * scale_x, rng)
                top = _start_near(rows[middle] * scale_y, crop_h, height * scale_y, rng)
        mirror = rng.uniform() < self.flip
        # One affine map from the crop's pixels to the image's does scale, crop and mirror.
        x_step = -1 / scale_x if mirror else 1 / scale_x
        x_start = (left + (crop_w - 1 if mirror else 0) + 0.5) / scale_x - 0.5
        y_start = (top + 0.5) / scale_y - 0.5
        to_image = np.array([[x_step, 0, x_start], [0, 1 / scale_y, y_start]])
        nearest = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        linear = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        if scale < 0.8:  # linear alone would skip pixels
            image_rgb = cv2.blur(image_rgb, (2, 2))
        image_rgb = cv2.warpAffine(
            image_rgb, to_image, self.crop_wh, flags=linear, borderValue=(127, 127, 127)
        )
        semantic = cv2.warpAffine(
            semantic, to_image, self.crop_wh, flags=nearest, borderValue=VOID
        )
        instance = cv2.warpAffine(instance, to_image, self.crop_wh, flags=nearest, borderValue=0)
        return self._vary_colour(image_rgb, rng), semantic, instance

    def _vary_colour(self, image_rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        brightness = 1 + rng.uniform(-1, 1) * self.brightness
        contrast = 1 + rng.uniform(-1, 1) * self.contrast
        saturation = 1 + rng.uniform(-1, 1) * self.saturation
        # Saturation mixes each pixel with its grey value, brightness and contrast act on all
        # channels alike: one 3x4 colour matrix.
        grey = np.array([0.299, 0.587, 0.114])
        matrix = saturation * np.eye(3) + (1 - saturation) * np.tile(grey, (3, 1))
        matrix *= brightness * contrast
        shift = 127 * (1 - contrast) * brightness
        if self.gamma > 1:
            gamma = np.exp(rng.uniform(-1, 1) * np.log(self.gamma))
            curve = 255 * (np.arange(256) / 255) ** gamma
            image_rgb = cv2.LUT(image_rgb, np.rint(curve).astype(np.uint8))
        return cv2.transform(image_rgb, np.column_stack([matrix, np.full(3, shift)]))


def _start_near(position: float, crop: int, size: float, rng: np.random.Generator) -> float:
    """Return where a crop that contains ``position`` starts; it stays inside if it fits."""
    start = position - rng.uniform(0, 1) * crop
    low, high = sorted((0.0, size - crop))
    return float(np.clip(start, low, high))


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
