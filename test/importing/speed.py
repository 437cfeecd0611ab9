"""Time of a frame with each family: our whole path against transformers' own pipeline.

``PYTHONPATH=.:test python test/importing/speed.py [FAMILY ...] [--published] [--json FILE]``. Both
take the same picture in memory to a map of its size, in turn, on the same device. Weights are
random, which does not change the time of a network. Small configurations by default;
``--published`` takes the published sizes. With ``--devices cuda`` both run on the GPU:
transformers in float32 and with autocast in float16, our path with the engine that ``--engine``
names, with ``--fuse`` also with the fusion in the graph.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from importing.checkpoints import run_network
from importing.conftest import Imported, import_small, scenery
from importing.reference import PROCESSORS, processor_of, reference_maps, reference_thresholds

from panoptic_ros.cli.engine.fuse import fuse
from panoptic_ros.engines import ENGINES, Engine, open_engine
from panoptic_ros.engines.onnxruntime import OnnxRuntimeEngine, has_cuda
from panoptic_ros.errors import EngineError
from panoptic_ros.model import Model
from panoptic_ros.segmenter import Segmenter, card_fusion

PICTURE_WH = (640, 480)
WARM_UP_RUNS = 2


def main() -> None:
    """Print a line for each family."""
    parser = argparse.ArgumentParser(description='Compare our path with that of transformers.')
    parser.add_argument('families', nargs='*', help='some of them (all)')
    parser.add_argument('--published', action='store_true', help='the published sizes')
    parser.add_argument('--runs', type=int, default=5, help='of each (%(default)s)')
    parser.add_argument(
        '--devices', nargs='+', default=['cpu'], choices=('cpu', 'cuda'), help='(cpu)'
    )
    parser.add_argument('--engine', default='auto', choices=('auto', *ENGINES), help='of our path')
    parser.add_argument('--fuse', action='store_true', help='fuse in the graph of float16 files')
    parser.add_argument(
        '--keep',
        type=Path,
        metavar='FOLDER',
        help='keep imported models here',
    )
    parser.add_argument('--json', type=Path, help='write the figures to this file')
    args = parser.parse_args()
    unknown = set(args.families) - set(PROCESSORS)
    if unknown:
        parser.error(
            f'{", ".join(sorted(unknown))}: no image processor here; expected some of '
            f'{", ".join(PROCESSORS)}'
        )
    rows = []
    for model_type in args.families or PROCESSORS:
        for row in measure(model_type, args):
            rows.append(row)
            print(row_text(row), flush=True)
        if args.json:
            # After each family, so that an interrupted run keeps what it measured.
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(rows, indent=2) + '\n')


def row_text(row: dict[str, Any]) -> str:
    """Return a line about a row."""
    times_ms = ', '.join(f'{name} {ms:.1f} ms' for name, ms in row['median_ms'].items())
    engine = row['engine'].partition(' (')[0]  # without why it was chosen
    return f'{row["family"]} {row["size_wh"]}, {row["device"]}, {engine}: {times_ms}'


def measure(model_type: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield medians in milliseconds for each device; ours and theirs run in turn."""
    picture = scenery(PICTURE_WH)
    with tempfile.TemporaryDirectory() as folder:
        kept = args.keep / model_type if args.keep else Path(folder)
        imported = imported_in(kept, model_type, args.published)
        model = imported.model
        if args.fuse and not model.card.fused:
            fuse(model)
            model = Model.load(model.folder)
        for device in args.devices:
            calls = {'transformers': transformers_pipeline(imported, picture, device)}
            if device == 'cuda':
                calls['transformers float16'] = with_float16(calls['transformers'])
            with closing(engine_on(model, device, args.engine)) as engine, torch.inference_mode():
                segmenter = Segmenter(model, engine)
                calls['ours'] = lambda segmenter=segmenter: segmenter.segment(picture, 'rgb8')
                yield {
                    'family': model.card.provenance['family'],
                    'size_wh': f'{model.card.size_wh[0]}x{model.card.size_wh[1]}',
                    'device': torch.cuda.get_device_name() if device == 'cuda' else device,
                    'threads': os.cpu_count(),
                    'engine': str(engine.description),
                    'fused': model.card.fused,
                    'median_ms': medians_ms(calls, args.runs),
                }


def imported_in(folder: Path, model_type: str, published: bool) -> Imported:
    """Import a family into a folder, or take what an earlier run left there."""
    if not (folder / 'model' / 'card.yaml').is_file():
        folder.mkdir(parents=True, exist_ok=True)
        return import_small(model_type, folder, published)
    checkpoint = folder / 'checkpoint'
    config = json.loads((checkpoint / 'config.json').read_text())
    network = getattr(hf, config['architectures'][0]).from_pretrained(checkpoint).eval()
    return Imported(model_type, checkpoint, network, Model.load(folder / 'model'), [])


def medians_ms(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Return the median time of each call in milliseconds; the calls run in turn."""
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + WARM_UP_RUNS):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if run >= WARM_UP_RUNS:
                times_ms[name].append((time.perf_counter() - started) * 1e3)
    return {name: float(np.median(times)) for name, times in times_ms.items()}


def engine_on(model: Model, device: str, name: str) -> Engine:
    """Open an engine on a device. Raises EngineError if it runs on another."""
    if device == 'cpu' and name in ('auto', 'onnxruntime') and has_cuda():
        return OnnxRuntimeEngine(model)  # opened by its name it would take the GPU
    engine = open_engine(model, name)
    if engine.description.is_gpu != (device == 'cuda'):
        raise EngineError(
            f'our path would run on {engine.description} and transformers on {device}; choose '
            'another engine with --engine'
        )
    return engine


def with_float16(call: Callable[[], object]) -> Callable[[], object]:
    """Return the call with torch's automatic float16 on the GPU."""

    def run() -> object:
        with torch.autocast('cuda', torch.float16):
            return call()

    return run


def transformers_pipeline(
    imported: Imported, picture: np.ndarray, device: str
) -> Callable[[], object]:
    """Return transformers' own way from a picture to its map: float32, on a device."""
    model_type, card = imported.model_type, imported.model.card
    processor = processor_of(model_type, str(imported.checkpoint))
    fusion = card_fusion(imported.model)
    thresholds = reference_thresholds(fusion, card, processor)
    network = imported.network.to(device)

    def run() -> object:
        pixels = processor(images=picture, return_tensors='pt')['pixel_values'].to(device)
        outputs = run_network(network, model_type, pixels)
        return reference_maps(model_type, processor, outputs, PICTURE_WH, **thresholds)

    return run


if __name__ == '__main__':
    main()
