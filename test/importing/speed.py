"""Time of a frame with each family: our whole path against transformers' own pipeline.

``PYTHONPATH=.:test python test/importing/speed.py [FAMILY ...] [--published] [--json FILE]``. Both
take the same picture in memory to a map of its size, in turn, on the same device. Weights are
random, which does not change the time of a network. Small configurations by default;
``--published`` takes the published sizes. ``--device cuda`` runs transformers on the GPU and our
path with the engine named by ``--engine``, also with the fusion in the graph (``--fuse``).
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from importing.checkpoints import run_network
from importing.conftest import Imported, import_small, scenery
from importing.reference import PROCESSORS, processor_of, reference_maps

from panoptic_ros.cli.engine.fuse import fuse
from panoptic_ros.engines import ENGINES, open_engine
from panoptic_ros.errors import EngineError
from panoptic_ros.model import Model
from panoptic_ros.segmenter import Segmenter, card_fusion

PICTURE_WH = (640, 480)


def main() -> None:
    """Print a line for each family."""
    parser = argparse.ArgumentParser(description='Compare our path with that of transformers.')
    parser.add_argument('families', nargs='*', help='some of them (all)')
    parser.add_argument('--published', action='store_true', help='the published sizes')
    parser.add_argument('--runs', type=int, default=5, help='of each (%(default)s)')
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'), help='of transformers')
    parser.add_argument('--engine', default='auto', choices=('auto', *ENGINES), help='of our path')
    parser.add_argument('--fuse', action='store_true', help='fuse in the graph of float16 files')
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
        row = measure(model_type, args)
        rows.append(row)
        ours_ms, theirs_ms = float(row['ours_ms']), float(row['transformers_ms'])
        print(
            f'{row["family"]} {row["size_wh"]}, {row["engine"]}: ours {ours_ms:.1f} ms, '
            f'transformers {theirs_ms:.1f} ms on {args.device}, {theirs_ms / ours_ms:.1f} times',
            flush=True,
        )
        if args.json:
            # After each family, so that an interrupted run keeps what it measured.
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(rows, indent=2) + '\n')


def measure(model_type: str, args: argparse.Namespace) -> dict[str, str | float]:
    """Return medians in milliseconds; the two run in turn."""
    picture = scenery(PICTURE_WH)
    with tempfile.TemporaryDirectory() as folder:
        imported = import_small(model_type, Path(folder), args.published)
        model = imported.model
        if args.fuse:
            fuse(model)
            model = Model.load(model.folder)
        theirs = transformers_pipeline(imported, picture, args.device)
        with closing(open_engine(model, args.engine)) as engine, torch.inference_mode():
            if args.device == 'cuda' and not engine.description.is_gpu:
                raise EngineError(
                    f'transformers would run on the GPU and our path on {engine.description}; '
                    'choose an engine that runs on the GPU with --engine'
                )
            segmenter = Segmenter(model, engine)
            times: dict[str, list[float]] = {'ours': [], 'transformers': []}
            for run in range(args.runs + 1):
                for name, call in (
                    ('ours', lambda: segmenter.segment(picture, 'rgb8')),
                    ('transformers', theirs),
                ):
                    started = time.perf_counter()
                    call()
                    if run:  # the first one warms up
                        times[name].append((time.perf_counter() - started) * 1e3)
            return {
                'family': model.card.provenance['family'],
                'size_wh': f'{model.card.size_wh[0]}x{model.card.size_wh[1]}',
                'engine': str(engine.description),
                'transformers_device': args.device,
                'threads': os.cpu_count() or 0,
                'ours_ms': float(np.median(times['ours'])),
                'transformers_ms': float(np.median(times['transformers'])),
            }


def transformers_pipeline(
    imported: Imported, picture: np.ndarray, device: str
) -> Callable[[], object]:
    """Return transformers' own way from a picture to its map: float32, on a device."""
    model_type, card = imported.model_type, imported.model.card
    processor = processor_of(model_type, str(imported.checkpoint))
    fusion = card_fusion(imported.model)
    thresholds = {
        'threshold': fusion.score_threshold,
        'mask_threshold': fusion.mask_threshold,
        'overlap_mask_area_threshold': fusion.min_kept_fraction,
    }
    if card.resize.mode == 'letterbox':
        thresholds['size'] = processor.size
    network = imported.network.to(device)

    def run() -> object:
        pixels = processor(images=picture, return_tensors='pt')['pixel_values'].to(device)
        outputs = run_network(network, model_type, pixels)
        return reference_maps(model_type, processor, outputs, PICTURE_WH, **thresholds)

    return run


if __name__ == '__main__':
    main()
