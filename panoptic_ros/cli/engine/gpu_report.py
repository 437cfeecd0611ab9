"""``panoptic gpu-report MODEL``: measure every GPU engine installed here, without ROS."""

import argparse
import json
from contextlib import closing
from pathlib import Path

import numpy as np

from panoptic_ros.cli.engine.benchmark import gpu_state, measure, power_mode
from panoptic_ros.engines import Engine, open_engine, unavailable_gpu_engines
from panoptic_ros.errors import EngineError
from panoptic_ros.model import Model
from panoptic_ros.segmenter import Segmenter


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument('model', nargs='?', default='street-lite', help='(default: %(default)s)')
    parser.add_argument('--runs', type=int, default=1000, help='frames (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('out/gpu'), help='(default: %(default)s)')


def run(args: argparse.Namespace) -> int:
    """Write ``report.md``; raises EngineError if no GPU engine runs here."""
    if args.runs < 1:
        raise EngineError(f'runs is {args.runs}; expected 1 or more')
    why_not = unavailable_gpu_engines()
    usable = [name for name, why in why_not.items() if not why]
    if not usable:
        raise EngineError(
            'no engine can use a GPU here: '
            + '; '.join(f'{name}: {why}' for name, why in why_not.items())
        )
    model = Model.load(args.model)
    rows = []
    for name in usable:
        with closing(open_engine(model, name)) as engine:
            rows.append(measure_engine(model, engine, args.runs))
    args.out.mkdir(parents=True, exist_ok=True)
    report = args.out / 'report.md'
    report.write_text(as_markdown(model, rows, args.runs), encoding='utf-8')
    (args.out / 'report.json').write_text(json.dumps(rows, indent=2) + '\n', encoding='utf-8')
    print(report)
    return 0


def measure_engine(model: Model, engine: Engine, runs: int) -> dict[str, str | float]:
    """Return latencies of the engine and of the path from image to panoptic map."""
    image, _ = model.golden()
    engine_ms = measure(engine, image, runs, warm_up=min(runs, 50))
    segmenter = Segmenter(model, engine)
    path_ms = np.array(
        [segmenter.segment(image, 'rgb8').stages_ns.total_ns / 1e6 for _ in range(runs)]
    )
    copied = image.nbytes + sum(array.nbytes for array in engine.infer(image).values())
    return {
        'engine': str(engine.description),
        'engine_p50_ms': round(float(np.percentile(engine_ms, 50)), 3),
        'engine_p99_ms': round(float(np.percentile(engine_ms, 99)), 3),
        'path_p50_ms': round(float(np.percentile(path_ms, 50)), 3),
        'path_p99_ms': round(float(np.percentile(path_ms, 99)), 3),
        'images_per_second': round(float(1e3 / path_ms.mean()), 1),
        'copied_bytes': copied,
    }


def as_markdown(model: Model, rows: list[dict[str, str | float]], runs: int) -> str:
    """Return the report as a table for ``doc/benchmarks.md``."""
    width, height = model.card.size_wh
    columns = list(rows[0])
    lines = [
        f'# GPU engines, {model.card.name} at {width}x{height}, {runs} frames',
        '',
        f'State: {json.dumps(gpu_state())}; power mode: {power_mode() or "not reported"}.',
        '',
        '| ' + ' | '.join(name.replace('_', ' ') for name in columns) + ' |',
        '|' + ' --- |' * len(columns),
        *('| ' + ' | '.join(str(row[name]) for name in columns) + ' |' for row in rows),
        '',
    ]
    return '\n'.join(lines)
