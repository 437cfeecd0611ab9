"""Judging an engine's queries; that of centres is tested with the engine itself."""

import numpy as np
import pytest

from panoptic_ros.engines import EngineDescription
from panoptic_ros.engines.tensorrt.verification import verify
from panoptic_ros.model import Model


class FakeEngine:
    description = EngineDescription('fake', 'none', 'float16', '0', '')

    def __init__(self, outputs):
        self.outputs = outputs

    def infer(self, image):
        return self.outputs


@pytest.fixture
def model(own_tiny_query_model):
    return Model.load(own_tiny_query_model)


def test_the_golden_queries_are_right(model):
    _, golden = model.golden()
    verification = verify(FakeEngine(golden), model)
    assert verification.fault == ''
    assert verification.semantic_agreement == 1
    assert verification.instance_iou == 1


@pytest.mark.parametrize('value', [np.nan, 0])
def test_other_queries_are_a_fault(model, value):
    _, golden = model.golden()
    wrong = {'mask_logits': np.full_like(golden['mask_logits'], value)}
    verification = verify(FakeEngine(golden | wrong), model)
    assert 'masks differs' in verification.fault
    assert verification.instance_iou == 0
