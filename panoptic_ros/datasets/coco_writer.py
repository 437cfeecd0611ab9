"""Write panoptic maps as COCO panoptic files."""

import json
from pathlib import Path
from typing import Any

import cv2

from panoptic_ros.image_files import write_image
from panoptic_ros.labels import LabelSet
from panoptic_ros.packing import coco_categories, to_coco
from panoptic_ros.panoptic import Panoptic


class CocoPanopticWriter:
    """Write ``FOLDER/panoptic.json`` and ``FOLDER/panoptic/NAME.png``.

    A context manager that writes the JSON on exit, also after an error, so that an interrupted
    run keeps its results. All methods raise OSError if a file cannot be written.

    Parameters
    ----------
    folder
        The folder, which is made if needed.
    label_set
        The classes of the maps.
    info
        Content of the JSON's ``info``.
    """

    def __init__(self, folder: Path, label_set: LabelSet, info: dict[str, Any]) -> None:
        self._folder = folder
        self._label_set = label_set
        self._info = info
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        (folder / 'panoptic').mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> 'CocoPanopticWriter':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        content = {
            'info': self._info,
            'images': self._images,
            'annotations': self._annotations,
            'categories': coco_categories(self._label_set),
        }
        text = json.dumps(content)
        (self._folder / 'panoptic.json').write_text(text, encoding='utf-8')

    def add(
        self,
        panoptic: Panoptic,
        name: str,
        image_id: int | str | None = None,
        file_name: str | None = None,
    ) -> None:
        """Write one map.

        Parameters
        ----------
        name
            Name of the PNG without suffix; may contain folders.
        image_id
            Id in the JSON; 1, 2, ... if None.
        file_name
            Name of the camera image in the JSON; that of the PNG if None.
        """
        rgb, segments_info = to_coco(panoptic, self._label_set)
        png = f'{name}.png'
        write_image(self._folder / 'panoptic' / png, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        if image_id is None:
            image_id = len(self._images) + 1
        width, height = panoptic.size_wh
        self._images.append(
            {'id': image_id, 'file_name': file_name or png, 'width': width, 'height': height}
        )
        self._annotations.append(
            {'image_id': image_id, 'file_name': png, 'segments_info': segments_info}
        )
