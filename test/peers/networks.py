"""Compare inference time with other projects, on the same frames, cores and tensors in one run.

``python test/peers/networks.py [MODEL]`` prints three tables of medians. The candidates of a
group run in turn:

* *whole path*: a camera frame in memory to a panoptic map, or masks, of the same size. The peers
  are ``ultralytics`` yolo11n-seg and transformers' Mask2Former (Swin-T) and DETR (ResNet-50), as
  used in their documentation;
* *network*: the network alone, in one runtime with one precision;
* *masks fusion*: :class:`~panoptic_ros.fusion.QueryFusion` and transformers'
  ``post_process_panoptic_segmentation`` on the same tensors, and by how many pixels they differ.

Nothing is downloaded: the peers have random weights, which does not change the time of a network.
yolo11n-seg then detects nothing and builds no masks, so its whole path is a lower bound; for
transformers the threshold is set to keep about twenty queries. The peers are not requirements of
this package; a missing one is listed with the command that installs it.
"""

import argparse
import contextlib
import gc
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from panoptic_ros.cli import run_alone
from panoptic_ros.datasets.street.scene import SyntheticStreet
from panoptic_ros.engines import open_engine
from panoptic_ros.errors import EngineError
from panoptic_ros.evaluation.report import write_json
from panoptic_ros.fusion import QueryFusion, QueryHeads
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.runs import Runs
from panoptic_ros.segmenter import Segmenter

INSTALL = {
    'ultralytics': 'pip install ultralytics onnx torch==2.14.1 torchvision==0.29.1',
    'transformers': 'pip install transformers torch==2.14.1 torchvision==0.29.1',
}
"""Commands that install a peer, by module; use a separate environment."""

_QUERIES, _KEPT = 100, 20
_YOLO_SIDE = 640
_TURN_S = 0.2

Frame = np.ndarray
Run = Callable[[Frame], object]


