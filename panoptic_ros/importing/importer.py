"""From a checkpoint to a model folder whose files were proved to agree."""

import datetime
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from panoptic_ros import __version__
from panoptic_ros.errors import ModelError
from panoptic_ros.fusion import QueryFusion
from panoptic_ros.importing.agreement import Agreement, OnnxFile, compare
from panoptic_ros.importing.checkpoint import Checkpoint, load_network, open_checkpoint
from panoptic_ros.importing.export import export_onnx, large_float32, publish_onnx, to_float16
from panoptic_ros.importing.families import FAMILIES
from panoptic_ros.importing.families.family import (
    SEMANTIC,
    Family,
    normalisation,
    processor_notes,
)
from panoptic_ros.importing.golden import golden_queries
from panoptic_ros.importing.half import find_overflows, is_kept, modules_to_keep, narrow_sums
from panoptic_ros.importing.labels import ClassMap, match_labels
from panoptic_ros.importing.network import OUTPUTS, Deployed, QueryRows, SemanticRows
from panoptic_ros.importing.request import Request, label_set_name, read_images
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model, write_model

LARGEST_EXPORT_DIFFERENCE = 1e-3
"""Mean difference of a probability between torch and the exported file above which the export is
wrong; correct ones stay below 1e-5."""


def import_checkpoint(request: Request, say: Callable[[str], None] = print) -> Model:
    """Write a model folder and report each step with ``say``.

    Raises ModelError, LabelSetError or SourceError, in one sentence with the way out.
    """
    checkpoint = open_checkpoint(request.checkpoint)
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
        exporter = _Exporter(
            family, network, class_map.label_set, QueryFusion(**fusion), size_wh, images, say
        )
        files, notes = exporter.export(Path(scratch))
        model = write_model(
            request.folder,
            onnx_by_precision=files,
            label_set=label_set_name(request.labels, class_map, request.folder),
            size_wh=size_wh,
            golden_image=images[0],
            golden_outputs=golden_queries(images[0], exporter.outputs(images[0]), fusion['rule']),
            fusion=fusion,
            resize=resize,
            provenance={
                'checkpoint': checkpoint.source,
                'family': family.name,
                'task': task,
                'imported': datetime.date.today().isoformat(),
                'importer': f'panoptic_ros {__version__}, torch {torch.__version__}',
                **notes,
            },
            licence=request.licence,
            head='queries',
        )
    for precision, entry in model.card.files.items():
        say(f'{model.folder / entry.path}  {precision}  {entry.bytes / 1e6:.1f} MB')
    return model


def find_family(checkpoint: Checkpoint) -> Family:
    """Return the family of a checkpoint; raises ModelError if it is none that is known."""
    model_type = checkpoint.config.get('model_type')
    for family in FAMILIES:
        if family.model_type == model_type:
            break
    else:
        raise ModelError(
            f'checkpoint {checkpoint.source} is of the architecture {model_type!r}; expected one '
            f'of {", ".join(f.model_type for f in FAMILIES)}, or write the model folder yourself '
            '(doc/models.md)'
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


class _Exporter:
    """Writes the files of one network and compares them on the same pictures."""

    def __init__(
        self,
        family: Family,
        network: Deployed,
        label_set: LabelSet,
        fusion: QueryFusion,
        size_wh: tuple[int, int],
        images: Sequence[np.ndarray],
        say: Callable[[str], None],
    ) -> None:
        self._family, self._network, self._label_set = family, network, label_set
        self._fusion, self._size_wh, self._images, self._say = fusion, size_wh, images, say

    def outputs(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return what torch gives for a picture."""
        with torch.inference_mode():
            outputs = self._network(torch.from_numpy(image.copy())[None])
        return {name: tensor[0].numpy() for name, tensor in zip(OUTPUTS, outputs, strict=True)}

    def export(self, folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
        """Write both precisions; return the files, and what there is to know about them."""
        traced = folder / 'traced.float32.onnx'
        self._say('exporting float32 ...')
        self._export(self._network, traced)
        expected = [self.outputs(image) for image in self._images]
        found = [OnnxFile(traced).infer(image) for image in self._images]
        exported = self._compare(found, expected)
        self._say(f'float32 file against torch: {exported}')
        # Not "> limit": NaN is a difference too.
        if not max(exported.classes, exported.masks) <= LARGEST_EXPORT_DIFFERENCE:
            raise ModelError(
                f'the exported {self._family.name} network does not do what torch does '
                f'({exported}); this is a fault of the exporter: report it with the versions of '
                'torch and transformers'
            )
        files = {'float32': folder / 'float32.onnx'}
        publish_onnx(traced, files['float32'])
        notes = {'float32': f'against torch on {len(self._images)} pictures: {exported}'}

        half, note = self._export_half(folder, traced, found)
        notes['float16'] = note
        if half is not None:
            files['float16'] = half
        return files, notes

    def _export_half(
        self, folder: Path, traced: Path, expected: Sequence[dict[str, np.ndarray]]
    ) -> tuple[Path | None, str]:
        overflows = find_overflows(traced, self._images)
        kept = modules_to_keep(traced, overflows, self._network)
        for overflow in overflows[:8]:
            self._say(f'too large for float16: {overflow}')
        if '' in kept:
            note = 'left out: its outputs overflow, so the whole network would stay in float32'
            self._say(f'float16 file {note}')
            return None, note
        self._say('exporting float16' + self._staying(kept) + ' ...')
        path = folder / 'traced.float16.onnx'
        self._export(to_float16(self._network, kept), path)
        narrow_sums(path, kept)
        found = [OnnxFile(path).infer(image) for image in self._images]
        agreement = self._compare(found, expected)
        self._say(f'float16 file against float32: {agreement}')
        if agreement.has_collapsed:
            note = f'left out, it collapsed: {agreement}'
            self._say(f'float16 file {note}')
            return None, note
        wide = {
            module: size
            for module, size in large_float32(path).items()
            if not is_kept(module, kept)
        }
        if wide:
            listed = ', '.join(f'{module} {size / 1e6:.1f} MB' for module, size in wide.items())
            self._say(f'large float32 tensors in the float16 file: {listed}')
        target = folder / 'float16.onnx'
        publish_onnx(path, target)
        return target, f'against float32: {agreement}{self._staying(kept)}'

    def _staying(self, kept: set[str]) -> str:
        return f', {", ".join(sorted(kept))} stays in float32' if kept else ''

    def _export(self, network: Deployed, path: Path) -> None:
        export_onnx(network, self._size_wh, path, self._family.environment)

    def _compare(self, found: Sequence, expected: Sequence) -> Agreement:
        return compare(found, expected, self._fusion, self._label_set, self._size_wh)
