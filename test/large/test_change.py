import csv
from contextlib import contextmanager

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from panoptic_ros.errors import SourceError
from panoptic_ros.large.change import compare
from panoptic_ros.large.reading.georeference import from_rasterio
from panoptic_ros.large.samples import AERIAL, NUCLEI
from panoptic_ros.large.stitching import NODATA
from panoptic_ros.large.writing.label_raster import new_label_raster

GRASS, WATER, _, BUILDING, TREE = range(5)
CORNER = (2.0, 0.0, 500000.0, 0.0, -2.0, 5300000.0)


@pytest.fixture
def write_labels(tmp_path):
    """Return a function that writes a label raster with boxes (class, id, x0, y0, x1, y1)."""

    def write(name, boxes, size_wh=(40, 30), transform=CORNER, crs='EPSG:32632', labels=AERIAL):
        semantic = np.full(size_wh[::-1], GRASS, np.uint16)
        instance = np.zeros(size_wh[::-1], np.uint32)
        for class_id, number, x0, y0, x1, y1 in boxes:
            semantic[y0:y1, x0:x1], instance[y0:y1, x0:x1] = class_id, number
        path = tmp_path / name
        crs = rasterio.crs.CRS.from_string(crs) if crs else None
        georeference = from_rasterio(crs, transform, size_wh)
        with new_label_raster(path, size_wh, georeference, labels) as rows:
            rows.add(semantic, instance)
        return path

    return write


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_transitions_and_objects(write_labels, tmp_path) -> None:
    before = write_labels(
        'before.tif',
        [
            (BUILDING, 1, 2, 2, 8, 8),
            (BUILDING, 2, 12, 2, 18, 8),
            (TREE, 3, 22, 2, 26, 6),
            (NODATA, 0, 0, 20, 10, 30),
        ],
    )
    after = write_labels(
        'after.tif',
        [
            (BUILDING, 7, 2, 2, 8, 7),
            (TREE, 5, 22, 12, 26, 16),
            (WATER, 0, 0, 18, 10, 30),
            (TREE, 9, 12, 2, 18, 8),
        ],
    )
    compare(before, after, tmp_path / 'out', ('gpkg', 'geojson'))
    found = {
        (row['before'], row['after']): float(row['area_m2'])
        for row in rows_of(tmp_path / 'out' / 'transitions.csv')
        if row['before'] != row['after']
    }
    # What has no data before is no change: of the water only the two rows above count.
    assert found == {
        ('building', 'grass'): 6 * 4,
        ('building', 'tree'): 36 * 4,
        ('tree', 'grass'): 16 * 4,
        ('grass', 'tree'): 16 * 4,
        ('grass', 'water'): 20 * 4,
    }
    states = {
        (row['before_id'], row['after_id']): row['state']
        for row in rows_of(tmp_path / 'out' / 'objects.csv')
    }
    assert states == {
        ('1', '7'): 'same',
        ('2', '9'): 'changed',
        ('3', '0'): 'vanished',
        ('0', '5'): 'appeared',
    }
    with rasterio.open(tmp_path / 'out' / 'change.tif') as change:
        changed, class_before, class_after = change.read()
        assert change.crs.to_epsg() == 32632
    assert (changed[20:, :10] == 255).all()
    assert (changed == 1).sum() == 6 + 36 + 16 + 16 + 20
    assert class_before[3, 3] == BUILDING
    assert class_after[19, 3] == WATER


def test_other_grids_are_brought_together(write_labels, tmp_path) -> None:
    before = write_labels('before.tif', [(BUILDING, 1, 10, 10, 20, 20)])
    # The same place from (20, 20) on, in pixels of half the size.
    shifted = (1.0, 0.0, 500010.0, 0.0, -1.0, 5299990.0)
    after = write_labels('after.tif', [(BUILDING, 4, 10, 10, 30, 30)], (60, 50), shifted)
    change = compare(before, after, tmp_path / 'out', ())
    assert change.objects['state'].tolist() == ['same']
    assert change.objects['overlap'].tolist() == [1.0]
    assert set(change.transitions['before']) == {'grass', 'building'}
    with rasterio.open(tmp_path / 'out' / 'change.tif') as raster:
        assert raster.transform == Affine(2, 0, 500010, 0, -2, 5299990)
        assert raster.shape == (25, 30)


@contextmanager
def refused(message):
    with pytest.raises(SourceError, match=message):
        yield


def test_what_cannot_be_compared(write_labels, tmp_path) -> None:
    utm = write_labels('utm.tif', [])
    far = write_labels('far.tif', [], transform=(2.0, 0.0, 600000.0, 0.0, -2.0, 5300000.0))
    bare = write_labels('bare.tif', [], crs=None)
    small = write_labels('small.tif', [], (20, 20), crs=None)
    cells = write_labels('cells.tif', [], labels=NUCLEI)
    out = tmp_path / 'out'
    with refused('do not overlap'):
        compare(utm, far, out, ())
    with refused("bare.tif' has no coordinate system and the other has one"):
        compare(utm, bare, out, ())
    with refused('has 40 x 30 pixels, .* 20 x 20'):
        compare(bare, small, out, ())
    with refused('expected the same classes'):
        compare(utm, cells, out, ())
    with refused('cannot be read'):
        compare(utm, tmp_path / 'none.tif', out, ())
    assert not out.exists()


def test_another_coordinate_system_of_the_same_place(write_labels, tmp_path) -> None:
    utm = write_labels('utm.tif', [(WATER, 0, 0, 0, 40, 30)])
    # 9 degrees east is 500000 m; 5300000 m is about 47.85 degrees north.
    degrees = (3e-5, 0.0, 9.0, 0.0, -2e-5, 47.85334)
    other = write_labels('deg.tif', [(WATER, 0, 0, 0, 40, 30)], (40, 30), degrees, 'EPSG:4326')
    change = compare(utm, other, tmp_path / 'out', ())
    assert change.transitions['before'].tolist() == ['water']
    assert change.transitions['after'].tolist() == ['water']
