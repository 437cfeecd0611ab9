"""``panoptic labels FORMAT NAME``: print the class table in the format of a consumer."""

import argparse
from pathlib import Path

from panoptic_ros.consumers import FORMATS
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import CARD, Model, list_models


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument('format', choices=FORMATS, help='the consumer')
    parser.add_argument(
        'name', help='a model (name or folder) or a label set (name or .yaml file)'
    )


def run(args: argparse.Namespace) -> int:
    """Print the table. Raise ModelError or LabelSetError if NAME is neither of the two."""
    print(FORMATS[args.format](_label_set(args.name)), end='')
    return 0


def _label_set(name: str) -> LabelSet:
    if name in list_models() or (Path(name) / CARD).is_file():
        return Model.load(name).label_set
    return LabelSet.load(name)
