"""People and vehicles are not free in ~/free_space, also with a wrong pose of the camera."""

import pytest
from studies.pose_errors import TrueCells, main, measure, true_cells

from panoptic_ros.datasets.street.scene import SyntheticStreet
from panoptic_ros.labels import LabelSet
from panoptic_ros.scene.free_space import Traversability
from panoptic_ros.scene.ground_view import DEFAULT_TOLERANCE, PoseTolerance

RULES = Traversability.of(LabelSet.load('cityscapes'), walkable_cost=50)
# As the camera of `ros2 run panoptic_ros camera`; the node assumes 1.5 m and 0 rad by default.
DEFAULT_HEIGHT, DEFAULT_PITCH_RAD = 1.5 / 1.3 - 1, -0.035


@pytest.fixture(scope='module')
def cells() -> list[TrueCells]:
    return [true_cells(SyntheticStreet(seed).frame(200), RULES) for seed in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ('height_error', 'pitch_error_rad'),
    [
        (0.0, 0.0),
        (DEFAULT_HEIGHT, DEFAULT_PITCH_RAD),
        (0.15, 0.035),
        (-0.13, -0.035),
        (0.0, 0.035),
    ],
)
def test_agents_are_not_free_if_the_pose_is_within_the_default_tolerance(
    cells: list[TrueCells], height_error: float, pitch_error_rad: float
) -> None:
    shares = measure(cells, RULES, DEFAULT_TOLERANCE, height_error, pitch_error_rad)
    assert shares.agents > 500
    assert shares.free_agents < 0.005


def test_without_a_tolerance_agents_are_free_with_a_wrong_pose(cells: list[TrueCells]) -> None:
    none = PoseTolerance(0.0, 0.0)
    right = measure(cells, RULES, none, 0.0, 0.0)
    wrong = measure(cells, RULES, none, DEFAULT_HEIGHT, DEFAULT_PITCH_RAD)
    assert right.free_agents < 0.005
    assert wrong.free_agents > 0.5


def test_the_tolerance_leaves_free_road(cells: list[TrueCells]) -> None:
    none = measure(cells, RULES, PoseTolerance(0.0, 0.0), 0.0, 0.0)
    default = measure(cells, RULES, DEFAULT_TOLERANCE, 0.0, 0.0)
    assert none.free_road > 0.75
    assert 0.55 < default.free_road < none.free_road


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['--streets', '1']) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    assert len(rows) == 8
    assert {row.count('|') for row in rows} == {6}
    with pytest.raises(SystemExit):
        main(['--streets', '0'])
