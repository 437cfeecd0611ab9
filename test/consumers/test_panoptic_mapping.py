"""panoptic_mapping: ethz-asl/panoptic_mapping, main (ROS 1, so through ros1_bridge).

Rules:

* ``panoptic_mapping_ros/src/input/input_synchronizer.cpp``: the segmentation image is converted
  to 32SC1, which cv_bridge does from nothing but integers of one channel; images belong together
  if their stamps differ by at most ``max_delay``, 0 unless set.
* ``panoptic_mapping/src/labels/csv_label_handler.cpp``: the columns of the label table; every
  line has all of them, and the reader knows no quotes.
* ``panoptic_mapping/src/tracking/ground_truth_id_tracker.cpp``: an id that the table has becomes
  a submap of its class, an object or background; others are dropped.
* ``panoptic_mapping/src/tracking/projective_id_tracker.cpp``, ``classesMatch``: the class of an id
  is the table's.
* ``panoptic_mapping/src/tracking/detectron_id_tracker.cpp``: 0 is no prediction.
"""

from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from panoptic_ros.consumers import PANOPTIC_MAPPING_IDS, panoptic_mapping_labels
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.resources import resource

IMAGE, OUT = '/robot/image', '/robot/segment/'
PANOPTIC, SEMANTIC = OUT + 'panoptic', OUT + 'semantic'
RELIABLE = QoSProfile(depth=10)
LABELS = LabelSet.load('cityscapes')
NODE_ARGUMENTS = (
    *('--params-file', str(resource('config', 'consumers', 'panoptic_mapping.yaml'))),
    *('-p', 'min_stuff_area_fraction:=0.35'),  # sky becomes void
)


@dataclass(frozen=True)
class Label:
    class_id: int
    is_instance: bool
    name: str


def read_table(text: str) -> dict[int, Label]:
    """Read a label table as CsvLabelHandler does."""
    header, *lines = text.splitlines()
    columns = header.split(',')
    assert columns == ['InstanceID', 'ClassID', 'PanopticID', 'R', 'G', 'B', 'Name', 'Size']
    rows = [dict(zip(columns, line.split(','), strict=True)) for line in lines]
    for row in rows:
        assert all(0 <= int(row[colour]) <= 255 for colour in 'RGB')
        assert row['Size'] in ('S', 'M', 'L')
    table = {
        int(row['InstanceID']): Label(
            int(row['ClassID']), bool(int(row['PanopticID'])), row['Name']
        )
        for row in rows
    }
    assert len(table) == len(rows), 'an id is listed twice'
    return table


@pytest.fixture
def frame(module_node, camera, synchronise) -> dict[str, Image]:
    sync = synchronise(dict.fromkeys([IMAGE, PANOPTIC, SEMANTIC], Image), RELIABLE, 10)
    camera.film(1, lambda: len(sync.sets), 'colour, ids and classes of one frame')
    return sync.sets[-1]


def test_every_id_makes_a_submap_of_its_class(frame) -> None:
    assert frame[PANOPTIC].encoding == '32SC1'
    ids = np.frombuffer(frame[PANOPTIC].data, np.int32)
    semantic = np.frombuffer(frame[SEMANTIC].data, np.uint8)
    assert ids.size == semantic.size == frame[IMAGE].width * frame[IMAGE].height

    table = read_table(panoptic_mapping_labels(LABELS))
    submaps = {i: table[i] for i in np.unique(ids).tolist() if i in table}
    dropped = ~np.isin(ids, list(submaps))
    assert sorted(label.name for label in submaps.values()) == ['car', 'car', 'road']
    for i, label in submaps.items():
        assert set(semantic[ids == i].tolist()) == {label.class_id}
        assert label.is_instance == (label.name == 'car')
    assert dropped.any(), 'the scene does not show what becomes of void'
    assert set(ids[dropped].tolist()) == {0}
    assert set(semantic[dropped].tolist()) == {VOID}


def test_ids_stay_from_frame_to_frame(module_node, camera, synchronise) -> None:
    sync = synchronise({PANOPTIC: Image}, RELIABLE, 10)
    camera.film(3, lambda: len(sync.sets), 'three frames of ids')
    first, *others = [found[PANOPTIC].data for found in sync.sets]
    assert all(data == first for data in others)


@pytest.mark.parametrize('name', ['cityscapes', 'coco', 'vistas', 'ade20k'])
def test_table_of_every_label_set(name: str) -> None:
    label_set = LabelSet.load(name)
    table = read_table(panoptic_mapping_labels(label_set))
    assert 0 not in table
    assert max(table) < 1 << 31
    assert {label.class_id for label in table.values()} == set(range(len(label_set)))
    for class_id, label_class in enumerate(label_set.classes):
        ids = [i for i, label in table.items() if label.class_id == class_id]
        assert len(ids) == (PANOPTIC_MAPPING_IDS if label_class.is_thing else 1)
