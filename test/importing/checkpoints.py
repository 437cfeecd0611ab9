"""Checkpoints of every family, made from their configurations, because none can be downloaded.

The weights are random, with a fixed seed. The last layers are then fitted to one picture: the
classes spread over the queries and every mask has an inside and an outside, so that maps are not
empty.
"""

from collections.abc import Callable
from dataclasses import dataclass

import transformers as hf
from torch import nn

IMAGENET = {'image_mean': [0.485, 0.456, 0.406], 'image_std': [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class Recipe:
    """How to build a checkpoint of one family.

    Parameters
    ----------
    build
        Gets the keyword arguments of labels and whether the sizes are the published ones.
    class_layer, query_weight
        Names of the layer of class scores, and of the embedding that tells queries apart.
    mask_layer, mask_bias
        Names of the layer that scales mask logits, and of the bias that moves them.
    processor
        Class of the image processor and its settings; gets the input size.
    size_wh
        Input size of the small configuration, and of the published one.
    label_set
        Label set whose names the checkpoint has.
    """

    build: Callable[[dict, bool], nn.Module]
    class_layer: str
    query_weight: str
    mask_layer: str
    processor: str
    size_wh: tuple[tuple[int, int], tuple[int, int]]
    label_set: str = 'coco'
    settings: tuple[tuple[str, object], ...] = ()


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