@dataclass(frozen=True)
class Timing:
    """One line of a table.

    Parameters
    ----------
    table
        ``whole path``, ``network`` or ``masks fusion``.
    group
        Lines that are compared; the ratio is to the first line of the group, this package.
    name
        Implementation and runtime.
    ms
        Median of the runs, milliseconds.
    runs
        Number of runs.
    note
        Remark.
    """

    table: str
    group: str
    name: str
    ms: float
    runs: int
    note: str = ''


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; returns the exit status."""
    return run_alone('bench_peers', 'Compare speed with peers.', configure, run, argv)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        'model', nargs='?', default='street-lite', help='model of this package (%(default)s)'
    )
    parser.add_argument(
        '--seconds', type=float, default=2.0, help='for each line, at least 3 runs (%(default)s)'
    )
    parser.add_argument(
        '--tables',
        nargs='+',
        choices=('path', 'network', 'fusion'),
        default=('path', 'network', 'fusion'),
        help='some of the tables (all)',
    )
    parser.add_argument('--json', type=Path, help='write the tables to this file')


def run(args: argparse.Namespace) -> int:
    """Print the tables."""
    if args.seconds <= 0:
        raise EngineError(f'--seconds is {args.seconds}; expected a number above 0')
    model = Model.load(args.model)
    street = SyntheticStreet(1, size_wh=(640, 480))
    scenes = [street.frame(index) for index in range(0, 40, 10)]
    frames = [cv2.cvtColor(scene.image_rgb, cv2.COLOR_RGB2BGR) for scene in scenes]
    # Peers must not download anything.
    os.environ.update(YOLO_AUTOINSTALL='false', YOLO_OFFLINE='true', HF_HUB_OFFLINE='1')
    timings: list[Timing] = []
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault('YOLO_CONFIG_DIR', folder)
        measurements = {
            'path': lambda: _paths(model, frames, Path(folder)),
            'network': lambda: _networks(model, Path(folder)),
            'fusion': lambda: _fusions(scenes[0].truth),
        }
        for name in args.tables:
            for _, group in groupby(measurements[name](), lambda c: (c.table, c.group)):
                timings += _measure(list(group), args.seconds, missing)
    print(table(timings))
    for name, reason in missing.items():
        print(f'{name}: left out, {reason}')
    if args.json:
        write_json(args.json, {'timings': [vars(t) for t in timings], 'missing': missing})
    return 0


@dataclass(frozen=True, eq=False)
class Candidate:
    """Somebody who takes part.

    ``prepare`` is a context that gives what to time, called with one of ``inputs`` after the
    other, and a note; ImportError means that a peer is not installed.
    """

    table: str
    group: str
    name: str
    prepare: Callable[[], contextlib.AbstractContextManager[tuple[Run, str]]]
    inputs: Sequence[Any]


def _measure(
    candidates: Sequence[Candidate], seconds: float, missing: dict[str, str]
) -> list[Timing]:
    """Time the candidates of a group in turn, so that other load affects all of them alike.

    Each candidate runs once to warm up, then for ``seconds`` in total, at least three times.
    """
    with contextlib.ExitStack() as stack:
        calls, notes = {}, {}
        for candidate in candidates:
            try:
                calls[candidate], notes[candidate] = stack.enter_context(candidate.prepare())
            except ImportError as error:
                peer = 'transformers' if 'transformers' in candidate.name else 'ultralytics'
                missing[candidate.name] = f'not installed ({error}): {INSTALL[peer]}'
            else:
                calls[candidate](candidate.inputs[0])
        times_s: dict[Candidate, list[float]] = {candidate: [] for candidate in calls}
        with tqdm(unit='run', leave=False, disable=None) as bar:
            while under_way := [c for c, t in times_s.items() if len(t) < 3 or sum(t) < seconds]:
                for candidate in under_way:
                    bar.set_description(candidate.name)
                    begun = len(times_s[candidate])
                    while sum(times_s[candidate][begun:]) < min(_TURN_S, seconds):
                        _time(calls[candidate], candidate.inputs, times_s[candidate])
                        bar.update()
    gc.collect()
    return [
        Timing(c.table, c.group, c.name, 1000 * float(np.median(t)), len(t), notes[c])
        for c, t in times_s.items()
    ]


def _time(call: Run, inputs: Sequence[Any], times_s: list[float]) -> None:
    given = inputs[len(times_s) % len(inputs)]
    started = time.perf_counter()
    call(given)
    times_s.append(time.perf_counter() - started)


def table(timings: Sequence[Timing]) -> str:
    """Return the timings as text; ``ratio`` is to the first line of the same group."""
    first = {(t.table, t.group): t.ms for t in reversed(timings)}
    lines = []
    for name in dict.fromkeys(t.table for t in timings):
        lines += ['', f'{name:48}{"runs":>6}{"ms":>10}{"ratio":>8}', '-' * 72]
        for t in timings:
            if t.table == name:
                ratio = t.ms / first[t.table, t.group]
                lines.append(f'{t.name:48}{t.runs:6d}{t.ms:10.2f}{ratio:8.2f}  {t.note}'.rstrip())
    return '\n'.join(lines[1:])


# The whole path of a frame.


def _paths(model: Model, frames: list[Frame], folder: Path) -> Iterator[Candidate]:
    def ours(engine_name: str, precision: str = 'auto') -> Any:
        @contextlib.contextmanager
        def prepare() -> Iterator[tuple[Run, str]]:
            engine = open_engine(model, engine_name, precision=precision)
            with contextlib.closing(engine):
                yield Segmenter(model, engine).segment, engine.description.precision

        return prepare

    def candidate(name: str, prepare: Any) -> Candidate:
        return Candidate('whole path, 640x480', '', name, prepare, frames)

    name = model.card.name
    yield candidate(f'panoptic_ros {name}, OpenVINO', ours('openvino'))
    yield candidate(f'panoptic_ros {name}, ONNX Runtime', ours('onnxruntime'))
    if 'int8' in model.card.files:
        yield candidate(f'panoptic_ros {name}, OpenVINO', ours('openvino', 'int8'))
    for form in ('openvino', 'onnx', ''):
        runtime = {'openvino': 'OpenVINO', 'onnx': 'ONNX Runtime', '': 'torch'}[form]
        yield candidate(f'ultralytics yolo11n-seg, {runtime}', _yolo(form, folder))
    yield candidate('transformers Mask2Former Swin-T', _mask2former)
    yield candidate('transformers DETR ResNet-50', _detr)


def _yolo(form: str, folder: Path) -> Any:
    @contextlib.contextmanager
    def prepare() -> Iterator[tuple[Run, str]]:
        model = _export_yolo(form, folder)
        yield (
            lambda frame: model.predict(frame, imgsz=_YOLO_SIDE, verbose=False)[0].masks,
            f'{_YOLO_SIDE} wide, no masks found',
        )

    return prepare


@contextlib.contextmanager
def working_folder(folder: Path) -> Iterator[None]:
    """Change the working folder: ultralytics exports into the current one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _export_yolo(form: str, folder: Path) -> Any:
    """Return ultralytics' model with random weights, exported to ``form`` if that is not empty."""
    ultralytics = importlib.import_module('ultralytics')
    with working_folder(folder), contextlib.redirect_stdout(sys.stderr):
        model = ultralytics.YOLO('yolo11n-seg.yaml', verbose=False)
        if form:
            # The simplifier is another package and changes little.
            options = {'simplify': False} if form == 'onnx' else {}
            path = model.export(format=form, imgsz=_YOLO_SIDE, verbose=False, **options)
            model = ultralytics.YOLO(folder / path, task='segment', verbose=False)
    return model


