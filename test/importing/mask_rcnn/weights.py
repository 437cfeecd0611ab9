"""A small Mask R-CNN with a semantic branch under torchvision's and detectron2's names."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTHS, CHANNELS, HIDDEN = (8, 16, 24, 32), 32, 16
THINGS = ('__background__', 'person', 'car', 'N/A', 'dog')
STUFF = ('things', 'road', 'sky-other-merged')


def small_weights(seed: int = 0) -> dict[str, Tensor]:
    """Return random weights whose boxes are the anchors and whose scores are apart."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}

    def conv(name: str, outputs: int, inputs: int, side: int, *, bias: bool = True) -> None:
        shape = (outputs, inputs, side, side) if side else (outputs, inputs)
        scale = max(1, inputs * side**2) ** -0.5
        weights[f'{name}.weight'] = torch.randn(shape, generator=generator) * scale
        if bias:
            weights[f'{name}.bias'] = torch.zeros(outputs)

    def norm(name: str, count: int) -> None:
        values = {'weight': 1.0, 'bias': 0.0, 'running_mean': 0.0, 'running_var': 1.0}
        weights.update({f'{name}.{key}': torch.full((count,), v) for key, v in values.items()})

    body = 'backbone.body'
    conv(f'{body}.conv1', WIDTHS[0], 3, 7, bias=False)
    norm(f'{body}.bn1', WIDTHS[0])
    inputs = WIDTHS[0]
    for level, width in enumerate(WIDTHS, start=1):
        name = f'{body}.layer{level}.0'
        for number, (out, into, side) in enumerate(
            ((width // 2, inputs, 1), (width // 2, width // 2, 3), (width, width // 2, 1)), start=1
        ):
            conv(f'{name}.conv{number}', out, into, side, bias=False)
            norm(f'{name}.bn{number}', out)
        conv(f'{name}.downsample.0', width, inputs, 1, bias=False)
        norm(f'{name}.downsample.1', width)
        inputs = width
    for level, width in enumerate(WIDTHS):
        conv(f'backbone.fpn.inner_blocks.{level}.0', CHANNELS, width, 1)
        conv(f'backbone.fpn.layer_blocks.{level}.0', CHANNELS, CHANNELS, 3)
    conv('rpn.head.conv.0.0', CHANNELS, CHANNELS, 3)
    conv('rpn.head.cls_logits', 3, CHANNELS, 1)
    conv('rpn.head.bbox_pred', 12, CHANNELS, 1)
    weights['rpn.head.bbox_pred.weight'] *= 0.01
    heads = 'roi_heads'
    conv(f'{heads}.box_head.fc6', HIDDEN, CHANNELS * 49, 0)
    weights[f'{heads}.box_head.fc6.weight'] *= (CHANNELS * 49) ** -0.5
    conv(f'{heads}.box_head.fc7', HIDDEN, HIDDEN, 0)
    conv(f'{heads}.box_predictor.cls_score', len(THINGS), HIDDEN, 0)
    conv(f'{heads}.box_predictor.bbox_pred', 4 * len(THINGS), HIDDEN, 0)
    # Boxes that move by thousands of pixels would overflow float16.
    weights[f'{heads}.box_predictor.bbox_pred.weight'] *= 0.01
    for index in range(2):
        conv(f'{heads}.mask_head.{index}.0', CHANNELS, CHANNELS, 3)
    conv(f'{heads}.mask_predictor.conv5_mask', CHANNELS, CHANNELS, 2)
    conv(f'{heads}.mask_predictor.mask_fcn_logits', len(THINGS), CHANNELS, 1)
    for level, steps in ((2, 1), (3, 1), (4, 2), (5, 3)):
        for step in range(steps):
            name = f'sem_seg_head.p{level}.{2 * step}'
            conv(name, CHANNELS, CHANNELS, 3, bias=False)
            weights[f'{name}.norm.weight'] = torch.ones(CHANNELS)
            weights[f'{name}.norm.bias'] = torch.zeros(CHANNELS)
    conv('sem_seg_head.predictor', len(STUFF), CHANNELS, 1)
    return weights


def write_checkpoint(folder: Path, weights: dict[str, Tensor], **config: object) -> Path:
    """Write the folder that ``panoptic import`` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / 'model.safetensors')
    fields = {
        'model_type': 'panoptic_fpn',
        'thing_id2label': dict(enumerate(THINGS)),
        'stuff_id2label': dict(enumerate(STUFF)),
        'proposals': 20,
        'detections': 8,
    }
    (folder / 'config.json').write_text(json.dumps(fields | config))
    processor = {
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': [0.485, 0.456, 0.406],
        'image_std': [0.229, 0.224, 0.225],
        'size': {'height': 96, 'width': 128},
    }
    (folder / 'preprocessor_config.json').write_text(json.dumps(processor))
    return folder
