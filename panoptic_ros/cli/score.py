"""``panoptic score TRUTH.json PREDICTION.json``: Panoptic Quality of COCO panoptic files."""

import argparse
import sys
from pathlib import Path

from panoptic_ros.errors import DatasetError
from panoptic_ros.evaluation.coco_files import prepare_process, score_files
from panoptic_ros.evaluation.report import as_json, class_table, summary_table, write_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument('truth', type=Path, help='panoptic JSON of the truth')
    parser.add_argument('prediction', type=Path, help='panoptic JSON of the predictions')
    parser.add_argument(
        '--truth-folder', type=Path, help='PNGs of the truth (path of the JSON without .json)'
    )
    parser.add_argument('--prediction-folder', type=Path, help='predicted PNGs (likewise)')
    parser.add_argument('--json', type=Path, help='write all results to this file')
    parser.add_argument('--threads', type=int, help='images decoded at once (one per core)')


def run(args: argparse.Namespace) -> int:
    """Print the official table and the one by class."""
    if args.threads is not None and args.threads < 1:
        raise DatasetError(f'--threads is {args.threads}; expected 1 or more')
    prepare_process()
    score = score_files(
        args.truth,
        args.prediction,
        args.truth_folder,
        args.prediction_folder,
        threads=args.threads,
        progress=True,
    )
    print(f'{class_table(score.quality, score.overlap)}\n')
    print(summary_table(score.quality))
    print(f'mean IoU {score.overlap.mean_iou:.1f}, {score.quality.images} images')
    if score.misstated:
        print(
            f'note: the JSON states another area than the PNG for {score.misstated} true '
            'segments; the stated one counts, as in the COCO panoptic tools',
            file=sys.stderr,
        )
    if args.json:
        write_json(args.json, as_json(score.quality, score.overlap))
    return 0
