"""From one picture to one panoptic map: resize, infer, fuse. Knows nothing of ROS."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter_ns
from typing import Any

import cv2
import numpy as np

from panoptic_ros.engines import Engine, infer_images
from panoptic_ros.errors import EngineError, FrameError, ModelError
from panoptic_ros.fusion import HEAD_KINDS, Fused, Fusion, Heads, QueryFusion, heads_of
from panoptic_ros.fusion.windows import CELL, Windows
from panoptic_ros.model import Model
from panoptic_ros.model.card import ModelCard
from panoptic_ros.model.resize import Resize
from panoptic_ros.panoptic import Panoptic

ENCODINGS = {'bgr8': cv2.COLOR_BGR2RGB, 'rgb8': None, 'mono8': cv2.COLOR_GRAY2RGB}
"""Encodings that :meth:`Segmenter.segment` takes, and OpenCV's conversion of each to RGB."""


@dataclass(frozen=True)
class StageTimes:
    """How long each stage of one frame took, nanoseconds."""

    preprocess_ns: int
    inference_ns: int
    fusion_ns: int

    @property
    def total_ns(self) -> int:
        """All stages together."""
        return self.preprocess_ns + self.inference_ns + self.fusion_ns


@dataclass(frozen=True, eq=False)
class Prepared:
    """One frame as the network takes it.

    Parameters
    ----------
    images
        uint8 [h, w, 3] RGB each, of the network's size: the frame, or its windows in reading order
        if the model's card has a scale.
    size_wh
        Width and height of the frame.
    preprocess_ns
        Time it took.
    """

    images: tuple[np.ndarray, ...]
    size_wh: tuple[int, int]
    preprocess_ns: int


@dataclass(frozen=True, eq=False)
class Inference:
    """Outputs of the network for one frame, by name for each image of :class:`Prepared`."""

    outputs: tuple[dict[str, np.ndarray], ...]
    prepared: Prepared
    inference_ns: int


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What one frame shows, at the frame's own size, and how long that took."""

    fused: Fused
    stages_ns: StageTimes

    @property
    def panoptic(self) -> Panoptic:
        """The panoptic map, at the frame's size."""
        return self.fused.panoptic

    def with_panoptic(self, panoptic: Panoptic) -> 'Segmentation':
        """Return the same with the panoptic map replaced by another of the same size."""
        return replace(self, fused=replace(self.fused, panoptic=panoptic))

    @property
    def confidence(self) -> np.ndarray:
        """How sure the network is, uint8 [H, W], 0..255; enlarged on first use."""
        return self.fused.confidence


class Segmenter:
    """Segment frames of any size with one model on one engine.

    Parameters
    ----------
    model
        Names the input size, the label set and the fusion thresholds.
    engine
        An engine that has this model open. The segmenter does not close it.
    fusion
        Replaces the thresholds of the model's card. The attribute of the same name may be
        replaced at any time, from any thread; it counts from the next frame on.
    fast_resize
        Sample where the card says to filter when a frame is reduced: some milliseconds faster,
        but the network sees aliases that it was not trained with.

    One thread at a time may call :meth:`segment`. Raises ModelError if the card's thresholds are
    not valid.
    """

    def __init__(
        self,
        model: Model,
        engine: Engine,
        fusion: Fusion | None = None,
        fast_resize: bool = False,
    ) -> None:
        self.model = model
        self.engine = engine
        self.fusion = card_fusion(model) if fusion is None else fusion
        self.resize = model.card.resize
        if fast_resize:
            self.resize = replace(self.resize, antialias=False)

    def segment(self, image: np.ndarray, encoding: str = 'bgr8') -> Segmentation:
        """Segment one frame.

        Parameters
        ----------
        image
            uint8 [H, W, 3], or [H, W] for mono8, any size, rows may be padded.
        encoding
            One of :data:`ENCODINGS`.

        Raises FrameError if the frame is not as above, EngineError if the engine fails.
        """
        return self.fuse(self.infer(self.prepare(image, encoding)))

    # The three steps of segment(). Each may run on a thread of its own: prepare() and fuse() use
    # nothing that infer() changes.

    def prepare(self, image: np.ndarray, encoding: str = 'bgr8') -> Prepared:
        """Return a frame as the network takes it; arguments and errors as in :meth:`segment`."""
        size_wh = check_frame(image, encoding)
        started_ns = perf_counter_ns()
        images = prepare_all(image, encoding, self.model.card, self.resize)
        return Prepared(tuple(images), size_wh, perf_counter_ns() - started_ns)

    def infer(self, prepared: Prepared) -> Inference:
        """Run the network on the thread that owns the engine; EngineError if the engine fails."""
        return self.infer_all([prepared])[0]

    def infer_all(self, frames: Sequence[Prepared]) -> list[Inference]:
        """Run the network on several frames, as many images at once as the engine can.

        Each one has the time of all.
        """
        started_ns = perf_counter_ns()
        images = [image for frame in frames for image in frame.images]
        outputs = iter(infer_images(self.engine, images))
        by_frame = [tuple(islice(outputs, len(frame.images))) for frame in frames]
        inference_ns = perf_counter_ns() - started_ns
        return [
            Inference(of_frame, frame, inference_ns)
            for of_frame, frame in zip(by_frame, frames, strict=True)
        ]

    def fuse(self, inference: Inference, fusion: Fusion | None = None) -> Segmentation:
        """Return the panoptic map from the outputs of the network.

        ``fusion`` replaces the attribute of that name. Raises EngineError if the outputs cannot be
        used.
        """
        started_ns = perf_counter_ns()
        size_wh = inference.prepared.size_wh
        windows = windows_of(self.model.card, size_wh)
        # The card's head kind decides the class of the heads and of the fusion alike.
        used: Any = self.fusion if fusion is None else fusion
        if windows is not None:
            used = windows.rescale(used)
        heads: Any = self._heads(inference.outputs, windows)
        if isinstance(used, QueryFusion):
            extent_wh = self.resize.extent_wh(size_wh, self.model.card.size_wh)
            fused = used(heads, self.model.label_set, size_wh, extent_wh)
        else:
            fused = used(heads, self.model.label_set, size_wh)
        return Segmentation(
            fused,
            StageTimes(
                preprocess_ns=inference.prepared.preprocess_ns,
                inference_ns=inference.inference_ns,
                fusion_ns=perf_counter_ns() - started_ns,
            ),
        )

    def _heads(self, outputs: Sequence[dict[str, np.ndarray]], windows: Windows | None) -> Heads:
        for each in outputs:
            _require_numbers(each, self.engine.description.name)
        try:
            heads: list[Any] = [heads_of(self.model.card.head, each) for each in outputs]
            return heads[0] if windows is None else windows.merge(heads)
        except ValueError as error:
            name = self.engine.description.name
            raise EngineError(
                f'engine {name} gave unusable outputs ({error}); choose another engine'
            ) from error


