"""Judge a plan by the panoptic map of the golden picture."""

from dataclasses import dataclass

import numpy as np

from panoptic_ros.engines import Engine
from panoptic_ros.engines.golden import compare_maps, golden_outputs, output_fault
from panoptic_ros.model import Model


@dataclass(frozen=True)
class Verification:
    """How the result of an engine for the golden picture compares with the golden one.

    Parameters
    ----------
    semantic_agreement
        Share of the pixels with the same class.
    instance_iou
        Mean over the golden instances of their best IoU with one of the same class; 1 if there
        are none.
    fault
        What differs more than another arithmetic explains; empty if nothing does.
    """

    semantic_agreement: float
    instance_iou: float
    fault: str

    def __str__(self) -> str:
        return (
            f'semantic agreement {self.semantic_agreement:.2%}, instance IoU '
            f'{self.instance_iou:.3f}'
        )


def verify(engine: Engine, model: Model) -> Verification:
    """Run the golden picture and compare; raises as :meth:`Engine.infer` does."""
    image, golden = model.golden()
    found = [_verify_outputs(outputs, golden, model) for outputs in golden_outputs(engine, image)]
    return Verification(
        semantic_agreement=min(v.semantic_agreement for v in found),
        instance_iou=min(v.instance_iou for v in found),
        fault=next((v.fault for v in found if v.fault), ''),
    )


def _verify_outputs(
    outputs: dict[str, np.ndarray], golden: dict[str, np.ndarray], model: Model
) -> Verification:
    is_finite = all(
        np.isfinite(array).all() for array in outputs.values() if array.dtype.kind == 'f'
    )
    faults = [output_fault(outputs, golden, model)]
    if is_finite:
        difference = compare_maps(outputs, golden, model)
        faults.append(difference.exceeded())
    else:
        faults.append('there are values that are not finite')
    return Verification(
        semantic_agreement=1 - difference.semantic if is_finite else 0.0,
        instance_iou=1 - difference.instances if is_finite else 0.0,
        fault=', '.join(dict.fromkeys(filter(None, faults))),
    )
