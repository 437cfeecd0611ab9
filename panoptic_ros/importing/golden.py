"""The golden queries of a model: small enough for its folder, enough to prove an engine."""

import io

import numpy as np
from scipy.special import softmax

from panoptic_ros.fusion import RULES
from panoptic_ros.fusion.ownership import Assignment

MAX_BYTES = 4_000_000


def golden_queries(
    image: np.ndarray, outputs: dict[str, np.ndarray], rule: str
) -> dict[str, np.ndarray]:
    """Return the likeliest queries of a picture, so many that the golden file stays small.

    Mask logits are rounded to float16, which compresses to half and is far below what an engine
    may differ by.

    Parameters
    ----------
    image
        uint8 [H, W, 3].
    outputs
        ``class_logits`` float32 [Q, C + 1], ``mask_logits`` float32 [Q, h, w].
    rule
        The fusion rule; with class maps the rows that win most cells are the likeliest.
    """
    mask_logits = outputs['mask_logits'].astype(np.float16).astype(np.float32)
    if RULES[rule] is Assignment.RAW:
        likely = np.bincount(mask_logits.argmax(0).ravel(), minlength=len(mask_logits))
    else:
        likely = softmax(outputs['class_logits'], axis=1)[:, :-1].max(axis=1)
    order = np.argsort(-likely, kind='stable')
    count = len(order)
    while True:
        chosen = np.sort(order[:count])
        golden = {
            'class_logits': outputs['class_logits'][chosen],
            'mask_logits': mask_logits[chosen],
        }
        size = _packed_bytes({'image': image, **golden})
        if size <= MAX_BYTES or count == 1:
            return golden
        count = max(1, min(count - 1, int(count * MAX_BYTES / size * 0.98)))


def _packed_bytes(arrays: dict[str, np.ndarray]) -> int:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.tell()
