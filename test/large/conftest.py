from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from panoptic_ros import cli

# The extra large brings what these tests read and write; without it none of them is collected.
collect_ignore_glob = [] if find_spec('rasterio') else ['test_*.py']

UTM = (0.5, 0, 500000, 0, -0.5, 5300000)


@pytest.fixture
def panoptic(capsys) -> Callable[..., tuple[int, str]]:
    """Return a function that runs the command line and returns status and what it wrote."""

    def run(*arguments: object) -> tuple[int, str]:
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


@pytest.fixture
def write_geotiff(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes bands [bands, H, W] as a GeoTIFF."""

    import rasterio

    def write(bands: np.ndarray, name: str = 'picture.tif', **profile) -> Path:
        path = tmp_path / name
        size = {'count': len(bands), 'height': bands.shape[1], 'width': bands.shape[2]}
        settings = {
            'driver': 'GTiff',
            'crs': 'EPSG:32632',
            'transform': rasterio.Affine(*UTM),
            'dtype': bands.dtype,
        }
        with rasterio.open(path, 'w', **{**settings, **size, **profile}) as dataset:
            dataset.write(bands)
        return path

    return write


@pytest.fixture
def street_picture() -> np.ndarray:
    """uint8 [3, H, W] that the tiny model reads: cars of 8x8 on a road, 6 across and 4 down."""
    bands = np.zeros((3, 96, 160), np.uint8)
    bands[0] = 6  # red // 13 is the class: road
    bands[1] = 200
    for y in range(12, 96, 24):
        for x in range(12, 150, 24):
            bands[0, y : y + 8, x : x + 8] = 13 * 13 + 6  # car
            bands[2, y + 4, x + 4] = 250  # its centre
    return bands
