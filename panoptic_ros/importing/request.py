"""What to import, and the steps that every importer takes alike."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from panoptic_ros import __version__
from panoptic_ros.datasets.street.scene import synthetic_samples
from panoptic_ros.engines.golden import output_fault
from panoptic_ros.errors import SourceError
from panoptic_ros.image_files import read_image
from panoptic_ros.importing.agreement import infer_all
from panoptic_ros.importing.labels import ClassMap
from panoptic_ros.model import Model, write_model
from panoptic_ros.model.resize import Resize

_LABELS_FILE = 'labels.yaml'


@dataclass(frozen=True)
class Request:
    """What to import, and how.

    Parameters
    ----------
    checkpoint
        Folder, hub id, or ONNX file of a detector.
    folder
        The model folder to write.
    size_wh
        Input size; None for the one that the checkpoint names.
    labels
        A label set's name or ``.yaml`` file; None to find it by the class names.
    task
        Of :data:`~panoptic_ros.importing.families.family`; None for the family's usual one.
    pictures
        Pictures on which the files are compared; the first becomes the golden one. A synthetic
        street takes their place if there are none.
    licence
        Of the weights.
    names
        File with the class names of an ONNX file, or ``coco-ids``; None for those it has.
    """

    checkpoint: str
    folder: Path
    size_wh: tuple[int, int] | None = None
    labels: str | None = None
    task: str | None = None
    pictures: tuple[Path, ...] = ()
    licence: str = 'unknown'
    names: str | None = None


def read_images(
    pictures: Sequence[Path], resize: Resize, size_wh: tuple[int, int]
) -> list[np.ndarray]:
    """Return pictures at the size of a network's input, uint8 [H, W, 3] RGB; a street if none.

    Raises SourceError if a picture cannot be read.
    """
    images = []
    for path in pictures:
        picture = read_image(path) if path.is_file() else None
        if picture is None:
            raise SourceError(f'{path} is not a picture that can be read; correct --check')
        images.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    if not images:
        images.append(synthetic_samples(seed=7, count=1, size_wh=(640, 320))[0].image_rgb)
    return [np.ascontiguousarray(resize.apply(image, size_wh)) for image in images]


def write_folder(
    request: Request,
    say: Callable[[str], None],
    *,
    class_map: ClassMap,
    origin: Mapping[str, str],
    tool: str,
    notes: Mapping[str, str],
    files: Mapping[str, Path],
    **content: Any,
) -> Model:
    """Write the model folder of an imported network and report its files.

    A float16 file that engines would refuse for its outputs of the golden picture is left out.

    Parameters
    ----------
    origin
        Checkpoint, family and task, for the provenance in the card.
    tool
        Name and version of what read the checkpoint.
    notes
        Remarks on each file, by precision.
    files
        ONNX files, by precision.
    content
        Further arguments of :func:`~panoptic_ros.model.write_model`.
    """

    def write(notes: Mapping[str, str], files: Mapping[str, Path]) -> Model:
        return write_model(
            request.folder,
            label_set=_label_set_name(request.labels, class_map, request.folder),
            provenance={
                **origin,
                'imported': datetime.date.today().isoformat(),
                'importer': f'panoptic_ros {__version__}, {tool}',
                **notes,
            },
            licence=request.licence,
            onnx_by_precision=files,
            **content,
        )

    model = write(notes, files)
    if 'float16' in files:
        image, golden = model.golden()
        path = model.onnx_path('float16')
        fault = output_fault(infer_all(path, [image])[0], golden, model)
        if fault:
            reason = f'left out: engines would refuse its outputs of the golden picture: {fault}'
            say(f'float16 file {reason}')
            path.unlink()
            model = write({**notes, 'float16': reason}, {'float32': files['float32']})
    for precision, entry in model.card.files.items():
        say(f'{model.folder / entry.path}  {precision}  {entry.bytes / 1e6:.1f} MB')
    return model


def _label_set_name(labels: str | None, class_map: ClassMap, folder: Path) -> str:
    """Return what the card calls the label set; a file is copied into the model folder."""
    if labels is None or not labels.endswith('.yaml'):
        return class_map.label_set.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _LABELS_FILE).write_bytes(Path(labels).read_bytes())
    return _LABELS_FILE
