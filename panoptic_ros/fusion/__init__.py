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

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from panoptic_ros.fusion.centres import CentreFusion, CentreHeads, CentreMaps
from panoptic_ros.fusion.common import Fused
from panoptic_ros.fusion.masks import MaskFusion, MaskHeads
from panoptic_ros.fusion.queries import RULES, QueryFusion, QueryHeads, QueryMaps

Heads = CentreHeads | CentreMaps | MaskHeads | QueryHeads | QueryMaps
Fusion = CentreFusion | MaskFusion | QueryFusion

HEAD_KINDS = MappingProxyType(
    {
        'centres': (CentreHeads, CentreFusion),
        'masks': (MaskHeads, MaskFusion),
        'queries': (QueryHeads, QueryFusion),
    }
)
"""The class of a model's outputs and the class that fuses them, by the head kind of its card."""

MAP_KINDS = MappingProxyType({'centres': CentreMaps, 'queries': QueryMaps})
"""The class of the outputs of a fused file (:mod:`panoptic_ros.fusion.graph`), by head kind."""


def heads_of(head: str, outputs: Mapping[str, np.ndarray]) -> Heads:
    """Return the outputs of an engine as the class of their head kind.

    Raises ValueError if a shape or dtype differs.
    """
    return (MAP_KINDS[head] if 'owner' in outputs else HEAD_KINDS[head][0])(**outputs)


__all__ = [
    'HEAD_KINDS',
    'MAP_KINDS',
    'RULES',
    'CentreFusion',
    'CentreHeads',
    'CentreMaps',
    'Fused',
    'Fusion',
    'Heads',
    'MaskFusion',
    'MaskHeads',
    'QueryFusion',
    'QueryHeads',
    'QueryMaps',
    'heads_of',
]
