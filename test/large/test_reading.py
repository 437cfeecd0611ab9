import numpy as np
import pytest
import tifffile

from panoptic_ros.errors import SourceError
from panoptic_ros.large.reading.georeference import Georeference, degrees_m
from panoptic_ros.large.reading.pictures import Length, Picture, ReadOptions

RAMP = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60)


def rgb(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, height, width)).astype(np.uint8)


def test_pixels_of_a_geotiff(write_geotiff) -> None:
    bands = rgb()
    picture = Picture.open(write_geotiff(bands))
    image, is_valid = picture.read(5, 7, 50, 40)
    np.testing.assert_array_equal(image, bands[:, 7:40, 5:50].transpose(1, 2, 0))
    assert is_valid.all()
    assert picture.size_wh == (60, 40)
    assert picture.georeference.unit == 'm'
    assert picture.georeference.pixel_size_xy == (0.5, 0.5)


@pytest.mark.parametrize('compression', [None, 'zlib', 'jpeg'])
def test_pixels_of_an_ome_tiff(tmp_path, compression) -> None:
    image = rgb(300, 200).transpose(1, 2, 0) // 64 * 64
    path = tmp_path / 'slide.ome.tif'
    tifffile.imwrite(
        path,
        image,
        tile=(64, 64),
        photometric='rgb',
        compression=compression,
        metadata={'axes': 'YXS', 'PhysicalSizeX': 250, 'PhysicalSizeXUnit': 'nm',
                  'PhysicalSizeY': 0.25, 'PhysicalSizeYUnit': 'µm'},
    )  # fmt: skip
    picture = Picture.open(path)
    found, _ = picture.read(30, 50, 190, 290)
    np.testing.assert_array_equal(found, tifffile.imread(path)[50:290, 30:190])
    assert picture.georeference == Georeference((0.25, 0.25), 'um')


def test_windows_of_another_resolution_agree(write_geotiff) -> None:
    picture = Picture.open(write_geotiff(rgb(200, 300)), ReadOptions('1.7m'))
    assert picture.size_wh == (88, 59)
    whole, _ = picture.read(0, 0, 88, 59)
    part, _ = picture.read(20, 13, 61, 40)
    # OpenCV interpolates in steps of 1/32 pixel.
    assert abs(part.astype(int) - whole[13:40, 20:61]).max() <= 4


def test_a_flat_picture_stays_flat_at_every_resolution(write_geotiff) -> None:
    path = write_geotiff(np.full((3, 90, 70), 77, np.uint8))
    for resolution in ('0.2m', '0.9m', '7m'):
        picture = Picture.open(path, ReadOptions(resolution))
        image, is_valid = picture.read(0, 0, *picture.size_wh)
        assert (image == 77).all()
        assert is_valid.all()


def test_grey_alpha_and_nodata(write_geotiff) -> None:
    grey = rgb()[:1]
    grey[0, :, :10] = 0
    picture = Picture.open(write_geotiff(grey, nodata=0))
    image, is_valid = picture.read(0, 0, 60, 40)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])
    assert not is_valid[:, :10].any()
    alpha = np.full((1, 40, 60), 255, np.uint8)
    alpha[0, :5] = 0
    path = write_geotiff(
        np.concatenate((rgb(), alpha)), 'alpha.tif', photometric='RGB', alpha='YES'
    )
    _, is_valid = Picture.open(path).read(0, 0, 60, 40)
    np.testing.assert_array_equal(is_valid, alpha[0] > 0)


def test_more_bits_need_a_range(write_geotiff) -> None:
    path = write_geotiff(RAMP[None])
    with pytest.raises(SourceError, match=r'uint16 values; expected 8 bits, or --range .* 98 %'):
        Picture.open(path)
    picture = Picture.open(path, ReadOptions(value_range=(0, 2399)))
    image, _ = picture.read(0, 0, 60, 40)
    assert image.min() == 0
    assert image.max() == 255
    floats = np.where(RAMP < 100, np.nan, RAMP).astype(np.float32)[None]
    path = write_geotiff(floats, 'float.tif')
    _, is_valid = Picture.open(path, ReadOptions(value_range=(0, 2399))).read(0, 0, 60, 40)
    np.testing.assert_array_equal(is_valid, RAMP >= 100)


def test_bands_are_chosen(write_geotiff) -> None:
    five = np.arange(5, dtype=np.uint8)[:, None, None] + np.zeros((5, 40, 60), np.uint8)
    path = write_geotiff(five)
    with pytest.raises(SourceError, match=r'5 bands and does not say .* --bands 1,2,3'):
        Picture.open(path)
    image, _ = Picture.open(path, ReadOptions(bands=(5, 3, 1))).read(0, 0, 1, 1)
    assert image[0, 0].tolist() == [4, 2, 0]
    with pytest.raises(SourceError, match='--bands 6 does not fit'):
        Picture.open(path, ReadOptions(bands=(6,)))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (ReadOptions('level3'), r'has no level 3; it has level0 \(60x40\)'),
        (ReadOptions('3 parsec'), '--resolution: .* is not a length'),
        (ReadOptions(pixel_size='1m'), 'leave the option out'),
        (ReadOptions(value_range=(5, 5)), '--range 5 5 is empty'),
    ],
)
def test_what_a_file_does_not_have(write_geotiff, options: ReadOptions, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        Picture.open(write_geotiff(rgb()), options)


def test_a_size_without_a_pixel_size(write_geotiff) -> None:
    path = write_geotiff(rgb(), crs=None, transform=None)
    with pytest.raises(SourceError, match='does not say how large its pixels are'):
        Picture.open(path, ReadOptions('1um'))
    picture = Picture.open(path, ReadOptions('1um', '0.25um'))
    assert picture.size_wh == (15, 10)
    assert picture.georeference.unit == 'um'


def test_a_coordinate_system_without_a_position(write_geotiff) -> None:
    """Files that are located by control points alone have an identity for a transform."""
    picture = Picture.open(write_geotiff(rgb(), transform=None), ReadOptions())
    assert picture.georeference == Georeference()


def test_truncated_files(write_geotiff, tmp_path) -> None:
    path = write_geotiff(rgb(600, 600), tiled=True, compress='deflate', blockxsize=256)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    picture_error = None
    try:
        picture = Picture.open(path)
        picture.read(0, 0, 600, 600)
    except SourceError as error:
        picture_error = str(error)
    assert picture_error is not None
    assert 'truncated, damaged' in picture_error
    empty = tmp_path / 'empty.svs'
    empty.write_bytes(b'')
    with pytest.raises(SourceError, match='cannot be read'):
        Picture.open(empty)
    with pytest.raises(SourceError, match='does not exist'):
        Picture.open(tmp_path / 'none.tif')


def test_area_of_pixels_in_degrees() -> None:
    # At 60 degrees north a degree of longitude is half as long as on the equator.
    across, along = degrees_m(np.array([0.0, 60.0]))
    assert across[1] / across[0] == pytest.approx(0.5, rel=0.005)
    assert along == pytest.approx([110574, 111412], abs=2)
    degrees = Georeference((1, 1), 'm', (0.001, 0, 10, 0, -0.001, 61), 'x', is_geographic=True)
    area = degrees.pixel_area(np.array([1000.0]))  # latitude 60
    assert area == pytest.approx(across[1] * along[1] * 1e-6)


def test_lengths() -> None:
    assert Length.parse('0.5um') == Length(0.5, 'um')
    assert Length.parse('30 cm') == Length(0.3, 'm')
    for text in ('', '5', '-1m', '0m', '1 mile'):
        with pytest.raises(ValueError, match='is not a length'):
            Length.parse(text)
