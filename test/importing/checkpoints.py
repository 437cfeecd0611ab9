"""Checkpoints of every family, made from their configurations, because none can be downloaded.

The weights are random, with a fixed seed. The last layers are then fitted to one picture: the
classes spread over the queries and every mask has an inside and an outside, so that maps are not
empty.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from torch import Tensor, nn

from panoptic_ros.importing.families import FAMILIES
from panoptic_ros.importing.families.family import Family
from panoptic_ros.labels import LabelSet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASS_STD, MASK_STD = 6.0, 5.0
REGIONS = 2


@dataclass(frozen=True)
class Recipe:
    """How to make a checkpoint of one family.

    Parameters
    ----------
    build
        Gets the configuration's labels, and whether the sizes are the published ones.
    class_layer
        Name of the layer that gives class logits.
    mask_layer
        Name of the layer in whose output mask logits are linear.
    feature_layer
        Name of the layer whose output it is multiplied with; empty if it gives mask logits itself.
    query_weight
        Name of the weight that tells queries apart; empty if there are none.
    size_wh
        Input size of the small configuration and of the published one.
    processor
        Settings of the image processor besides size and normalisation.
    labels
        The label set whose names the checkpoint has.
    """

    build: Callable[[dict, bool], nn.Module]
    class_layer: str
    mask_layer: str
    feature_layer: str
    query_weight: str
    size_wh: tuple[tuple[int, int], tuple[int, int]]
    processor: dict = field(default_factory=dict)
    labels: str = 'coco'


def family_of(model_type: str) -> Family:
    """Return the family of that name."""
    return next(family for family in FAMILIES if family.model_type == model_type)


def make_network(model_type: str, picture: np.ndarray, published: bool = False) -> nn.Module:
    """Return transformers' network, fitted to a picture, uint8 [H, W, 3] of its input size."""
    recipe = RECIPES[model_type]
    names = LabelSet.load(recipe.labels).names
    labels = {
        'id2label': dict(enumerate(names)),
        'label2id': {name: index for index, name in enumerate(names)},
    }
    torch.manual_seed(0)
    network = recipe.build(labels, published).eval()
    _fit(network, recipe, model_type, picture, published)
    return network


