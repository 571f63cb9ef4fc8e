"""Plain models, in which nothing joins blocks: every cut is a corner, and stays a view."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from sortednet import SortedNet, Space


class Classifier(nn.Module):
    """A perceptron of some layers."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        sizes = [8, *[width] * depth]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


class Convolutions(nn.Module):
    """Convolutions with batch norm, shortcuts and a head over the mean."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()) for _ in range(depth)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def plain_models() -> dict[str, SortedNet]:
    """Return networks of plain models by hand and of Hugging Face, with every dimension at its smallest and largest."""
    import transformers as hf

    torch.manual_seed(0)
    space = Space(depth=[1, 3], width=[8, 16])
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**sizes, "vocab_size": 60}
    supports = {"num_hidden_layers": [1, 2], "intermediate_size": [24, 48], "hidden_size": [16, 32]}
    heads = {**supports, "num_attention_heads": [2, 4]}
    pretrained = {
        "Llama": (hf.LlamaForCausalLM(hf.LlamaConfig(**text, num_key_value_heads=2)), heads),
        "Qwen3": (hf.Qwen3ForCausalLM(hf.Qwen3Config(**text, num_key_value_heads=2, head_dim=8)), heads),
        "OPT": (hf.OPTForCausalLM(hf.OPTConfig(**{**text, "ffn_dim": 48, "word_embed_proj_dim": 32})),
                {"num_hidden_layers": [1, 2], "ffn_dim": [24, 48], "num_attention_heads": [2, 4]}),
        "BERT": (hf.BertForMaskedLM(hf.BertConfig(**text)), heads),
        "DistilBERT": (hf.DistilBertForMaskedLM(hf.DistilBertConfig(vocab_size=60, dim=32, hidden_dim=48, n_layers=2,
                                                                    n_heads=4)),
                       {"num_hidden_layers": [1, 2], "hidden_dim": [24, 48], "num_attention_heads": [2, 4]}),
        "ViT": (hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=16, patch_size=4)), heads),
        "ResNet": (hf.ResNetForImageClassification(hf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32],
                                                                   depths=[2, 2], layer_type="basic")),
                   {"hidden_sizes": [0.5, 1.0], "depths": [1, 2]}),
        "ConvNeXt": (hf.ConvNextForImageClassification(hf.ConvNextConfig(hidden_sizes=[16, 32], depths=[2, 2],
                                                                         num_stages=2)),
                     {"hidden_sizes": [0.5, 1.0], "depths": [1, 2]}),
    }  # fmt: skip
    return {
        "perceptron": SortedNet(Classifier, space, example=torch.randn(2, 8)),
        "convolutions": SortedNet(Convolutions, space, example=torch.randn(2, 3, 8, 8)),
        **{name: SortedNet.from_pretrained(model, **own) for name, (model, own) in pretrained.items()},
    }
