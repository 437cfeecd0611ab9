"""Mapillary Vistas, panoptic truth of version 1.2 and of version 2.0.

The official layout (Neuhold et al., The Mapillary Vistas Dataset, ICCV 2017)::

    ROOT/training/images/IMAGE_ID.jpg
    ROOT/training/v1.2/panoptic/panoptic_2018.json      65 classes
    ROOT/training/v1.2/panoptic/IMAGE_ID.png
    ROOT/training/v2.0/panoptic/panoptic_2020.json      finer classes
    ROOT/training/v2.0/panoptic/IMAGE_ID.png

``validation`` has the same layout. Older copies of version 1.2 have ``training/panoptic``.
"""

from pathlib import Path

from panoptic_ros.datasets.coco import CocoPanoptic
from panoptic_ros.errors import DatasetError
from panoptic_ros.labels import LabelSet

_JSON_NAMES = {'v1.2': 'panoptic_2018.json', 'v2.0': 'panoptic_2020.json'}


class VistasPanoptic(CocoPanoptic):
    """Mapillary Vistas in its official layout.

    Parameters
    ----------
    root
        The folder with ``training`` and ``validation``.
    split
        ``training`` or ``validation``.
    version
        ``v1.2`` or ``v2.0``.
    label_set
        By default ``vistas`` for version 1.2, and the categories of the JSON for version 2.0.

    Raises DatasetError for an unknown version, and as :class:`CocoPanoptic` does.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = 'validation',
        version: str = 'v1.2',
        label_set: LabelSet | None = None,
    ) -> None:
        if version not in _JSON_NAMES:
            raise DatasetError(
                f'Mapillary Vistas has no version {version!r}; expected one of '
                f'{", ".join(_JSON_NAMES)}'
            )
        folder = Path(root) / split
        truth = folder / version / 'panoptic'
        if version == 'v1.2':
            label_set = label_set or LabelSet.load('vistas')
            if not truth.is_dir() and (folder / 'panoptic').is_dir():
                truth = folder / 'panoptic'
        super().__init__(truth / _JSON_NAMES[version], truth, folder / 'images', label_set)
