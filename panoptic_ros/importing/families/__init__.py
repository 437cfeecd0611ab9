"""The model families that can be imported, one module each."""

from panoptic_ros.importing.families import (
    conditional_detr,
    detr,
    eomt,
    mask2former,
    maskformer,
    oneformer,
    rf_detr,
    segformer,
    videomt,
)
from panoptic_ros.importing.families.family import Family

FAMILIES: tuple[Family, ...] = (
    mask2former.FAMILY,
    maskformer.FAMILY,
    oneformer.FAMILY,
    detr.FAMILY,
    conditional_detr.FAMILY,
    eomt.FAMILY,
    eomt.FAMILY_DINOV3,
    videomt.FAMILY,
    segformer.FAMILY,
    rf_detr.FAMILY,
)
"""All of them; ``model_type`` in a checkpoint's ``config.json`` tells which one it is."""
