"""The fusion in the graph against the fusion on the CPU: equal maps, bytes copied, CPU time.

``python test/peers/graph_fusion.py cityscapes ROOT --split val`` prints two tables. The first
counts the pixels in which the two maps differ: on labelled images and on random scenes, on ONNX
Runtime in float32. Centres are those of street-lite. No query network is needed: the 100 queries
of an image are regions around random pixels, alike in colour and place, whose masks
follow the edges of the image; those of a random scene are blobs with noise. The second table
gives what is copied from the GPU for each frame and the CPU time after the engine, for 100
queries at 640x480.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
from support.graph_fusion import GraphFusion, differing_pixels

from panoptic_ros.datasets.opening import open_dataset
from panoptic_ros.datasets.subset import evenly_spaced
from panoptic_ros.fusion import QueryFusion, heads_of
from panoptic_ros.fusion.graph import enlarge_class_map
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.segmenter import card_fusion, prepare

RULES = {
    'detr': QueryFusion(),
    'mask2former': QueryFusion(rule='mask2former'),
    'eomt': QueryFusion(rule='eomt'),
}
STRIDE = 4
Outputs = dict[str, np.ndarray]


def image_queries(image_rgb: np.ndarray, count: int, classes: int, seed: int) -> Outputs:
    """Return queries whose masks part an image into regions alike in colour and place, float32."""
    rng = np.random.default_rng(seed)
    height, width = (side // STRIDE for side in image_rgb.shape[:2])
    colour = cv2.resize(image_rgb, (width, height), interpolation=cv2.INTER_AREA) / 40.0
    colour = cv2.GaussianBlur(colour, (0, 0), 3)  # as smooth as the masks of a network
    y, x = np.mgrid[:height, :width] * (12 / width)
    feature = np.dstack((colour, x, y)).reshape(-1, 5)
    centre = feature[rng.choice(len(feature), count, replace=False)]
    square = (feature**2).sum(1) + (centre**2).sum(1)[:, None] - 2 * centre @ feature.T
    first, second = np.partition(square, 1, axis=0)[:2]
    rival = np.where(square == first, second, first)
    masks = 8 * (rival - square) + rng.normal(0, 0.1, square.shape)
    masks = masks.reshape(count, height, width).clip(-12, 12)
    return {
        'class_logits': random_classes(rng, count, classes),
        'mask_logits': masks.astype(np.float32),
    }


def scene_queries(size_wh: tuple[int, int], count: int, classes: int, seed: int) -> Outputs:
    """Return queries whose masks are blobs with noise, float32."""
    rng = np.random.default_rng(seed)
    width, height = (side // STRIDE for side in size_wh)
    y, x = np.mgrid[:height, :width]
    middle = rng.uniform(0, (width, height), (count, 2))
    distance = np.hypot(x - middle[:, :1, None], y - middle[:, 1:, None])
    radius = rng.uniform(0.02, 0.2, (count, 1, 1)) * width
    masks = (radius - distance) * 0.5 + rng.normal(0, 1, distance.shape)
    return {
        'class_logits': random_classes(rng, count, classes),
        'mask_logits': masks.astype(np.float32),
    }


def noise_queries(size_wh: tuple[int, int], count: int, classes: int, seed: int) -> Outputs:
    """Return queries that are noise: every cell is another query's, float32."""
    rng = np.random.default_rng(seed)
    masks = rng.normal(0, 3, (count, size_wh[1] // STRIDE, size_wh[0] // STRIDE))
    return {
        'class_logits': random_classes(rng, count, classes),
        'mask_logits': masks.astype(np.float32),
    }


def random_classes(rng: np.random.Generator, count: int, classes: int) -> np.ndarray:
    """Return logits of a clear class for four of five queries, else of no object."""
    logits = rng.normal(0, 1, (count, classes + 1))
    chosen = np.where(rng.random(count) < 0.8, rng.integers(0, classes, count), classes)
    logits[np.arange(count), chosen] += 6
    return logits.astype(np.float32)


def random_centres(size_wh: tuple[int, int], centres: int, seed: int) -> Outputs:
    """Return a class map of ellipses and centres with offsets that point at random, float32."""
    rng = np.random.default_rng(seed)
    width, height = (side // STRIDE for side in size_wh)
    semantic = np.zeros((2 * height, 2 * width), np.uint8)
    for _ in range(40):
        middle = rng.integers(0, (2 * width, 2 * height)).tolist()
        axes = rng.integers(2, 60, 2).tolist()
        cv2.ellipse(semantic, middle, axes, 0, 0, 360, int(rng.integers(0, 19)), -1)
    return {
        'semantic': semantic,
        'confidence': rng.integers(0, 256, (height, width)).astype(np.uint8),
        'centre_score': np.sort(rng.uniform(0, 1, centres).astype(np.float32))[::-1].copy(),
        'centre_index': rng.choice(height * width, centres, replace=False).astype(np.int32),
        'offset_xy': rng.normal(0, 4, (2, height, width)).astype(np.float32),
    }


def full_size_heads(model: Model, images: Iterable[np.ndarray]) -> Iterator[Outputs]:
    """Run a model on images of its size, with the class map at their full size."""
    network = onnx.load(model.onnx_path('float32'))
    assert enlarge_class_map(network, model.card.size_wh[::-1])
    session = ort.InferenceSession(network.SerializeToString(), providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]
    for image in images:
        found = session.run(names, {session.get_inputs()[0].name: image[None]})
        yield {name: array[0] for name, array in zip(names, found, strict=True)}


def compare(
    name: str,
    head: str,
    fusion: Any,
    label_set: LabelSet,
    scenes: Iterable[Outputs],
    size_wh: tuple[int, int],
) -> dict[str, Any]:
    """Return how many pixels differ, over all scenes and in the worst one."""
    differing, graph = [], None
    with tempfile.TemporaryDirectory() as folder:
        for outputs in scenes:
            graph = graph or GraphFusion(Path(folder), fusion, label_set, outputs, size_wh)
            a, b = (
                fusion(heads_of(head, found), label_set, size_wh).panoptic
                for found in (outputs, graph(outputs))
            )
            differing.append(differing_pixels(a, b))
    pixels = len(differing) * size_wh[0] * size_wh[1]
    return {
        'scenes': name,
        'count': len(differing),
        'pixels': pixels,
        'differing': sum(differing),
        'worst': max(differing),
        'equal_scenes': differing.count(0),
    }


def measure_cost(
    name: str, outputs: Outputs, fusion: QueryFusion, label_set: LabelSet, runs: int
) -> dict[str, Any]:
    """Return bytes and median CPU time with masks and with maps, measured in turn."""
    size_wh = tuple(side * STRIDE for side in outputs['mask_logits'].shape[:0:-1])
    with tempfile.TemporaryDirectory() as folder:
        maps = GraphFusion(Path(folder), fusion, label_set, outputs, size_wh)(outputs)
    sides = {'masks': outputs, 'maps': maps}
    times: dict[str, list[float]] = {side: [] for side in sides}
    segments = 0
    for run in range(runs):
        for side, found in sides.items():
            # The masks are slow enough to show a stable median in fewer runs.
            if side == 'masks' and run >= max(5, runs // 20):
                continue
            started = time.thread_time()
            fused = fusion(heads_of('queries', found), label_set, size_wh)
            times[side].append(1e3 * (time.thread_time() - started))
            segments = len(fused.panoptic.segments)
    return {
        'scene': name,
        'segments': segments,
        **{
            f'{side}_MB': sum(a.nbytes for a in found.values()) / 1e6
            for side, found in sides.items()
        },
        **{f'{side}_ms': float(np.median(taken)) for side, taken in times.items()},
        'maps_p99_ms': float(np.percentile(times['maps'], 99)),
    }


def bytes_of(outputs: Outputs) -> int:
    """Return the bytes that are copied from the GPU for one frame."""
    return sum(array.nbytes for array in outputs.values())


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""

    def text(value: Any) -> str:
        return (
            f'{value:.2f}'
            if isinstance(value, float)
            else f'{value:,}'
            if isinstance(value, int)
            else value
        )

    lines = ['| ' + ' | '.join(name.replace('_', ' ') for name in rows[0]) + ' |']
    lines.append('|' + ' --- |' * len(rows[0]))
    lines.extend('| ' + ' | '.join(text(value) for value in row.values()) + ' |' for row in rows)
    return '\n'.join(lines)


def equality(samples: Any, model: Model, queries: int, scenes: int) -> list[dict[str, Any]]:
    """Compare the maps of both head kinds, on images and on random scenes."""
    label_set, size_wh = model.label_set, model.card.size_wh
    classes = len(label_set)
    images = [prepare(sample.image_rgb, 'rgb8', size_wh) for sample in samples]
    fusion = card_fusion(model)
    rows = [
        compare(f'centres, {name}', 'centres', fusion, label_set, found, size_wh)
        for name, found in (
            ('images', full_size_heads(model, images)),
            ('random', (random_centres(size_wh, 128, seed) for seed in range(scenes))),
        )
    ]
    print(as_table(rows), flush=True)
    # All masks at full size take most of the time, hence half of each side.
    size_wh = (size_wh[0] // 2, size_wh[1] // 2)
    images = [cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA) for image in images]
    for rule, query_fusion in RULES.items():
        for name, found in (
            ('images', (image_queries(im, queries, classes, n) for n, im in enumerate(images))),
            ('random', (scene_queries(size_wh, queries, classes, n) for n in range(scenes))),
        ):
            name = f'{rule}, {name}'
            rows.append(compare(name, 'queries', query_fusion, label_set, found, size_wh))
            print(as_table(rows[-1:]), flush=True)
    return rows


def costs(
    image_rgb: np.ndarray, label_set: LabelSet, queries: int, runs: int
) -> list[dict[str, Any]]:
    """Measure 100 queries at 640x480 for a street, for blobs and for noise."""
    size_wh, classes = (640, 480), len(label_set)
    image = prepare(image_rgb, 'rgb8', size_wh)
    scenes: dict[str, Outputs] = {
        'street': image_queries(image, queries, classes, 0),
        'noise': noise_queries(size_wh, queries, classes, 0),
    }
    return [
        measure_cost(f'{rule}, {name}', outputs, fusion, label_set, runs)
        for rule, fusion in RULES.items()
        for name, outputs in scenes.items()
    ]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('dataset')
    parser.add_argument('root', nargs='?')
    parser.add_argument('--split')
    parser.add_argument('--model', default='street-lite')
    parser.add_argument('--images', type=int, default=200)
    parser.add_argument('--scenes', type=int, default=50)
    parser.add_argument('--queries', type=int, default=100)
    parser.add_argument('--runs', type=int, default=200)
    parser.add_argument('--json', type=Path)
    parser.add_argument('--only-cost', action='store_true')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    model = Model.load(args.model)
    samples = evenly_spaced(open_dataset(args.dataset, args.root, args.split)[0], args.images)
    cost = costs(samples[0].image_rgb, model.label_set, args.queries, args.runs)
    print(as_table(cost), flush=True)
    equal = []
    if not args.only_cost:
        equal = equality(samples, model, args.queries, args.scenes)
        print(as_table(equal))
    if args.json:
        args.json.write_text(json.dumps({'equality': equal, 'cost': cost}, indent=2) + '\n')


if __name__ == '__main__':
    main()