def write_checkpoint(
    model_type: str, folder: Path, picture: np.ndarray, published: bool = False
) -> nn.Module:
    """Write a checkpoint as transformers does; return its network."""
    recipe = RECIPES[model_type]
    network = make_network(model_type, picture, published)
    network.save_pretrained(folder)
    width, height = recipe.size_wh[published]
    processor = {
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': list(MEAN),
        'image_std': list(STD),
        'resample': 2,
        'size': {'height': height, 'width': width},
        **recipe.processor,
    }
    if recipe.processor.get('do_pad'):
        processor['size'] = {'shortest_edge': height, 'longest_edge': width}
    (folder / 'preprocessor_config.json').write_text(json.dumps(processor))
    if model_type == 'oneformer':
        write_tokenizer(folder)
    return network


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of six words, in the format of the published ones."""
    words = ['the', 'task', 'is', 'panoptic', 'instance', 'semantic']
    vocabulary = ['<|startoftext|>', '<|endoftext|>', *(f'{word}</w>' for word in words)]
    merges = []
    for word in words:
        *pieces, last = word
        pieces.append(f'{last}</w>')
        vocabulary += pieces
        while len(pieces) > 1:  # from the left, letter by letter
            merges.append(' '.join(pieces[:2]))
            pieces[:2] = [''.join(pieces[:2])]
            vocabulary += pieces[:1]
    merges = list(dict.fromkeys(merges))
    indices = {piece: index for index, piece in enumerate(dict.fromkeys(vocabulary))}
    (folder / 'vocab.json').write_text(json.dumps(indices))
    (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges, '']))
    settings = {'tokenizer_class': 'CLIPTokenizer', 'model_max_length': 77}
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))


def normalised(picture: np.ndarray) -> Tensor:
    """Return the picture as the networks take it, float32 [1, 3, H, W]."""
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
    return (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def _fit(
    network: nn.Module, recipe: Recipe, model_type: str, picture: np.ndarray, published: bool
) -> None:
    with torch.no_grad():
        for name, weight in network.named_parameters():
            # The usual small initial weights make all queries alike.
            if weight.dim() >= 2 and 'embed' not in name and 'sampling' not in name:
                weight.normal_(0, weight[0].numel() ** -0.5)
                weight *= _contrast(name) if published else 1
            if name == recipe.query_weight:
                weight.normal_(0, 2)
    forward = _forward(network, model_type, picture)
    with torch.no_grad():
        if recipe.feature_layer:
            _spread_masks(network, recipe, forward)
        else:
            layer = network.get_submodule(recipe.mask_layer)
            logits = forward()[1]
            factor = MASK_STD / logits.std()
            layer.weight *= factor
            layer.bias *= factor
            logits = logits * factor
            layer.bias -= logits.mean((0, 2, 3)) if layer.bias.numel() > 1 else logits.mean() + 7
        if recipe.class_layer:
            _spread_classes(network, recipe.class_layer, forward)


def _contrast(name: str) -> float:
    """Return the factor on a weight that keeps the tokens of a deep transformer apart.

    Six layers of random attention average all tokens: the queries of DETR then differ by 0.3 % of
    their values, and the fitted class layer enlarges the rounding of float16 to other classes.
    """
    if name.endswith(('q_proj.weight', 'k_proj.weight')):
        return 2
    is_averaged = '.encoder.layers' in name and name.endswith(('v_proj.weight', 'fc2.weight'))
    return 0.25 if is_averaged else 1


def _spread_masks(network: nn.Module, recipe: Recipe, forward: Callable) -> None:
    """Give each query a region of the picture whose features resemble each other."""
    layer = network.get_submodule(recipe.mask_layer)
    features = _watch(network, recipe.feature_layer, forward)[1][0]
    network.get_submodule(recipe.feature_layer).bias -= features.mean((1, 2))
    count = forward()[1].shape[1]
    features = _watch(network, recipe.feature_layer, forward)[1][0]
    flat = features.reshape(len(features), -1)
    region = _regions(flat.T)
    wanted = torch.where(region[:, None] == torch.arange(count) % REGIONS, 3 * MASK_STD, -MASK_STD)
    ridge = 1e-4 * flat.square().mean() * flat.shape[1] * torch.eye(len(flat))
    embedding = torch.linalg.solve(flat @ flat.T + ridge, flat @ wanted).T  # [queries, channels]
    hidden = _watch(network, recipe.mask_layer, forward)[0].reshape(-1, layer.in_features)
    hidden = torch.cat([hidden[-count:], torch.ones(count, 1)], 1)
    ridge = 1e-3 * hidden.square().mean() * count * torch.eye(hidden.shape[1])
    solved = torch.linalg.solve(hidden.T @ hidden + ridge, hidden.T @ embedding)
    layer.weight.copy_(solved[:-1].T)
    layer.bias.copy_(solved[-1])


def _regions(points: Tensor) -> Tensor:
    """Return the number of each point's cluster (k-means), 0..REGIONS - 1."""
    centres = points[:: max(1, len(points) // REGIONS)][:REGIONS]
    for _ in range(10):
        nearest = torch.cdist(points, centres).argmin(1)
        centres = torch.stack(
            [
                points[nearest == k].mean(0) if (nearest == k).any() else centres[k]
                for k in range(REGIONS)
            ]
        )
    return nearest


def _spread_classes(network: nn.Module, name: str, forward: Callable) -> None:
    layer = network.get_submodule(name)
    queries = _watch(network, name, forward)[0].reshape(-1, layer.in_features)
    queries = queries[-forward()[0].shape[1] :]  # of the last decoder layer
    deviation = queries - queries.mean(0)
    layer.weight.copy_(torch.randn_like(layer.weight) * CLASS_STD / deviation.norm(dim=1).mean())
    layer.bias.copy_(-layer.weight @ queries.mean(0))
    logits = deviation @ layer.weight.T
    middle = logits.max(dim=1).values.median()
    if layer.out_features > network.config.num_labels:  # "no object" is the last one
        layer.weight[-1] = 0
        layer.bias[-1] = middle
    else:
        # Sigmoids of large logits are all 1, and equal scores have no order.
        layer.weight /= 4
        layer.bias -= middle
        layer.bias /= 4


def _watch(network: nn.Module, name: str, forward: Callable) -> tuple[Tensor, Tensor]:
    """Return the last input and output of a module."""
    seen = []
    hook = network.get_submodule(name).register_forward_hook(
        lambda module, args, output: seen.append((args[0], output))
    )
    forward()
    hook.remove()
    return seen[-1]


def _forward(network: nn.Module, model_type: str, picture: np.ndarray) -> Callable:
    pixels = normalised(picture)

    def run() -> tuple[Tensor, Tensor]:
        outputs = run_network(network, model_type, pixels)
        if model_type == 'segformer':
            return outputs.logits, outputs.logits
        return tuple(
            outputs[first] if first in outputs else outputs[second]
            for first, second in (
                ('class_queries_logits', 'logits'),
                ('masks_queries_logits', 'pred_masks'),
            )
        )

    return run


def run_network(network: nn.Module, model_type: str, pixels: Tensor) -> dict:
    """Run transformers' network as its documentation does."""
    with torch.no_grad():
        if model_type == 'videomt':
            return network(pixel_values_videos=pixels[:, None])
        if model_type == 'oneformer':
            length = network.config.task_seq_len
            tokens = torch.tensor([[0, 2, 3, 4, 5, 1] + [0] * (length - 6)], device=pixels.device)
            return network(pixel_values=pixels, task_inputs=tokens)
        return network(pixel_values=pixels)


def swin(real: bool) -> hf.SwinConfig:
    """Return Swin-T, or a small one."""
    stages = [f'stage{n}' for n in range(1, 5)]
    if real:
        return hf.SwinConfig(
            embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7,
            out_features=stages,
        )  # fmt: skip
    return hf.SwinConfig(
        embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4,
        out_features=stages, image_size=64,
    )  # fmt: skip


def resnet(real: bool) -> hf.ResNetConfig:
    """Return ResNet-50, or a small one."""
    stages = [f'stage{n}' for n in range(1, 5)]
    if real:
        return hf.ResNetConfig(out_features=stages)
    return hf.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 1, 1],
        layer_type='basic', out_features=stages,
    )  # fmt: skip