@contextlib.contextmanager
def _mask2former() -> Iterator[tuple[Run, str]]:
    transformers = importlib.import_module('transformers')
    swin = transformers.SwinConfig(
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_features=['stage1', 'stage2', 'stage3', 'stage4'],
    )
    config = transformers.Mask2FormerConfig(num_labels=133, backbone_config=swin)
    yield _transformers_path(
        transformers.Mask2FormerForUniversalSegmentation(config),
        transformers.Mask2FormerImageProcessor(size={'height': 480, 'width': 640}),
        'class_queries_logits',
    )


@contextlib.contextmanager
def _detr() -> Iterator[tuple[Run, str]]:
    transformers = importlib.import_module('transformers')
    config = transformers.DetrConfig(
        num_labels=133,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(
            out_features=['stage1', 'stage2', 'stage3', 'stage4']
        ),
    )
    yield _transformers_path(
        transformers.DetrForSegmentation(config),
        transformers.DetrImageProcessor(size={'height': 480, 'width': 640}),
        'logits',
    )


def _transformers_path(model: Any, processor: Any, logits_name: str) -> tuple[Run, str]:
    torch = importlib.import_module('torch')
    model.eval()
    labels = LabelSet.load('coco')
    stuff = set(np.flatnonzero(~labels.is_thing[: len(labels)]).tolist())
    threshold: list[float] = []

    def segment(frame: Frame) -> Any:
        with torch.inference_mode():
            inputs = processor(images=cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), return_tensors='pt')
            outputs = model(**inputs)
            if not threshold:  # set in the warm-up run: keeps about twenty of the random queries
                score, label = getattr(outputs, logits_name)[0].softmax(-1).max(-1)
                score = score[label < len(labels)].sort(descending=True).values
                threshold.append(float(score[min(_KEPT, len(score) - 1)]) if len(score) else 0)
            return processor.post_process_panoptic_segmentation(
                outputs,
                threshold=threshold[0],
                target_sizes=[frame.shape[:2]],
                label_ids_to_fuse=stuff,
            )[0]

    return segment, '640x480, torch'


# The network alone.


