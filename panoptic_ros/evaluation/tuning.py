"""Choose the thresholds of fusion by their panoptic quality on labelled images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from panoptic_ros.fusion import Fusion

GRIDS: Mapping[str, Sequence[float]] = {
    'min_stuff_score': (0.0, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75),
    'min_thing_score': (0.0, 0.05, 0.1, 0.14, 0.18, 0.22, 0.27, 0.32),
    'score_threshold': (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    'mask_threshold': (0.4, 0.5, 0.6),
    'min_kept_fraction': (0.5, 0.6, 0.7, 0.8, 0.9),
    'min_stuff_area_fraction': (0.0, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01),
    'min_thing_area_fraction': (0.0, 0.0001, 0.0002, 0.0003, 0.0005, 0.001),
    'centre_threshold': (0.05, 0.1, 0.15, 0.2, 0.3),
    'max_centre_distance_fraction': (0.05, 0.1, 0.2, 1.0),
    'min_orphan_area_fraction': (0.0, 0.0005, 0.001, 0.002, 1.0),
}
"""Values to try of each threshold, in the order of trying. Thresholds of all head kinds."""


@dataclass(frozen=True)
class Trial:
    """The panoptic quality, in percent, for each value of one threshold."""

    name: str
    PQ: Mapping[float, float]

    @property
    def chosen(self) -> float:
        """The value with the highest quality; of equals the first."""
        return max(self.PQ, key=lambda value: self.PQ[value])


def tune(
    fusion: Fusion,
    quality: Callable[[Fusion], float],
    grids: Mapping[str, Sequence[float]] = GRIDS,
    rounds: int = 2,
    report: Callable[[Trial], None] = lambda trial: None,
) -> Fusion:
    """Return the fusion with the thresholds that have the highest quality.

    Thresholds are changed one at a time (coordinate ascent), for at most ``rounds`` rounds; a
    round without a change is the last. A present value stays unless another one is better.

    Parameters
    ----------
    fusion
        Where to start.
    quality
        Takes a fusion and returns its panoptic quality on images that are not those of the
        final evaluation.
    grids
        Values to try of each threshold. Those that the fusion lacks are passed over.
    report
        Called after each threshold.
    """
    best = quality(fusion)
    for _ in range(rounds):
        before = fusion
        for name, values in grids.items():
            if not hasattr(fusion, name):
                continue
            present = getattr(fusion, name)
            quality_of = {v: quality(_with(fusion, name, v)) for v in values if v != present}
            trial = Trial(name, {present: best} | quality_of)
            fusion, best = _with(fusion, name, trial.chosen), trial.PQ[trial.chosen]
            report(trial)
        if fusion == before:
            break
    return fusion


def _with(fusion: Fusion, name: str, value: Any) -> Fusion:
    return replace(fusion, **{name: value})
