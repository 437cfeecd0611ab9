"""Panoptic FPN from picture to the outputs of head kind ``masks``; no shape depends on data."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from panoptic_ros.importing.mask_rcnn.backbone import (
    LEVELS,
    Pyramid,
    ResNet,
    SemanticBranch,
    Weights,
    conv_of,
    linear_of,
)
from panoptic_ros.importing.mask_rcnn.regions import SCALE, anchors_of, decode, paste, pool
from panoptic_ros.importing.suppression import keep_best

OUTPUTS = ('semantic', 'confidence', 'mask', 'class_id', 'score')
ANCHOR_SIDES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
CANDIDATES = 512
"""Pairs of box and class with the best scores that enter the last suppression."""


@dataclass(frozen=True)
class Counts:
    """How many boxes each stage keeps; torchvision's defaults are 1000 and 100.

    Parameters
    ----------
    proposals
        Boxes that are classified, and candidates of each level before suppression.
    detections
        Instances in the outputs.
    """

    proposals: int = 300
    detections: int = 100


class PanopticFpn(nn.Module):
    """Normalised pixels to semantic map, confidence, instance masks, classes and scores.

    Parameters
    ----------
    weights
        torchvision's ``maskrcnn_resnet50_fpn`` (or of another depth) and the semantic branch.
    size_wh
        Of the input, multiples of 32.
    counts
        Of boxes.
    thing_ids, stuff_ids
        Class id in the label set of each class of the box head and of the semantic branch. A box
        class with -1 is none, such as the background.

    The maps have half the input's resolution.
    """

    def __init__(
        self,
        weights: Weights,
        size_wh: tuple[int, int],
        counts: Counts,
        thing_ids: tuple[int, ...],
        stuff_ids: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.size_wh, self.counts = size_wh, counts
        self.backbone = nn.ModuleDict({'body': ResNet(weights), 'fpn': Pyramid(weights)})
        conv = nn.Sequential(conv_of(weights, 'rpn.head.conv.0.0'), nn.ReLU())
        head = {
            'conv': nn.Sequential(conv),
            'cls_logits': conv_of(weights, 'rpn.head.cls_logits'),
            'bbox_pred': conv_of(weights, 'rpn.head.bbox_pred'),
        }
        self.rpn = nn.ModuleDict({'head': nn.ModuleDict(head)})
        prefix = 'roi_heads'
        box_head = {
            name: linear_of(weights, f'{prefix}.box_head.{name}') for name in ('fc6', 'fc7')
        }
        predictor = {
            name: linear_of(weights, f'{prefix}.box_predictor.{name}')
            for name in ('cls_score', 'bbox_pred')
        }
        convs = sorted(
            {key.split('.')[2] for key in weights if key.startswith(f'{prefix}.mask_head.')}
        )
        mask_head = [
            nn.Sequential(conv_of(weights, f'{prefix}.mask_head.{i}.0'), nn.ReLU()) for i in convs
        ]
        inputs, hidden, side, _ = weights[f'{prefix}.mask_predictor.conv5_mask.weight'].shape
        mask_predictor = {
            'conv5_mask': nn.ConvTranspose2d(inputs, hidden, side, side),
            'mask_fcn_logits': conv_of(weights, f'{prefix}.mask_predictor.mask_fcn_logits'),
        }
        self.roi_heads = nn.ModuleDict(
            {
                'box_head': nn.ModuleDict(box_head),
                'box_predictor': nn.ModuleDict(predictor),
                'mask_head': nn.Sequential(*mask_head),
                'mask_predictor': nn.ModuleDict(mask_predictor),
            }
        )
        self.sem_seg_head = SemanticBranch(weights)
        things = torch.tensor(thing_ids)
        self.register_buffer('thing_ids', things.clamp(min=0).to(torch.int32), persistent=False)
        self.register_buffer('is_thing', things >= 0, persistent=False)
        for level, side in enumerate(ANCHOR_SIDES):
            # P6 is every other cell of P5.
            grid_hw = tuple(-(-length // 2 ** (level + 2)) for length in size_wh[::-1])
            anchors = anchors_of((grid_hw[0], grid_hw[1]), size_wh[::-1], side, RATIOS)
            # Corners are whole pixels, which float16 holds up to 2048.
            self.register_buffer(f'anchors{level}', anchors, persistent=False)
        stuff = torch.tensor(stuff_ids, dtype=torch.int32)
        self.register_buffer('stuff_ids', stuff, persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the fields of :class:`~panoptic_ros.fusion.MaskHeads`, with a batch axis."""
        pyramid = self.backbone['fpn'](self.backbone['body'](pixels))
        semantic, confidence, grid_hw = self._semantic(pyramid)
        box = self._proposals(pyramid)
        box, class_index, score = self._detections(pyramid[:LEVELS], box)
        mask = self._masks(pyramid[:LEVELS], box, class_index)
        mask = paste(mask, box, self.size_wh, grid_hw) >= 0.5
        class_id = self.thing_ids[class_index]
        # TensorRT has uint8 at its ends only, so that is the last step.
        bytes_ = (each[None].to(torch.uint8) for each in (semantic, confidence, mask))
        return *bytes_, class_id[None], score.to(pixels.dtype)[None]

    def _semantic(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor, tuple[int, int]]:
        logits = self.sem_seg_head(pyramid)
        probability = logits.softmax(1)
        confidence = (probability.amax(1)[0] * 255).round()
        # Soft scores are enlarged before the argmax.
        logits = functional.interpolate(
            logits, scale_factor=2, mode='bilinear', align_corners=False
        )
        semantic = self.stuff_ids[logits.argmax(1)[0]]
        return semantic, confidence, (semantic.shape[0], semantic.shape[1])

    def _proposals(self, pyramid: list[Tensor]) -> Tensor:
        """Return boxes that may hold an object, [proposals, 4], pixels."""
        head = self.rpn['head']
        scores, deltas, anchors, levels = [], [], [], []
        for level, features in enumerate(pyramid):
            hidden = head['conv'](features)
            # [1, A, h, w] and [1, A * 4, h, w], to rows in the order of the anchors.
            logits = head['cls_logits'](hidden)[0].permute(1, 2, 0).flatten()
            rows = head['bbox_pred'](hidden)[0].permute(1, 2, 0).reshape(-1, 4)
            best, index = logits.topk(min(self.counts.proposals, len(logits)))
            scores.append(best)
            deltas.append(rows[index])
            anchors.append(self.get_buffer(f'anchors{level}')[index])
            levels.append(torch.full_like(index, level))
        # Sorted by score as a whole, as suppression wants it.
        score, order = torch.cat(scores).float().sort(descending=True)
        box = decode(
            torch.cat(deltas)[order], torch.cat(anchors)[order].float(), (1.0,) * 4, self.size_wh
        )
        kept = keep_best(box / SCALE, torch.cat(levels)[order], 0.7)
        is_large = (box[:, 2:] - box[:, :2]).amin(-1) >= 1e-3
        score = score.sigmoid() * kept * is_large
        return box[score.topk(min(self.counts.proposals, len(score))).indices]

    def _detections(self, pyramid: list[Tensor], box: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, class indices and scores of the detections, the best first."""
        heads = self.roi_heads
        hidden = pool(pyramid, box, self.size_wh, 7).flatten(1)
        for name in ('fc6', 'fc7'):
            hidden = functional.relu(heads['box_head'][name](hidden))
        score = heads['box_predictor']['cls_score'](hidden).float().softmax(-1) * self.is_thing
        deltas = heads['box_predictor']['bbox_pred'](hidden)
        classes = score.shape[1]
        best, index = score.flatten().topk(min(CANDIDATES, score.numel()))
        row, class_index = index // classes, index % classes
        delta = deltas.reshape(-1, 4)[index]
        box = decode(delta, box[row], (10.0, 10.0, 5.0, 5.0), self.size_wh)
        kept = keep_best(box / SCALE, class_index, 0.5)
        score, chosen = (best * kept).topk(min(self.counts.detections, len(best)))
        return box[chosen], class_index[chosen], score

    def _masks(self, pyramid: list[Tensor], box: Tensor, class_index: Tensor) -> Tensor:
        """Return the mask of each detection for its class, [N, 28, 28]."""
        hidden = self.roi_heads['mask_head'](pool(pyramid, box, self.size_wh, 14))
        predictor = self.roi_heads['mask_predictor']
        hidden = functional.relu(predictor['conv5_mask'](hidden))
        logits = predictor['mask_fcn_logits'](hidden)
        index = class_index[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        return logits.gather(1, index)[:, 0].sigmoid()
