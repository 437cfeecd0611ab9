import numpy as np
import pytest
from studies.depth_accuracy import KINDS, degrade, main, measure_errors


@pytest.mark.parametrize('kind', KINDS)
def test_objects_of_the_street_are_found_where_they_are(kind: str) -> None:
    errors = measure_errors(kind, [1], 8)
    near = errors.distance_m < 20
    assert near.sum() > 5
    assert errors.unknown == 0
    assert np.median(abs(errors.near_m[near])) < {'exact': 0.03}.get(kind, 0.4)
    assert np.median(abs(errors.across_m[near])) < 0.1
    assert np.median(errors.size_ratio[near]) == pytest.approx(1.0, abs=0.15)
    assert errors.velocity_m_s.shape == (len(errors.near_m), 3)
    known = np.isfinite(errors.velocity_m_s).all(axis=1)
    assert np.median(abs(errors.velocity_m_s[known & near])) < 1.0
    assert errors.median_ms > 0


def test_depth_has_the_errors_of_its_kind() -> None:
    depth_m = np.full((200, 300), 10.0, np.float32)
    depth_m[:, 150:] = 40.0
    depth_m[:20] = np.nan
    rng = np.random.default_rng(0)
    assert degrade(depth_m, 'exact', rng) is depth_m
    camera = degrade(depth_m, 'camera', rng)
    assert np.std(camera[25:, :140]) == pytest.approx(0.1, rel=0.1)
    assert np.std(camera[25:, 160:]) == pytest.approx(1.6, rel=0.1)
    edge = camera[25:, 149:151]
    assert np.mean((edge > 12) & (edge < 35)) > 0.5
    assert np.isnan(camera[:18]).all()
    outliers = degrade(depth_m, 'outliers', rng)[25:, :140]
    assert np.isnan(outliers).mean() == pytest.approx(0.2, abs=0.02)
    assert (abs(outliers - 10) > 1).mean() == pytest.approx(0.3, abs=0.03)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['--streets', '2', '--frames', '4']) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith('|')]
    assert {row.count('|') for row in rows} == {10}
    assert {row.split()[1] for row in rows[2:]} == set(KINDS)
    assert sum('measured' in line for line in lines) == len(KINDS)
    with pytest.raises(SystemExit):
        main(['--streets', '0'])
