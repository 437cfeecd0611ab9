import torch

from panoptic_ros.nn.heads import find_peaks


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
