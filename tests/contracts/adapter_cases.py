"""Models with adapters of sorted rank that every contract is proved over. A new kind of adapter is one more case."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

import sortednet as sn
from sortednet import Setting, SortedNet, Space
from sortednet.models import MLP

from . import cases
from .pretrained_cases import GROUPS, HEADS, IDS, LEFT, SIZES, TEXT, TOKENS

# PEFT asks transformers for what transformers has renamed.
QUIET = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IMAGES = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))


class Words(nn.Module):
    """A classifier whose embedding is adapted too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 12)
        self.hidden = nn.Linear(12, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.embed(ids))).mean(1))


class Pictures(nn.Module):
    """A convolutional classifier with statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, 3, stride=2, bias=False)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


class Steps(nn.Module):
    """Convolutions along one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 6, 3)
        self.second = nn.Conv1d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x.flatten(2)))).mean(2)


class Flat(nn.Module):
    """A layer that takes all tokens of the batch as rows of one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(7, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(torch.stack([x, 2 * x, -x], 1).flatten(0, 1))  # (B * 3, 10)
        return self.second(torch.tanh(rows).view(len(x), 3, 10).sum(1))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 12), nn.Tanh(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 3))


def bert(**own: Any) -> nn.Module:
    config = hf.BertConfig(**{**SIZES, **HEADS, **TOKENS, "max_position_embeddings": 16, "num_labels": 3, **own})
    return hf.BertForSequenceClassification(config)


def llama(**own: Any) -> nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**SIZES, **GROUPS, **TOKENS, **own}))


def gpt2() -> nn.Module:
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=16, n_inner=24, **TOKENS)
    )


@dataclass(frozen=True)
class AdapterCase:
    """One kind of adapter: its model, the config of its largest rank, the ranks, and an input."""

    name: str
    make: Callable[[], nn.Module]
    config: Callable[[], LoraConfig]
    data: Tensor | Mapping[str, Tensor]
    ranks: Sequence[int] = (1, 2, 4)
    settings: Sequence[str] = ("r=1", "r=2", "r=4")
    zeroable: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)  # of `dylora`
    wrap: Callable[[nn.Module], SortedNet] | None = None  # sorts other dimensions first
    tolerance: float = 0.0
    opened_tolerance: float = 0.0
    shares: bool = True  # whether examples of several ranks run in one forward

    def model(self) -> nn.Module:
        """Return the pretrained model, always with the same weights."""
        return copy.deepcopy(_pretrained(self.name))

    def base(self) -> nn.Module | SortedNet:
        """Return what the adapter is put into."""
        return self.model() if self.wrap is None else self.wrap(self.model())

    def net(self) -> SortedNet:
        return copy.deepcopy(_net(self.name)).train().to(cases.DEVICE)

    def run(self, module: Callable[..., Any]) -> Tensor:
        """Call a module, or a sub-model, on the input."""
        found = module(**self.inputs()) if isinstance(self.data, Mapping) else module(self.inputs())
        return found if isinstance(found, Tensor) else found.logits

    def inputs(self) -> Any:
        if isinstance(self.data, Tensor):
            return self.data.to(cases.DEVICE)
        return {name: one.to(cases.DEVICE) for name, one in self.data.items()}

    def original(self) -> nn.Module:
        """Build the adapted model with PEFT as if there were no library."""
        return get_peft_model(self.model(), self.config()).eval().to(cases.DEVICE)

    def opened(self, path: Path) -> nn.Module:
        """Open a saved network as if there were no library."""
        return PeftModel.from_pretrained(self.model(), path).eval().to(cases.DEVICE)

    def loaded(self, path: Path, at: Setting | None = None) -> nn.Module:
        """Open a saved network by the library, whole or one sub-model of it."""
        return sn.load(path, model=self.base(), at=at).eval().to(cases.DEVICE)

    def chosen(self) -> list[Setting]:
        space = _net(self.name).space
        return [space.setting(**Setting.parse(text)) for text in self.settings]

    def zeroed(self) -> list[Setting]:
        return [Setting.parse(text) for text in self.zeroable]


@cache
def _pretrained(name: str) -> nn.Module:
    """Make the model with weights far from where they start, so that every layer matters."""
    case = next(case for case in ADAPTERS if case.name == name)
    torch.manual_seed(0)
    model = case.make()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@cache
def _net(name: str) -> SortedNet:
    case = next(case for case in ADAPTERS if case.name == name)
    net = sn.dylora(case.base(), case.config(), ranks=case.ranks, **case.options)
    return spread(net)


def spread(net: SortedNet, seed: int = 5) -> SortedNet:
    """Give the adapter weights as if it had been trained, in place: PEFT begins with zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.full.named_parameters():
            if parameter.requires_grad:
                scale = 0.3 if "lora_" in name else 0.1
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))
    return net


