"""Models of many families that an extracted sub-model of goes to ONNX: a benchmark counts them, a test takes a few."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from sortednet import SortedNet
from sortednet.export.onnx import to_onnx

__all__ = ["ONNX", "OnnxCase"]

_SIZES = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_labels": 3}
_TEXT = {**_SIZES, "num_attention_heads": 4, "max_position_embeddings": 24, "pad_token_id": 1}
_IMAGES = {**_SIZES, "num_attention_heads": 4, "image_size": 16, "patch_size": 8}
_STAGES = {"hidden_sizes": [8, 16], "depths": [1, 2], "num_labels": 3}
_DEPTH = {"num_hidden_layers": [1, 2]}
_BOTH = {**_DEPTH, "intermediate_size": [10, 24]}


def _ids(batch: int, length: int) -> dict[str, Tensor]:
    ids = torch.randint(3, 40, (batch, length), generator=torch.Generator().manual_seed(batch))
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[-1, length // 2 + 1 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _pixels(batch: int, _: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))}


def _sound(batch: int, length: int) -> dict[str, Tensor]:
    return {"input_values": torch.randn(batch, 200 * length, generator=torch.Generator().manual_seed(batch))}


@dataclass(frozen=True)
class OnnxCase:
    """A model, what is sorted of it, and inputs of any batch and length.

    Args:
        name: The family.
        model_class: The class of transformers.
        make_config: Makes its config.
        inputs: Makes inputs of a batch size and a length.
        supports: What is sorted; the smallest sub-model is extracted.
        shapes: Batch size and length of the inputs it is compared on; it is exported with the first.
    """

    name: str
    model_class: type[nn.Module]
    make_config: Callable[[], Any]
    inputs: Callable[[int, int], dict[str, Tensor]] = _ids
    supports: Mapping[str, Sequence[float]] = field(default_factory=lambda: dict(_BOTH))
    shapes: Sequence[tuple[int, int]] = ((2, 10), (3, 13), (1, 5))

    def extracted(self) -> nn.Module:
        """Return the smallest sub-model, with a classifier that reads what the library has it read by default."""
        torch.manual_seed(0)
        full = self.model_class(self.make_config()).eval()
        with torch.no_grad():  # far from where they start, so that each of them matters
            for parameter in full.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        net = SortedNet.from_pretrained(full, **self.supports)
        return net.extract({name: values[0] for name, values in self.supports.items()}).eval()

    def difference(self, path: Path) -> float:
        """Export the sub-model, and return how far onnxruntime differs from it at most, over all shapes.

        Raises:
            Exception: If it cannot be exported, or the file does not take a shape.
        """
        import onnxruntime

        model, largest = self.extracted(), 0.0
        to_onnx(model, self.inputs(*self.shapes[0]), path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for shape in self.shapes:
            inputs = self.inputs(*shape)
            with torch.no_grad():
                expected: Any = model(**inputs)
            found = session.run(None, {one.name: inputs[one.name].numpy() for one in session.get_inputs()})
            largest = max(largest, float((expected[0] - torch.from_numpy(found[0])).abs().max()))
        return largest


def _text(name: str, kind: str, task: str = "SequenceClassification", supports: Any = None, **own: Any) -> OnnxCase:
    return OnnxCase(
        name,
        getattr(hf, f"{kind}{'For' if task else 'Model'}{task}"),
        partial(getattr(hf, f"{kind}Config"), **{**_TEXT, **own}),
        supports=dict(supports or _BOTH),
    )


def _image(name: str, kind: str, supports: Any = None, **own: Any) -> OnnxCase:
    return OnnxCase(
        name,
        getattr(hf, f"{kind}ForImageClassification"),
        partial(getattr(hf, f"{kind}Config"), **(own or _IMAGES)),
        _pixels,
        dict(supports or _DEPTH),
    )


ONNX = (
    _text("bert", "Bert"),
    _text("roberta", "Roberta"),
    _text("distilbert", "DistilBert", supports={"n_layers": [1, 2], "hidden_dim": [10, 24]},
          dim=32, hidden_dim=24, n_layers=2, n_heads=4),
    _text("electra", "Electra", embedding_size=32),
    _text("deberta-v2", "DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8),
    _text("albert", "Albert", supports={"intermediate_size": [10, 24]}, embedding_size=16),
    _text("mpnet", "MPNet", task=""),
    _text("llama", "Llama", num_key_value_heads=2),
    _text("gpt2", "GPT2", supports={"n_layer": [1, 2], "n_inner": [10, 64]},
          n_embd=32, n_layer=2, n_head=4, n_positions=24, n_inner=64),
    _text("qwen2", "Qwen2", num_key_value_heads=2),
    _image("vit", "ViT"),
    _image("dinov2", "Dinov2", **{key: one for key, one in _IMAGES.items() if key != "intermediate_size"}),
    _image("beit", "Beit"),
    _image("convnext", "ConvNext", {"depths": [1, 2], "hidden_sizes": [0.5, 1.0]}, num_stages=2, **_STAGES),
    _image("resnet", "ResNet", {"depths": [1, 2], "hidden_sizes": [0.5, 1.0]}, embedding_size=8, layer_type="basic",
           **_STAGES),
    OnnxCase(
        "wav2vec2",
        hf.Wav2Vec2ForSequenceClassification,
        partial(hf.Wav2Vec2Config, **{**_SIZES, "num_attention_heads": 4, "conv_dim": [16, 16, 16],
                "conv_kernel": [10, 3, 3], "conv_stride": [5, 2, 2], "num_feat_extract_layers": 3,
                "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 16}),
        _sound,
        _BOTH,
    ),
)  # fmt: skip
"""The cases, by family."""
