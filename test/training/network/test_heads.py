import torch

from panoptic_ros.training.network.heads import SemanticHead, find_peaks


def test_peaks_are_local_maxima_in_falling_order() -> None:
    heatmap = torch.zeros(1, 1, 6, 8)
    heatmap[0, 0, 1, 1] = 0.5
    heatmap[0, 0, 1, 2] = 0.4  # next to a higher one: no peak
    heatmap[0, 0, 4, 6] = 0.9
    score, index = find_peaks(heatmap, 4, kernel=3)
    torch.testing.assert_close(score[0], torch.tensor([0.9, 0.5, 0.0, 0.0]))
    assert index[0, :2].tolist() == [4 * 8 + 6, 1 * 8 + 1]


def test_negative_heat_is_never_a_peak() -> None:
    score, _ = find_peaks(torch.full((1, 1, 4, 4), -0.3), 3)
    assert score.tolist() == [[0.0, 0.0, 0.0]] or float(score.max()) <= 0.0


def test_detail_adds_nothing_until_it_is_trained() -> None:
    torch.manual_seed(0)
    head = SemanticHead(8, 8, 5, c_fine=4, detail_channels=6).eval()
    coarse, fine = torch.randn(2, 8, 3, 4), torch.randn(2, 4, 6, 8)
    smoothed = head(coarse, fine)
    assert smoothed.shape == (2, 5, 6, 8)
    assert torch.equal(smoothed, head(coarse, -fine))
    with torch.no_grad():
        head.detail.classes.weight.fill_(1.0)
    assert not torch.equal(head(coarse, fine), head(coarse, -fine))


def test_without_detail_the_logits_are_those_of_stride_4_smoothed() -> None:
    head = SemanticHead(8, 8, 5, c_fine=4).eval()
    x = torch.randn(1, 8, 3, 4)
    logits, at_stride_4 = head(x, torch.zeros(1, 4, 6, 8)), head.layers(x)
    torch.testing.assert_close(logits[..., 0, 0], at_stride_4[..., 0, 0])
    # Between the first two cells: a quarter of the one, three quarters of the other.
    between = 0.75 * at_stride_4[..., 0, 0] + 0.25 * at_stride_4[..., 0, 1]
    torch.testing.assert_close(logits[..., 0, 1], between)
