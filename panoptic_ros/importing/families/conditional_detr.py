"""Conditional DETR with DETR's panoptic head (Meng et al., arXiv 2108.06152).

It is trained with a focal loss, so each class has a sigmoid of its own and there is no column for
"no object". transformers' panoptic rule takes the last class for it, which loses that class.
"""

from panoptic_ros.importing.families.detr import adapt_detr
from panoptic_ros.importing.families.family import DETR_RULE, PANOPTIC, Family, processor_size_wh

FAMILY = Family(
    name='Conditional DETR',
    model_type='conditional_detr',
    network_class='ConditionalDetrForSegmentation',
    tasks=(PANOPTIC,),
    rule=DETR_RULE,
    adapt=adapt_detr,
    default_size_wh=processor_size_wh,
    has_sigmoid_scores=True,
)
