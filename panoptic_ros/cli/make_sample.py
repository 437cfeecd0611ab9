"""``panoptic make-sample KIND``: a synthetic slide, aerial picture or volume with its truth.

::

    slide   OUT/slide.ome.tif (pyramid, 0.5 um a pixel), OUT/truth.tif
    aerial  OUT/before.tif, OUT/after.tif (UTM, 0.3 m), OUT/before_truth.tif, OUT/after_truth.tif,
            OUT/zones.geojson
    volume  OUT/volume.nii.gz, OUT/truth.nii.gz (instances), OUT/volume.tif (pages)

The same arguments give the same pixels. The truths of the slide and the aerial picture are label
rasters as ``panoptic map`` writes them.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import rasterio
import rasterio.warp

from panoptic_ros.large import samples
from panoptic_ros.large.reading.georeference import Georeference, from_rasterio
from panoptic_ros.large.writing.label_raster import new_label_raster, new_raster
from panoptic_ros.large.writing.whole_files import whole_file

_TILE, _LEVELS = 512, 3
_CRS, _CORNER = 'EPSG:32632', (500000.0, 5300000.0)
_SIZES = {'slide': '4096x4096', 'aerial': '2048x2048', 'volume': '192x160x64'}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument('kind', choices=tuple(_SIZES))
    parser.add_argument('--out', type=Path, help='folder for the files (out/sample/KIND)')
    parser.add_argument(
        '--size',
        type=_size,
        help='WIDTHxHEIGHT in pixels, of a volume WIDTHxHEIGHTxDEPTH '
        f'({", ".join(_SIZES.values())})',
    )
    parser.add_argument('--seed', type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Make the files."""
    size = args.size or _size(_SIZES[args.kind])
    axes = 3 if args.kind == 'volume' else 2
    if len(size) != axes:
        raise SystemExit(f'panoptic: a {args.kind} has {axes} sizes; --size has {len(size)}')
    out = args.out or Path('out', 'sample', args.kind)
    out.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[..., None]]
    makers = {'slide': _slide, 'aerial': _aerial, 'volume': _volume}
    makers[args.kind](out, size, args.seed)
    print(f'sample in {out}')
    return 0


def _slide(out: Path, size_wh: tuple[int, int], seed: int) -> None:
    import tifffile

    sample = samples.slide(size_wh, seed)
    pixel_um = sample.pixel_size
    with (
        whole_file(out / 'slide.ome.tif') as path,
        tifffile.TiffWriter(path, bigtiff=True) as file,
    ):
        for level in range(_LEVELS):
            shape = -(-size_wh[1] >> level), -(-size_wh[0] >> level)
            scale = {
                'PhysicalSizeX': pixel_um,
                'PhysicalSizeXUnit': 'µm',
                'PhysicalSizeY': pixel_um,
                'PhysicalSizeYUnit': 'µm',
            }
            file.write(
                _tiles(sample, shape, level),
                shape=(*shape, 3),
                dtype=np.uint8,
                tile=(_TILE, _TILE),
                photometric='rgb',
                compression='zlib',
                subifds=0 if level else _LEVELS - 1,
                subfiletype=1 if level else 0,
                metadata=None if level else {'axes': 'YXS', **scale},
            )
    _truth(sample, out / 'truth.tif', Georeference((pixel_um, pixel_um), sample.unit))


def _tiles(sample: samples.Sample, shape: tuple[int, int], level: int) -> Iterator[np.ndarray]:
    """Make the tiles of a level of the pyramid, from left to right and top to bottom."""
    for y in range(0, shape[0], _TILE):
        for x in range(0, shape[1], _TILE):
            height, width = min(_TILE, shape[0] - y), min(_TILE, shape[1] - x)
            image = sample.read(
                x << level,
                y << level,
                min((x + width) << level, sample.size_wh[0]),
                min((y + height) << level, sample.size_wh[1]),
            ).image_rgb
            tile = np.zeros((_TILE, _TILE, 3), np.uint8)
            tile[:height, :width] = cv2.resize(
                image, (width, height), interpolation=cv2.INTER_AREA
            )
            yield tile


def _aerial(out: Path, size_wh: tuple[int, int], seed: int) -> None:
    pixel_m = samples.aerial(size_wh).pixel_size
    transform = (pixel_m, 0.0, _CORNER[0], 0.0, -pixel_m, _CORNER[1])
    crs = rasterio.crs.CRS.from_string(_CRS)
    georeference = from_rasterio(crs, transform, size_wh)
    for name, after in (('before', False), ('after', True)):
        sample = samples.aerial(size_wh, seed, after)
        with new_raster(
            out / f'{name}.tif', size_wh, georeference, 'uint8', None, ('red', 'green', 'blue'), {}
        ) as raster:
            for y0, y1 in _strips(size_wh[1]):
                image = sample.read(0, y0, size_wh[0], y1).image_rgb
                raster.add(np.ascontiguousarray(image.transpose(2, 0, 1)))
        _truth(sample, out / f'{name}_truth.tif', georeference)
    _zones(out / 'zones.geojson', size_wh, georeference)


def _zones(path: Path, size_wh: tuple[int, int], georeference: Georeference) -> None:
    """Write the left and the right half of the picture as zones, in degrees."""
    width, height = size_wh
    features = []
    for name, x0, x1 in (('west', 0, width // 2), ('east', width // 2, width)):
        corners = np.array([(x0, 0), (x1, 0), (x1, height), (x0, height), (x0, 0)], np.float64)
        points = rasterio.warp.transform(_CRS, 'EPSG:4326', *georeference.points(*corners.T))
        ring = np.stack(points, axis=1).round(9).tolist()
        geometry = {'type': 'Polygon', 'coordinates': [ring[::-1]]}
        features.append({'type': 'Feature', 'properties': {'name': name}, 'geometry': geometry})
    with whole_file(path) as temporary:
        content = {'type': 'FeatureCollection', 'features': features}
        temporary.write_text(json.dumps(content) + '\n', encoding='utf-8')


def _truth(sample: samples.Sample, path: Path, georeference: Georeference) -> None:
    with new_label_raster(path, sample.size_wh, georeference, sample.label_set) as raster:
        for y0, y1 in _strips(sample.size_wh[1]):
            raster.add(*sample.labels(0, y0, sample.size_wh[0], y1))


def _volume(out: Path, size_xyz: tuple[int, int, int], seed: int) -> None:
    import nibabel
    import tifffile

    made = samples.volume(size_xyz, seed)
    affine = np.diag([*made.voxel_size_xyz_mm, 1.0])
    for name, values in (('volume', made.image), ('truth', made.instance)):
        with whole_file(out / f'{name}.nii.gz') as path:
            nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), affine), path)
    with whole_file(out / 'volume.tif') as path:
        tifffile.imwrite(path, made.image, compression='zlib', photometric='minisblack')


def _strips(height: int) -> Iterator[tuple[int, int]]:
    return ((y, min(y + _TILE, height)) for y in range(0, height, _TILE))


def _size(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){1,2}', text):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a size; expected for example 4096x4096, or 192x160x64 for a volume'
        )
    return tuple(int(part) for part in text.split('x'))