def _networks(model: Model, folder: Path) -> Iterator[Candidate]:
    width, height = model.card.size_wh
    own = f'{model.card.name} {width}x{height}'
    own_int8 = f'{own} in int8'
    yolo = f'ultralytics yolo11n-seg {_YOLO_SIDE}x{_YOLO_SIDE}'

    def onnx_path(name: str) -> Path:
        if name != yolo:
            return model.onnx_path('int8' if name == own_int8 else 'float32')
        path = folder / 'yolo11n-seg.onnx'
        if not path.is_file():
            _export_yolo('onnx', folder)
        return path

    for runtime, precision in (('OpenVINO', 'bf16'), ('OpenVINO', 'f32'), ('ONNX Runtime', '')):
        with_int8 = 'int8' in model.card.files and precision != 'bf16'
        for name in (own, *[own_int8] * with_int8, yolo):

            @contextlib.contextmanager
            def prepare(
                name: str = name, runtime: str = runtime, precision: str = precision
            ) -> Iterator[tuple[Run, str]]:
                path = onnx_path(name)
                yield _openvino(path, precision) if precision else _onnxruntime(path)

            yield Candidate(
                'network', runtime + precision, f'{name}, {runtime} {precision}', prepare, [None]
            )


def _openvino(path: Path, precision: str) -> tuple[Run, str]:
    openvino = importlib.import_module('openvino')
    options = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': precision}
    compiled = openvino.Core().compile_model(str(path), 'CPU', options)
    request = compiled.create_infer_request()
    data = request.get_input_tensor().data
    data[:] = 0
    used = compiled.get_property('INFERENCE_PRECISION_HINT').to_string()
    return lambda _: request.infer(), f'computes in {used}'


def _onnxruntime(path: Path) -> tuple[Run, str]:
    onnxruntime = importlib.import_module('onnxruntime')
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    given = session.get_inputs()[0]
    dtype = {'tensor(uint8)': np.uint8, 'tensor(float)': np.float32}[given.type]
    feed = {given.name: np.zeros(given.shape, dtype)}
    return lambda _: session.run(None, feed), ''


# The fusion of masks.


def _fusions(truth: Panoptic) -> Iterator[Candidate]:
    labels = LabelSet.load('coco')
    fine, coarse = (160, 120), (96, 96)
    for rule, logit_grid, size_wh in (('DETR', 0, fine), ('Mask2Former', 384, coarse)):
        for scene, heads in (
            ('street', street_queries(truth, labels, size_wh)),
            ('noise', noise_queries(labels, size_wh)),
        ):
            fusion = QueryFusion(logit_grid=logit_grid)
            yield from _fusion_pair(rule, scene, fusion, heads, labels, truth.size_wh)


def _fusion_pair(
    rule: str,
    scene: str,
    fusion: QueryFusion,
    heads: QueryHeads,
    labels: LabelSet,
    size_wh: tuple[int, int],
) -> Iterator[Candidate]:
    title = 'masks fusion, 100 queries, 133 classes, 640x480'
    name = f'{rule}, {scene}'

    @contextlib.contextmanager
    def ours() -> Iterator[tuple[Run, str]]:
        found = fusion(heads, labels, size_wh).panoptic
        yield (
            lambda _: fusion(heads, labels, size_wh),
            f'{len(found.segments)} segments',
        )

    @contextlib.contextmanager
    def theirs() -> Iterator[tuple[Run, str]]:
        transformers = importlib.import_module('transformers')
        torch = importlib.import_module('torch')
        names = {
            'DETR': ('DetrImageProcessor', 'logits', 'pred_masks'),
            'Mask2Former': (
                'Mask2FormerImageProcessor',
                'class_queries_logits',
                'masks_queries_logits',
            ),
        }[rule]
        processor = getattr(transformers, names[0])()
        tensors = [torch.from_numpy(a)[None] for a in (heads.class_logits, heads.mask_logits)]
        outputs = SimpleNamespace(**dict(zip(names[1:], tensors, strict=True)))
        stuff = set(np.flatnonzero(~labels.is_thing[: len(labels)]).tolist())

        def fuse(_: object) -> dict[str, Any]:
            return processor.post_process_panoptic_segmentation(
                outputs, target_sizes=[size_wh[::-1]], label_ids_to_fuse=stuff
            )[0]

        pixels = difference(fuse(None), fusion(heads, labels, size_wh).panoptic)
        yield fuse, f'{pixels} pixels differ'

    yield Candidate(title, name, f'panoptic_ros, {name}', ours, [None])
    yield Candidate(title, name, f'transformers, {name}', theirs, [None])


