import csv

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile

from panoptic_ros.errors import SourceError
from panoptic_ros.labels import VOID
from panoptic_ros.large.bands import BandStore
from panoptic_ros.large.reading.stacks import Stack, is_volume, open_stack, to_rgb
from panoptic_ros.large.samples import NUCLEI, volume
from panoptic_ros.large.stitching import WindowMap
from panoptic_ros.large.volumes import (
    Plane,
    VolumeMap,
    link_planes,
    segment_planes,
    stitch_planes,
    track_planes,
    volume_class_table,
    volume_table,
    write_volume,
)
from panoptic_ros.large.windows import Grid

SPACING_MM = (0.5, 0.25, 2.0)


@pytest.fixture(scope='module')
def made():
    return volume((100, 90, 40))


def bright_pieces(image_rgb: np.ndarray, corner_xy: tuple[int, int]) -> WindowMap:
    """Segment the bright pixels of a window, connected pieces as objects."""
    from scipy.ndimage import label

    pieces, count = label(image_rgb[..., 0] > 100, np.ones((3, 3)))
    semantic = (pieces > 0).astype(np.uint16)
    return WindowMap(semantic, pieces.astype(np.uint16), np.full(count + 1, 0.5, np.float32))


@pytest.fixture
def planes_of(tmp_path):
    """Return a function that segments and stitches a stack."""

    def planes_of(stack: Stack, segment=bright_pieces, resume: bool = False) -> list[Plane]:
        grid = Grid(stack.size_wh, (48, 48), 8, 2)
        store = BandStore(tmp_path / '.bands', {'stack': stack.name}, resume)
        segment_planes(stack, segment, grid, None, store)
        return stitch_planes(stack, grid, store)

    return planes_of


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack((a.ravel(), b.ravel())), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@pytest.fixture
def nifti(made, tmp_path):
    path = tmp_path / 'volume.nii.gz'
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = -10, 20, 5
    nibabel.save(nibabel.Nifti1Image(made.image.transpose(2, 1, 0), affine), path)
    return path


def test_objects_are_linked_along_z(made, nifti, tmp_path, planes_of) -> None:
    stack = open_stack(nifti)
    found = link_planes(planes_of(stack))
    assert same_partition(found.instance, made.instance)
    write_volume(found, stack, NUCLEI, tmp_path / 'out')
    written = nibabel.load(tmp_path / 'out' / 'instance.nii.gz')
    np.testing.assert_array_equal(written.affine, nibabel.load(nifti).affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj).transpose(2, 1, 0), found.instance)
    with (tmp_path / 'out' / 'objects.csv').open() as file:
        rows = list(csv.DictReader(file))
    z, _, x = np.nonzero(found.instance == 1)
    assert rows[0]['voxels'] == str(len(z))
    assert float(rows[0]['volume_mm3']) == len(z) * 0.25
    assert float(rows[0]['centroid_x_mm']) == pytest.approx(x.mean() * 0.5 - 10)
    assert float(rows[0]['centroid_z_mm']) == pytest.approx(z.mean() * 2 + 5)
    table = volume_class_table(found, stack, NUCLEI)
    assert table['voxels'].sum() == made.image.size
    assert table['count'].tolist() == [0, len(rows), 0]


def write_dicom(folder, image, rescale=None) -> None:
    """Write planes in an order that is not theirs in space."""
    folder.mkdir()
    for number, plane in enumerate(image):
        file = pydicom.dataset.FileDataset('', {}, preamble=b'\0' * 128)
        file.file_meta = pydicom.dataset.FileMetaDataset()
        file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        file.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        file.file_meta.MediaStorageSOPInstanceUID = f'1.2.3.{number + 1}'
        file.SOPClassUID, file.SOPInstanceUID = pydicom.uid.CTImageStorage, f'1.2.3.{number + 1}'
        file.SeriesInstanceUID = '1.2.3'
        file.Rows, file.Columns = plane.shape
        file.PixelSpacing = [SPACING_MM[1], SPACING_MM[0]]
        file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        file.ImagePositionPatient = [-10, 20, number * SPACING_MM[2]]
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, 'MONOCHROME2'
        file.BitsAllocated = file.BitsStored = 8 * plane.dtype.itemsize
        file.HighBit, file.PixelRepresentation = file.BitsAllocated - 1, 0
        if rescale:
            file.RescaleSlope, file.RescaleIntercept = rescale
        file.PixelData = plane.tobytes()
        name = f'{(number * 7) % len(image):03d}.dcm'
        file.save_as(folder / name, enforce_file_format=True)


