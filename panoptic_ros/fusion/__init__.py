"""From the outputs of a network to one panoptic map, in numpy and OpenCV.

One pair of classes for each kind of head: the outputs, and the rule that fuses them.

===========  ==========================================  =====================================
head         outputs                                     module
===========  ==========================================  =====================================
``centres``  semantic map, object centres and offsets    :mod:`~panoptic_ros.fusion.centres`
``masks``    semantic map and instance masks             :mod:`~panoptic_ros.fusion.masks`
``queries``  queries with class and mask logits          :mod:`~panoptic_ros.fusion.queries`
===========  ==========================================  =====================================
"""

from types import MappingProxyType

from panoptic_ros.fusion.centres import CentreFusion, CentreHeads
from panoptic_ros.fusion.common import Fused
from panoptic_ros.fusion.masks import MaskFusion, MaskHeads
from panoptic_ros.fusion.queries import RULES, QueryFusion, QueryHeads

Heads = CentreHeads | MaskHeads | QueryHeads
Fusion = CentreFusion | MaskFusion | QueryFusion

HEAD_KINDS = MappingProxyType(
    {
        'centres': (CentreHeads, CentreFusion),
        'queries': (QueryHeads, QueryFusion),
    }
)
"""The class of a model's outputs and the class that fuses them, by the head kind of its card."""

__all__ = [
    'HEAD_KINDS',
    'RULES',
    'CentreFusion',
    'CentreHeads',
    'Fused',
    'Fusion',
    'Heads',
    'MaskFusion',
    'MaskHeads',
    'QueryFusion',
    'QueryHeads',
]