def street_queries(truth: Panoptic, labels: LabelSet, grid_wh: tuple[int, int]) -> QueryHeads:
    """Return the heads of a good network for a scene: one soft mask for each segment."""
    rng = np.random.default_rng(0)
    segments = truth.segments.where(np.argsort(-truth.segments.area)[:_QUERIES])
    likely = np.where(
        segments.is_thing,
        rng.choice(np.flatnonzero(labels.is_thing[: len(labels)]), len(segments)),
        rng.permutation(np.flatnonzero(~labels.is_thing[: len(labels)]))[: len(segments)],
    )
    class_logits = rng.normal(0, 1, (_QUERIES, len(labels) + 1))
    class_logits[len(segments) :, -1] += 8
    class_logits[np.arange(len(segments)), likely] += rng.uniform(6, 10, len(segments))
    mask_logits = rng.normal(-6, 1, (_QUERIES, *grid_wh[::-1]))
    for row in range(len(segments)):
        own = truth.semantic == segments.class_id[row]
        own &= truth.instance == segments.id[row]
        share = cv2.resize(own.astype(np.float32), grid_wh, interpolation=cv2.INTER_AREA)
        mask_logits[row] = 14 * cv2.GaussianBlur(share, (0, 0), 1) - 7
    mask_logits += rng.normal(0, 0.2, mask_logits.shape)
    return QueryHeads(class_logits.astype(np.float32), mask_logits.astype(np.float32))


def noise_queries(labels: LabelSet, grid_wh: tuple[int, int]) -> QueryHeads:
    """Return the worst case: every query is kept and competes for every pixel."""
    rng = np.random.default_rng(0)
    class_logits = rng.normal(0, 1, (_QUERIES, len(labels) + 1))
    likely = rng.integers(0, len(labels), _QUERIES)
    class_logits[np.arange(_QUERIES), likely] += rng.uniform(7, 11, _QUERIES)
    mask_logits = rng.normal(0, 3, (_QUERIES, *grid_wh[::-1]))
    return QueryHeads(class_logits.astype(np.float32), mask_logits.astype(np.float32))


def difference(result: dict[str, Any], panoptic: Panoptic) -> int:
    """Return the number of pixels whose class or segment differs from transformers' result."""
    segment_id = result['segmentation'].numpy().astype(np.int64)
    class_of_id = np.full(segment_id.max(initial=0) + 2, 255)
    is_thing = np.zeros_like(class_of_id, bool)
    for info in result['segments_info']:
        class_of_id[info['id']] = info['label_id']
        is_thing[info['id']] = not info['was_fused']
    differs = class_of_id[segment_id] != panoptic.semantic
    theirs = np.where(is_thing[segment_id], segment_id, 0)
    # Two segments are equal if neither overlaps any other segment.
    runs = Runs.of(theirs, panoptic.instance, differs)
    pairs = np.stack([runs.sample(theirs), runs.sample(panoptic.instance)])
    pairs = np.unique(pairs[:, ~runs.sample(differs)], axis=1)
    for row, values in enumerate((theirs, panoptic.instance)):
        ids, count = np.unique(pairs[row], return_counts=True)
        differs |= np.isin(values, ids[count > 1])
    return int(np.count_nonzero(differs))


if __name__ == '__main__':
    sys.exit(main())
