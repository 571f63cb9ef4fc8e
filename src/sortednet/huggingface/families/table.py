"""What is particular about each Hugging Face family. A new family is one more entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...views.layouts import Layout
from .mobilenet_v2 import keep_blocks

__all__ = ["FAMILIES", "Family", "Heads", "family_of"]


@dataclass(frozen=True)
class Heads:
    """Where the heads are, in a family whose config gives the size of a head only as hidden size over heads.

    With fewer heads its class would build larger ones. So it is built with the full number, and its projections are
    made narrower.

    Args:
        outputs: Shell patterns of the modules whose outputs are heads, with the number of heads' worth of blocks they
            join: 1 for a query, 3 for query, key and value in one.
        inputs: Shell patterns of the modules whose inputs are heads.
        counts: Names of the attention's attributes that hold the number of heads.
        sizes: Names of the attention's attributes that hold heads times head size.
    """

    outputs: Mapping[str, int]
    inputs: tuple[str, ...]
    counts: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """What is particular about a family. Fields go by the names that `config.attribute_map` maps to.

    Args:
        layouts: Layouts of its fused parameters.
        head_size: Whether its attention reads `head_dim` from the config, so that heads can be dropped there.
        heads: Where the heads are, if it does not.
        per_layer: Fields that hold one entry for each layer and are cut with the depth.
        shares: Fields that are lists of widths; a setting is the share of each that is kept, in (0, 1].
        caps: Fields that are lists of depths; a setting is the most that any stage keeps.
        tied_shares: Fields that shrink by the same share as those of `shares`.
        follows: Fields that shrink with another one, where both are equal in the full model.
        reads_first_token: Whether its classifier of sequences reads the first token.
        defaults: Fields that are None and stand for a size, as functions of the config.
        changes: Dimensions that are no fields: functions that change the built model, given the value, and the
            largest value, given the model.
    """

    layouts: tuple[Layout, ...] = ()
    head_size: bool = False
    heads: Heads | None = None
    per_layer: tuple[str, ...] = ("layer_types",)
    shares: tuple[str, ...] = ()
    caps: tuple[str, ...] = ()
    tied_shares: tuple[str, ...] = ()
    follows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reads_first_token: bool = False
    defaults: Mapping[str, Callable[[Any], int]] = field(default_factory=dict)
    changes: Mapping[str, tuple[Callable[[Any, int], None], Callable[[Any], int]]] = field(default_factory=dict)


def _phi3_blocks(model: nn.Module) -> list[int]:
    """Return the rows of the queries, keys and values in Phi3's `qkv_proj`."""
    config: Any = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return [size * config.num_attention_heads, *[size * config.num_key_value_heads] * 2]


_BERT = Heads(
    outputs={"*.attention.self.query": 1, "*.attention.self.key": 1, "*.attention.self.value": 1},
    inputs=("*.attention.output.dense",),
    counts=("num_attention_heads",),
    sizes=("all_head_size",),
)

FAMILIES: dict[str, Family] = {
    "llama": Family(head_size=True),
    "mistral": Family(head_size=True),
    "qwen2": Family(head_size=True),
    "qwen3": Family(head_size=True),
    "gemma2": Family(head_size=True),
    "gemma3_text": Family(head_size=True),
    "phi3": Family(
        head_size=True,
        layouts=(
            Layout("*.qkv_proj.weight", 0, _phi3_blocks),
            Layout("*.o_proj.weight", 1, 1),
            Layout("*.gate_up_proj.weight", 0, 2),
            Layout("*.down_proj.weight", 1, 1),
        ),
    ),
    "gpt2": Family(
        layouts=(Layout("*.attn.c_attn.weight", 1, 3), Layout("*.attn.c_attn.bias", 0, 3)),
        heads=Heads({"*.attn.c_attn": 3}, ("*.attn.c_proj",), ("num_heads",), ("split_size",)),
        defaults={"n_inner": lambda config: 4 * int(config.n_embd)},
    ),
    # Query, key and value lie together head by head, so that the corner is right.
    "gpt_neox": Family(
        layouts=(Layout("*.query_key_value.weight", 0, 1), Layout("*.query_key_value.bias", 0, 1)),
        heads=Heads({"*.attention.query_key_value": 3}, ("*.attention.dense",)),
    ),
    "opt": Family(
        heads=Heads(
            {"*.self_attn.q_proj": 1, "*.self_attn.k_proj": 1, "*.self_attn.v_proj": 1},
            ("*.self_attn.out_proj",),
            ("num_heads",),
        ),
        follows={"hidden_size": ("word_embed_proj_dim",)},
    ),
    "bert": Family(heads=_BERT, reads_first_token=True),
    "roberta": Family(heads=_BERT, reads_first_token=True),
    "distilbert": Family(
        heads=Heads(
            {"*.attention.q_lin": 1, "*.attention.k_lin": 1, "*.attention.v_lin": 1},
            ("*.attention.out_lin",),
            ("n_heads",),
        ),
        reads_first_token=True,
    ),
    "vit": Family(
        heads=Heads(
            # The second names are those of earlier versions of the class.
            {
                f"*.attention.{name}": 1
                for name in ("q_proj", "k_proj", "v_proj", "attention.query", "attention.key", "attention.value")
            },
            ("*.attention.o_proj", "*.attention.output.dense"),
            ("num_attention_heads",),
            ("all_head_size",),
        ),
    ),
    "resnet": Family(shares=("hidden_sizes",), caps=("depths",), tied_shares=("embedding_size",)),
    "convnext": Family(shares=("hidden_sizes",), caps=("depths",)),
    "mobilenet_v2": Family(changes={"depth": (keep_blocks, lambda model: len(model.mobilenet_v2.layer))}),
    "t5": Family(head_size=True),
    "deberta-v2": Family(follows={"hidden_size": ("pooler_hidden_size",)}, reads_first_token=True),
}
"""The families by `config.model_type`. Add your own, or give `layouts=` for a single model."""


def family_of(config: Any) -> Family:
    """Return the family of a config; one without particulars where it is not in the table."""
    computed = isinstance(getattr(type(config), "head_dim", None), property)
    unknown = Family(
        head_size=getattr(config, "head_dim", None) is not None and not computed,
        follows={"hidden_size": ("embedding_size", "word_embed_proj_dim", "pooler_hidden_size")},
    )
    return FAMILIES.get(str(config.model_type), unknown)
