"""``panoptic benchmark-engine MODEL``: speed, memory and quality of one engine, as JSON."""

import argparse
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from panoptic_ros import __version__
from panoptic_ros.cli.engine.build import add_engine_arguments
from panoptic_ros.datasets.subset import evenly_spaced_indices
from panoptic_ros.engines import ENGINES, Engine, open_engine, tensorrt
from panoptic_ros.engines.onnxruntime import OnnxRuntimeEngine
from panoptic_ros.engines.tensorrt.cuda import CudaRuntime
from panoptic_ros.errors import EngineError, SourceError
from panoptic_ros.evaluation.quality import PanopticQuality
from panoptic_ros.image_files import read_image
from panoptic_ros.model import Model
from panoptic_ros.segmenter import Segmenter
from panoptic_ros.sources import find_images_or_raise

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
    """Add the arguments of this command."""
    add_engine_arguments(parser, ENGINES)
    add_measurement_arguments(parser)
    parser.add_argument('--out', type=Path, help='JSON file; printed if left out')


def add_measurement_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how long and on what an engine is measured."""
    parser.add_argument('--runs', type=int, default=1000, help='measured frames (%(default)s)')
    parser.add_argument('--warm-up', type=int, default=50, help='frames before (%(default)s)')
    parser.add_argument(
        '--data',
        type=Path,
        metavar='FOLDER',
        help='images, also in its folders, for the PQ against the float32 model on the CPU',
    )
    parser.add_argument(
        '--images', type=int, default=50, help='number of these images (%(default)s)'
    )


def check_measurement_arguments(args: argparse.Namespace) -> None:
    """Raise EngineError unless the numbers can be measured with."""
    for name, least in (('runs', 1), ('warm_up', 0), ('images', 1)):
        value = getattr(args, name)
        if value < least:
            raise EngineError(f'{name.replace("_", "-")} is {value}; expected {least} or more')


def run(args: argparse.Namespace) -> int:
    """Measure; raises EngineError for an engine with wrong results."""
    check_measurement_arguments(args)
    model = Model.load(args.model)
    details: dict[str, Any] = {}
    if args.engine in tensorrt.LIBRARIES:
        library = tensorrt.LIBRARIES[args.engine]
        opened = tensorrt.open_cached(model, cache_folder=args.cache, library=library)
        engine: Engine = opened.serve()
        details = {
            'options': str(opened.entry.identity.options),
            'cuda_graph': not opened.engine.graph_fault,
            'verification': str(opened.verification),
        }
    else:
        engine = open_engine(model, args.engine)
    with closing(engine):
        result = measure_engine(model, engine, args) | details
    write_json(result | machine(), args.out)
    return 0


def write_json(content: Any, path: Path | None) -> None:
    """Write a file and its folder, or print. Raises EngineError if the file cannot be written."""
    text = json.dumps(content, indent=2)
    if path is None:
        print(text)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + '\n', encoding='utf-8')
    except OSError as error:
        raise EngineError(
            f'cannot write {path} ({error.strerror}); choose another file with --out'
        ) from error


def measure_engine(model: Model, engine: Engine, args: argparse.Namespace) -> dict[str, Any]:
    """Return speed, memory and quality of an engine, as plain values for JSON.

    The engine alone is timed from host to host: copy in, network, copy out. The path is timed
    from the image to the panoptic map at the size of the network. Both run one image at a time.
    """
    image, _ = model.golden()
    segmenter = Segmenter(model, engine)
    measure(lambda: segmenter.segment(image, 'rgb8'), args.warm_up)
    free_before = free_device_bytes()
    engine_ms = measure(lambda: engine.infer(image), args.runs)
    free_after = free_device_bytes()
    path_ms = measure(lambda: segmenter.segment(image, 'rgb8'), args.runs)
    outputs = engine.infer(image)
    result: dict[str, Any] = {
        'model': model.card.name,
        'size_wh': list(model.card.size_wh),
        'engine': engine.description.name,
        'precision': engine.description.precision,
        'description': str(engine.description),
        'versions': {
            'panoptic_ros': __version__,
            engine.description.name: engine.description.version,
        },
        'runs': args.runs,
        'engine_ms': quantiles(engine_ms),
        'path_ms': quantiles(path_ms),
        'images_per_second': float(1e3 / path_ms.mean()),
        'bytes_copied': image.nbytes + sum(array.nbytes for array in outputs.values()),
        'device_memory_growth_bytes': None,
        'PQ_against_float32': None,
    }
    if free_before is not None and free_after is not None:
        result['device_memory_growth_bytes'] = free_before - free_after
    if args.data is not None:
        images = read_images(args.data, args.images)
        result['PQ_against_float32'] = pq_against_float32(model, engine, images)
        result['PQ_images'] = len(images)
    return result


def measure(step: Callable[[], object], runs: int) -> np.ndarray:
    """Return the time of each call of ``step``, float64 [runs], milliseconds."""
    times_ns = np.empty(runs + 1, np.int64)
    times_ns[0] = time.perf_counter_ns()
    for index in range(runs):
        step()
        times_ns[index + 1] = time.perf_counter_ns()
    return np.diff(times_ns) / 1e6


def quantiles(times_ms: np.ndarray) -> dict[str, float]:
    """Return median, 99th percentile and maximum of times in milliseconds."""
    p50, p99 = np.percentile(times_ms, (50, 99))
    return {'p50': float(p50), 'p99': float(p99), 'max': float(times_ms.max())}


def free_device_bytes() -> int | None:
    """Return the free memory of the GPU, None without CUDA."""
    try:
        return CudaRuntime().memory()[0]
    except EngineError:
        return None


def read_images(folder: Path, count: int) -> list[np.ndarray]:
    """Read images of a folder and its folders, evenly spaced, uint8 [H, W, 3] BGR each.

    Raises SourceError if there are none or one cannot be read.
    """
    paths = find_images_or_raise(folder, recursive=True)
    chosen = [folder / paths[index] for index in evenly_spaced_indices(len(paths), count)]
    images = {path: read_image(path, cv2.IMREAD_COLOR) for path in chosen}
    unreadable = [path for path, image in images.items() if image is None]
    if unreadable:
        raise SourceError(f'{unreadable[0]} is not a readable image; remove it or choose others')
    return [image for image in images.values() if image is not None]


def pq_against_float32(model: Model, engine: Engine, images: Sequence[np.ndarray]) -> float:
    """Return the PQ of an engine's maps, percent, with those of the float32 file as the truth.

    The float32 file runs on ONNX Runtime on the CPU.
    """
    quality = PanopticQuality(model.label_set)
    with closing(OnnxRuntimeEngine(model, precision='float32')) as reference:
        ours, truth = Segmenter(model, engine), Segmenter(model, reference)
        for image in images:
            quality.update(ours.segment(image).panoptic, truth.segment(image).panoptic)
    return quality.result().PQ


def machine() -> dict[str, Any]:
    """Return the GPU, its CUDA versions and its state, as plain values for JSON."""
    try:
        device = vars(CudaRuntime().device())
    except EngineError:
        device = {}
    return {
        'gpu': device,
        'gpu_state': gpu_state(),
        'power_mode': power_mode(),
        'date': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
    }


def gpu_state() -> dict[str, str]:
    """Return clocks, power and temperature from nvidia-smi; empty without it."""
    query = f'--query-gpu={",".join(_SMI_FIELDS)}'
    output = _output('nvidia-smi', query, '--format=csv,noheader', '--id=0')
    values = [value.strip() for value in output.split(',')]
    return dict(zip(_SMI_FIELDS, values, strict=True)) if len(values) == len(_SMI_FIELDS) else {}


def power_mode() -> str:
    """Return the power mode of a Jetson, from nvpmodel; empty elsewhere."""
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
