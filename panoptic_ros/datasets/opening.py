"""Open a data set by its name, as the commands do."""

from collections.abc import Sequence
from pathlib import Path

from panoptic_ros.datasets import LabelledImages, Sample
from panoptic_ros.datasets.ade20k import Ade20kPanoptic
from panoptic_ros.datasets.cityscapes import open_cityscapes
from panoptic_ros.datasets.coco import default_coco_split, open_coco
from panoptic_ros.datasets.street.scene import synthetic_samples
from panoptic_ros.datasets.vistas import VistasPanoptic
from panoptic_ros.errors import DatasetError
from panoptic_ros.labels import LabelSet

DEFAULT_SPLITS = {
    'cityscapes': 'val',
    'coco': 'val2017',
    'vistas': 'validation',
    'vistas-v2.0': 'validation',
    'ade20k': 'val',
    'synthetic': 'val',
}
"""The data sets and the split on which results are usually reported. ``coco`` is every data set
in a format of COCO; its split depends on the folder (:func:`default_split`)."""

_SYNTHETIC_SEEDS = {'train': 1000, 'val': 2000}  # training renders its own from seed 1000
_SYNTHETIC_COUNT = 100


def default_split(name: str, root: str | Path | None) -> str:
    """Return the split to open where none is named.

    Raises DatasetError if there is no data set of that name, or the choice is not clear.
    """
    if name not in DEFAULT_SPLITS:
        raise DatasetError(
            f'no data set is called {name!r}; expected one of {", ".join(DEFAULT_SPLITS)}'
        )
    if name == 'coco' and root is not None:
        return default_coco_split(root)
    return DEFAULT_SPLITS[name]


def open_dataset(
    name: str,
    root: str | Path | None,
    split: str | None = None,
    label_set: LabelSet | None = None,
) -> tuple[Sequence[Sample], LabelSet]:
    """Open one of :data:`DEFAULT_SPLITS`.

    Parameters
    ----------
    root
        The folder of the data set in its official layout; of ``coco`` also the JSON file.
        ``synthetic`` needs none.
    split
        :func:`default_split` if None.
    label_set
        The classes of the truth; if None, those of the data set. ``coco`` takes the categories
        of its JSON.

    Returns
    -------
    The samples, read or rendered when they are asked for, and the label set of their truth.

    Raises DatasetError for another name or split, and as the readers do.
    """
    split = split or default_split(name, root)
    if name == 'synthetic':
        if split not in _SYNTHETIC_SEEDS:
            raise DatasetError(
                f'the synthetic street has no split {split!r}; expected one of '
                f'{", ".join(_SYNTHETIC_SEEDS)}'
            )
        samples = synthetic_samples(_SYNTHETIC_SEEDS[split], _SYNTHETIC_COUNT)
        return samples, LabelSet.load('cityscapes')
    if root is None:
        raise DatasetError(f'data set {name!r} needs the path of its folder')
    dataset: LabelledImages
    match name:
        case 'cityscapes':
            dataset = open_cityscapes(root, split, label_set)
        case 'coco':
            dataset = open_coco(root, split, label_set)
        case 'ade20k':
            dataset = Ade20kPanoptic(root, split, label_set)
        case 'vistas':
            dataset = VistasPanoptic(root, split, label_set=label_set)
        case _:
            dataset = VistasPanoptic(root, split, 'v2.0', label_set)
    return dataset, dataset.label_set
