from dataclasses import replace

from panoptic_ros.evaluation.tuning import GRIDS, Trial, tune
from panoptic_ros.fusion import CentreFusion, Fusion, QueryFusion


def test_thresholds_are_changed_one_at_a_time_to_the_best_values() -> None:
    def quality(fusion: Fusion) -> float:
        assert isinstance(fusion, CentreFusion)
        # The best min_stuff_score depends on min_thing_score, so that a second round is needed.
        wanted = 0.5 + fusion.min_thing_score
        return 50 - abs(fusion.min_stuff_score - wanted) - 2 * abs(fusion.min_thing_score - 0.2)

    grids = {'min_stuff_score': (0.5, 0.6, 0.7), 'min_thing_score': (0.0, 0.1, 0.2)}
    trials: list[Trial] = []
    start = CentreFusion(min_thing_score=0.1)
    chosen = tune(start, quality, grids, rounds=4, report=trials.append)
    assert chosen == replace(start, min_stuff_score=0.7, min_thing_score=0.2)
    assert trials[0].name == 'min_stuff_score'
    assert trials[0].chosen == 0.6
    assert trials[0].PQ.keys() == {0.0, 0.5, 0.6, 0.7}


def test_present_values_stay_unless_others_are_better() -> None:
    calls = []

    def quality(fusion: Fusion) -> float:
        calls.append(fusion)
        return 40.0

    start = QueryFusion(score_threshold=0.45)
    assert tune(start, quality, {'score_threshold': (0.4, 0.5), 'not_a_field': (1.0,)}) == start
    assert len(calls) == 3  # the start and two values; a second round would change nothing


def test_values_to_try_are_valid() -> None:
    found = set()
    for fusion in (CentreFusion(), QueryFusion()):
        for name, values in GRIDS.items():
            if hasattr(fusion, name):
                found.add(name)
                for value in values:
                    replace(fusion, **{name: value})
    assert found == GRIDS.keys()
