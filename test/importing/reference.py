"""transformers' own preprocessing and post-processing of each family."""

import importlib
import sys
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import torch
import transformers as hf
from importing.checkpoints import MEAN, STD

from panoptic_ros.fusion import QueryFusion
from panoptic_ros.labels import VOID
from panoptic_ros.model.card import ModelCard

PROCESSORS = {
    'mask2former': 'Mask2FormerImageProcessorPil',
    'maskformer': 'MaskFormerImageProcessorPil',
    # Its own needs the hub and torchvision; MaskFormer's prepares pictures alike and has its rule.
    'oneformer': 'MaskFormerImageProcessorPil',
    'detr': 'DetrImageProcessorPil',
    'conditional_detr': 'ConditionalDetrImageProcessorPil',
    'eomt': 'EomtImageProcessorPil',
    'eomt_dinov3': 'EomtImageProcessorPil',
    'segformer': 'SegformerImageProcessorPil',
}
"""Image processors that need no torchvision."""

_NEED_TORCHVISION = {
    'rf_detr': ('rf_detr.image_processing_rf_detr', 'RfDetrImageProcessor'),
    'videomt': ('videomt.video_processing_videomt', 'VideomtVideoProcessor'),
}


def processor_of(model_type: str, folder: str) -> object:
    """Return transformers' image processor of a checkpoint.

    Some come without preprocessing here, because they import torchvision, which their
    post-processing does not use.
    """
    if model_type in PROCESSORS:
        return getattr(hf, PROCESSORS[model_type]).from_pretrained(folder)
    module, name = _NEED_TORCHVISION[model_type]
    with _stubbed_torchvision():
        return object.__new__(
            getattr(importlib.import_module(f'transformers.models.{module}'), name)
        )


@contextmanager
def _stubbed_torchvision():
    names = ['torchvision']
    names += [f'torchvision.transforms{end}' for end in ('', '.v2', '.v2.functional')]
    stubs = {}
    for name in (n for n in names if n not in sys.modules):
        stubs[name] = sys.modules[name] = ModuleType(name)
        stubs[name].__spec__ = ModuleSpec(name, None, is_package=True)
        stubs[name].__path__ = []
    if 'torchvision.transforms.v2' in stubs:
        stubs['torchvision.transforms.v2'].functional = stubs[
            'torchvision.transforms.v2.functional'
        ]
    try:
        yield
    finally:
        for name in stubs:
            del sys.modules[name]


def seen_by_network(processor: object, picture: np.ndarray) -> np.ndarray:
    """Return the grey levels an image processor gives a network, float [H, W, 3]."""
    pixels = processor(images=picture, return_tensors='pt')['pixel_values'][0]
    pixels = pixels * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    return (pixels * 255).permute(1, 2, 0).numpy()


def reference_thresholds(fusion: QueryFusion, card: ModelCard, processor: Any) -> dict[str, Any]:
    """Return the arguments of transformers' post-processing that the thresholds of ours are."""
    thresholds = {
        'threshold': fusion.score_threshold,
        'mask_threshold': fusion.mask_threshold,
        'overlap_mask_area_threshold': fusion.min_kept_fraction,
    }
    return thresholds | ({'size': processor.size} if card.resize.mode == 'letterbox' else {})


def reference_maps(
    model_type: str, processor: object, outputs: object, size_wh: tuple[int, int], **thresholds
) -> tuple[np.ndarray, np.ndarray]:
    """Return transformers' class map, VOID where there is none, and its ids of segments.

    Stuff is not fused, so that each id is one query: the ids that transformers gives with fusing
    are not unique.
    """
    target = {'target_sizes': [size_wh[::-1]]}
    if model_type == 'segformer':
        classes = processor.post_process_semantic_segmentation(outputs, **target)[0]
        return classes.cpu().numpy().astype(np.uint8), np.zeros(size_wh[::-1], int)
    if model_type == 'rf_detr':
        result = processor.post_process_instance_segmentation(
            # All pairs of query and class: by default as many as there are queries, and random
            # weights make one query likely to be of many classes.
            outputs,
            threshold=thresholds['threshold'],
            top_k=outputs.logits[0].numel(),
            **target,
        )[0]
    else:
        result = processor.post_process_panoptic_segmentation(outputs, **target, **thresholds)[0]
    ids = result['segmentation'].cpu().numpy().astype(int)
    classes = np.full(ids.shape, VOID, np.uint8)
    for segment in result['segments_info']:
        classes[ids == segment['id']] = segment['label_id']
    return classes, ids
