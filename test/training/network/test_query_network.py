import torch

from panoptic_ros.training.network.efficientnet_lite import EfficientNetLite
from panoptic_ros.training.network.query_network import (
    Attention,
    QueryHead,
    QueryNetwork,
    position_encoding,
)


def test_every_layer_gives_queries_at_stride_4() -> None:
    network = QueryNetwork(
        EfficientNetLite(0, pretrained=False),
        5,
        pyramid_channels=16,
        queries=7,
        query_channels=8,
        query_layers=2,
    ).eval()
    with torch.no_grad():
        predictions = network(torch.zeros(2, 3, 64, 96))
    assert len(predictions) == 3
    for queries in predictions:
        assert queries.class_logits.shape == (2, 7, 6)
        assert queries.mask_logits.shape == (2, 7, 16, 24)


def test_a_query_attends_only_to_the_tokens_of_its_mask() -> None:
    torch.manual_seed(0)
    attention = Attention(8).eval()
    query, key, value = torch.randn(1, 1, 8), torch.randn(1, 3, 8), torch.randn(1, 3, 8)
    only_second = torch.tensor([[[-30.0, 0.0, -30.0]]])
    with torch.no_grad():
        expected = attention.out(attention.value(value[:, 1:2]))
        torch.testing.assert_close(attention(query, key, value, only_second), expected)
        # A query with an empty mask attends to all tokens.
        nothing = torch.full((1, 1, 3), -30.0)
        torch.testing.assert_close(
            attention(query, key, value, nothing), attention(query, key, value)
        )


def test_positions_are_in_units_of_the_image() -> None:
    small, large = position_encoding(1, 1, 8), position_encoding(3, 5, 8)
    assert small.shape == (1, 8)
    assert large.shape == (15, 8)
    torch.testing.assert_close(large[7], small[0])  # the middle cell
    assert len(torch.unique(large.round(decimals=4), dim=0)) == 15


def test_masks_differ_between_queries_before_training() -> None:
    torch.manual_seed(0)
    head = QueryHead(16, 8, 3, queries=4, layers=1).eval()
    with torch.no_grad():
        masks = head(torch.randn(1, 16, 8, 8))[-1].mask_logits[0].flatten(1)
    assert torch.pdist(masks).min() > 0.01
