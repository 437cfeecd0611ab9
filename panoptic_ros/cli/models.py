"""``panoptic models [NAME]``: list the installed models, or show and verify one."""

import argparse

from panoptic_ros.errors import ModelError
from panoptic_ros.model import Model, list_models


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument('name', nargs='?', help='a name from the list, or a model folder')


def run(args: argparse.Namespace) -> int:
    """Print; return 1 if a listed model is not usable. Raise ModelError for an unknown NAME."""
    if args.name is not None:
        print(_details(Model.load(args.name)))
        return 0
    names = list_models()
    if not names:
        raise ModelError('no model is installed; export one into the folder models/')
    failed = 0
    for name in names:
        try:
            print(_summary(name, Model.load(name)))
        except ModelError as error:
            failed += 1
            print(f'{name}: not usable: {error}')
    return 1 if failed else 0


def _summary(name: str, model: Model) -> str:
    card = model.card
    width, height = card.size_wh
    files = ', '.join(f'{p} {f.bytes / 1e6:.1f} MB' for p, f in card.files.items())
    metrics = ''.join(f'; {m.name} {m.value:g} on {m.data}' for m in card.metrics[:1])
    return (
        f'{name}: {width}x{height}, {len(card.classes)} classes ({card.label_set}), '
        f'{card.head}; {files}; {card.licence}{metrics}'
    )


def _details(model: Model) -> str:
    card = model.card
    for precision in card.files:
        model.onnx_path(precision)
    model.golden()
    lines = [
        _summary(card.name, model),
        f'folder: {model.folder}',
        'checksums: all files agree with the card',
        *([] if card.scale is None else [f'scale: {card.scale:g}, in windows']),
        'classes: ' + ', '.join(card.classes),
        *(f'{key}: {value}' for key, value in card.fusion.items()),
        *(f'{key}: {value}' for key, value in card.provenance.items()),
        *(f'trained on: {data.name} ({data.terms})' for data in card.data),
        *(f'{m.name}: {m.value:g} on {m.data} ({m.how})' for m in card.metrics),
    ]
    return '\n'.join(lines)
