"""Pixels in which our maps differ from transformers' own post-processing, family by family.

Over 20 pictures a family: ``PYTHONPATH=.:test python test/importing/equality.py [FAMILY ...]``.
"""

import os
import sys
import tempfile
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
import torch
from importing.checkpoints import RECIPES, normalised, run_network
from importing.conftest import Imported, import_small
from importing.reference import processor_of, reference_maps, reference_thresholds
from scipy.special import softmax

from panoptic_ros.fusion import QueryFusion, QueryHeads
from panoptic_ros.importing.network import sigmoid_as_softmax
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.segmenter import card_fusion, prepare

DATA = Path(os.environ.get('PANOPTIC_DATA') or Path(__file__).parents[3] / 'shared' / 'data')
MAX_TIE = 3e-6
"""Relative difference of two float32 values that different orders of rounding explain."""


@dataclass(frozen=True)
class Equality:
    """How maps of several pictures compare.

    Parameters
    ----------
    pixels, segments
        How many were compared.
    ties
        Pixels that differ and are decided by the last bit of a float32 value: two masks are equal
        there, or one meets the threshold. PyTorch multiplies and adds in one rounding where it
        can, numpy in two.
    differing
        Pixels that differ for any other reason.
    """

    pixels: int
    segments: int
    ties: int
    differing: int


def real_pictures(count: int) -> list[np.ndarray]:
    """Return pictures of several sizes and subjects, uint8 RGB; fewer if there are fewer."""
    folders = (
        'coco_panoptic_sample/input_images',
        'driving_video',
        'cityscapes640/leftImg8bit/val',
    )
    found = [sorted((DATA / folder).rglob('*.jpg')) for folder in folders]
    in_turn = [path for paths in zip_longest(*found) for path in paths if path is not None]
    return [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in in_turn[:count]]


def compare_with_transformers(
    imported: Imported, pictures: list[np.ndarray], permissive: bool
) -> Equality:
    """Compare the maps of the same torch outputs at each picture's own size.

    ``permissive`` replaces the published thresholds by ones that keep more segments of the random
    weights.
    """
    model_type, card = imported.model_type, imported.model.card
    processor = processor_of(model_type, str(imported.checkpoint))
    fusion = card_fusion(imported.model)
    if permissive:
        fusion = replace(fusion, min_kept_fraction=0.05, score_threshold=0.5)
    thresholds = reference_thresholds(fusion, card, processor)
    pixels = segments = ties = differing = 0
    for picture in pictures:
        size_wh = picture.shape[1::-1]
        seen = prepare(picture, 'rgb8', card.size_wh, card.resize)
        outputs = run_network(imported.network, model_type, normalised(seen))
        ours = fuse(imported, fusion, outputs, size_wh)
        heads = heads_of(imported, outputs)
        if model_type == 'conditional_detr':  # which takes the last class for "no object"
            outputs.logits = sigmoid_as_softmax(outputs.logits)
        theirs = reference_maps(model_type, processor, outputs, size_wh, **thresholds)
        differs = _differs(ours, *theirs, has_ids=model_type != 'segformer')
        pixels += differs.size
        segments += len(ours.segments)
        if differs.any():
            extent_wh = card.resize.extent_wh(size_wh, card.size_wh)
            is_tie = decision_margin(heads, fusion, size_wh, extent_wh)[differs] < MAX_TIE
            ties += int(is_tie.sum())
            differing += int((~is_tie).sum())
    return Equality(pixels, segments, ties, differing)