def _mask2former(labels: dict, real: bool) -> nn.Module:
    small = {} if real else {
        'feature_size': 32, 'mask_feature_size': 32, 'hidden_dim': 32,
        'encoder_feedforward_dim': 64,
        'dim_feedforward': 64, 'encoder_layers': 1, 'decoder_layers': 3, 'num_attention_heads': 4,
        'num_queries': 20,
    }  # fmt: skip
    config = hf.Mask2FormerConfig(backbone_config=swin(real), **small, **labels)
    return hf.Mask2FormerForUniversalSegmentation(config)


def _maskformer(labels: dict, real: bool) -> nn.Module:
    detr = hf.DetrConfig(
        use_timm_backbone=False, backbone_config=resnet(real), **_detr_sizes(real)
    )
    small = {} if real else {'fpn_feature_size': 32, 'mask_feature_size': 32}
    config = hf.MaskFormerConfig(
        backbone_config=swin(real), decoder_config=detr, **small, **labels
    )
    return hf.MaskFormerForInstanceSegmentation(config)


def _oneformer(labels: dict, real: bool) -> nn.Module:
    small = {} if real else {
        'num_queries': 20, 'conv_dim': 32, 'mask_dim': 32, 'hidden_dim': 32,
        'encoder_feedforward_dim': 64, 'encoder_layers': 1, 'decoder_layers': 3,
        'dim_feedforward': 64, 'num_attention_heads': 4, 'query_dec_layers': 1,
        'text_encoder_width': 32, 'text_encoder_num_layers': 1, 'text_encoder_vocab_size': 64,
        'task_seq_len': 8, 'text_encoder_context_length': 8,
    }  # fmt: skip
    config = hf.OneFormerConfig(backbone_config=swin(real), **small, **labels)
    return hf.OneFormerForUniversalSegmentation(config)


def _detr_sizes(real: bool) -> dict:
    return {} if real else {
        'd_model': 32, 'encoder_layers': 1, 'decoder_layers': 2, 'encoder_ffn_dim': 64,
        'decoder_ffn_dim': 64, 'encoder_attention_heads': 4, 'decoder_attention_heads': 4,
        'num_queries': 20,
    }  # fmt: skip


def _detr(labels: dict, real: bool) -> nn.Module:
    sizes = _detr_sizes(real)
    if not real:
        sizes |= {'d_model': 64, 'encoder_attention_heads': 8, 'decoder_attention_heads': 8}
    config = hf.DetrConfig(
        use_timm_backbone=False, backbone_config=resnet(real), **sizes, **labels
    )
    return hf.DetrForSegmentation(config)


def _conditional_detr(labels: dict, real: bool) -> nn.Module:
    sizes = _detr_sizes(real)
    if not real:
        sizes |= {'d_model': 64, 'encoder_attention_heads': 8, 'decoder_attention_heads': 8}
    config = hf.ConditionalDetrConfig(
        use_timm_backbone=False, backbone_config=resnet(real), **sizes, **labels
    )
    return hf.ConditionalDetrForSegmentation(config)


def _vit_sizes(real: bool) -> dict:
    if real:
        return {
            'hidden_size': 384, 'num_hidden_layers': 12, 'num_attention_heads': 6,
            'num_blocks': 3, 'num_queries': 200, 'image_size': 640,
        }  # fmt: skip
    return {
        'hidden_size': 32, 'num_hidden_layers': 3, 'num_attention_heads': 2, 'num_blocks': 2,
        'num_queries': 20, 'image_size': 128,
    }  # fmt: skip


def _eomt(labels: dict, real: bool) -> nn.Module:
    network = hf.EomtForUniversalSegmentation(hf.EomtConfig(**_vit_sizes(real), **labels))
    network.attn_mask_probs.zero_()
    return network


