"""The families of Hugging Face that every contract is proved over. A new family is one more case here."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from sortednet import Setting, SortedNet, Space, load
from sortednet.huggingface.readouts import MeanReadout, attach

from . import cases

IDS = torch.randint(5, 40, (2, 7), generator=torch.Generator().manual_seed(1))
PADDED = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
TEXT = {"input_ids": IDS, "attention_mask": PADDED}
LEFT = {"input_ids": IDS, "attention_mask": PADDED.flip(1)}
IMAGES = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))}

SIZES = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4}
GROUPS = {**HEADS, "num_key_value_heads": 2}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
DIMENSIONS = {
    "num_hidden_layers": [1, 2],
    "intermediate_size": [10, 24],
    "num_attention_heads": [2, 4],
    "hidden_size": [16, 32],
}


@dataclass(frozen=True)
class PretrainedCase:
    """One family: the class of a model, its config, what is sorted, and an input.

    The first dimension is the depth. Settings are given without dimensions at their largest value.
    """

    name: str
    family: str
    model_class: type[nn.Module]
    make_config: Callable[[], Any]
    supports: Mapping[str, Sequence[float]]
    data: Mapping[str, Tensor]
    settings: Sequence[str]
    zeroable: Sequence[str] = ()
    narrows: Sequence[str] = ()  # settings that the config cannot express
    readout: str = "own"
    tolerance: float = 0.0
    opened_tolerance: float = 0.0  # where transformers lays weights in memory so that another kernel reads them

    def model(self) -> nn.Module:
        return copy.deepcopy(_spread(self.name))

    def net(self) -> SortedNet:
        return copy.deepcopy(_net(self.name)).train().to(cases.DEVICE)

    @property
    def space(self) -> Space:
        return Space(**self.supports)

    def inputs(self) -> dict[str, Tensor]:
        return {name: one.to(cases.DEVICE) for name, one in self.data.items()}

    def run(self, module: Callable[..., Any]) -> Tensor:
        """Call a module, or a sub-model, on the input."""
        return module(**self.inputs()).logits

    def original(self) -> nn.Module:
        """Return the model as if there were no library, but for what it reads."""
        return self._reading(self.model_class(self.make_config()))

    def opened(self, path: Path) -> nn.Module:
        """Open a saved network as if there were no library."""
        model, info = self.model_class.from_pretrained(path, output_loading_info=True)
        marks = {"readout_mean"} if self.readout == "mean" else set()  # what tells of a readout that it does not know
        assert not any(value for key, value in info.items() if key != "unexpected_keys"), info
        assert set(info["unexpected_keys"]) == marks
        return self._reading(model)

    def _reading(self, model: nn.Module) -> nn.Module:
        """Let a model's own classifier read what the case's does."""
        if self.readout == "mean":
            attach(model, model.bert.encoder.layer[-1], MeanReadout())
        return model.eval().to(cases.DEVICE)

    def loaded(self, path: Path, at: Setting | None = None) -> nn.Module:
        """Open a saved network by the library, whole or in part."""
        return load(path, at=at).eval().to(cases.DEVICE)

    def chosen(self) -> list[Setting]:
        return [self.setting(text) for text in self.settings]

    def zeroed(self) -> list[Setting]:
        return [self.setting(text) for text in self.zeroable]

    def setting(self, text: str) -> Setting:
        return self.space.setting(**Setting.parse(text)) if text else self.space.full


@cache
def _net(name: str) -> SortedNet:
    case = next(case for case in PRETRAINED if case.name == name)
    return SortedNet.from_pretrained(case.model(), **case.supports, readout=case.readout)


@cache
def _spread(name: str) -> nn.Module:
    """Make the model with weights far from where they start, so that every unit matters."""
    case = next(case for case in PRETRAINED if case.name == name)
    torch.manual_seed(0)
    model = case.model_class(case.make_config())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return model


def _decoder(
    family: str,
    kind: str,
    config: str = "",
    name: str = "",
    supports: Mapping[str, Sequence[float]] = DIMENSIONS,
    **own: Any,
) -> PretrainedCase:
    """Make the case of a decoder with rotary positions and RMS norms, whose config gives the size of a head."""
    return PretrainedCase(
        name or family,
        family,
        getattr(hf, f"{kind}ForCausalLM"),
        partial(getattr(hf, f"{config or kind}Config"), **{**SIZES, **GROUPS, **TOKENS, **own}),
        supports,
        LEFT,
        ["num_hidden_layers=1,intermediate_size=10,num_attention_heads=2,hidden_size=16", "num_hidden_layers=1", ""],
        ["num_attention_heads=2", "intermediate_size=10", "num_attention_heads=2,intermediate_size=10"],
    )


def _encoder(
    family: str, kind: str, name: str = "", task: str = "SequenceClassification", **own: Any
) -> PretrainedCase:
    readout = own.pop("readout", "own")
    return PretrainedCase(
        name or family,
        family,
        getattr(hf, f"{kind}For{task}"),
        partial(getattr(hf, f"{kind}Config"), **{**SIZES, **HEADS, **TOKENS, "max_position_embeddings": 16, **own}),
        DIMENSIONS,
        TEXT,
        ["num_hidden_layers=1,intermediate_size=10,num_attention_heads=2,hidden_size=16",
         "num_hidden_layers=1,num_attention_heads=2", ""],
        ["num_attention_heads=2", "intermediate_size=10", "num_attention_heads=2,intermediate_size=10"],
        ["num_hidden_layers=1,num_attention_heads=2"],
        readout,
    )  # fmt: skip


def _images(
    family: str,
    kind: str,
    supports: Mapping[str, Sequence[float]],
    settings: Sequence[str],
    zeroable: Sequence[str] = (),
    narrows: Sequence[str] = (),
    name: str = "",
    opened_tolerance: float = 0.0,
    **own: Any,
) -> PretrainedCase:
    return PretrainedCase(
        name or family,
        family,
        getattr(hf, f"{kind}ForImageClassification"),
        partial(getattr(hf, f"{kind}Config"), num_labels=5, **own),
        supports,
        IMAGES,
        settings,
        zeroable,
        narrows,
        opened_tolerance=opened_tolerance,
    )


_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}
_T5 = {"vocab_size": 40, "d_model": 32, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 4, **TOKENS}


def _t5(name: str, **own: Any) -> PretrainedCase:
    return PretrainedCase(
        name,
        "t5",
        hf.T5ForConditionalGeneration,
        partial(hf.T5Config, **{**_T5, **own}),
        {
            "num_layers": [1, 2],
            "num_decoder_layers": [1, own.get("num_decoder_layers", 2)],
            "d_ff": [10, 24],
            "num_heads": [2, 4],
            "d_model": [16, 32],
        },
        {**TEXT, "decoder_input_ids": IDS[:, :5]},
        [
            "num_layers=1,num_decoder_layers=1,d_ff=10,num_heads=2,d_model=16",
            "num_layers=1",
            "num_decoder_layers=1",
            "",
        ],
        ["num_heads=2", "d_ff=10", "num_heads=2,d_ff=10"],
    )


PRETRAINED = [
    _decoder("llama", "Llama"),
    _decoder("llama", "Llama", name="llama_tied", tie_word_embeddings=True),
    _decoder("mistral", "Mistral", sliding_window=4),
    _decoder("qwen2", "Qwen2", name="qwen2_tied", tie_word_embeddings=True),
    _decoder("qwen3", "Qwen3", head_dim=6),
    _decoder("gemma2", "Gemma2", head_dim=6, sliding_window=4),
    _decoder("gemma3", "Gemma3", "Gemma3Text", head_dim=6, sliding_window=4,
             layer_types=["full_attention", "sliding_attention"]),
    _decoder("phi3", "Phi3"),
    PretrainedCase(
        "gpt2",
        "gpt2",
        hf.GPT2LMHeadModel,
        partial(hf.GPT2Config, vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=16, **TOKENS),
        {"n_layer": [1, 2], "n_inner": [10, 128], "n_head": [2, 4], "n_embd": [16, 32]},
        LEFT,
        ["n_layer=1,n_inner=10,n_head=2,n_embd=16", "n_layer=1,n_head=2", ""],
        ["n_head=2", "n_inner=10", "n_head=2,n_inner=10"],
        ["n_layer=1,n_head=2"],
    ),
    PretrainedCase(
        "gpt2_untied",
        "gpt2",
        hf.GPT2LMHeadModel,
        partial(hf.GPT2Config, vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=16, tie_word_embeddings=False,
                n_inner=24, **TOKENS),
        {"num_hidden_layers": [1, 2], "n_inner": [10, 24], "num_attention_heads": [2, 4], "hidden_size": [16, 32]},
        LEFT,
        ["num_hidden_layers=1,n_inner=10,num_attention_heads=2,hidden_size=16", ""],
        ["num_attention_heads=2", "n_inner=10"],
    ),
    PretrainedCase(
        "gpt_neox",
        "gpt_neox",
        hf.GPTNeoXForCausalLM,
        partial(hf.GPTNeoXConfig, **{**SIZES, **HEADS, **TOKENS, "max_position_embeddings": 16}),
        DIMENSIONS,
        LEFT,
        ["num_hidden_layers=1,intermediate_size=10,num_attention_heads=2,hidden_size=16",
         "num_hidden_layers=1,num_attention_heads=2", ""],
        ["num_attention_heads=2", "intermediate_size=10", "num_attention_heads=2,intermediate_size=10"],
        ["num_hidden_layers=1,num_attention_heads=2"],
    ),
    PretrainedCase(
        "opt",
        "opt",
        hf.OPTForCausalLM,
        partial(hf.OPTConfig, vocab_size=40, hidden_size=32, ffn_dim=24, num_hidden_layers=2, num_attention_heads=4,
                word_embed_proj_dim=32, max_position_embeddings=16, **TOKENS),
        {"num_hidden_layers": [1, 2], "ffn_dim": [10, 24], "num_attention_heads": [2, 4], "hidden_size": [16, 32]},
        LEFT,
        ["num_hidden_layers=1,ffn_dim=10,num_attention_heads=2,hidden_size=16",
         "num_hidden_layers=1,num_attention_heads=2", ""],
        ["num_attention_heads=2", "ffn_dim=10", "num_attention_heads=2,ffn_dim=10"],
        ["num_hidden_layers=1,num_attention_heads=2"],
    ),
    PretrainedCase(
        "opt_projected",
        "opt",
        hf.OPTForCausalLM,
        partial(hf.OPTConfig, vocab_size=40, hidden_size=32, ffn_dim=24, num_hidden_layers=2, num_attention_heads=4,
                word_embed_proj_dim=12, max_position_embeddings=16, do_layer_norm_before=False, **TOKENS),
        {"num_hidden_layers": [1, 2], "ffn_dim": [10, 24], "num_attention_heads": [2, 4], "hidden_size": [16, 32]},
        LEFT,
        ["num_hidden_layers=1,ffn_dim=10,num_attention_heads=2,hidden_size=16", ""],
        ["num_attention_heads=2", "ffn_dim=10"],
    ),
    _encoder("bert", "Bert"),
    _encoder("bert", "Bert", "bert_mean", readout="mean"),
    _encoder("bert", "Bert", "bert_masked", "MaskedLM"),
    _encoder("roberta", "Roberta"),
    PretrainedCase(
        "distilbert",
        "distilbert",
        hf.DistilBertForSequenceClassification,
        partial(hf.DistilBertConfig, vocab_size=40, dim=32, hidden_dim=24, n_layers=2, n_heads=4,
                max_position_embeddings=16),
        {"n_layers": [1, 2], "hidden_dim": [10, 24], "n_heads": [2, 4], "dim": [16, 32]},
        TEXT,
        ["n_layers=1,hidden_dim=10,n_heads=2,dim=16", "n_layers=1,n_heads=2", ""],
        ["n_heads=2", "hidden_dim=10", "n_heads=2,hidden_dim=10"],
        ["n_layers=1,n_heads=2"],
    ),
    _images(
        "vit",
        "ViT",
        DIMENSIONS,
        ["num_hidden_layers=1,intermediate_size=10,num_attention_heads=2,hidden_size=16",
         "num_hidden_layers=1,num_attention_heads=2", ""],
        ["num_attention_heads=2", "intermediate_size=10", "num_attention_heads=2,intermediate_size=10"],
        ["num_hidden_layers=1,num_attention_heads=2"],
        hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8,
    ),
    _images(
        "resnet",
        "ResNet",
        {"depths": [1, 2], "hidden_sizes": [0.5, 1.0]},
        ["depths=1,hidden_sizes=0.5", "depths=1", ""],
        ["hidden_sizes=0.5"],
        layer_type="basic", **_RESNET,
    ),
    _images(
        "resnet",
        "ResNet",
        {"depths": [1, 2], "hidden_sizes": [0.5, 1.0]},
        ["depths=1,hidden_sizes=0.5", ""],
        ["hidden_sizes=0.5"],
        name="resnet_bottleneck", layer_type="bottleneck", **_RESNET,
    ),
    _images(
        "convnext",
        "ConvNext",
        {"depths": [1, 2], "hidden_sizes": [0.5, 1.0]},
        ["depths=1,hidden_sizes=0.5", "depths=1", ""],
        hidden_sizes=[8, 16], depths=[1, 2], num_stages=2,
    ),
    _images(
        "mobilenet_v2",
        "MobileNetV2",
        {"depth": [4, 16], "depth_multiplier": [0.25, 0.5]},
        ["depth=4,depth_multiplier=0.25", ""],
        narrows=["depth=4,depth_multiplier=0.25"],
        name="mobilenet_v2_pretrained", opened_tolerance=1e-6, depth_multiplier=0.5,
    ),
    _t5("t5"),
    _t5("t5_gated", feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=3),
]  # fmt: skip

FAMILIES = tuple(dict.fromkeys(case.family for case in PRETRAINED))