def _differs(ours: Panoptic, classes: np.ndarray, ids: np.ndarray, has_ids: bool) -> np.ndarray:
    """Return where class or segment differ, bool [H, W]; ids may be numbered otherwise."""
    differs = ours.semantic != classes
    is_thing = (ours.instance > 0) & ~differs
    if not has_ids or not is_thing.any():  # instances are patches
        return differs
    pairs = np.stack([ids[is_thing], ours.instance[is_thing]])
    kinds, count = np.unique(pairs, axis=1, return_counts=True)
    main = {our: their for their, our in kinds[:, np.argsort(count)].T.tolist()}
    differs[is_thing] = np.vectorize(main.get, otypes=[int])(pairs[1]) != pairs[0]
    # Two of our segments in one of theirs: all pixels of the smaller one differ.
    largest: dict[int, int] = {}
    for their, our in kinds[:, np.argsort(count)].T.tolist():
        if main[our] == their:
            largest[their] = our
    for our, their in main.items():
        if largest[their] != our:
            differs |= ours.instance == our
    return differs


def decision_margin(
    heads: QueryHeads, fusion: QueryFusion, size_wh: tuple[int, int], extent_wh: tuple
) -> np.ndarray:
    """Return how narrowly each pixel is decided, relative, float64 [H, W]."""
    score = softmax(heads.class_logits.astype(float), axis=1)
    best = score.argmax(axis=1)
    score = score.max(axis=1)
    kept = (best < heads.class_logits.shape[1] - 1) & (score > fusion.score_threshold)
    value = torch.from_numpy(heads.mask_logits[kept].astype(float))[None]
    weight = score[kept][:, None, None]

    def enlarge(planes, to_wh):
        return torch.nn.functional.interpolate(planes, size=to_wh[::-1], mode='bilinear')

    grid = int(fusion.logit_grid) or (384 if fusion.rule == 'mask2former' else 0)
    if grid:
        value = enlarge(value, (grid, grid))
    height, width = (
        round(side * part) for side, part in zip(value.shape[2:], extent_wh[::-1], strict=True)
    )
    value = value[..., :height, :width]
    if fusion.rule in ('detr', 'mask2former'):
        compared = enlarge(value.sigmoid(), size_wh)[0].numpy() * weight
        threshold = compared
    elif fusion.rule == 'semantic':
        compared = threshold = enlarge(value, size_wh)[0].numpy()
    else:
        threshold = enlarge(value, size_wh).sigmoid()[0].numpy()
        compared = threshold * weight
    ordered = np.sort(compared, axis=0)
    between = (ordered[-1] - ordered[-2]) / np.abs(ordered[-1])
    return np.minimum(between, np.abs(threshold - fusion.mask_threshold).min(axis=0))


def heads_of(imported: Imported, outputs: dict) -> QueryHeads:
    """Return transformers' outputs as queries."""
    if imported.model_type == 'segformer':
        count = outputs.logits.shape[1]
        class_logits = np.eye(count, count + 1, dtype=np.float32)
        masks = outputs.logits
    elif 'class_queries_logits' in outputs:
        class_logits = outputs.class_queries_logits[0].numpy()
        masks = outputs.masks_queries_logits
    else:
        logits, masks = outputs.logits, outputs.pred_masks
        if imported.model_type in ('rf_detr', 'conditional_detr') and logits.shape[-1] == len(
            imported.model.label_set
        ):
            logits = sigmoid_as_softmax(logits)
        class_logits = logits[0].numpy()
    return QueryHeads(class_logits, masks[0].numpy())


def fuse(
    imported: Imported, fusion: QueryFusion, outputs: dict, size_wh: tuple[int, int]
) -> Panoptic:
    """Return our map of transformers' outputs."""
    card, heads = imported.model.card, heads_of(imported, outputs)
    extent_wh = card.resize.extent_wh(size_wh, card.size_wh)
    return fusion(heads, imported.model.label_set, size_wh, extent_wh).panoptic


def main() -> None:
    """Print a table row for each family."""
    pictures = real_pictures(20)
    print(f'{len(pictures)} pictures of {DATA.name}')
    for model_type in sys.argv[1:] or RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            imported = import_small(model_type, Path(folder))
            for permissive in (False, True):
                found = compare_with_transformers(imported, pictures, permissive)
                thresholds = 'permissive' if permissive else 'published'
                print(f'{model_type}, {thresholds} thresholds: {found}', flush=True)


if __name__ == '__main__':
    main()
