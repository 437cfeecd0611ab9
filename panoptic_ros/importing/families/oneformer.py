"""OneFormer (Jain et al., arXiv 2211.06220)."""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from panoptic_ros.errors import ModelError, one_line
from panoptic_ros.importing.checkpoint import Checkpoint
from panoptic_ros.importing.families.family import (
    DETR_RULE,
    INSTANCE,
    PANOPTIC,
    SEMANTIC,
    Family,
    processor_size_wh,
)
from panoptic_ros.importing.network import ClassMaps


class OneFormerQueries(nn.Module):
    """Class and mask logits for one task, whose tokens are a constant."""

    def __init__(self, network: nn.Module, task_tokens: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer('task_tokens', task_tokens)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~panoptic_ros.importing.families.family.Family`."""
        # The network casts the tokens to the type of its weights.
        outputs = self.network(pixel_values=pixels, task_inputs=self.task_tokens.to(pixels.dtype))
        return outputs.class_queries_logits, outputs.masks_queries_logits


def _adapt(network: nn.Module, checkpoint: Checkpoint, task: str) -> nn.Module:
    for module in network.modules():
        if hasattr(module, 'cross_attn') and hasattr(module, 'num_feature_levels'):
            module.forward = MethodType(_decode, module)
    queries = OneFormerQueries(network, task_tokens(checkpoint, task))
    return ClassMaps(queries) if task == SEMANTIC else queries


def _decode(
    layer: Any,
    index: int,
    output: Tensor,
    multi_stage_features: list[Tensor],
    multi_stage_positional_embeddings: list[Tensor],
    attention_mask: Tensor | None = None,
    query_embeddings: Tensor | None = None,
    output_attentions: bool = False,
) -> tuple[Tensor, ...]:
    """Run a decoder layer; a query that may look nowhere looks everywhere.

    transformers assigns to the rows of those queries, and an exporter cannot know how many they
    are.
    """
    level = index % layer.num_feature_levels
    looks_nowhere = attention_mask.all(-1, keepdim=True)
    output, _ = layer.cross_attn(
        output,
        multi_stage_features[level],
        memory_mask=attention_mask & ~looks_nowhere,
        memory_key_padding_mask=None,
        pos=multi_stage_positional_embeddings[level],
        query_pos=query_embeddings,
    )
    output, _ = layer.self_attn(
        output, output_mask=None, output_key_padding_mask=None, query_pos=query_embeddings
    )
    return (layer.ffn(output),)


def task_tokens(checkpoint: Checkpoint, task: str) -> Tensor:
    """Return the tokens of "the task is TASK", int64 [1, length], padded with zeros.

    Raises ModelError if the checkpoint lacks its tokenizer, or has one of other words.
    """
    from transformers import AutoTokenizer

    length = int(checkpoint.config.get('task_seq_len', 77))
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f'OneFormer checkpoint {checkpoint.source} has no tokenizer that loads '
            f'({one_line(error)}); add its tokenizer files to the folder'
        ) from error
    encoded = tokenizer(
        [f'the task is {task}'], padding='max_length', max_length=length, truncation=True
    )
    tokens, is_token = (torch.tensor(encoded[key]) for key in ('input_ids', 'attention_mask'))
    words = tokens[0, 1 : int(is_token.sum()) - 1]  # between the marks of start and end
    if len(words) == 0 or (words == tokenizer.unk_token_id).any():
        raise ModelError(
            f'the tokenizer of {checkpoint.source} does not know the words "the task is {task}"; '
            'its files are not those of OneFormer: download vocab.json and merges.txt again'
        )
    return tokens * is_token


FAMILY = Family(
    name='OneFormer',
    model_type='oneformer',
    network_class='OneFormerForUniversalSegmentation',
    tasks=(PANOPTIC, INSTANCE, SEMANTIC),
    rule=DETR_RULE,
    adapt=_adapt,
    default_size_wh=processor_size_wh,
    # Its checks of tensor values cannot be traced.
    environment={'TRANSFORMERS_DISABLE_TORCH_CHECK': '1'},
)
