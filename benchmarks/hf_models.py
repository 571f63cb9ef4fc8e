"""transformers' models, small: each model type at sizes by one rule, and which of its sizes may be sorted."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

# Given to a config for each field of these names that it has as a whole number, or as a list of them.
SIZES: Mapping[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embed_dim", "embedding_size",
                     "word_embed_proj_dim", "pooler_hidden_size", "projection_dim", "lru_width"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "hidden_dim", "d_inner", "ffn_hidden_size",
                     "encoder_ffn_dim", "decoder_ffn_dim", "dense_ffn_hidden_size"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size",
                     "expert_ffn_hidden_size", "intermediate_size_mlp"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
                     "num_decoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
                     "decoder_attention_heads", "attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "kv_channels", "v_head_dim", "global_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "model_max_length"), 64),
    **dict.fromkeys(("vocab_size", "n_words", "vocab_size_per_layer_input"), 128),
    "type_vocab_size": 2, "num_labels": 3, "image_size": 32, "patch_size": 8, "first_k_dense_replace": 1,
    "hidden_size_per_layer_input": 8, "num_nextn_predict_layers": 0,
}  # fmt: skip
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
KINDS = ("CAUSAL_LM", "MASKED_LM", "SEQUENCE_CLASSIFICATION", "IMAGE_CLASSIFICATION")
# The first of these that a config has is what is sorted, by its name in the config.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "depth": ("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
    "feed-forward": ("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "n_inner", "d_inner", "ffn_hidden_size",
                     "decoder_ffn_dim", "encoder_ffn_dim"),
    "hidden": ("hidden_size",),
    "heads": ("num_attention_heads",),
}  # fmt: skip


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what transformers says of unusual sizes to itself."""
    import transformers

    transformers.logging.set_verbosity_error()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def model_class(kind: str) -> Any:
    """Return the class of a model type, the first of `KINDS` that it has; None where it has none."""
    import transformers
    from transformers.models.auto import modeling_auto

    for task in KINDS:
        name = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").get(kind)
        if name is not None:
            return getattr(transformers, name if isinstance(name, str) else name[0], None)
    return None


def config(kind: str) -> Any:
    """Return the config of a model type at small sizes."""
    from transformers import CONFIG_MAPPING

    made = CONFIG_MAPPING[kind]
    plain = made()
    parts = {name: _sizes(getattr(plain, name)) for name in plain.sub_configs if getattr(plain, name, None) is not None}
    return made(**{**_sizes(plain), **parts})


def _sizes(plain: Any) -> dict[str, Any]:
    """Return the small sizes of a config's own fields; lists of sizes become that many times the small one."""
    held = plain.to_dict()
    found: dict[str, Any] = {}
    for name, value in held.items():
        if name in TOKENS:
            found[name] = TOKENS[name]
        elif name in SIZES and _is_whole(value):
            found[name] = SIZES[name]
    return found


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def pairs(made: Any) -> dict[str, tuple[str, int, int]]:
    """Return what may be sorted: by kind of size the field, and its small and full value."""
    from sortednet.huggingface.families.table import family_of

    found: dict[str, tuple[str, int, int]] = {}
    family = family_of(made)
    for what, names in FIELDS.items():
        if what == "heads" and not (family.head_size or family.heads):
            continue  # the builder does not have them
        name = next((one for one in names if _is_whole(getattr(made, one, None))), None)
        value = getattr(made, name) if name else 0
        if name and value % 2 == 0 and value:
            found[what] = name, value // 2, value
    return found


def smaller(made: Any, changes: Mapping[str, int]) -> Any:
    """Return a config made anew with some fields changed, as a user of transformers would."""
    held = {name: value for name, value in made.to_dict().items() if name not in ("layer_types", "model_type")}
    mapped = {made.attribute_map.get(name, name): value for name, value in changes.items()}
    return type(made)(**{**held, **mapped})


def runs(kind: str, made: Any) -> dict[str, tuple[int, ...]]:
    """Build a model and run it, by transformers alone, and return the shapes of its parameters.

    Raises:
        Exception: Whatever transformers raises.
    """
    from sortednet.huggingface.families.examples import example_of

    model: nn.Module = model_class(kind)(made).eval()
    given = example_of(model)
    if given is None:
        raise ValueError(f"its input is {getattr(model, 'main_input_name', None)}")
    with torch.no_grad():
        model(**given)
    return {name: tuple(one.shape) for name, one in model.named_parameters()}
