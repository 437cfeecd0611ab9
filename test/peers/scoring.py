"""Compare the time and the result of PQ scoring with other projects, on the same images.

``python test/peers/scoring.py [cityscapes ROOT]``. The peers are not requirements of this
package; a missing one is listed and left out. The input is one of

* *maps*: prediction and truth of every image in memory, as label maps;
* *files*: COCO panoptic files on disk; the time includes decoding the PNGs.

Crowd regions (``iscrowd``) are void in the truth, and no pixel is predicted void, because not
every peer treats the two as the COCO panoptic tools do. All implementations of the same
definition must then agree. The slowest peers score only the first few images.
"""

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from panoptic_ros.cli import run_alone
from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.opening import DEFAULT_SPLITS, open_dataset
from panoptic_ros.datasets.subset import evenly_spaced
from panoptic_ros.errors import DatasetError
from panoptic_ros.evaluation.coco_files import prepare_process, score_files
from panoptic_ros.evaluation.quality import PanopticQuality
from panoptic_ros.evaluation.report import write_json
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.packing import coco_categories, rgb_to_ids, to_coco
from panoptic_ros.panoptic import NO_INSTANCE, Panoptic

INSTALL = {
    'panopticapi': 'pip install --no-deps panopticapi-lite && pip install pillow',
    'hotcoco': 'pip install hotcoco',
    'torchmetrics': 'pip install torchmetrics',
    'panoptica': 'pip install panoptica',
}
"""Commands that install a peer; panopticapi-lite requires numpy below 2 but works with 2."""

_SLOW_IMAGES = 5  # for slow peers


@dataclass(frozen=True, eq=False)
class Pair:
    """Prediction and truth of one image, without crowd regions."""

    prediction: Panoptic
    truth: Panoptic


@dataclass(frozen=True)
class Timing:
    """One line of the table.

    Parameters
    ----------
    name
        Implementation.
    source
        ``maps`` or ``files``.
    PQ
        Percent.
    ours
        PQ of this package for the same images.
    ms_per_image
        Best of the repetitions.
    images
        Number of images.
    same_definition
        Whether PQ is defined as in the COCO panoptic tools.
    """

    name: str
    source: str
    PQ: float
    ours: float
    ms_per_image: float
    images: int
    same_definition: bool


