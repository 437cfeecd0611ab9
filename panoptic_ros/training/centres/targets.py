"""Training targets for classes, centres and offsets from a panoptic map."""

from dataclasses import dataclass

import cv2
import numpy as np

from panoptic_ros.labels import VOID

STRIDE = 4
"""Pixels per cell of the heads' grid."""

_AROUND = 9  # pixels, side of the window that is "around" a pixel of a small segment


@dataclass(frozen=True, eq=False)
class Targets:
    """The truth of one image in the form the losses take.

    Parameters
    ----------
    semantic
        uint8 [H, W], class id, 255 is ignored.
    pixel_weight
        float32 [H, W], weight of each pixel in the semantic loss.
    centre
        float32 [h, w], 1 at the centre of each object, falling off as a Gaussian.
    centre_weight
        float32 [h, w], 0 where it is unknown whether there is a centre (void, crowds).
    offset_xy
        float32 [2, h, w], cells from each cell to the centre of its object.
    offset_weight
        float32 [h, w], 0 off the objects; 1 on them, or the weight of their size.
    """

    semantic: np.ndarray
    pixel_weight: np.ndarray
    centre: np.ndarray
    centre_weight: np.ndarray
    offset_xy: np.ndarray
    offset_weight: np.ndarray


def make_targets(
    semantic: np.ndarray,
    instance: np.ndarray,
    is_crowd: np.ndarray,
    *,
    small_area: int = 400,
    small_weight: float = 3.0,
    by_segment: bool = False,
) -> Targets:
    """Turn a panoptic map into training targets.

    Parameters
    ----------
    semantic
        uint8 [H, W], H and W multiples of 4.
    instance
        uint16 [H, W], 0 for stuff and void.
    is_crowd
        bool [ids], True for instance ids that stand for a group of objects.
    small_area, small_weight, by_segment
        Weights of pixels in the semantic loss; see
        :class:`~panoptic_ros.training.loss_weights.LossWeights`.
    """
    height, width = semantic.shape
    ids = instance.ravel()
    count = len(is_crowd)
    area = np.bincount(ids, minlength=count).astype(np.float32)
    is_object = (area > 0) & ~is_crowd
    is_object[0] = False

    cell_weight = np.ones((height // STRIDE, width // STRIDE), np.float32)
    if by_segment:
        pixel_weight = _segment_weight(semantic, instance, area, is_object, small_area)
        cell_weight = pixel_weight[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
        cell_weight = np.minimum(cell_weight, small_weight)
        pixel_weight = np.clip(pixel_weight, 1.0, small_weight)
        # Pixels around a segment get half its weight: with only its own pixels weighted, a pole
        # is predicted too wide.
        around = cv2.dilate(pixel_weight, np.ones((_AROUND, _AROUND), np.uint8))
        pixel_weight = np.maximum(pixel_weight, around / 2)
    else:
        weight_of_id = np.where(is_object & (area < small_area), small_weight, 1.0)
        pixel_weight = weight_of_id.astype(np.float32)[instance]

    # Centres of mass in cells; a cell's own coordinate is that of its middle.
    columns = np.tile(np.arange(width, dtype=np.float32), height)
    rows = np.repeat(np.arange(height, dtype=np.float32), width)
    safe_area = np.maximum(area, 1.0)
    centre_x = _to_cells(np.bincount(ids, columns, count) / safe_area)
    centre_y = _to_cells(np.bincount(ids, rows, count) / safe_area)

    cell_instance = instance[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    h, w = cell_instance.shape
    grid_x = np.arange(w, dtype=np.float32)
    grid_y = np.arange(h, dtype=np.float32)
    offset_xy = np.stack(
        [centre_x[cell_instance] - grid_x, centre_y[cell_instance] - grid_y[:, None]]
    )

    objects = np.flatnonzero(is_object)
    # A tenth of the object's size, at least about a cell, and narrow enough to keep the peaks of
    # neighbours in a row of parked cars apart.
    sigma = np.clip(0.1 * np.sqrt(area[objects]) / STRIDE, 0.8, 3.0)[:, None]
    peak_x = np.rint(centre_x[objects])[:, None]
    peak_y = np.rint(centre_y[objects])[:, None]
    falloff_x = np.exp(-0.5 * ((grid_x - peak_x) / sigma) ** 2)
    falloff_y = np.exp(-0.5 * ((grid_y - peak_y) / sigma) ** 2)
    centre = (falloff_y[:, :, None] * falloff_x[:, None, :]).max(axis=0, initial=0.0)

    cell_semantic = semantic[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    is_unknown = (cell_semantic == VOID) | is_crowd[cell_instance]
    return Targets(
        semantic=semantic,
        pixel_weight=pixel_weight,
        centre=centre.astype(np.float32),
        centre_weight=(~is_unknown).astype(np.float32),
        offset_xy=offset_xy.astype(np.float32),
        offset_weight=is_object[cell_instance] * cell_weight,
    )


def _segment_weight(
    semantic: np.ndarray,
    instance: np.ndarray,
    area: np.ndarray,
    is_object: np.ndarray,
    small_area: int,
) -> np.ndarray:
    """Return sqrt(small_area / area of the segment) for every pixel; 0 for void and crowds."""
    rest_area = np.bincount(semantic[instance == 0], minlength=256).astype(np.float32)
    rest_area[VOID] = np.inf
    object_area = np.where(is_object, area, np.inf).astype(np.float32)
    pixel_area = np.where(instance > 0, object_area[instance], rest_area[semantic])
    return np.sqrt(small_area / np.maximum(pixel_area, 1.0))


def _to_cells(pixels: np.ndarray) -> np.ndarray:
    return ((pixels + 0.5) / STRIDE - 0.5).astype(np.float32)
