"""From an ONNX file that a detector's own package exported to a model folder; things only."""

import ast
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, compose, version_converter
from torch import nn

from panoptic_ros.errors import ModelError
from panoptic_ros.fusion import QueryFusion
from panoptic_ros.importing.agreement import Judged, compare, infer_all
from panoptic_ros.importing.detectors.halving import halved
from panoptic_ros.importing.detectors.layouts import Detector, find_detector
from panoptic_ros.importing.export import publish_onnx
from panoptic_ros.importing.golden import golden_queries
from panoptic_ros.importing.labels import ClassMap, match_labels
from panoptic_ros.importing.network import OUTPUTS, Normalised, QueryRows
from panoptic_ros.importing.request import Request, read_images, write_folder
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.training.onnx_files import OPSET, write_onnx
from panoptic_ros.untrusted import has_external_data, read_yaml

LARGEST_DIFFERENCE = 1e-3
"""Mean difference of a probability that a file with the same weights may have."""

COCO_IDS = 'coco-ids'
"""For ``--names``: class index n is COCO's category id n, as RF-DETR counts."""


@dataclass(frozen=True)
class OnnxDetector:
    """An ONNX file that was read, and how to read its outputs."""

    path: Path
    graph: onnx.ModelProto
    size_wh: tuple[int, int]
    detector: Detector
    names: dict[int, str]


def import_onnx(request: Request, say: Callable[[str], None] = print) -> Model:
    """Write a model folder from an ONNX file and report each step with ``say``.

    Raises ModelError, LabelSetError or SourceError, in one sentence with the way out.
    """
    opened = open_detector(Path(request.checkpoint), request.names)
    if request.size_wh not in (None, opened.size_wh):
        width, height = opened.size_wh
        raise ModelError(
            f'{opened.path} takes {width}x{height} only; leave --size out, or export the file '
            'again at another size'
        )
    if request.task not in (None, 'instance'):
        raise ModelError(f'{opened.path} finds instances only; leave --task out')
    detector = opened.detector
    label_set = LabelSet.load(request.labels) if request.labels else None
    class_map = match_labels(opened.names, label_set)
    images = read_images(request.pictures, detector.resize, opened.size_wh)
    say(f'{detector.family}, input {opened.size_wh[0]}x{opened.size_wh[1]} as exported')
    say(f'labels: {class_map}')
    fusion = {'rule': 'rf_detr', 'score_threshold': detector.score_threshold}
    rows = QueryRows(detector.queries, class_map, has_sigmoid_scores=True).eval()
    with tempfile.TemporaryDirectory() as scratch:
        files, notes, golden = _write(opened, rows, class_map, images, fusion, Path(scratch), say)
        return write_folder(
            request,
            say,
            class_map=class_map,
            origin={'file': opened.path.name, 'family': detector.family, 'task': 'instance'},
            tool=f'onnx {onnx.__version__}',
            notes=notes,
            files=files,
            size_wh=opened.size_wh,
            golden_image=images[0],
            golden_outputs=golden_queries(images[0], golden, 'rf_detr'),
            fusion=fusion,
            resize=detector.resize,
            head='queries',
        )


def open_detector(path: Path, names: str | None) -> OnnxDetector:
    """Read an ONNX file; raises ModelError if it is none, or not of a known detector."""
    try:
        graph = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise ModelError(f'{path} does not exist; give an ONNX file, or a checkpoint') from error
    except (OSError, DecodeError) as error:
        raise ModelError(f'{path} is not an ONNX file ({error}); export it again') from error
    if has_external_data(path.read_bytes()):
        raise ModelError(f'{path} keeps its weights in another file; export it as one file')
    constants = {tensor.name for tensor in graph.graph.initializer}
    inputs = [value for value in graph.graph.input if value.name not in constants]
    shapes = {value.name: _shape(value) for value in (*inputs, *graph.graph.output)}
    if len(inputs) != 1 or len(shapes[inputs[0].name]) != 4:
        raise ModelError(
            f'{path} has inputs {[value.name for value in inputs]}; expected one picture, '
            '[1, 3, height, width]'
        )
    moving = [name for name, shape in shapes.items() if 0 in shape]
    if moving:
        raise ModelError(
            f'{path} has no fixed size of {moving[0]!r}; export it with one (dynamic=False)'
        )
    count, channels, height, width = shapes[inputs[0].name]
    is_float = inputs[0].type.tensor_type.elem_type == TensorProto.FLOAT
    if (count, channels) != (1, 3) or not is_float:
        raise ModelError(
            f'{path} has input {list(shapes[inputs[0].name])}; expected float32 '
            '[1, 3, height, width]: export it with batch 1, not in half precision'
        )
    found_names = read_names(names) if names else _own_names(graph)
    outputs = {value.name: shapes[value.name] for value in graph.graph.output}
    detector = find_detector(outputs, (width, height), len(found_names))
    if detector is None:
        raise ModelError(
            f'{path} has outputs {outputs}, which are not those of a YOLO segmentation network or '
            'of RF-DETR with masks; write the model folder yourself (doc/models.md)'
        )
    if len(found_names) != detector.classes or not found_names:
        raise ModelError(
            f'{path} has {detector.classes or "an unknown number of"} classes and '
            f'{len(found_names)} names; give the names with --names FILE, one a line in the order '
            f'of the classes (or --names {COCO_IDS} where the class is the category id of COCO)'
        )
    return OnnxDetector(path, graph, (width, height), detector, found_names)


