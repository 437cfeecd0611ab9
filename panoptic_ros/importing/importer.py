"""From a checkpoint to a model folder whose files were proved to agree."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from panoptic_ros.errors import ModelError
from panoptic_ros.fusion import QueryFusion
from panoptic_ros.importing.agreement import Judged
from panoptic_ros.importing.checkpoint import Checkpoint, load_network, open_checkpoint
from panoptic_ros.importing.exporter import Exporter
from panoptic_ros.importing.families import FAMILIES
from panoptic_ros.importing.families.family import (
    SEMANTIC,
    Family,
    normalisation,
    processor_notes,
)
from panoptic_ros.importing.golden import golden_queries
from panoptic_ros.importing.labels import ClassMap, match_labels
from panoptic_ros.importing.mask_rcnn.importer import MODEL_TYPE as PANOPTIC_FPN
from panoptic_ros.importing.mask_rcnn.importer import import_panoptic_fpn
from panoptic_ros.importing.network import Deployed, QueryRows, SemanticRows
from panoptic_ros.importing.request import Request, read_images, write_folder
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model


def import_checkpoint(request: Request, say: Callable[[str], None] = print) -> Model:
    """Write a model folder and report each step with ``say``.

    Raises ModelError, LabelSetError or SourceError, in one sentence with the way out.
    """
    checkpoint = open_checkpoint(request.checkpoint)
    if checkpoint.config.get('model_type') == PANOPTIC_FPN:
        return import_panoptic_fpn(checkpoint, request, say)
    family = find_family(checkpoint)
    task = choose_task(family, request.task)
    label_set = LabelSet.load(request.labels) if request.labels else None
    class_map = match_labels(checkpoint.id2label, label_set)
    size_wh = family.size_wh(checkpoint, request.size_wh)
    resize = family.resize(checkpoint)
    fusion = family.fusion(task, size_wh)
    images = read_images(request.pictures, resize, size_wh)
    say(f'{family.name}, task {task}, input {size_wh[0]}x{size_wh[1]} ({resize.mode})')
    say(f'labels: {class_map}')
    for note in processor_notes(checkpoint):
        say(f'note: {note}')

    network = build_network(family, checkpoint, class_map, task)
    with tempfile.TemporaryDirectory() as scratch:
        judged = Judged('queries', QueryFusion(**fusion), class_map.label_set, size_wh)
        exporter = Exporter(family.name, network, judged, images, say, family.environment)
        files, notes = exporter.export(Path(scratch))
        return write_folder(
            request,
            say,
            class_map=class_map,
            origin={'checkpoint': checkpoint.source, 'family': family.name, 'task': task},
            tool=f'torch {torch.__version__}',
            notes=notes,
            files=files,
            size_wh=size_wh,
            golden_image=images[0],
            golden_outputs=golden_queries(images[0], exporter.outputs(images[0]), fusion['rule']),
            fusion=fusion,
            resize=resize,
            head='queries',
        )


def find_family(checkpoint: Checkpoint) -> Family:
    """Return the family of a checkpoint; raises ModelError if it is none that is known."""
    model_type = checkpoint.config.get('model_type')
    for family in FAMILIES:
        if family.model_type == model_type:
            break
    else:
        raise ModelError(
            f'checkpoint {checkpoint.source} is of the architecture {model_type!r}; expected one '
            f'of {", ".join(f.model_type for f in FAMILIES)}, {PANOPTIC_FPN}, or write the model '
            'folder yourself (doc/models.md)'
        )
    named = checkpoint.config.get('architectures') or [family.network_class]
    if family.network_class not in named:
        raise ModelError(
            f'checkpoint {checkpoint.source} holds a {named[0]}, which gives no masks; take a '
            f'{family.name} checkpoint for segmentation ({family.network_class})'
        )
    return family


def choose_task(family: Family, wanted: str | None) -> str:
    """Return the task; raises ModelError if the family has another."""
    if wanted is None or wanted in family.tasks:
        return wanted or family.tasks[0]
    raise ModelError(
        f'{family.name} has no task {wanted!r}; expected {" or ".join(family.tasks)} with --task'
    )


def build_network(
    family: Family, checkpoint: Checkpoint, class_map: ClassMap, task: str
) -> Deployed:
    """Return the checkpoint's network with the inputs and outputs of head kind ``queries``."""
    adapted = family.adapt(load_network(checkpoint, family.network_class), checkpoint, task)
    if task == SEMANTIC:
        rows: torch.nn.Module = SemanticRows(adapted, class_map)
    else:
        rows = QueryRows(adapted, class_map, family.has_sigmoid_scores)
    return Deployed(rows, normalisation(checkpoint)).eval()
