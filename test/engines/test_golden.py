"""Golden queries are compared as a set."""

import numpy as np
import pytest

from panoptic_ros.engines.golden import compare_golden_queries, match_queries, output_fault
from panoptic_ros.model import Model


def test_queries_in_another_order_are_the_same_queries():
    rng = np.random.default_rng(0)
    golden = {
        'class_logits': rng.normal(0, 3, (6, 5)).astype(np.float32),
        'mask_logits': rng.normal(0, 3, (6, 8, 8)).astype(np.float32),
    }
    order = [3, 0, 5, 1, 2, 4]
    shuffled = {name: array[order] for name, array in golden.items()}
    assert match_queries(shuffled, golden).tolist() == [order.index(i) for i in range(6)]
    found = compare_golden_queries(shuffled, golden)
    assert (found.classes, found.masks, found.others) == pytest.approx((0, 0, 0), abs=1e-6)


def test_a_golden_part_still_finds_an_object_that_should_not_be_there():
    class_logits = np.array([[8, 0, 0], [0, 8, 0], [0, 0, 8]], np.float32)
    outputs = {'class_logits': class_logits, 'mask_logits': np.zeros((3, 2, 2), np.float32)}
    golden = {name: array[:2] for name, array in outputs.items()}
    assert not compare_golden_queries(outputs, golden).exceeded()
    outputs['class_logits'] = class_logits + np.float32([[0] * 3, [0] * 3, [18, 0, 0]])
    assert not compare_golden_queries(outputs, golden).exceeded()  # as likely as the golden ones
    golden['class_logits'] = np.array([[8, 0, 0], [0, 0.5, 0]], np.float32)
    outputs['class_logits'][1] = 0, 0.5, 0
    assert 'others differs by' in compare_golden_queries(outputs, golden).exceeded()


@pytest.fixture
def queries(own_tiny_query_model):
    """Return a model whose golden map is road, sky and a car, its golden outputs, and a copy."""
    model = Model.load(own_tiny_query_model)
    golden = model.golden()[1]
    return model, golden, {name: array.copy() for name, array in golden.items()}


def test_other_class_probabilities_with_the_same_map_are_no_fault(queries):
    model, golden, outputs = queries
    outputs['class_logits'][:] *= 0.8  # the classes stay at 0.74, from 0.89
    assert 'classes differs by' in compare_golden_queries(outputs, golden).exceeded()
    assert output_fault(outputs, golden, model) == ''


def test_another_map_is_a_fault_of_the_queries_and_of_the_map(queries):
    model, golden, outputs = queries
    outputs['class_logits'][2] = 0  # the car
    fault = output_fault(outputs, golden, model)
    assert fault.startswith('classes differs by 0.279')
    assert 'instances differs by 1 (at most 0.3)' in fault


def test_a_golden_map_without_instances_proves_nothing(queries):
    model, golden, outputs = queries
    golden['class_logits'][2] = 0
    outputs['class_logits'][:] *= 0.8
    outputs['class_logits'][2] = 0
    assert output_fault(outputs, golden, model).startswith('classes differs by')


def test_what_is_no_number_is_a_fault(queries):
    model, golden, outputs = queries
    outputs['mask_logits'][2, 0, 0] = np.nan
    assert output_fault(outputs, golden, model) == (
        'classes differs by nan (at most 0.05), masks differs by nan (at most 0.05), '
        'others differs by nan (at most 0.1)'
    )