def read_names(source: str) -> dict[int, str]:
    """Read class names: lines of a text file, ``names`` of a YAML file, or :data:`COCO_IDS`.

    Raises ModelError if there are none.
    """
    if source == COCO_IDS:
        named = {entry.category_id: entry.name for entry in LabelSet.load('coco').classes}
        return {index: named.get(index, 'N/A') for index in range(91)}
    path = Path(source)
    try:
        if path.suffix in ('.yaml', '.yml'):
            data = read_yaml(path)
            names = data.get('names') if isinstance(data, dict) else None
        else:
            names = path.read_text(encoding='utf-8').split('\n')
            names = names[:-1] if names[-1] == '' else names
    except (OSError, ValueError) as error:
        raise ModelError(f'--names {source} cannot be read ({error}); give a file') from error
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise ModelError(f'{source} has no names; expected one a line, or a map "names" in YAML')
    return {int(index): str(name).strip() for index, name in names.items()}


def _own_names(graph: onnx.ModelProto) -> dict[int, str]:
    """Return the names that YOLO's package writes to the file; empty if there are none."""
    for entry in graph.metadata_props:
        if entry.key == 'names':
            try:
                names = ast.literal_eval(entry.value)
                return {int(index): str(name) for index, name in dict(names).items()}
            except (ValueError, SyntaxError, TypeError):
                return {}
    return {}


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _write(
    opened: OnnxDetector,
    rows: nn.Module,
    class_map: ClassMap,
    images: Sequence[np.ndarray],
    fusion: dict[str, float | str],
    folder: Path,
    say: Callable[[str], None],
) -> tuple[dict[str, Path], dict[str, str], dict[str, np.ndarray]]:
    """Write the files; return them, notes for the card, and the outputs of the first image."""
    expected = _expected(opened, rows, images)
    whole = folder / 'whole.onnx'
    onnx.save(_enclosed(opened, rows, folder), whole)
    files = {'float32': folder / 'float32.onnx'}
    publish_onnx(whole, files['float32'])
    found = infer_all(files['float32'], images)
    judged = Judged('queries', QueryFusion(**fusion), class_map.label_set, opened.size_wh)
    exact = compare(found, expected, judged)
    say(f'float32 file against the original: {exact}')
    if not max(exact.classes, exact.masks) <= LARGEST_DIFFERENCE:
        raise ModelError(
            f'the file made of {opened.path} does not do what that does ({exact}); report this '
            'with the version of the package that exported it'
        )
    notes = {'float32': f'against the original on {len(images)} pictures: {exact}'}
    half = folder / 'half.onnx'
    onnx.save(halved(onnx.load(files['float32'])), half)
    files['float16'] = folder / 'float16.onnx'
    publish_onnx(half, files['float16'])
    agreement = compare(infer_all(half, images), found, judged)
    say(f'float16 file against float32: {agreement}')
    notes['float16'] = f'against float32: {agreement}'
    if agreement.has_collapsed:
        del files['float16']
        notes['float16'] = f'left out, it collapsed: {agreement}'
        say(f'float16 file {notes["float16"]}')
    return files, notes, found[0]


def _expected(
    opened: OnnxDetector, rows: nn.Module, images: Sequence[np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """Return what the original file and torch give for each image."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(opened.path, options, ['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    norm = opened.detector.normalisation
    expected = []
    for image in images:
        pixels = (image * norm.scale - np.array(norm.mean)) / np.array(norm.std)
        pixels = pixels.transpose(2, 0, 1)[None].astype(np.float32)
        outputs = session.run(list(opened.detector.outputs), {name: pixels})
        with torch.inference_mode():
            ours = rows(*map(torch.from_numpy, outputs))
        expected.append(
            {key: tensor[0].numpy() for key, tensor in zip(OUTPUTS, ours, strict=True)}
        )
    return expected


def _enclosed(opened: OnnxDetector, rows: nn.Module, folder: Path) -> onnx.ModelProto:
    """Return the file between the normalisation and the rows of queries."""
    detector, (width, height) = opened.detector, opened.size_wh
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    opset = max(OPSET, _opset(opened.graph))
    parts = {}
    shapes = {value.name: _shape(value) for value in opened.graph.graph.output}
    outputs = tuple(torch.rand(shapes[name]) for name in detector.outputs)
    for name, module, inputs, ends in (
        ('before', Normalised(detector.normalisation), (image,), (['image'], ['pixels'])),
        ('after', rows, outputs, (list(detector.outputs), list(OUTPUTS))),
    ):
        path = folder / f'{name}.onnx'
        write_onnx(module, inputs, path, ends[1], input_names=ends[0], opset=opset)
        parts[name] = onnx.load(path)
    original = onnx.ModelProto()
    original.CopyFrom(opened.graph)
    if _opset(original) < opset:
        original = version_converter.convert_version(original, opset)
    versions = {_opset(part) for part in (*parts.values(), original)}
    if len(versions) > 1:
        raise ModelError(
            f'{opened.path} is of opset {_opset(opened.graph)}, which cannot be joined with '
            f'{opset}; export it with opset {OPSET}'
        )
    for part in (*parts.values(), original):
        part.ir_version = 10
        del part.metadata_props[:], part.graph.value_info[:]
    before = compose.add_prefix(parts['before'], 'before/', rename_inputs=False)
    after = compose.add_prefix(parts['after'], 'after/', rename_outputs=False)
    original = compose.add_prefix(original, 'network/')
    first = original.graph.input[0].name
    whole = compose.merge_models(before, original, [('before/pixels', first)])
    links = [(f'network/{name}', f'after/{name}') for name in detector.outputs]
    return compose.merge_models(whole, after, links, outputs=list(OUTPUTS))


def _opset(model: onnx.ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in ('', 'ai.onnx')), 0)
