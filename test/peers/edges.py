"""Borders of the published map by the way the class map is enlarged.

``python test/peers/edges.py street-lite cityscapes ROOT --split val`` prints the mean IoU of the
pixels within 3 pixels of a true border, and of all pixels, at the size of the network and at twice
that size (the truth enlarged by nearest neighbour). The class logits are taken out of the model's
graph. The ways:

- ``stride 2``: the class map as shipped, enlarged by nearest neighbour;
- ``stride 1``: the argmax of logits enlarged to the network's size (files made by ``panoptic
  fuse``), enlarged by nearest neighbour;
- ``logits``: the argmax of logits enlarged to the output;
- ``margin``: the class map as shipped and the margin of the best class over the next one. At each
  pixel the classes of the four cells around it compete; a cell votes with its bilinear weight
  times its margin;
- ``blur``: the majority of a Gaussian (sigma 0.7 cells) of the class map as shipped.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace

import cv2
import numpy as np
import onnx
import onnxruntime as ort

from panoptic_ros.datasets.opening import open_dataset
from panoptic_ros.datasets.subset import evenly_spaced
from panoptic_ros.evaluation.accuracy import Accuracy, measure_accuracy
from panoptic_ros.evaluation.edges import near_borders
from panoptic_ros.evaluation.overlap import ClassOverlap
from panoptic_ros.fusion import CentreHeads
from panoptic_ros.fusion.graph import enlarge_class_map
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.segmenter import card_fusion, prepare

RADIUS_PX = 3
Way = Callable[[np.ndarray, np.ndarray, tuple[int, int]], np.ndarray]


def enlarge(planes: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Enlarge [C, h, w] bilinearly."""
    return np.stack([cv2.resize(plane, size_wh) for plane in planes])


def nearest(class_map: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Enlarge labels by nearest neighbour."""
    return cv2.resize(class_map, size_wh, interpolation=cv2.INTER_NEAREST_EXACT)


def by_logits(class_map: np.ndarray, logits: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Take the argmax after the enlargement."""
    return enlarge(logits, size_wh).argmax(0).astype(np.uint8)


def by_margin(class_map: np.ndarray, logits: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Let cells vote with their margin."""
    fine = np.sort(enlarge(logits, class_map.shape[::-1]), axis=0)
    margin = fine[-1] - fine[-2] + np.float32(1e-3)
    classes = np.unique(class_map)
    votes = (class_map == classes[:, None, None]) * margin
    return classes[enlarge(votes, size_wh).argmax(0)]


def by_blur(class_map: np.ndarray, logits: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Let cells vote for the pixels around them."""
    classes = np.unique(class_map)
    votes = np.stack(
        [cv2.GaussianBlur((class_map == c).astype(np.float32), (0, 0), 0.7) for c in classes]
    )
    return classes[enlarge(votes, size_wh).argmax(0)]


WAYS: dict[str, Way] = {
    'stride 2': lambda class_map, logits, size_wh: nearest(class_map, size_wh),
    'stride 1': lambda class_map, logits, size_wh: nearest(
        by_logits(class_map, logits, tuple(2 * side for side in class_map.shape[::-1])), size_wh
    ),
    'logits': by_logits,
    'margin': by_margin,
    'blur': by_blur,
}


def open_with_logits(model: Model) -> Callable[[np.ndarray], tuple[np.ndarray, CentreHeads]]:
    """Return a function from an image to its class logits and its heads as shipped."""
    network = onnx.load(model.onnx_path('float32'))
    names = [output.name for output in network.graph.output]
    enlarged = onnx.ModelProto()
    enlarged.CopyFrom(network)
    assert enlarge_class_map(enlarged, model.card.size_wh[::-1])
    resize = next(node for node in enlarged.graph.node if node.name == 'class_map/resize')
    logits = onnx.helper.make_tensor_value_info(resize.input[0], onnx.TensorProto.FLOAT, None)
    network.graph.output.append(logits)
    session = ort.InferenceSession(network.SerializeToString(), providers=['CPUExecutionProvider'])
    image_name = session.get_inputs()[0].name

    def infer(image: np.ndarray) -> tuple[np.ndarray, CentreHeads]:
        *heads, found = session.run([*names, logits.name], {image_name: image[None]})
        columns = {name: array[0] for name, array in zip(names, heads, strict=True)}
        return found[0], CentreHeads(**columns)

    return infer


def stuff_map(class_map: np.ndarray, labels: LabelSet) -> Panoptic:
    """Return a class map as a panoptic map in which every class is stuff."""
    return Panoptic.from_maps(class_map, np.zeros(class_map.shape, np.uint16), labels)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('model')
    parser.add_argument('dataset')
    parser.add_argument('root')
    parser.add_argument('--split')
    parser.add_argument('--images', type=int)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    model = Model.load(args.model)
    size_wh = model.card.size_wh
    samples = evenly_spaced(open_dataset(args.dataset, args.root, args.split)[0], args.images)
    infer = open_with_logits(model)
    inferred = [infer(prepare(sample.image_rgb, 'rgb8', size_wh)) for sample in samples]

    flat = LabelSet('classes', tuple(replace(c, is_thing=False) for c in model.label_set.classes))
    print('| way | size | mean IoU near borders | mean IoU |\n| --- | --- | --- | --- |')
    for scale in (1, 2):
        out_wh = (scale * size_wh[0], scale * size_wh[1])
        overlaps = {way: (ClassOverlap(flat), ClassOverlap(flat)) for way in WAYS}
        for sample, (logits, heads) in zip(samples, inferred, strict=True):
            truth = enlarged_truth(sample.truth, out_wh)
            flat_truth = stuff_map(truth.semantic, flat)
            band = stuff_map(near_borders(truth, RADIUS_PX).semantic, flat)
            for way, (near, everywhere) in overlaps.items():
                found = stuff_map(WAYS[way](heads.semantic, logits, out_wh), flat)
                near.update(found, band)
                everywhere.update(found, flat_truth)
        for way, (near, everywhere) in overlaps.items():
            ious = near.result().mean_iou, everywhere.result().mean_iou
            print(
                f'| {way} | {out_wh[0]}x{out_wh[1]} | {ious[0]:.2f} | {ious[1]:.2f} |', flush=True
            )

    print('\n| class map | PQ | PQ things | PQ stuff |\n| --- | --- | --- | --- |')
    for way in ('stride 2', 'stride 1'):
        accuracy = fused_accuracy(way, model, samples, inferred)
        quality = accuracy.quality
        print(f'| {way} | {quality.PQ:.2f} | {quality.PQ_things:.2f} | {quality.PQ_stuff:.2f} |')


def enlarged_truth(truth: Panoptic, size_wh: tuple[int, int]) -> Panoptic:
    """Enlarge by nearest neighbour."""
    return replace(truth, runs=truth.runs.resized(size_wh))


def fused_accuracy(way: str, model: Model, samples: list, inferred: list) -> Accuracy:
    """Fuse every image with the class map of one way and score it at the network's size."""
    fusion, size_wh = card_fusion(model), model.card.size_wh

    def pairs() -> Iterator:
        for sample, (logits, heads) in zip(samples, inferred, strict=True):
            side_wh = size_wh if way == 'stride 1' else heads.semantic.shape[::-1]
            class_map = WAYS[way](heads.semantic, logits, side_wh)
            fused = fusion(replace(heads, semantic=class_map), model.label_set, size_wh)
            yield fused.panoptic, sample

    return measure_accuracy(pairs(), model.label_set)


if __name__ == '__main__':
    main()
