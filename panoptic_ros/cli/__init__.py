"""The command ``panoptic``. Each subcommand is a module that is imported when it is chosen.

The module has ``configure(parser: argparse.ArgumentParser) -> None``, which adds arguments, and
``run(args: argparse.Namespace) -> int``, which returns the exit status: 0 for success, 1 if some
of the work failed, 2 for wrong usage or input, 130 if interrupted.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper

from panoptic_ros import __version__
from panoptic_ros.errors import PanopticRosError


@dataclass(frozen=True)
class Command:
    """A subcommand: name, module, help, and the pip extra it needs (empty for none)."""

    name: str
    module: str
    help: str
    extra: str = ''


COMMANDS = (
    Command(
        'segment',
        'panoptic_ros.cli.segment',
        'segment a picture, a folder or a video into overlays and COCO panoptic files',
    ),
    Command(
        'map',
        'panoptic_ros.cli.map_image',
        'segment a slide, an aerial picture, a stack or a volume of any size',
        'large',
    ),
    Command(
        'change',
        'panoptic_ros.cli.change',
        'find what changed between two label rasters or two large pictures',
        'large',
    ),
    Command(
        'make-sample',
        'panoptic_ros.cli.make_sample',
        'make a synthetic slide, aerial picture or volume with its truth',
        'large',
    ),
    Command('models', 'panoptic_ros.cli.models', 'list the models, or show and verify one'),
    Command(
        'labels',
        'panoptic_ros.cli.labels',
        'print the class table for a consumer (Hydra, Nav2, panoptic_mapping)',
    ),
    Command(
        'import',
        'panoptic_ros.cli.import_model',
        "turn another project's checkpoint into a model",
        extra='import',
    ),
    Command(
        'train', 'panoptic_ros.cli.training.train', 'train or fine-tune a network', extra='train'
    ),
    Command(
        'prune', 'panoptic_ros.cli.training.prune', 'make a trained network narrower', 'train'
    ),
    Command(
        'export', 'panoptic_ros.cli.training.export', 'export trained weights as a model', 'train'
    ),
    Command(
        'quantize',
        'panoptic_ros.cli.training.quantize',
        'add an int8 file for CPUs to a model',
        'train',
    ),
    Command('score', 'panoptic_ros.cli.score', 'score predictions on disk against truth'),
    Command(
        'make-bag',
        'panoptic_ros.cli.make_bag',
        'record the synthetic street, a video or a data set as a rosbag2',
        'ros',
    ),
    Command(
        'rviz',
        'panoptic_ros.cli.rviz',
        "start rviz2 with the node's outputs, in the frame of the images",
        'ros',
    ),
    Command(
        'soak',
        'panoptic_ros.cli.soak',
        'run the node for long on all kinds of input and check that nothing is lost or leaks',
        'ros',
    ),
    Command('tune', 'panoptic_ros.cli.tune', "choose the thresholds of a model's fusion"),
    Command('evaluate', 'panoptic_ros.cli.evaluate', 'measure a model on a data set'),
    Command(
        'build-engine',
        'panoptic_ros.cli.engine.build',
        'compile a model for this NVIDIA GPU with TensorRT',
    ),
    Command(
        'fuse',
        'panoptic_ros.cli.engine.fuse',
        'append the fusion to the ONNX file that GPUs run',
        'import',
    ),
    Command(
        'gpu-report',
        'panoptic_ros.cli.engine.gpu_report',
        'measure every GPU engine installed here',
    ),
    Command('verify-engine', 'panoptic_ros.cli.engine.verify', 'prove a TensorRT engine'),
    Command('inspect-engine', 'panoptic_ros.cli.engine.inspect', 'list the layers of an engine'),
    Command('benchmark-engine', 'panoptic_ros.cli.engine.benchmark', 'time a TensorRT engine'),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    if isinstance(sys.stdout, TextIOWrapper):
        # File names may not be valid UTF-8; standard error escapes them already.
        sys.stdout.reconfigure(errors='backslashreplace')
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Found before parsing: only the module of the chosen command is imported.
    chosen = next((c for c in COMMANDS if arguments[:1] == [c.name]), None)
    try:
        return _run(chosen, arguments)
    except PanopticRosError as error:
        print(f'panoptic: {error}', file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if chosen is None or str(error.name).split('.')[0] == 'panoptic_ros':
            raise
        package = f"'panoptic_ros[{chosen.extra}]'" if chosen.extra else error.name
        print(
            f'panoptic: the command {chosen.name} needs {error.name}, which is not installed: '
            f'pip install {package}',
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print('panoptic: interrupted', file=sys.stderr)
        return 130


def run_alone(
    name: str,
    description: str,
    configure: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a program that is not a subcommand (``python -m MODULE``); return the exit status."""
    parser = argparse.ArgumentParser(description=description)
    configure(parser)
    try:
        return run(parser.parse_args(argv))
    except PanopticRosError as error:
        print(f'{name}: {error}', file=sys.stderr)
        return 2


def _run(chosen: Command | None, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog='panoptic', description='Panoptic segmentation of camera images, without ROS.'
    )
    parser.add_argument('--version', action='version', version=f'panoptic_ros {__version__}')
    subparsers = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name, help=command.help, description=command.help.capitalize() + '.'
        )
        if command is chosen:
            module = import_module(command.module)
            module.configure(subparser)
    args = parser.parse_args(arguments)
    return module.run(args)
