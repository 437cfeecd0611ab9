"""Detection of nuclei in the terms of StarDist's paper (arXiv 1806.03535).

The paper reports AP = TP / (TP + FP + FN) over all images, a pair matching above an IoU of 0.5, on
the fluorescence images of the 2018 Data Science Bowl. Its test images are 50 of the 497
fluorescence images of stage 1; the images here are those of the split that is asked for.
``python test/peers/nuclei.py ROOT`` prints one line of JSON.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from panoptic_ros.cluster import ModelChoice, open_model
from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.opening import open_dataset
from panoptic_ros.evaluation.accuracy import measure_accuracy, predict

GREY_LEVELS = 8
"""Channels of a grey picture differ by less: some were stored with rounded colours."""


def is_fluorescence(sample: Sample) -> bool:
    """Whether a picture is grey and its nuclei are brighter than the rest.

    Stained tissue has colours; in transmitted light nuclei are darker than what surrounds them.
    """
    image = sample.image_rgb.astype(np.int16)
    is_grey = np.ptp(image, axis=2).max() < GREY_LEVELS
    is_nucleus = sample.truth.instance > 0
    if not is_grey or is_nucleus.all() or not is_nucleus.any():
        return bool(is_grey)
    grey = image.mean(axis=2)
    return bool(grey[is_nucleus].mean() > grey[~is_nucleus].mean())


def fluorescence(samples: Sequence[Sample]) -> Iterator[Sample]:
    """Yield the fluorescence pictures."""
    return (sample for sample in samples if is_fluorescence(sample))


def measure(choice: ModelChoice, root: Path, split: str) -> dict[str, object]:
    """Segment the fluorescence pictures of a split and count matches."""
    samples, label_set = open_dataset('coco', root, split, None)
    with open_model(choice) as (engine, segment):
        accuracy = measure_accuracy(predict(segment, fluorescence(samples)), label_set)
    nucleus = next(c for c in accuracy.quality.per_class if c.is_thing)
    return {
        'engine': engine,
        'images': accuracy.quality.images,
        'of': len(samples),
        'nuclei': nucleus.tp + nucleus.fn,
        'AP50': 100 * nucleus.tp / (nucleus.tp + nucleus.fp + nucleus.fn),
        'PQ': nucleus.PQ,
        'SQ': nucleus.SQ,
        'RQ': nucleus.RQ,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('root', type=Path)
    parser.add_argument('--model', default='nuclei-lite')
    parser.add_argument('--split', default='val')
    args = parser.parse_args(argv)
    choice = ModelChoice(args.model, 'openvino', 'float32', threads=1)
    print(json.dumps(measure(choice, args.root, args.split)))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
