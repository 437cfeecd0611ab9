"""Training targets for classes, centres and offsets from panoptic maps."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from panoptic_ros.labels import VOID
from panoptic_ros.training.loss_weights import LossWeights

STRIDE = 4
"""Pixels per cell of the heads' grid."""

_AROUND = 9  # pixels, side of the window that is "around" a pixel of a small segment


class CentreTargets(NamedTuple):
    """The truth of a batch in the form the losses take."""

    semantic: Tensor
    """uint8 [N, H, W], class id, 255 is ignored."""
    pixel_weight: Tensor
    """float32 [N, H, W], weight of each pixel in the semantic loss."""
    centre: Tensor
    """float32 [N, h, w], 1 at the centre of each object, falling off as a Gaussian."""
    centre_weight: Tensor
    """float32 [N, h, w], 0 where it is unknown whether there is a centre (void, crowds)."""
    offset_xy: Tensor
    """float32 [N, 2, h, w], cells from each cell to the centre of its object."""
    offset_weight: Tensor
    """float32 [N, h, w], 0 off the objects; 1 on them, or the weight of their size."""


def make_targets(semantic: Tensor, instance: Tensor, weights: LossWeights) -> CentreTargets:
    """Turn panoptic maps into training targets, on the device they are on.

    Parameters
    ----------
    semantic
        uint8 [N, H, W], H and W multiples of 4.
    instance
        int16 [N, H, W]: 0 for stuff and void, -1 for groups of objects (crowds).
    weights
        ``small_area``, ``small_weight`` and ``by_segment`` determine the weights of pixels.
    """
    ids = instance.long().clamp(min=0)
    batch, count = len(ids), int(ids.max()) + 1
    first = count * torch.arange(batch, device=ids.device)
    index = ids + first[:, None, None]  # of the object among those of all images

    image, row, column = torch.nonzero(ids, as_tuple=True)
    of_object = index[image, row, column]

    def sum_by_object(values: Tensor) -> Tensor:
        """Return int64 [N, ids]: sums of float32 would depend on their order."""
        sums = torch.zeros(batch * count, dtype=torch.int64, device=ids.device)
        return sums.scatter_add_(0, of_object, values).view(batch, count)

    area = sum_by_object(torch.ones_like(row)).float()
    safe_area = area.clamp(min=1.0)
    # Centres of mass in cells; a cell's own coordinate is that of its middle.
    centre_x = _to_cells(sum_by_object(column) / safe_area)
    centre_y = _to_cells(sum_by_object(row) / safe_area)

    every = slice(STRIDE // 2, None, STRIDE)
    cells = (slice(None), every, every)
    cell_semantic, cell_instance, cell_index = semantic[cells], instance[cells], index[cells]
    is_object = cell_instance > 0
    grid_x = torch.arange(cell_index.shape[2], dtype=torch.float32, device=semantic.device)
    grid_y = torch.arange(cell_index.shape[1], dtype=torch.float32, device=semantic.device)
    offset_xy = torch.stack(
        [
            centre_x.flatten()[cell_index] - grid_x,
            centre_y.flatten()[cell_index] - grid_y[:, None],
        ],
        dim=1,
    )

    pixel_weight = _segment_weight(semantic, instance, index, area, weights.small_area)
    cell_weight = is_object.float()
    if weights.by_segment:
        cell_weight = cell_weight * pixel_weight[cells].clamp(max=weights.small_weight)
        pixel_weight = pixel_weight.clamp(1.0, weights.small_weight)
        # Pixels around a segment get half its weight: with only its own pixels weighted, a pole
        # is predicted too wide.
        around = F.max_pool2d(pixel_weight, (_AROUND, 1), 1, (_AROUND // 2, 0))
        around = F.max_pool2d(around, (1, _AROUND), 1, (0, _AROUND // 2))
        pixel_weight = torch.maximum(pixel_weight, around / 2)
    else:
        is_small = (instance > 0) & (area.flatten()[index] < weights.small_area)
        pixel_weight = torch.where(is_small, weights.small_weight, 1.0)

    is_unknown = (cell_semantic == VOID) | (cell_instance < 0)
    return CentreTargets(
        semantic=semantic,
        pixel_weight=pixel_weight,
        centre=_draw_centres(centre_x, centre_y, area, grid_x, grid_y),
        centre_weight=(~is_unknown).float(),
        offset_xy=offset_xy,
        offset_weight=cell_weight,
    )


def _draw_centres(
    centre_x: Tensor, centre_y: Tensor, area: Tensor, grid_x: Tensor, grid_y: Tensor
) -> Tensor:
    """Return the heatmap [N, h, w] of objects with centres and areas [N, ids]."""
    # A tenth of the object's size, at least about a cell, and narrow enough to keep the peaks of
    # neighbours in a row of parked cars apart.
    sigma = (0.1 * area.sqrt() / STRIDE).clamp(0.8, 3.0)[..., None]
    falloff_x = (-0.5 * ((grid_x - centre_x.round()[..., None]) / sigma).square()).exp()
    falloff_y = (-0.5 * ((grid_y - centre_y.round()[..., None]) / sigma).square()).exp()
    falloff_x = falloff_x * (area > 0)[..., None]
    heatmap = falloff_x.new_zeros(len(area), len(grid_y), len(grid_x))
    # One id of all images at a time: all at once would need a map for each object.
    for id_ in range(1, area.shape[1]):
        one = falloff_y[:, id_, :, None] * falloff_x[:, id_, None, :]
        torch.maximum(heatmap, one, out=heatmap)
    return heatmap


def _segment_weight(
    semantic: Tensor, instance: Tensor, index: Tensor, area: Tensor, small_area: int
) -> Tensor:
    """Return sqrt(small_area / area of the segment) for every pixel; 0 for void and crowds."""
    batch = len(semantic)
    key = semantic.long() + 256 * torch.arange(batch, device=semantic.device)[:, None, None]
    stuff_area = torch.bincount(key[instance == 0], minlength=256 * batch).float()
    pixel_area = torch.where(instance > 0, area.flatten()[index], stuff_area[key])
    is_known = (instance >= 0) & ((instance > 0) | (semantic != VOID))
    return (small_area / pixel_area.clamp(min=1.0)).sqrt() * is_known


def _to_cells(pixels: Tensor) -> Tensor:
    return ((pixels + 0.5) / STRIDE - 0.5).float()
