"""From a folder with Panoptic FPN weights to a model folder of head kind ``masks``."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from panoptic_ros.errors import ModelError, one_line
from panoptic_ros.fusion import MaskFusion
from panoptic_ros.importing.agreement import Judged
from panoptic_ros.importing.checkpoint import Checkpoint
from panoptic_ros.importing.exporter import Exporter
from panoptic_ros.importing.families.family import normalisation, processor_size_wh
from panoptic_ros.importing.labels import match_labels
from panoptic_ros.importing.mask_rcnn.network import OUTPUTS, Counts, PanopticFpn
from panoptic_ros.importing.network import Deployed
from panoptic_ros.importing.request import Request, read_images, write_folder
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.model.resize import Resize

MODEL_TYPE = 'panoptic_fpn'
"""``model_type`` in ``config.json``."""

_STUFF = 1 << 16  # added to the indices of the semantic branch, so that all indices differ
_DIVISOR = 32
_OTHER = 'things'
"""Name of the semantic branch's class for all things together, as Panoptic FPN trains it."""


def import_panoptic_fpn(
    checkpoint: Checkpoint, request: Request, say: Callable[[str], None] = print
) -> Model:
    """Write a model folder and report each step with ``say``.

    ``config.json`` has ``thing_id2label``, the names of the box head's classes (0 is the
    background), ``stuff_id2label``, those of the semantic branch, and may have ``proposals`` and
    ``detections``, see :class:`Counts`. Raises ModelError, LabelSetError or SourceError.
    """
    if request.task not in (None, 'panoptic'):
        raise ModelError(f'Panoptic FPN has no task {request.task!r}; leave --task out')
    label_set = LabelSet.load(request.labels) if request.labels else None
    things, stuff = (_names(checkpoint, f'{kind}_id2label') for kind in ('thing', 'stuff'))
    others = {index for index, name in stuff.items() if name == _OTHER}
    named = {_STUFF + index: name for index, name in stuff.items() if index not in others}
    class_map = match_labels(things | named, label_set)
    class_of = {column: class_id for class_id, column in enumerate(class_map.columns)}
    thing_ids = tuple(class_of.get(index, -1) for index in sorted(things))
    # A thing's class without a mask becomes void in fusion.
    some_thing = next(i for i in thing_ids if i >= 0)
    stuff_ids = tuple(
        some_thing if index in others else class_of[_STUFF + index] for index in sorted(stuff)
    )
    size_wh = request.size_wh or processor_size_wh(checkpoint)
    if any(side % _DIVISOR for side in size_wh):
        raise ModelError(
            f'Panoptic FPN cannot take {size_wh[0]}x{size_wh[1]}; expected multiples of '
            f'{_DIVISOR} with --size'
        )
    counts = Counts(
        **{
            name: int(checkpoint.config[name])
            for name in ('proposals', 'detections')
            if name in checkpoint.config
        }
    )
    network = Deployed(
        load_panoptic_fpn(checkpoint, size_wh, counts, thing_ids, stuff_ids),
        normalisation(checkpoint),
    ).eval()
    resize = Resize(antialias=False)
    images = read_images(request.pictures, resize, size_wh)
    say(
        f'Panoptic FPN, input {size_wh[0]}x{size_wh[1]}, {counts.proposals} proposals, '
        f'{counts.detections} detections'
    )
    say(f'labels: {class_map}')
    fusion = MaskFusion()
    judged = Judged('masks', fusion, class_map.label_set, size_wh)
    exporter = Exporter('Panoptic FPN', network, judged, images, say, outputs=OUTPUTS)
    with tempfile.TemporaryDirectory() as scratch:
        files, notes = exporter.export(Path(scratch))
        return write_folder(
            request,
            say,
            class_map=class_map,
            origin={
                'checkpoint': checkpoint.source,
                'family': 'Panoptic FPN',
                'task': 'panoptic',
            },
            tool=f'torch {torch.__version__}',
            notes=notes,
            files=files,
            size_wh=size_wh,
            golden_image=images[0],
            golden_outputs=exporter.outputs(images[0]),
            fusion={
                'score_threshold': fusion.score_threshold,
                'min_kept_fraction': fusion.min_kept_fraction,
            },
            resize=resize,
            head='masks',
        )


def load_panoptic_fpn(
    checkpoint: Checkpoint,
    size_wh: tuple[int, int],
    counts: Counts,
    thing_ids: tuple[int, ...],
    stuff_ids: tuple[int, ...],
) -> PanopticFpn:
    """Load ``model.safetensors``; raises ModelError if weights are missing or do not fit."""
    path = checkpoint.folder / 'model.safetensors'
    try:
        weights = load_file(path)
        network = PanopticFpn(weights, size_wh, counts, thing_ids, stuff_ids)
        # Frozen batch normalisation, which torchvision uses, counts no batches.
        report = network.load_state_dict(weights, strict=False)
    except (OSError, SafetensorError) as error:
        raise ModelError(f'{path} cannot be read ({error}); save it again') from error
    except (KeyError, IndexError, RuntimeError) as error:
        raise ModelError(
            f'{path} does not have the weights of Mask R-CNN and a semantic branch '
            f'({one_line(error)}); expected the names of torchvision and '
            'detectron2 (doc/models.md)'
        ) from error
    missing = [key for key in report.missing_keys if not key.endswith('num_batches_tracked')]
    if missing or report.unexpected_keys:
        wrong = [*missing, *report.unexpected_keys]
        raise ModelError(
            f'{path} lacks {len(missing)} weights and has {len(report.unexpected_keys)} unknown '
            f'ones, {wrong[0]!r} first; expected the names of torchvision and detectron2 '
            '(doc/models.md)'
        )
    for what, ids, key in (
        ('thing', thing_ids, 'roi_heads.box_predictor.cls_score.weight'),
        ('stuff', stuff_ids, 'sem_seg_head.predictor.weight'),
    ):
        if len(weights[key]) != len(ids):
            raise ModelError(
                f'{path} has {len(weights[key])} {what} classes and config.json {len(ids)} names; '
                f'correct {what}_id2label'
            )
    return network


def _names(checkpoint: Checkpoint, field: str) -> dict[int, str]:
    names = checkpoint.config.get(field)
    if not isinstance(names, dict) or sorted(map(int, names)) != list(range(len(names))):
        raise ModelError(
            f'config.json of {checkpoint.source} has {field} {str(names)[:80]!r}; expected a name '
            'for each class index from 0 on'
        )
    return {int(index): str(name) for index, name in names.items()}
