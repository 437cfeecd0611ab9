"""The weights of the parts of the loss."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LossWeights:
    """Weight of each part of the loss, and how the parts are formed.

    The fields up to ``by_segment`` apply to head kind ``centres``, the others to ``queries``.

    Parameters
    ----------
    semantic
        Weight of the pixel cross-entropy (nats).
    centre
        Weight of the centre heatmap's mean squared error. A thousandth of the cells are centres,
        hence the large number (Panoptic-DeepLab uses 200).
    offset
        Weight of the offsets' mean absolute error in cells (a cell is 4 pixels).
    hard_fraction
        Fraction 0..1 of the pixels, the hardest, that the cross-entropy is averaged over.
    small_area, small_weight
        Objects below this area in pixels have this weight in the cross-entropy.
    by_segment
        Weight every segment below ``small_area``, stuff too, by the square root of
        ``small_area / area``, at most ``small_weight``, and the pixels around it by half of that:
        panoptic quality counts segments, not pixels. The offsets of large objects get less weight
        by the same rule.
    query_class
        Weight of the queries' class cross-entropy (nats).
    mask, dice
        Weight of the binary cross-entropy and of the dice loss of the matched masks. The
        defaults are those of Mask2Former (arXiv 2112.01527).
    no_object
        Weight of the class "no object" within the class cross-entropy.
    """

    semantic: float = 1.0
    centre: float = 200.0
    offset: float = 0.1
    hard_fraction: float = 0.25
    small_area: int = 400
    small_weight: float = 3.0
    by_segment: bool = False
    query_class: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    no_object: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f'loss {name} is {value}; expected 0 or more')
        if not 0 < self.hard_fraction <= 1:
            raise ValueError(f'loss hard_fraction is {self.hard_fraction}; expected 0..1, not 0')
