"""Time of a frame with each family: our whole path against transformers' own pipeline.

``PYTHONPATH=.:test python test/importing/speed.py [FAMILY ...] [--published] [--json FILE]``. Both
take the same picture in memory to a map of its size, in turn, on the same cores. Weights are
random, which does not change the time of a network. Small configurations by default;
``--published`` takes the published sizes.
"""

import argparse
import json
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from importing.checkpoints import run_network
from importing.conftest import import_small, scenery
from importing.reference import PROCESSORS, processor_of, reference_maps

from panoptic_ros.engines import open_engine
from panoptic_ros.segmenter import Segmenter, card_fusion

PICTURE_WH = (640, 480)


def main() -> None:
    """Print a line for each family."""
    parser = argparse.ArgumentParser(description='Compare our path with that of transformers.')
    parser.add_argument('families', nargs='*', help='some of them (all)')
    parser.add_argument('--published', action='store_true', help='the published sizes')
    parser.add_argument('--runs', type=int, default=5, help='of each (%(default)s)')
    parser.add_argument('--json', type=Path, help='write the figures to this file')
    args = parser.parse_args()
    rows = []
    for model_type in args.families or PROCESSORS:
        if model_type not in PROCESSORS:
            parser.error(
                f'{model_type} has no image processor here; expected some of '
                f'{", ".join(PROCESSORS)}'
            )
        row = measure(model_type, args.published, args.runs)
        rows.append(row)
        ours_ms, theirs_ms = float(row['ours_ms']), float(row['transformers_ms'])
        print(
            f'{row["family"]} {row["size_wh"]}, {row["engine"]}: ours {ours_ms:.0f} ms, '
            f'transformers {theirs_ms:.0f} ms, {theirs_ms / ours_ms:.1f} times',
            flush=True,
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=2) + '\n')


def measure(model_type: str, published: bool, runs: int) -> dict[str, str | float]:
    """Return medians in milliseconds; the two run in turn."""
    picture = scenery(PICTURE_WH)
    with tempfile.TemporaryDirectory() as folder:
        imported = import_small(model_type, Path(folder), published)
        model = imported.model
        processor = processor_of(model_type, str(imported.checkpoint))
        fusion = card_fusion(model)
        thresholds = {
            'threshold': fusion.score_threshold,
            'mask_threshold': fusion.mask_threshold,
            'overlap_mask_area_threshold': fusion.min_kept_fraction,
        }
        if model.card.resize.mode == 'letterbox':
            thresholds['size'] = processor.size

        def theirs() -> None:
            pixels = processor(images=picture, return_tensors='pt')['pixel_values']
            outputs = run_network(imported.network, model_type, pixels)
            reference_maps(model_type, processor, outputs, PICTURE_WH, **thresholds)

        with closing(open_engine(model)) as engine, torch.inference_mode():
            segmenter = Segmenter(model, engine)
            times: dict[str, list[float]] = {'ours': [], 'transformers': []}
            for run in range(runs + 1):
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
                'ours_ms': float(np.median(times['ours'])),
                'transformers_ms': float(np.median(times['transformers'])),
            }


if __name__ == '__main__':
    main()
