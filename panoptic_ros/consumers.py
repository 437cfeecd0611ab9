"""Class tables of a label set in the formats of the consumers.

Pure functions that return the text of a file; the command is ``panoptic labels``. The formats
follow the consumers' sources:

* Hydra: ``LabelSpaceConfig`` in MIT-SPARK/Hydra, ``src/common/label_space_config.cpp``
* Nav2: parameters of kiwicampus/semantic_segmentation_layer
* panoptic_mapping: ``csv_label_handler.cpp`` in ethz-asl/panoptic_mapping
"""

from collections.abc import Callable, Mapping

import numpy as np
import yaml

from panoptic_ros.labels import VOID, LabelSet

NAV2_LETHAL_COST = 254
"""``nav2_costmap_2d::LETHAL_OBSTACLE``."""

PANOPTIC_MAPPING_IDS = 1000
"""Objects of a class in the table for ``panoptic_mapping``, which ignores higher instance ids."""


def hydra_label_space(label_set: LabelSet) -> str:
    """Return Hydra's label space for ``~/semantic``.

    Dynamic agents are dynamic (Hydra leaves them out of its map), drivable and walkable classes
    are surfaces for places, and all other things are objects. Void is declared invalid; otherwise
    Hydra warns about every void pixel.
    """
    is_dynamic = label_set.with_role('dynamic_agent')
    is_surface = _is_traversable(label_set)
    return _yaml(
        {
            'total_semantic_labels': len(label_set),
            'dynamic_labels': _ids(is_dynamic),
            'invalid_labels': [VOID],
            'object_labels': _ids(label_set.is_thing & ~is_dynamic & ~is_surface),
            'surface_places_labels': _ids(is_surface),
            'label_names': [
                {'label': class_id, 'name': name} for class_id, name in enumerate(label_set.names)
            ],
        }
    )


def nav2_layer(label_set: LabelSet) -> str:
    """Return the parameters of Nav2's semantic segmentation layer, to insert into a costmap's.

    Every class is declared except void, which the layer then skips with one warning.
    """
    is_traversable = _is_traversable(label_set)
    is_agent = label_set.with_role('dynamic_agent')
    is_obstacle = ~(is_traversable | is_agent)
    kinds = {
        'traversable': (is_traversable, 0, False),
        'agent': (is_agent, NAV2_LETHAL_COST, True),
        'obstacle': (is_obstacle, NAV2_LETHAL_COST, False),
    }
    # The look-up tables also have entries beyond the last class.
    names = {
        kind: [label_set.names[i] for i in _ids(is_kind[: len(label_set)])]
        for kind, (is_kind, _, _) in kinds.items()
    }
    kinds = {kind: rule for kind, rule in kinds.items() if names[kind]}
    source = {
        'segmentation_topic': '/segment/semantic',
        'confidence_topic': '/segment/confidence',
        'labels_topic': '/segment/label_info',
        'pointcloud_topic': '/segment/points',
        'use_cost_selection': True,
        'max_obstacle_distance': 10.0,
        'min_obstacle_distance': 0.3,
        'tile_map_decay_time': 2.0,
        'class_types': list(kinds),
    }
    for kind, (_, cost, is_dominant) in kinds.items():
        source[kind] = {
            'classes': names[kind],
            'base_cost': cost,
            'max_cost': cost,
            'mark_confidence': 0,
            'samples_to_max_cost': 0,
            'dominant_priority': is_dominant,
        }
    return _yaml(
        {
            'semantic_segmentation_layer': {
                'plugin': 'semantic_segmentation_layer::SemanticSegmentationLayer',
                'enabled': True,
                'observation_sources': 'camera',
                # All messages of a frame have the same stamp.
                'use_approximate_time_sync': False,
                'camera': source,
            }
        }
    )


def panoptic_mapping_labels(label_set: LabelSet, instances: int = PANOPTIC_MAPPING_IDS) -> str:
    """Return the label table of ``panoptic_mapping`` for ``~/panoptic`` packed as segment_id.

    One row for each stuff class and for each of ``instances`` objects of every thing class. Void
    (0) is not in the table.
    """
    rows = ['InstanceID,ClassID,PanopticID,R,G,B,Name,Size']
    for class_id, label_class in enumerate(label_set.classes):
        red, green, blue = label_class.color_rgb
        name = label_class.name.replace(',', ' ')  # its reader does not support quotes
        numbers = range(1, instances + 1) if label_class.is_thing else (0,)
        rows += [
            f'{(class_id + 1) << 16 | number},{class_id},{int(label_class.is_thing)},'
            f'{red},{green},{blue},{name},M'
            for number in numbers
        ]
    return '\n'.join(rows) + '\n'


FORMATS: Mapping[str, Callable[[LabelSet], str]] = {
    'hydra': hydra_label_space,
    'nav2': nav2_layer,
    'panoptic-mapping': panoptic_mapping_labels,
}
"""The formats of ``panoptic labels``, by name."""


def _is_traversable(label_set: LabelSet) -> np.ndarray:
    return label_set.with_role('drivable') | label_set.with_role('walkable')


def _ids(table: np.ndarray) -> list[int]:
    return np.flatnonzero(table).tolist()


def _yaml(content: Mapping[str, object]) -> str:
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=99)
