"""Heads of other networks as queries of a label set, on literal tensors."""

import pytest

torch = pytest.importorskip('torch', reason='extra import')

from panoptic_ros.importing.labels import ClassMap  # noqa: E402
from panoptic_ros.importing.network import (  # noqa: E402
    ClassMaps,
    Deployed,
    Normalisation,
    QueryRows,
    SemanticRows,
    sigmoid_as_softmax,
)
from panoptic_ros.labels import LabelClass, LabelSet  # noqa: E402

LABELS = LabelSet('two', tuple(LabelClass(n, True, (0, 0, 0), i) for i, n in enumerate('ab')))
MASKS = torch.zeros(1, 1, 2, 2)


class Constant(torch.nn.Module):
    """Gives the same tensors for every picture."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, pixels):
        return self.outputs if len(self.outputs) > 1 else self.outputs[0]


def rows(class_logits, columns, unused=(), sigmoid=False):
    class_map = ClassMap(LABELS, columns, unused, ())
    network = QueryRows(Constant(torch.tensor([[class_logits]]), MASKS), class_map, sigmoid)
    return network(torch.zeros(1, 3, 2, 2))[0][0, 0]


def test_columns_come_in_the_order_of_the_label_set():
    assert rows([1.0, 2.0, 3.0], (1, 0)).tolist() == [2.0, 1.0, 3.0]


def test_unused_columns_are_added_to_no_object_in_probability():
    logits = [0.5, 2.0, 1.0, -1.0, 3.0]
    found = rows(logits, (1, 3), unused=(0, 2)).softmax(-1)
    expected = torch.tensor(logits).softmax(-1)
    assert found[:2].tolist() == pytest.approx([expected[1].item(), expected[3].item()])
    assert found[2].item() == pytest.approx((expected[0] + expected[2] + expected[4]).item())


def test_a_class_the_network_lacks_is_impossible():
    assert rows([1.0, 3.0], (0, -1)).softmax(-1)[1].item() == 0


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_sigmoid_scores_survive_a_softmax(dtype):
    logits = torch.tensor([[1.5, -2.0, 0.3], [-4.0, -3.0, -5.0]], dtype=dtype)
    found = sigmoid_as_softmax(logits).float().softmax(-1)
    assert found[0, 0].item() == pytest.approx(torch.tensor(1.5).sigmoid().item(), abs=1e-3)
    assert found[1, 1].item() == pytest.approx(torch.tensor(-3.0).sigmoid().item(), abs=1e-3)
    assert found[1].argmax().item() == 3  # no object
    assert found[0, 1:3].tolist() == [0, 0]


def test_of_equal_sigmoid_scores_the_first_counts():
    found = sigmoid_as_softmax(torch.tensor([[2.0, 2.0]])).softmax(-1)
    assert found[0].tolist() == pytest.approx([0.8808, 0, 0.1192], abs=1e-4)


def test_pixels_are_normalised_as_the_processor_does():
    seen = []

    class Seeing(torch.nn.Module):
        def forward(self, pixels):
            seen.append(pixels)
            return pixels, pixels

    normalisation = Normalisation(1 / 255, (0.5, 0.25, 0.0), (0.5, 0.5, 1.0))
    picture = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)
    Deployed(Seeing(), normalisation)(picture)
    assert seen[0].shape == (1, 3, 1, 1)
    assert seen[0].flatten().tolist() == pytest.approx([1.0, -0.5, 0.2], abs=1e-6)


def test_class_maps_of_queries_are_their_masks_weighted_by_their_classes():
    class_logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]]))
    mask_logits = torch.tensor([[[[0.0]], [[100.0]]]])
    maps = ClassMaps(Constant(class_logits, mask_logits))(torch.zeros(1, 3, 4, 4))
    assert maps.flatten().tolist() == pytest.approx([0.5 * 0.5 + 0.1, 0.25 * 0.5 + 0.8])


def test_class_maps_become_rows_of_the_label_set():
    maps = torch.tensor([[[[1.0]], [[2.0]], [[3.0]]]])
    rows = SemanticRows(Constant(maps), ClassMap(LABELS, (2, -1), (), ()))
    class_logits, mask_logits = rows(torch.zeros(1, 3, 4, 4))
    assert mask_logits.flatten().tolist() == [3.0, -30000.0]
    assert class_logits.softmax(-1)[0].argmax(-1).tolist() == [0, 1]
    assert class_logits.shape == (1, 2, 3)
