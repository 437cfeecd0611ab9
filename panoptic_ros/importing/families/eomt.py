"""EoMT, the encoder-only mask transformer, on DINOv2 and DINOv3 (Kerssies et al., 2503.19108)."""

from dataclasses import replace

from torch import nn

from panoptic_ros.errors import ModelError
from panoptic_ros.importing.checkpoint import Checkpoint
from panoptic_ros.importing.families.family import (
    EOMT_RULE,
    INSTANCE,
    PANOPTIC,
    SEMANTIC,
    Family,
    image_size_wh,
)
from panoptic_ros.importing.families.mask2former import Queries
from panoptic_ros.importing.network import ClassMaps


def _adapt(network: nn.Module, checkpoint: Checkpoint, task: str) -> nn.Module:
    probabilities = network.attn_mask_probs.tolist()
    if any(probability > 0 for probability in probabilities):
        raise ModelError(
            f'checkpoint {checkpoint.source} was not trained to the end: its attention masks are '
            f'still on (attn_mask_probs {probabilities}); take a checkpoint where they are 0'
        )
    if checkpoint.processor.get('do_split_image'):
        raise ModelError(
            f'the image processor of {checkpoint.source} splits pictures into windows '
            '(do_split_image), which the node does not do; take a checkpoint for whole pictures'
        )
    # The forward pass branches on these numbers, and a tensor's value cannot be traced.
    del network.attn_mask_probs
    network.attn_mask_probs = [0.0] * len(probabilities)
    queries = Queries(network)
    # The network takes its own size only, which is square.
    side = image_size_wh(checkpoint)[0]
    return ClassMaps(queries, (side, side)) if task == SEMANTIC else queries


def _patch_size(checkpoint: Checkpoint) -> int:
    return int(checkpoint.config.get('patch_size', 16))


FAMILY = Family(
    name='EoMT',
    model_type='eomt',
    network_class='EomtForUniversalSegmentation',
    tasks=(PANOPTIC, INSTANCE, SEMANTIC),
    rule=EOMT_RULE,
    adapt=_adapt,
    default_size_wh=image_size_wh,
    divisor=_patch_size,
    fixed_size=True,
    masks_at_input_size=True,
)

FAMILY_DINOV3 = replace(
    FAMILY,
    name='EoMT-DINOv3',
    model_type='eomt_dinov3',
    network_class='EomtDinov3ForUniversalSegmentation',
)
