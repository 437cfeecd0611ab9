"""Open a data set by its name, as the commands do."""

from collections.abc import Sequence
from pathlib import Path

from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.ade20k import Ade20kPanoptic
from panoptic_ros.datasets.cityscapes import open_cityscapes
from panoptic_ros.datasets.coco import CocoPanoptic
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
"""The data sets, and the split of each that figures are usually taken on."""

_SYNTHETIC_SEEDS = {'train': 1000, 'val': 2000}  # training renders its own from seed 1000
_SYNTHETIC_COUNT = 100


def open_dataset(
    name: str, root: str | Path | None, split: str | None = None
) -> tuple[Sequence[Sample], LabelSet]:
    """Open one of :data:`DEFAULT_SPLITS`.

    Parameters
    ----------
    root
        The data set's folder in its official layout; ``synthetic`` needs none.
    split
        The default one if None.

    Returns
    -------
    The samples, read or rendered when they are asked for, and the label set of their truth.

    Raises DatasetError for another name or split, and where the reader does.
    """
    if name not in DEFAULT_SPLITS:
        raise DatasetError(
            f'no data set is called {name!r}; expected one of {", ".join(DEFAULT_SPLITS)}'
        )
    split = split or DEFAULT_SPLITS[name]
    if name == 'synthetic':
        if split not in _SYNTHETIC_SEEDS:
            raise DatasetError(
                f'the synthetic street has no split {split!r}; expected one of '
                f'{", ".join(_SYNTHETIC_SEEDS)}'
            )
        samples = synthetic_samples(_SYNTHETIC_SEEDS[split], _SYNTHETIC_COUNT)
        return samples, LabelSet.load('cityscapes')
    if root is None:
        raise DatasetError(f'data set {name!r} needs the folder it lies in')
    match name:
        case 'cityscapes':
            dataset = open_cityscapes(root, split)
        case 'coco':
            dataset = CocoPanoptic(root, split)
        case 'ade20k':
            dataset = Ade20kPanoptic(root, split)
        case 'vistas':
            dataset = VistasPanoptic(root, split)
        case _:
            dataset = VistasPanoptic(root, split, version='v2.0')
    return dataset, dataset.label_set