def test_dicom_series(made, tmp_path, planes_of) -> None:
    write_dicom(tmp_path / 'series', made.image)
    stack = open_stack(tmp_path / 'series')
    assert is_volume(tmp_path / 'series')
    np.testing.assert_array_equal(np.stack([stack.read(n) for n in range(40)]), made.image)
    assert stack.voxel_mm3 == pytest.approx(0.25)
    # Left and posterior are positive in DICOM, right and anterior in NIfTI.
    assert (stack.affine @ [2, 4, 1, 1]).tolist() == [10 - 1, -20 - 1, 2, 1]
    assert same_partition(link_planes(planes_of(stack)).instance, made.instance)


def test_dicom_with_units_and_a_missing_plane(made, tmp_path) -> None:
    write_dicom(tmp_path / 'ct', made.image[:5].astype(np.uint16), rescale=(2, -1000))
    stack = open_stack(tmp_path / 'ct')
    assert stack.read(0).max() == made.image[0].max() * 2.0 - 1000
    with pytest.raises(SourceError, match=r'98 % lie in --range -9\d\d'):
        to_rgb(stack.read(0), None, stack)
    assert to_rgb(stack.read(0), (-1000, -999), stack).max() == 255
    next(path for path in (tmp_path / 'ct').iterdir() if '002' in path.name).unlink()
    with pytest.raises(SourceError, match='expected equal distances: a file may be missing'):
        open_stack(tmp_path / 'ct')


def test_stacks_that_cannot_be_read(tmp_path, nifti) -> None:
    with pytest.raises(SourceError, match='does not exist'):
        open_stack(tmp_path / 'none.nii')
    nifti.write_bytes(nifti.read_bytes()[:2000])
    with pytest.raises(SourceError, match='truncated, damaged'):
        open_stack(nifti).read(30)
    four = tmp_path / 'four.nii'
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.uint8), np.eye(4)), four)
    with pytest.raises(SourceError, match='has 4 axes'):
        open_stack(four)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(SourceError, match='no DICOM files'):
        open_stack(tmp_path / 'empty')
    pages = tmp_path / 'pages.tif'
    tifffile.imwrite(pages, np.zeros((8, 8), np.uint8))
    tifffile.imwrite(pages, np.zeros((8, 9), np.uint8), append=True)
    with pytest.raises(SourceError, match='expected pages of one size'):
        open_stack(pages)


def test_ids_stay_from_frame_to_frame(tmp_path, planes_of) -> None:
    frames = np.zeros((6, 40, 60), np.uint8)
    for number, frame in enumerate(frames):
        frame[5 : 5 + 8, 4 + 3 * number : 14 + 3 * number] = 200
        frame[25:35, 40 - 3 * number : 50 - 3 * number] = 200
    path = tmp_path / 'time.tif'
    tifffile.imwrite(path, frames, photometric='minisblack')
    planes = planes_of(open_stack(path))
    instance, tracks = track_planes(planes, NUCLEI, rate_hz=10)
    first, second = instance[:, 8].max(axis=1), instance[:, 30].max(axis=1)
    assert len(set(first)) == len(set(second)) == 1
    assert first[0] != second[0]
    assert tracks['frames'].tolist() == [6, 6]
    assert tracks['mean_area_px'].tolist() == [80, 100]


def test_volume_without_a_size() -> None:
    found = VolumeMap(
        np.full((1, 1, 2), VOID, np.uint8), np.array([[[0, 1]]], np.uint32),
        np.array([1], np.uint8), np.ones(1, np.float32),
    )  # fmt: skip
    stack = Stack('x', 1, (2, 1), lambda number: None)
    assert 'volume_mm3' not in volume_table(found, stack, NUCLEI)
    assert volume_class_table(found, stack, NUCLEI)['voxels'].tolist() == [0, 0, 2]


def test_an_interrupted_stack_goes_on(made, nifti, planes_of) -> None:
    stack = open_stack(nifti)
    done = []

    def segment(image_rgb: np.ndarray, corner_xy: tuple[int, int]) -> WindowMap:
        done.append(corner_xy)
        if len(done) == 40:
            raise KeyboardInterrupt
        return bright_pieces(image_rgb, corner_xy)

    with pytest.raises(KeyboardInterrupt):
        planes_of(stack, segment)
    planes = planes_of(stack, segment, resume=True)
    # Three windows are a band, three bands a plane.
    assert len(done) == 40 + 9 * stack.count - 39
    assert same_partition(link_planes(planes).instance, made.instance)
