"""Stacks of planes: multi-page TIFF, NIfTI and DICOM series, read plane by plane."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from panoptic_ros.errors import SourceError, one_line

NIFTI_SUFFIXES = ('.nii', '.nii.gz')


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes of one size, in order.

    Parameters
    ----------
    name
        Of the file or folder.
    count
        Number of planes.
    size_wh
        Width and height of a plane.
    read
        Returns a plane by its number, [H, W] or uint8 [H, W, 3] RGB.
    affine
        float64 [4, 4], from (column, row, plane, 1) to millimetres, right, anterior and superior
        positive, as in NIfTI; None where no size is known.
    """

    name: str
    count: int
    size_wh: tuple[int, int]
    read: Callable[[int], np.ndarray]
    affine: np.ndarray | None = None

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel; 1 where no size is known."""
        return 1.0 if self.affine is None else float(abs(np.linalg.det(self.affine[:3, :3])))


def is_volume(path: Path) -> bool:
    """Whether a path is a NIfTI file or a folder of DICOM files."""
    if path.is_dir():
        return any(_is_dicom(file) for file in sorted(path.iterdir())[:3] if file.is_file())
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def open_stack(path: Path) -> Stack:
    """Open a multi-page TIFF, a NIfTI file or a folder of DICOM files.

    Raises SourceError if it cannot be read as planes of one size.
    """
    if path.is_dir():
        return _open_dicom(path)
    if not path.is_file():
        raise SourceError(
            f'source {str(path)!r} does not exist; expected a multi-page TIFF, a NIfTI file or a '
            'folder of DICOM files'
        )
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return _open_nifti(path)
    return _open_tiff(path)


def to_rgb(plane: np.ndarray, value_range: tuple[float, float] | None, stack: Stack) -> np.ndarray:
    """Return a plane as uint8 [H, W, 3].

    Raises SourceError if it has more than 8 bits and no range of values is given.
    """
    if value_range is not None:
        low, high = value_range
        if not (np.isfinite([low, high]).all() and low < high):
            raise SourceError(f'--range {low:g} {high:g} is empty; expected LOW below HIGH')
        scaled = (np.nan_to_num(plane.astype(np.float32)) - low) * (255 / (high - low))
        plane = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    elif plane.dtype != np.uint8:
        values = stack.read(stack.count // 2)
        low, high = np.nanpercentile(values.astype(np.float64), (1, 99))
        raise SourceError(
            f'{stack.name!r} has {plane.dtype} values; expected 8 bits, or --range LOW HIGH, the '
            'values that become black and white; in the middle plane 98 % lie in --range '
            f'{low:g} {max(high, low + 1):g}'
        )
    return np.repeat(plane[..., None], 3, axis=2) if plane.ndim == 2 else plane


def _open_tiff(path: Path) -> Stack:
    import tifffile

    errors = tifffile.TiffFileError, OSError, ValueError
    try:
        with tifffile.TiffFile(path) as file:
            shapes = {page.shape for page in file.pages}
            count = len(file.pages)
    except errors as error:
        raise _unreadable(path, error) from error
    shape: tuple[int, ...] = next(iter(shapes), ())
    if len(shapes) != 1 or not (len(shape) == 2 or shape[2:] == (3,)):
        raise SourceError(
            f'{str(path)!r} has pages of the shapes {sorted(shapes)}; expected pages of one size, '
            'grey or RGB'
        )

    def read(number: int) -> np.ndarray:
        try:
            return tifffile.imread(path, key=number)
        except errors as error:
            raise _unreadable(path, error) from error

    return Stack(path.name, count, (shape[1], shape[0]), read)


def _open_nifti(path: Path) -> Stack:
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    errors = ImageFileError, OSError, ValueError, EOFError
    try:
        image = nibabel.load(path)
    except errors as error:
        raise _unreadable(path, error) from error
    shape = image.shape
    if len(shape) != 3:
        raise SourceError(
            f'{str(path)!r} has {len(shape)} axes {shape}; expected three: take one volume out '
            'of it, for example with nibabel.four_to_three'
        )
    is_byte = image.get_data_dtype() == np.uint8 and image.dataobj.slope in (None, 1)

    def read(number: int) -> np.ndarray:
        try:
            plane = np.asarray(image.dataobj[:, :, number]).T
        except errors as error:
            raise _unreadable(path, error) from error
        return plane.astype(np.uint8) if is_byte else plane

    return Stack(path.name, shape[2], (shape[0], shape[1]), read, image.affine)


def _open_dicom(folder: Path) -> Stack:
    import pydicom

    errors = pydicom.errors.InvalidDicomError, OSError, AttributeError, ValueError, RuntimeError
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and _is_dicom(path)]
    if not paths:
        raise SourceError(f'folder {str(folder)!r} has no DICOM files; expected a series of them')
    try:
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
        series = {header.SeriesInstanceUID for header in headers}
        sizes = {(int(header.Columns), int(header.Rows)) for header in headers}
        orientation = np.array(headers[0].ImageOrientationPatient, np.float64)
        positions = np.array([h.ImagePositionPatient for h in headers], np.float64)
        spacing = np.array(headers[0].PixelSpacing, np.float64)
    except errors as error:
        raise _unreadable(folder, error) from error
    if len(series) != 1 or len(sizes) != 1:
        raise SourceError(
            f'folder {str(folder)!r} holds {len(series)} series with planes of {len(sizes)} '
            'sizes; expected one series: put each into a folder of its own'
        )
    along_row, along_column = orientation[:3], orientation[3:]
    normal = np.cross(along_row, along_column)
    depth = positions @ normal
    order = np.argsort(depth)
    steps = np.diff(depth[order])
    if len(steps) and not np.allclose(steps, steps[0], atol=0.01 * abs(steps[0]) + 1e-3):
        raise SourceError(
            f'folder {str(folder)!r} has planes {steps.min():g} to {steps.max():g} mm apart; '
            'expected equal distances: a file may be missing'
        )
    step = steps[0] if len(steps) else float(headers[0].get('SliceThickness', 1))
    affine = np.eye(4)
    affine[:3, 0] = along_row * spacing[1]
    affine[:3, 1] = along_column * spacing[0]
    affine[:3, 2] = normal * step
    affine[:3, 3] = positions[order[0]]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM has left and posterior positive

    def read(number: int) -> np.ndarray:
        path = paths[order[number]]
        try:
            file = pydicom.dcmread(path)
            values = file.pixel_array
        except errors as error:
            raise _unreadable(path, error) from error
        slope, intercept = file.get('RescaleSlope', 1), file.get('RescaleIntercept', 0)
        is_plain = (slope, intercept) == (1, 0)
        return values if is_plain else values * np.float32(slope) + np.float32(intercept)

    (size_wh,) = sizes
    return Stack(folder.name, len(paths), size_wh, read, affine)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open('rb') as file:
            file.seek(128)
            return file.read(4) == b'DICM'
    except OSError:
        return False


def _unreadable(path: Path, error: Exception) -> SourceError:
    return SourceError(
        f'{str(path)!r} cannot be read ({one_line(error)}); it is truncated, damaged '
        'or of an unknown kind: copy or export it again'
    )