def _eomt_dinov3(labels: dict, real: bool) -> nn.Module:
    sizes = _vit_sizes(real) | {'intermediate_size': 1536 if real else 64}
    network = hf.EomtDinov3ForUniversalSegmentation(hf.EomtDinov3Config(**sizes, **labels))
    network.attn_mask_probs.zero_()
    return network


def _videomt(labels: dict, real: bool) -> nn.Module:
    return hf.VideomtForUniversalSegmentation(hf.VideomtConfig(**_vit_sizes(real), **labels))


def _segformer(labels: dict, real: bool) -> nn.Module:
    small = {} if real else {
        'hidden_sizes': [8, 16, 24, 32], 'depths': [1, 1, 1, 1],
        'num_attention_heads': [1, 1, 2, 2],
        'decoder_hidden_size': 32,
    }  # fmt: skip
    return hf.SegformerForSemanticSegmentation(hf.SegformerConfig(**small, **labels))


def _rf_detr(labels: dict, real: bool) -> nn.Module:
    from transformers.models.rf_detr import RfDetrConfig, RfDetrForInstanceSegmentation
    from transformers.models.rf_detr.configuration_rf_detr import RfDetrDinov2Config

    if real:
        backbone = RfDetrDinov2Config(
            hidden_size=384, num_attention_heads=6, image_size=432, patch_size=12, num_windows=2,
            out_features=['stage3', 'stage6', 'stage9', 'stage12'],
        )  # fmt: skip
        config = RfDetrConfig(
            backbone_config=backbone, num_queries=200, decoder_layers=4, **labels
        )
    else:
        backbone = RfDetrDinov2Config(
            hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=96,
            patch_size=12, num_windows=2, out_features=['stage2', 'stage4'],
        )  # fmt: skip
        config = RfDetrConfig(
            backbone_config=backbone, num_queries=20, decoder_layers=2, d_model=32, group_detr=1,
            decoder_self_attention_heads=4, decoder_cross_attention_heads=4, decoder_ffn_dim=64,
            c2f_num_blocks=1, intermediate_size=64, **labels,
        )  # fmt: skip
    return RfDetrForInstanceSegmentation(config)


def _vit(build: Callable, **processor: object) -> Recipe:
    return Recipe(
        build,
        class_layer='class_predictor',
        mask_layer='mask_head.fc3',
        feature_layer='upscale_block.block.1.layernorm2d',
        query_weight='query.weight',
        size_wh=((128, 128), (640, 640)),
        processor=processor,
    )


def _detr_recipe(build: Callable, prefix: str) -> Recipe:
    return Recipe(
        build,
        class_layer=f'{prefix}.class_labels_classifier',
        mask_layer='mask_head.output_conv',
        feature_layer='',
        query_weight=f'{prefix}.model.query_position_embeddings.weight',
        size_wh=((128, 96), (640, 480)),
    )


RECIPES = {
    'mask2former': Recipe(
        _mask2former,
        class_layer='class_predictor',
        mask_layer='model.transformer_module.decoder.mask_predictor.mask_embedder.2.0',
        feature_layer='model.pixel_level_module.decoder.mask_projection',
        query_weight='model.transformer_module.queries_embedder.weight',
        size_wh=((128, 96), (384, 384)),
    ),
    'maskformer': Recipe(
        _maskformer,
        class_layer='class_predictor',
        mask_layer='mask_embedder.2.0',
        feature_layer='model.pixel_level_module.decoder.mask_projection',
        query_weight='model.transformer_module.queries_embedder.weight',
        size_wh=((128, 96), (512, 384)),
    ),
    'oneformer': Recipe(
        _oneformer,
        class_layer='model.transformer_module.decoder.class_embed',
        mask_layer='model.transformer_module.decoder.mask_embed.layers.2.0',
        feature_layer='model.pixel_level_module.decoder.mask_projection',
        query_weight='model.transformer_module.queries_embedder.weight',
        size_wh=((128, 96), (512, 384)),
    ),
    'detr': _detr_recipe(_detr, 'detr'),
    'conditional_detr': _detr_recipe(_conditional_detr, 'conditional_detr'),
    'eomt': _vit(
        _eomt,
        do_pad=True,
        do_split_image=False,
    ),
    'eomt_dinov3': _vit(
        _eomt_dinov3,
        do_pad=True,
        do_split_image=False,
    ),
    'videomt': _vit(_videomt),
    'segformer': Recipe(
        _segformer,
        class_layer='',
        mask_layer='decode_head.classifier',
        feature_layer='',
        query_weight='',
        size_wh=((128, 96), (640, 320)),
        labels='cityscapes',
    ),
    'rf_detr': Recipe(
        _rf_detr,
        class_layer='model.class_embed',
        mask_layer='query_features_proj',
        feature_layer='spatial_features_proj',
        query_weight='model.model.query_feat.weight',
        size_wh=((96, 96), (432, 432)),
    ),
}