def _require_numbers(outputs: dict[str, np.ndarray], engine_name: str) -> None:
    """Raise EngineError if an output has a NaN: fusion would return a map that is void."""
    for name, array in outputs.items():
        if array.dtype.kind != 'f' or not array.size:
            continue
        # The maximum is NaN if any value is. float16 has no fast maximum.
        if np.isnan(array.astype(np.float32, copy=False).max()):
            raise EngineError(
                f'engine {engine_name} gave NaN in output {name!r}; choose another engine or '
                'precision, or export the model again'
            )


def windows_of(card: ModelCard, size_wh: tuple[int, int]) -> Windows | None:
    """Return the windows of a frame of this size; None if the network sees it as a whole."""
    if card.scale is None:
        return None
    width, height = (max(1, round(side * card.scale / CELL)) for side in size_wh)
    window_wh = (card.size_wh[0] // CELL, card.size_wh[1] // CELL)
    return Windows((width, height), window_wh, overlap=min(window_wh) // 4)


def prepare_all(
    image: np.ndarray, encoding: str, card: ModelCard, resize: Resize | None = None
) -> list[np.ndarray]:
    """Return everything the network has to see of a frame, each as :func:`prepare` does.

    That is the frame itself, or its windows in reading order if the card has a scale. Windows
    that extend beyond the frame are filled with its mirror image. ``resize`` replaces the card's.
    """
    windows = windows_of(card, check_frame(image, encoding))
    if windows is None:
        return [prepare(image, encoding, card.size_wh, resize or card.resize)]
    scaled_wh = windows.cells_wh[0] * CELL, windows.cells_wh[1] * CELL
    pixels = prepare(image, encoding, scaled_wh)
    width, height = card.size_wh
    right, bottom = max(0, width - scaled_wh[0]), max(0, height - scaled_wh[1])
    if right or bottom:
        pixels = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)
    corners = [(x.start * CELL, y.start * CELL) for x, y in windows.spans]
    return [np.ascontiguousarray(pixels[y : y + height, x : x + width]) for x, y in corners]


def prepare(
    image: np.ndarray, encoding: str, size_wh: tuple[int, int], resize: Resize | None = None
) -> np.ndarray:
    """Return a frame as networks take it: uint8 [H, W, 3] RGB of their size, C-contiguous.

    ``image`` and ``encoding`` are as in :meth:`Segmenter.segment`; ``resize`` None stretches.
    """
    image = (resize or Resize()).apply(image, size_wh)
    # After the resize, when there are fewer pixels to convert.
    to_rgb = ENCODINGS[encoding]
    return np.ascontiguousarray(image) if to_rgb is None else cv2.cvtColor(image, to_rgb)


def card_fusion(model: Model) -> Fusion:
    """Return the fusion with the thresholds of a model's card.

    Raises ModelError if the card names an unknown threshold or gives one a value out of range.
    """
    _, fusion_class = HEAD_KINDS[model.card.head]
    try:
        return fusion_class(**model.card.fusion)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f'the card of model {model.card.name!r} has unusable fusion thresholds: {error}'
        ) from error


def check_frame(image: np.ndarray, encoding: str) -> tuple[int, int]:
    """Return width and height of a frame; raise FrameError unless it can be segmented."""
    if encoding not in ENCODINGS:
        raise FrameError(
            f'the frame has encoding {encoding!r}; expected one of {", ".join(ENCODINGS)}'
        )
    shape_fits = image.ndim == 2 if encoding == 'mono8' else image.shape[2:] == (3,)
    if image.dtype != np.uint8 or not shape_fits or image.size == 0:
        expected = '[H, W]' if encoding == 'mono8' else '[H, W, 3]'
        raise FrameError(
            f'the frame is {image.dtype} {image.shape}; encoding {encoding} needs uint8 '
            f'{expected}, not empty'
        )
    height, width = image.shape[:2]
    return width, height
