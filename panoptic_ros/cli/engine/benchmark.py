"""``panoptic benchmark-engine MODEL``: how fast the engine is, as JSON that can be compared."""

import argparse
import json
import shutil
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_ros import __version__
from panoptic_ros.cli.engine.build import add_engine_arguments
from panoptic_ros.engines import Engine, tensorrt
from panoptic_ros.engines.tensorrt import Installation
from panoptic_ros.errors import EngineError
from panoptic_ros.model import Model

_SMI_FIELDS = (
    'name',
    'driver_version',
    'clocks.sm',
    'clocks.mem',
    'clocks.max.sm',
    'power.draw',
    'power.limit',
    'temperature.gpu',
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_engine_arguments(parser)
    parser.add_argument('--runs', type=int, default=500, help='measured (%(default)s)')
    parser.add_argument('--warm-up', type=int, default=50, help='runs before (%(default)s)')
    parser.add_argument('--out', type=Path, help='JSON file; printed if left out')


def run(args: argparse.Namespace) -> int:
    """Measure; raises EngineError for an engine with wrong results."""
    if args.runs < 1 or args.warm_up < 0:
        raise EngineError(
            f'runs is {args.runs} and warm-up {args.warm_up}; expected 1 or more and 0 or more'
        )
    model = Model.load(args.model)
    library = tensorrt.LIBRARIES[args.engine]
    opened = tensorrt.open_cached(model, cache_folder=args.cache, library=library)
    with closing(opened.serve()) as engine:
        latency_ms = measure(engine, model.golden()[0], args.runs, args.warm_up)
        content = json.dumps(result(model, opened, latency_ms), indent=2)
    if args.out is None:
        print(content)
        return 0
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(content + '\n', encoding='utf-8')
    except OSError as error:
        raise EngineError(
            f'cannot write {args.out} ({error.strerror}); choose another file with --out'
        ) from error
    return 0


def measure(engine: Engine, image: np.ndarray, runs: int, warm_up: int) -> np.ndarray:
    """Return the time of each run from host to host, float64 [runs], milliseconds."""
    for _ in range(warm_up):
        engine.infer(image)
    times_ns = np.empty(runs + 1, np.int64)
    times_ns[0] = time.perf_counter_ns()
    for index in range(runs):
        engine.infer(image)
        times_ns[index + 1] = time.perf_counter_ns()
    return np.diff(times_ns) / 1e6


def result(model: Model, opened: tensorrt.Opened, latency_ms: np.ndarray) -> dict[str, Any]:
    """Return figures and all that they depend on, as JSON takes it."""
    library = tensorrt.LIBRARIES[opened.entry.identity.library]
    here = Installation.find(library)
    free_bytes, total_bytes = here.cuda.memory()
    p50, p90, p99 = np.percentile(latency_ms, (50, 90, 99)).round(4).tolist()
    return {
        'model': model.card.name,
        'size_wh': list(model.card.size_wh),
        'options': str(opened.entry.identity.options),
        'runs': len(latency_ms),
        'latency_ms': {'p50': p50, 'p90': p90, 'p99': p99, 'max': float(latency_ms.max())},
        'images_per_second': float(1e3 / latency_ms.mean()),
        'measured': 'host to host: copy in, network, copy out, one image at a time',
        'cuda_graph': not opened.engine.graph_fault,
        'gpu': here.device.name,
        'compute_capability': here.device.compute_capability,
        'memory_bytes': {'free': free_bytes, 'total': total_bytes},
        'gpu_state': gpu_state(),
        'power_mode': power_mode(),
        'versions': {
            'panoptic_ros': __version__,
            library.name: here.trt.__version__,
            'cuda_runtime': here.device.runtime_version,
            'cuda_driver': here.device.driver_version,
        },
        'verification': str(opened.verification),
        'date': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
    }


def gpu_state() -> dict[str, str]:
    """Return clocks, power and temperature from nvidia-smi; empty where it is not there."""
    query = f'--query-gpu={",".join(_SMI_FIELDS)}'
    output = _output('nvidia-smi', query, '--format=csv,noheader', '--id=0')
    values = [value.strip() for value in output.split(',')]
    return dict(zip(_SMI_FIELDS, values, strict=True)) if len(values) == len(_SMI_FIELDS) else {}


def power_mode() -> str:
    """Return what nvpmodel says on a Jetson; empty elsewhere."""
    return ' '.join(_output('nvpmodel', '-q').split())


def _output(program: str, *arguments: str) -> str:
    if shutil.which(program) is None:
        return ''
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ''
    return done.stdout
