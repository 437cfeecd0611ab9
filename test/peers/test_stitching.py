import pytest

pytest.importorskip('rasterio', reason='the extra large runs these tests')

from peers import stitching


def test_both_ways_give_the_same_objects_and_map() -> None:
    found = stitching.measure(side=500, window=128, rounds=1)
    assert found['objects'] > 50
    assert found['same_objects']
    assert found['same_map']
