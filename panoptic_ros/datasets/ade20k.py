"""ADE20K Panoptic: 150 classes, 100 of them things.

The layout is that of the scene parsing challenge, with the panoptic files that the common
conversion scripts write (Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017)::

    ROOT/images/validation/ADE_val_00000001.jpg
    ROOT/ade20k_panoptic_val.json
    ROOT/ade20k_panoptic_val/ADE_val_00000001.png

ROOT is the folder ``ADEChallengeData2016``, or its parent.
"""

from pathlib import Path

from panoptic_ros.datasets.coco import CocoPanoptic
from panoptic_ros.errors import DatasetError
from panoptic_ros.labels import LabelSet

_CHALLENGE = 'ADEChallengeData2016'
_IMAGE_FOLDERS = {'train': 'training', 'val': 'validation'}


class Ade20kPanoptic(CocoPanoptic):
    """ADE20K in the layout above, ``split`` is ``train`` or ``val``.

    Raises DatasetError for another split, and as :class:`CocoPanoptic` does.
    """

    def __init__(
        self, root: str | Path, split: str = 'val', label_set: LabelSet | None = None
    ) -> None:
        if split not in _IMAGE_FOLDERS:
            raise DatasetError(
                f'ADE20K has no split {split!r}; expected one of {", ".join(_IMAGE_FOLDERS)}'
            )
        folder = Path(root)
        if (folder / _CHALLENGE).is_dir():
            folder = folder / _CHALLENGE
        super().__init__(
            folder / f'ade20k_panoptic_{split}.json',
            folder / f'ade20k_panoptic_{split}',
            folder / 'images' / _IMAGE_FOLDERS[split],
            label_set or LabelSet.load('ade20k'),
        )
