import csv
import json
import resource
import subprocess
import sys

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
import tifffile

from panoptic_ros.large.writing.label_raster import RASTER_NODATA

ROAD, CAR = 0, 13
CARS = 24
SETTINGS = ('--engine', 'onnxruntime', '--overlap', '16')


@pytest.fixture
def mapped(panoptic, tiny_model, tmp_path):
    """Return a function that maps a picture and returns the folder of the results."""

    def run(source, *options, out='out'):
        folder = tmp_path / out
        status, text = panoptic(
            'map', source, '--model', tiny_model, '--out', folder, *SETTINGS, *options
        )
        assert status == 0, text
        return folder

    return run


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_results_of_a_georeferenced_picture(mapped, write_geotiff, street_picture) -> None:
    source = write_geotiff(street_picture)
    out = mapped(source, '--tables', 'both', '--polygons', 'gpkg,geojson,qupath')
    with rasterio.open(source) as picture, rasterio.open(out / 'labels.tif') as labels:
        assert labels.bounds == picture.bounds
        assert labels.crs == picture.crs
        assert labels.profile['tiled']
        assert labels.nodata == RASTER_NODATA
        semantic, instance = labels.read()
    assert set(np.unique(semantic)) == {ROAD, CAR}
    np.testing.assert_array_equal(semantic == CAR, street_picture[0] > 100)
    assert instance.max() == CARS
    np.testing.assert_array_equal(instance > 0, semantic == CAR)
    cars = next(row for row in read_csv(out / 'classes.csv') if row['class'] == 'car')
    assert cars['count'] == str(CARS)
    assert float(cars['area_m2']) == CARS * 64 * 0.25
    objects = read_csv(out / 'objects.csv')
    assert objects[0]['centroid_x'] == '500008'
    meta, _, wkb, columns = pyogrio.raw.read(out / 'polygons.gpkg')
    polygons = shapely.from_wkb(wkb)
    assert meta['crs'] == 'EPSG:32632'
    assert shapely.is_valid(polygons).all()
    assert shapely.area(polygons).tolist() == [16.0] * CARS
    assert sorted(columns[0].tolist()) == list(range(1, CARS + 1))
    features = json.loads((out / 'qupath.geojson').read_text())['features']
    assert features[0]['properties']['classification']['name'] == 'car'
    assert len(features) == CARS
    place = json.loads((out / 'polygons.geojson').read_text())['features'][0]['geometry']
    assert 8.9 < place['coordinates'][0][0][0] < 9.1  # degrees, on the meridian of the zone
    assert {path.name for path in out.iterdir()} == {
        'classes.csv', 'classes.parquet', 'labels.tif', 'objects.csv', 'objects.parquet',
        'overview.png', 'polygons.geojson', 'polygons.gpkg', 'qupath.geojson',
    }  # fmt: skip


def test_nodata_stays_nodata(mapped, write_geotiff, street_picture) -> None:
    street_picture[:, :, :30] = 0
    out = mapped(write_geotiff(street_picture, nodata=0))
    with rasterio.open(out / 'labels.tif') as labels:
        semantic, instance = labels.read()
    assert (semantic[:, :30] == RASTER_NODATA).all()
    assert (instance[:, :30] == RASTER_NODATA).all()


def test_stuff_has_polygons_with_holes(mapped, write_geotiff, street_picture) -> None:
    out = mapped(write_geotiff(street_picture), '--stuff-polygons')
    _, _, wkb, columns = pyogrio.raw.read(out / 'polygons.gpkg')
    (road,) = shapely.from_wkb(wkb)[columns[0] == 0]
    assert len(road.interiors) == CARS
    assert road.area == (96 * 160 - CARS * 64) * 0.25


def test_zones_are_counted(mapped, write_geotiff, street_picture, tmp_path) -> None:
    zones = tmp_path / 'zones.gpkg'
    boxes = [shapely.box(500000, 5299952, 500040, 5300000), shapely.box(0, 0, 1, 1)]
    pyogrio.raw.write(
        zones, geometry=shapely.to_wkb(np.array(boxes)), field_data=[np.array(['west', 'far'])],
        fields=['name'], geometry_type='Polygon', crs='EPSG:32632', driver='GPKG',
    )  # fmt: skip
    rows = read_csv(mapped(write_geotiff(street_picture), '--zones', zones) / 'classes.csv')
    cars = {row['zone']: row for row in rows if row['class'] == 'car'}
    assert {zone: row['count'] for zone, row in cars.items()} == {
        '': str(CARS), 'west': '12', 'far': '0',
    }  # fmt: skip
    assert float(cars['west']['area_m2']) == 0.25 * 12 * 64


def test_interrupted_run_goes_on_with_the_same_bytes(
    mapped, write_geotiff, street_picture, tmp_path, tiny_model, monkeypatch, panoptic
) -> None:
    source = write_geotiff(street_picture)
    whole = mapped(source, out='whole')
    from panoptic_ros.large import bands

    kept = bands.BandStore.write

    def write_two(self, row, data):
        if row == 2:
            raise KeyboardInterrupt
        kept(self, row, data)

    arguments = ('map', source, '--model', tiny_model, '--out', tmp_path / 'resumed', *SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(bands.BandStore, 'write', write_two)
        assert panoptic(*arguments)[0] == 130
    left = sorted(path.name for path in (tmp_path / 'resumed').iterdir())
    assert left == ['.bands']
    status, text = panoptic(*arguments, '--resume', '--precision', 'float32')
    assert status == 2
    assert "had precision 'auto' and this one has 'float32'" in text
    resumed = mapped(source, '--resume', out='resumed')
    for path in whole.iterdir():
        assert (resumed / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.process
def test_full_disk_leaves_nothing_half_written(
    write_geotiff, street_picture, tmp_path, tiny_model
) -> None:
    source, out = write_geotiff(street_picture), tmp_path / 'out'
    command = [sys.executable, '-m', 'panoptic_ros', 'map', source, '--model', tiny_model]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = subprocess.run(
        [str(part) for part in [*command, '--out', out, *SETTINGS]],
        preexec_fn=limit, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith('panoptic: ')]
    assert len(lines) == 1
    assert 'cannot write' in lines[0]
    assert [path.name for path in out.iterdir() if path.name != '.bands'] == []


def test_picture_smaller_than_a_window(mapped, write_geotiff, street_picture) -> None:
    out = mapped(write_geotiff(street_picture[:, :30, :40]))
    with rasterio.open(out / 'labels.tif') as labels:
        assert labels.shape == (30, 40)
        assert labels.read(2).max() == 1


def test_frames_of_a_tiff(mapped, street_picture, tmp_path) -> None:
    frames = np.stack([street_picture.transpose(1, 2, 0)] * 2)
    tifffile.imwrite(tmp_path / 'time.tif', frames, photometric='rgb')
    out = mapped(tmp_path / 'time.tif', '--stack', 'time')
    assert sorted(path.name for path in out.iterdir()) == ['labels.tif', 'tracks.csv']
    assert [row['frames'] for row in read_csv(out / 'tracks.csv')] == ['2'] * CARS
