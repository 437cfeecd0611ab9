"""``panoptic build-engine MODEL``: compile a model for this GPU with TensorRT, and prove it."""

import argparse
from pathlib import Path

from tqdm import tqdm

from panoptic_ros.engines import tensorrt
from panoptic_ros.model import Model


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_engine_arguments(parser)
    parser.add_argument('--workspace', type=int, metavar='MIB', help='most scratch memory a layer')
    parser.add_argument(
        '--optimization-level',
        type=int,
        metavar='0..5',
        help='0 builds fast, 5 gives the fastest engine (3)',
    )
    parser.add_argument(
        '--hardware-compatibility',
        default='none',
        choices=tensorrt.HARDWARE_COMPATIBILITY,
        help='GPUs to run on besides this one (%(default)s)',
    )
    parser.add_argument('--dla-core', type=int, metavar='N', help='use this accelerator (Jetson)')
    parser.add_argument(
        '--weak-fp16',
        action='store_true',
        help='TensorRT 10 only: let it choose float32 for a layer where that is faster',
    )
    parser.add_argument('--no-timing-cache', action='store_true', help='measure every kernel anew')
    parser.add_argument('--force', action='store_true', help='build although there is one')
    parser.add_argument(
        '--accept', action='store_true', help='serve it although its results are wrong'
    )


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all engine commands have."""
    parser.add_argument('model', help='a model name, or a model folder')
    parser.add_argument(
        '--cache',
        type=Path,
        metavar='FOLDER',
        help=f'of the engines ({tensorrt.CACHE_VARIABLE}, or ~/.cache/panoptic_ros/tensorrt)',
    )


def run(args: argparse.Namespace) -> int:
    """Build and verify; raises EngineError if the results are wrong and not accepted."""
    options = tensorrt.BuildOptions(
        workspace_mib=args.workspace,
        optimization_level=args.optimization_level,
        hardware_compatibility=args.hardware_compatibility,
        dla_core=args.dla_core,
        weak_fp16=args.weak_fp16,
    )
    model = Model.load(args.model)
    with _Bars() as bars:
        opened = tensorrt.build_engine(
            model,
            options,
            cache_folder=args.cache,
            force=args.force,
            use_timing_cache=not args.no_timing_cache,
            on_progress=bars.show,
        )
    return report(opened, args)


def report(opened: tensorrt.Opened, args: argparse.Namespace) -> int:
    """Print how an engine did; accept it if asked to; raise EngineError if it is wrong."""
    entry = opened.entry
    print(f'{opened.engine.description}')
    print(
        f'{tensorrt.EngineCache(args.cache).plan_path(entry.identity)}: '
        f'{entry.plan_bytes / 1e6:.1f} MB, built in {entry.build_seconds:.0f} s with '
        f'{entry.identity.options}'
    )
    print(opened.verification)
    if opened.fault and args.accept:
        opened = tensorrt.accept(opened, cache_folder=args.cache)
        print(f'accepted, and served from now on: {opened.entry.accepted}')
    opened.serve().close()
    return 0


class _Bars:
    """A progress bar for each phase of the build, one after the other."""

    def __init__(self) -> None:
        self._phase = ''
        self._bar: tqdm | None = None

    def __enter__(self) -> '_Bars':
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, phase: str, done: int, steps: int) -> None:
        """See :data:`tensorrt.Progress`."""
        if phase != self._phase or self._bar is None:
            self.__exit__()
            self._phase = phase
            self._bar = tqdm(desc=phase, total=steps, unit='step', disable=None)
        self._bar.update(done - self._bar.n)
