"""ONNX files of instance segmentation networks, as their own packages export them.

The outputs become class and mask logits of queries. Everything has a fixed size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from panoptic_ros.importing.network import Normalisation
from panoptic_ros.importing.suppression import keep_best
from panoptic_ros.model.resize import LETTERBOX, Resize

CANDIDATES = 512
"""Boxes with the best scores that enter non-maximum suppression."""

DETECTIONS = 100
"""Instances that leave it."""

MAX_IOU = 0.7
"""Of two YOLO boxes of one class; the default of its package."""

_IMPOSSIBLE = -30000.0
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Detector:
    """How to read the outputs of one file.

    Parameters
    ----------
    family
        Name for the card.
    outputs
        Names of the outputs, in the order that ``queries`` takes them.
    queries
        Turns outputs into class logits [1, Q, classes], one sigmoid each, and mask logits
        [1, Q, h, w].
    classes
        Number of classes; 0 if the file does not tell.
    normalisation
        What the network expects of its pixels.
    resize
        How pictures are brought to the size of the input.
    score_threshold
        The default of the package.
    """

    family: str
    outputs: tuple[str, ...]
    queries: nn.Module
    classes: int
    normalisation: Normalisation
    resize: Resize
    score_threshold: float


def find_detector(
    outputs: dict[str, Shape], size_wh: tuple[int, int], classes: int
) -> Detector | None:
    """Return how to read a file by the names and shapes of its outputs; None if it is unknown.

    ``classes`` is the number of class names that came with the file, 0 if there are none.
    """
    readers: tuple[Callable[..., Detector | None], ...] = (_rf_detr, _yolo)
    for reader in readers:
        found = reader(outputs, size_wh, classes)
        if found is not None:
            return found
    return None


def _rf_detr(outputs: dict[str, Shape], size_wh: tuple[int, int], classes: int) -> Detector | None:
    if set(outputs) != {'dets', 'labels', 'masks'}:
        return None
    imagenet = Normalisation(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    columns = outputs['labels'][-1]
    return Detector(
        'RF-DETR', ('labels', 'masks'), RfDetrOutputs(), columns, imagenet, Resize(), 0.5
    )


def _yolo(outputs: dict[str, Shape], size_wh: tuple[int, int], classes: int) -> Detector | None:
    tables = [name for name, shape in outputs.items() if len(shape) == 3]
    planes = [name for name, shape in outputs.items() if len(shape) == 4]
    if len(outputs) != 2 or len(tables) != 1 or len(planes) != 1:
        return None
    (_, rows, columns), masks = outputs[tables[0]], outputs[planes[0]][1]
    queries: nn.Module
    if columns == 6 + masks:
        queries = YoloDetections(size_wh, classes)
    elif rows > 4 + masks:
        classes = rows - 4 - masks
        queries = YoloCandidates(size_wh, classes)
    else:
        return None
    return Detector(
        'YOLO segmentation',
        (tables[0], planes[0]),
        queries,
        classes,
        Normalisation(1 / 255, (0.0,) * 3, (1.0,) * 3),
        Resize(LETTERBOX, pad_value=114),
        0.25,
    )


class RfDetrOutputs(nn.Module):
    """Class logits with a sigmoid each, and mask logits, are what the network gives."""

    def forward(self, labels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Return both as they are."""
        return labels, masks


class YoloCandidates(nn.Module):
    """YOLO's candidates before suppression: boxes, class scores and mask coefficients.

    Parameters
    ----------
    size_wh
        Of the input; boxes come in its pixels.
    classes
        Their number.
    """

    def __init__(self, size_wh: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer('size', torch.tensor([*size_wh, *size_wh], dtype=torch.float32))

    def forward(self, candidates: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Take [1, 4 + classes + M, N] with centre and size of boxes, and [1, M, h, w]."""
        table = candidates[0].T
        best = table[:, 4 : 4 + self.classes].amax(-1)
        table = table[best.topk(min(CANDIDATES, len(table))).indices]
        box = table[:, :4] / self.size
        centre, half = box[:, :2], box[:, 2:] / 2
        box = torch.cat([centre - half, centre + half], -1)
        scores = table[:, 4 : 4 + self.classes]
        score, class_id = scores.max(-1)
        kept = keep_best(box, class_id, MAX_IOU)
        chosen = (score * kept).topk(min(DETECTIONS, len(table))).indices
        logits = logit(scores[chosen])
        logits = torch.where(kept[chosen, None] > 0, logits, torch.full_like(logits, _IMPOSSIBLE))
        masks = cropped_masks(table[chosen, 4 + self.classes :], prototypes, box[chosen])
        return logits[None], masks[None]


class YoloDetections(nn.Module):
    """YOLO's detections after suppression, or of a version that needs none.

    Parameters
    ----------
    size_wh, classes
        As in :class:`YoloCandidates`.
    """

    def __init__(self, size_wh: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.register_buffer('size', torch.tensor([*size_wh, *size_wh], dtype=torch.float32))
        self.register_buffer('class_ids', torch.arange(classes, dtype=torch.float32))

    def forward(self, detections: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Take [1, N, 6 + M] with corners, score, class and coefficients, and [1, M, h, w]."""
        table = detections[0][:DETECTIONS]
        logits = logit(table[:, 4:5])
        is_class = table[:, 5:6].round() == self.class_ids
        logits = torch.where(is_class, logits, torch.full_like(logits, _IMPOSSIBLE))
        masks = cropped_masks(table[:, 6:], prototypes, table[:, :4] / self.size)
        return logits[None], masks[None]


def logit(probability: Tensor) -> Tensor:
    """Return the logit; within the digits of float16."""
    probability = probability.clamp(1e-4, 0.999)
    return (probability / (1 - probability)).log()


def cropped_masks(coefficients: Tensor, prototypes: Tensor, box_xyxy: Tensor) -> Tensor:
    """Return mask logits [N, h, w], 0 outside of each box.

    Parameters
    ----------
    coefficients
        [N, M], of the prototypes.
    prototypes
        [1, M, h, w].
    box_xyxy
        [N, 4], fractions of the image.
    """
    height, width = prototypes.shape[2:]
    masks = (coefficients @ prototypes[0].flatten(1)).view(-1, height, width)
    x1, y1, x2, y2 = box_xyxy[:, :, None, None].unbind(1)
    dtype = box_xyxy.dtype
    x = torch.arange(width, dtype=dtype)[None, None] / width
    y = torch.arange(height, dtype=dtype)[None, :, None] / height
    is_inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    return torch.where(is_inside, masks, torch.zeros_like(masks))
