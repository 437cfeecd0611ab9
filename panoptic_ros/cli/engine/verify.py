"""``panoptic verify-engine MODEL``: run the golden picture on the engine, say how it compares."""

import argparse

from panoptic_ros.cli.engine.build import add_engine_arguments, report
from panoptic_ros.engines import tensorrt
from panoptic_ros.model import Model


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Verify; raises EngineError if the results are wrong."""
    library = tensorrt.LIBRARIES[args.engine]
    opened = tensorrt.open_cached(Model.load(args.model), cache_folder=args.cache, library=library)
    return report(opened, args)
