"""How well the borders of segments are placed: metrics of the pixels close to them.

The band around the true borders is the trimap of Kohli et al., *Robust higher order potentials for
enforcing label consistency*, IJCV 2009.
"""

import cv2
import numpy as np

from panoptic_ros.errors import PanopticRosError
from panoptic_ros.labels import VOID
from panoptic_ros.panoptic import NO_INSTANCE, Panoptic
from panoptic_ros.runs import Runs


def near_borders(truth: Panoptic, radius_px: int) -> Panoptic:
    """Return a panoptic map that is void farther than ``radius_px`` from every border.

    A border pixel has a pixel of another segment, or void, above, below, left or right of it. A
    pixel is kept if a border pixel is less than ``radius_px`` away (Euclidean distance), so with
    radius 1 only border pixels are kept. Any metric of the result is one of the borders.

    Raises PanopticRosError if the radius is not above 0.
    """
    if radius_px < 1:
        raise PanopticRosError(
            f'the band of the borders is {radius_px} pixels wide; expected 1 or more'
        )
    segment = truth.runs.expand(truth.segment)
    is_border = np.zeros(segment.shape, bool)
    for axis in range(2):
        along = np.moveaxis(segment, axis, 0)
        border = np.moveaxis(is_border, axis, 0)
        changes = along[1:] != along[:-1]
        border[1:] |= changes
        border[:-1] |= changes
    if is_border.any():
        inner = (~is_border).astype(np.uint8)
        distance = cv2.distanceTransform(inner, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        is_kept = distance < radius_px
    else:
        is_kept = is_border
    segment = np.where(is_kept, segment, -1)
    runs = Runs.of(segment)
    row = runs.sample(segment)
    class_id = np.append(truth.segments.class_id, np.uint8(VOID))[row]
    instance_id = np.append(truth.segments.id, np.uint16(NO_INSTANCE))[row]
    return Panoptic.from_runs(runs, class_id, instance_id)