def _mlp_with_depth(model: nn.Module) -> SortedNet:
    return SortedNet(partial(MLP, width=8, inputs=7, classes=3), Space(depth=[1, 2]), model=model)


_text = partial(LoraConfig, r=4, lora_alpha=6)
_LAYERS = ["0", "2", "4"]

ADAPTERS = [
    AdapterCase("adapter_plain", plain, partial(_text, target_modules=_LAYERS), ROWS, ranks=[1, 2, 3, 4],
                settings=["r=1", "r=3", "r=4"]),
    AdapterCase("adapter_flat", Flat, partial(_text, target_modules=["first", "second"]), ROWS),
    AdapterCase("adapter_words", Words, partial(_text, target_modules=["embed", "hidden"]), IDS),
    AdapterCase("adapter_pictures", Pictures, partial(_text, target_modules=["first", "second", "head"]), IMAGES),
    AdapterCase("adapter_steps", Steps, partial(_text, target_modules=["first", "second"]), IMAGES),
    AdapterCase("adapter_bert", bert, partial(_text, target_modules=["query", "value"], task_type="SEQ_CLS"), TEXT),
    AdapterCase("adapter_llama", llama, partial(LoraConfig, r=4, lora_alpha=1, target_modules="all-linear",
                                                lora_dropout=0.2, task_type="CAUSAL_LM"), LEFT),
    AdapterCase("adapter_llama_embedding", llama, partial(_text, target_modules=["embed_tokens", "lm_head", "q_proj"]),
                LEFT),
    AdapterCase("adapter_gpt2", gpt2, partial(_text, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True), LEFT),
    AdapterCase("adapter_clip", plain, partial(_text, target_modules=_LAYERS, rank_pattern={"2": 2, "4": 8}), ROWS,
                ranks=[1, 2, 4, 8], settings=["r=1", "r=4", "r=8"]),
    AdapterCase("adapter_proportional", plain, partial(_text, target_modules=_LAYERS, rank_pattern={"2": 2, "4": 8}),
                ROWS, options={"rank_pattern": "proportional"}),
    AdapterCase("adapter_stabilised", plain, partial(_text, target_modules=_LAYERS, use_rslora=True), ROWS),
    AdapterCase("adapter_alphas", plain, partial(_text, target_modules=_LAYERS, alpha_pattern={"2": 3}), ROWS),
    AdapterCase("adapter_constant", plain, partial(_text, target_modules=_LAYERS), ROWS, ranks=[1, 2, 3, 4],
                settings=["r=1", "r=3", "r=4"], zeroable=["r=1", "r=3"], options={"scaling": "constant"}),
    AdapterCase("adapter_constant_patterns", plain,
                partial(_text, target_modules=_LAYERS, use_rslora=True, rank_pattern={"2": 2}, alpha_pattern={"2": 3}),
                ROWS, zeroable=["r=1", "r=2"], options={"scaling": "constant"}),
    AdapterCase("adapter_saved", plain, partial(_text, target_modules=["0", "2"], modules_to_save=["4"]), ROWS),
    AdapterCase("adapter_biases", plain, partial(_text, target_modules=_LAYERS, bias="lora_only"), ROWS),
    AdapterCase("adapter_depth", partial(llama, num_hidden_layers=2),
                partial(_text, target_modules=["q_proj", "down_proj"]), LEFT, options={"num_hidden_layers": [1, 2]},
                settings=["num_hidden_layers=1,r=1", "num_hidden_layers=1,r=4", "num_hidden_layers=2,r=2", "r=4"]),
    AdapterCase("adapter_width", bert,
                partial(_text, target_modules=["query", "dense"], modules_to_save=["classifier"]), TEXT,
                options={"num_attention_heads": [2, 4], "intermediate_size": [10, 24]},
                settings=["num_attention_heads=2,intermediate_size=10,r=1", "num_attention_heads=2,r=4", "r=2"]),
    AdapterCase("adapter_fused", gpt2, partial(_text, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True), LEFT,
                options={"n_head": [2, 4], "n_inner": [10, 24]}, settings=["n_head=2,r=1", "n_inner=10,r=2", "r=4"]),
    AdapterCase("adapter_builder", partial(MLP, 2, 8, inputs=7, classes=3),
                partial(_text, target_modules=r"hidden\.\d+|head"), ROWS, wrap=_mlp_with_depth,
                settings=["depth=1,r=1", "depth=1,r=4", "depth=2,r=2", "r=4"]),
]  # fmt: skip