@dataclass(frozen=True, eq=False)
class Candidate:
    """An implementation: ``run`` returns PQ in percent of the first ``images`` pairs."""

    name: str
    source: str
    run: Callable[[], float]
    images: int
    same_definition: bool = True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; returns the exit status."""
    return run_alone('bench', 'Time the scoring of panoptic predictions.', configure, run, argv)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument('dataset', nargs='?', default='synthetic', choices=tuple(DEFAULT_SPLITS))
    parser.add_argument(
        'root', nargs='?', type=Path, help='folder of the data set (none for synthetic)'
    )
    parser.add_argument('--images', type=int, default=50, help='number of images (%(default)s)')
    parser.add_argument(
        '--scale', type=int, default=1, help='factor by which the maps are enlarged (%(default)s)'
    )
    parser.add_argument(
        '--repeats',
        type=int,
        default=3,
        help='repetitions, of which the best is reported (%(default)s)',
    )
    parser.add_argument('--json', type=Path, help='write the table to this file')


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    for name in ('repeats', 'scale'):
        if getattr(args, name) < 1:
            raise DatasetError(f'--{name} is {getattr(args, name)}; expected 1 or more')
    prepare_process()  # as ``panoptic score`` does; applies to the peers too
    samples, label_set = open_dataset(args.dataset, args.root)
    pairs = make_pairs(evenly_spaced(samples, args.images), label_set, args.scale)
    with tempfile.TemporaryDirectory() as folder:
        candidates, missing = gather(pairs, label_set, Path(folder))
        timings = measure(candidates, pairs, label_set, args.repeats)
    print(table(timings))
    for name, reason in missing.items():
        print(f'{name}: left out, {reason}')
    if args.json:
        write_json(args.json, {'timings': [vars(t) for t in timings], 'missing': missing})
    return 0


def make_pairs(samples: Sequence[Sample], label_set: LabelSet, scale: int = 1) -> list[Pair]:
    """Return the truth of each sample and a prediction with every kind of error.

    ``scale`` enlarges both by repeating pixels.
    """
    rng = np.random.default_rng(0)
    pairs = []
    for sample in tqdm(samples, unit='image', desc='images', disable=None):
        truth = _without(sample.truth, np.asarray(sample.crowd_ids), label_set)
        prediction = _degrade(truth, label_set, rng)
        pairs.append(Pair(*(_enlarge(p, scale, label_set) for p in (prediction, truth))))
    return pairs


def _score(pairs: Sequence[Pair], label_set: LabelSet) -> float:
    quality = PanopticQuality(label_set)
    for pair in pairs:
        quality.update(pair.prediction, pair.truth)
    return quality.result().PQ


def gather(
    pairs: Sequence[Pair], label_set: LabelSet, folder: Path
) -> tuple[list[Candidate], dict[str, str]]:
    """Prepare the inputs of all candidates; return them, and the reason for each missing one."""
    files = _write_files(pairs, label_set, folder)
    makers = {
        'panoptic_ros': lambda: _ours(pairs, label_set, files),
        'panopticapi': lambda: _panopticapi(pairs, label_set, files),
        'hotcoco': lambda: _hotcoco(pairs, label_set, files),
        'torchmetrics': lambda: _torchmetrics(pairs, label_set),
        'panoptica': lambda: _panoptica(pairs, label_set),
    }
    candidates, missing = [], {}
    for name, make in makers.items():
        try:
            candidates += make()
        except ImportError as error:
            missing[name] = f'not installed ({error}): {INSTALL[name]}'
    return candidates, missing


def measure(
    candidates: Sequence[Candidate],
    pairs: Sequence[Pair],
    label_set: LabelSet,
    repeats: int,
) -> list[Timing]:
    """Run the candidates in turn, ``repeats`` times, and keep the best time of each."""
    best_s = dict.fromkeys(candidates, float('inf'))
    pq = {}
    rounds = [c for _ in range(repeats) for c in candidates]
    for candidate in tqdm(rounds, desc='scoring', disable=None):
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            pq[candidate] = candidate.run()
        best_s[candidate] = min(best_s[candidate], time.perf_counter() - started)
    return [
        Timing(
            name=c.name,
            source=c.source,
            PQ=pq[c],
            ours=_score(pairs[: c.images], label_set),
            ms_per_image=1000 * best_s[c] / c.images,
            images=c.images,
            same_definition=c.same_definition,
        )
        for c in candidates
    ]


def table(timings: Sequence[Timing]) -> str:
    """Return the timings as text; ``ratio`` is to the first line of the same source."""
    first = {t.source: t.ms_per_image for t in reversed(timings)}
    lines = [
        f'{"scorer":34}{"from":7}{"images":>7}{"ms/image":>11}{"ratio":>9}{"PQ":>9}  difference',
        '-' * 88,
    ]
    for t in timings:
        difference = f'{abs(t.PQ - t.ours):.1e}'
        if not t.same_definition:
            difference = 'another definition'
        ratio = t.ms_per_image / first[t.source]
        lines.append(
            f'{t.name:34}{t.source:7}{t.images:7d}{t.ms_per_image:11.3f}{ratio:9.1f}{t.PQ:9.3f}'
            f'  {difference}'
        )
    return '\n'.join(lines)


# Inputs.


def _without(panoptic: Panoptic, ids: np.ndarray, label_set: LabelSet) -> Panoptic:
    """Return the map with some instances made void."""
    gone = np.isin(panoptic.instance, ids[ids != NO_INSTANCE])
    return Panoptic.from_maps(
        np.where(gone, VOID, panoptic.semantic).astype(np.uint8),
        np.where(gone, NO_INSTANCE, panoptic.instance).astype(np.uint16),
        label_set,
    )


def _degrade(truth: Panoptic, label_set: LabelSet, rng: np.random.Generator) -> Panoptic:
    """Shift the map by some pixels; remove, split and relabel some things."""
    shift = tuple(rng.integers(-2, 3, 2))
    semantic = np.roll(truth.semantic, shift, (0, 1))
    instance = np.roll(truth.instance, shift, (0, 1))
    things = truth.segments.things.id
    fate = rng.random(int(things.max(initial=0)) + 1)
    fate[NO_INSTANCE] = 1
    fate = fate[instance]
    columns = np.arange(instance.shape[1])
    split = (fate > 0.1) & (fate < 0.2) & (columns % 16 < 8)
    instance[split] += things.max(initial=0)
    renamed = (fate > 0.2) & (fate < 0.3)
    semantic[renamed] = np.flatnonzero(label_set.is_thing)[0]
    # Removed things and void pixels are predicted as a stuff class.
    lost = (fate < 0.1) | (semantic == VOID)
    semantic[lost] = np.flatnonzero(~label_set.is_thing)[0]
    instance[lost] = NO_INSTANCE
    return Panoptic.from_maps(semantic, instance, label_set)


def _enlarge(panoptic: Panoptic, scale: int, label_set: LabelSet) -> Panoptic:
    maps = (
        m.repeat(scale, axis=0).repeat(scale, axis=1)
        for m in (panoptic.semantic, panoptic.instance)
    )
    return Panoptic.from_maps(*maps, label_set)


@dataclass(frozen=True)
class _Files:
    truth: Path
    prediction: Path
    truth_content: dict[str, Any]
    prediction_content: dict[str, Any]


def _write_files(pairs: Sequence[Pair], label_set: LabelSet, folder: Path) -> _Files:
    """Write truth and predictions as COCO panoptic files with numeric image ids."""
    contents = []
    for side in ('truth', 'prediction'):
        images, annotations = [], []
        (folder / side).mkdir()
        for number, pair in enumerate(pairs, 1):
            panoptic = getattr(pair, side)
            rgb, info = to_coco(panoptic, label_set)
            name = f'{number:06d}.png'
            cv2.imwrite(str(folder / side / name), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
            width, height = panoptic.size_wh
            images.append({'id': number, 'file_name': name, 'width': width, 'height': height})
            annotations.append({'image_id': number, 'file_name': name, 'segments_info': info})
        content = {
            'images': images,
            'annotations': annotations,
            'categories': coco_categories(label_set),
        }
        write_json(folder / f'{side}.json', content)
        contents.append(content)
    return _Files(folder / 'truth.json', folder / 'prediction.json', *contents)


# Implementations.


def _ours(pairs: Sequence[Pair], label_set: LabelSet, files: _Files) -> list[Candidate]:
    def from_files(threads: int | None) -> Callable[[], float]:
        return lambda: score_files(files.truth, files.prediction, threads=threads).quality.PQ

    return [
        Candidate('panoptic_ros', 'maps', lambda: _score(pairs, label_set), len(pairs)),
        Candidate('panoptic_ros', 'files', from_files(None), len(pairs)),
        Candidate('panoptic_ros, one thread', 'files', from_files(1), len(pairs)),
    ]


def _panopticapi(pairs: Sequence[Pair], label_set: LabelSet, files: _Files) -> list[Candidate]:
    evaluation = importlib.import_module('panopticapi.evaluation')
    categories = {c['id']: c for c in coco_categories(label_set)}
    annotations = list(
        zip(
            files.truth_content['annotations'],
            files.prediction_content['annotations'],
            strict=True,
        )
    )
    folders = [str(path.with_suffix('')) for path in (files.truth, files.prediction)]

    def score() -> float:
        statistics = evaluation.pq_compute_single_core(0, annotations, *folders, categories)
        return 100 * statistics.pq_average(categories, isthing=None)[0]['pq']

    # It reads only files; for maps, decoded images replace the reading.
    decoded = {
        f'{folder}/{annotation["file_name"]}': to_coco(getattr(pair, side), label_set)[0]
        for folder, side in zip(folders, ('truth', 'prediction'), strict=True)
        for pair, annotation in zip(pairs, files.truth_content['annotations'], strict=True)
    }

    def from_maps() -> float:
        original = evaluation.Image
        evaluation.Image = SimpleNamespace(open=decoded.__getitem__)
        try:
            return score()
        finally:
            evaluation.Image = original

    return [
        Candidate('panopticapi, one core', 'maps', from_maps, len(pairs)),
        Candidate('panopticapi, one core', 'files', score, len(pairs)),
    ]


def _hotcoco(pairs: Sequence[Pair], label_set: LabelSet, files: _Files) -> list[Candidate]:
    hotcoco = importlib.import_module('hotcoco')
    panoptic = importlib.import_module('hotcoco.panoptic')

    def evaluate(truth: Any, prediction: Any) -> float:
        evaluator = panoptic.PanopticEval(truth, prediction)
        evaluator.evaluate()
        return 100 * evaluator.results()['All']['pq']

    def masks(content: dict[str, Any], side: str) -> dict[str, Any]:
        """Return the input without files: one run-length encoded mask for each segment."""
        annotations = []
        for pair, annotation in zip(pairs, content['annotations'], strict=True):
            ids = rgb_to_ids(to_coco(getattr(pair, side), label_set)[0])
            for info in annotation['segments_info']:
                mask = np.asfortranarray(ids == info['id'], np.uint8)
                annotations.append(
                    {
                        'id': len(annotations) + 1,
                        'image_id': annotation['image_id'],
                        'category_id': info['category_id'],
                        'segmentation': hotcoco.mask.encode(mask),
                        'area': info['area'],
                        'bbox': info['bbox'],
                        'iscrowd': 0,
                    }
                )
        return {**content, 'annotations': annotations}

    def from_maps() -> float:
        truth = masks(files.truth_content, 'truth')
        prediction = masks(files.prediction_content, 'prediction')
        return evaluate(hotcoco.COCO(truth), hotcoco.COCO(prediction))

    def from_files() -> float:
        return evaluate(str(files.truth), str(files.prediction))

    return [
        Candidate('hotcoco, masks from maps', 'maps', from_maps, len(pairs)),
        Candidate('hotcoco', 'files', from_files, len(pairs)),
    ]


def _torchmetrics(pairs: Sequence[Pair], label_set: LabelSet) -> list[Candidate]:
    torch = importlib.import_module('torch')
    detection = importlib.import_module('torchmetrics.detection')

    def tensor(panoptic: Panoptic) -> Any:
        pixels = np.stack((panoptic.semantic, panoptic.instance), axis=-1).astype(np.int64)
        return torch.from_numpy(pixels)[None]

    chosen = pairs[:_SLOW_IMAGES]
    tensors = [(tensor(pair.prediction), tensor(pair.truth)) for pair in chosen]
    is_thing = label_set.is_thing[: len(label_set)]

    def from_maps() -> float:
        metric = detection.PanopticQuality(
            things=set(np.flatnonzero(is_thing).tolist()),
            stuffs=set(np.flatnonzero(~is_thing).tolist()),
            allow_unknown_preds_category=True,
        )
        for prediction, truth in tensors:
            metric.update(prediction, truth)
        return 100 * float(metric.compute())

    return [Candidate('torchmetrics', 'maps', from_maps, len(chosen))]


def _panoptica(pairs: Sequence[Pair], label_set: LabelSet) -> list[Candidate]:
    panoptica = importlib.import_module('panoptica')
    chosen = pairs[:_SLOW_IMAGES]

    def instances(panoptic: Panoptic, class_id: int) -> np.ndarray:
        of_class = panoptic.semantic == class_id
        return np.where(of_class, np.maximum(panoptic.instance, 1), 0).astype(np.uint16)

    def from_maps() -> float:
        """Evaluate each class and image separately: panoptica has one class and no void."""
        evaluator = panoptica.Panoptica_Evaluator(
            expected_input=panoptica.InputType.UNMATCHED_INSTANCE,
            instance_matcher=panoptica.NaiveThresholdMatching(),
        )
        total = np.zeros((len(label_set), 2))
        for pair in chosen:
            present = np.union1d(pair.prediction.semantic, pair.truth.semantic)
            for class_id in present[present != VOID].tolist():
                result = evaluator.evaluate(
                    instances(pair.prediction, class_id), instances(pair.truth, class_id)
                )['ungrouped']
                iou_sum = result.sq * result.tp if result.tp else 0.0
                weight = result.tp + (result.fp + result.fn) / 2
                total[class_id] += iou_sum, weight
        occurs = total[:, 1] > 0
        return 100 * float((total[occurs, 0] / total[occurs, 1]).mean())

    return [Candidate('panoptica', 'maps', from_maps, len(chosen), same_definition=False)]


if __name__ == '__main__':
    sys.exit(main())
