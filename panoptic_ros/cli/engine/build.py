"""``panoptic build-engine MODEL``: compile a model for a GPU with TensorRT, and verify it."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from panoptic_ros.cli.engine.fuse import hint
from panoptic_ros.engines import tensorrt
from panoptic_ros.errors import EngineError
from panoptic_ros.model import Model


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_engine_arguments(parser)
    parser.add_argument(
        '--batch',
        type=int,
        default=1,
        metavar='N',
        help='images computed at once, for several cameras (%(default)s)',
    )
    parser.add_argument(
        '--builder-option',
        action='append',
        default=[],
        metavar='NAME=VALUE',
        help='set an attribute of IBuilderConfig, for example builder_optimization_level=5, or a '
        'BuilderFlag with flag=NAME; not tested on hardware',
    )
    parser.add_argument('--force', action='store_true', help='build even if there is an engine')


def add_engine_arguments(
    parser: argparse.ArgumentParser, engines: Iterable[str] = tuple(tensorrt.LIBRARIES)
) -> None:
    """Add the arguments that all engine commands have; ``engines`` are the names to choose."""
    parser.add_argument('model', help='a model name, or a model folder')
    parser.add_argument(
        '--engine',
        default='tensorrt',
        choices=tuple(engines),
        help='(%(default)s)',
    )
    parser.add_argument(
        '--cache',
        type=Path,
        metavar='FOLDER',
        help=f'of the engines ({tensorrt.CACHE_VARIABLE}, or ~/.cache/panoptic_ros/tensorrt)',
    )


def run(args: argparse.Namespace) -> int:
    """Build and verify; raises EngineError if the results are wrong."""
    pairs = tuple(_name_and_value(text) for text in args.builder_option)
    options = tensorrt.BuildOptions(pairs, batch=args.batch)
    library = tensorrt.LIBRARIES[args.engine]
    model = Model.load(args.model)
    if library.is_portable and tensorrt.unavailable(library):
        with _Bars() as bars:
            entry = tensorrt.build_portable(
                model, options, library, cache_folder=args.cache, on_progress=bars.show
            )
        print(_built(entry, args))
        _print_hint(model)
        print('no GPU here: the engine is verified when a GPU first opens it')
        return 0
    with _Bars() as bars:
        opened = tensorrt.build_engine(
            model,
            options,
            cache_folder=args.cache,
            force=args.force,
            on_progress=bars.show,
            library=library,
        )
    _print_hint(model)
    return report(opened, args)


def _print_hint(model: Model) -> None:
    text = hint(model)
    if text:
        print(text)


def report(opened: tensorrt.Opened, args: argparse.Namespace) -> int:
    """Print how an engine compares with the golden outputs; raise EngineError if it is wrong."""
    print(f'{opened.engine.description}')
    print(_built(opened.entry, args))
    print(opened.verification)
    opened.serve().close()
    return 0


def _built(entry: tensorrt.Entry, args: argparse.Namespace) -> str:
    return (
        f'{tensorrt.EngineCache(args.cache).plan_path(entry.identity)}: '
        f'{entry.plan_bytes / 1e6:.1f} MB, built in {entry.build_seconds:.0f} s with '
        f'{entry.identity.options}'
    )


def _name_and_value(text: str) -> tuple[str, str]:
    name, separator, value = text.partition('=')
    if not (name and separator and value):
        raise EngineError(f'builder option {text!r} is not usable; expected NAME=VALUE')
    return name, value


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
