"""What `sortednet extract` does with a fine-tuned run: write a sub-model or an adapter, and try to open it."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..export import onnx as export
from ..files.saving import saving
from ..files.weights import EXTRACTED, SETTING
from ..huggingface.families import unopened
from ..lora import open_plain
from ..lora.rank_space import RANK
from ..lora.ranks import save_adapter
from ..network.sorted_net import SortedNet
from ..space import Setting, Space
from . import fine_tuning_parts
from .fine_tuning import Opened, inputs_of, open_run
from .fine_tuning_config import FineTuningConfig
from .pretrained import quiet

__all__ = ["Extracted", "extract", "to_onnx", "write_adapter", "write_sub_model"]

TOLERANCE = 1e-4  # of outputs, relative to the largest


@dataclass(frozen=True)
class Extracted:
    """A sub-model that was written.

    Attributes:
        model: The sub-model.
        note: Why plain `from_pretrained` does not open it as it is; empty where it does.
        warning: What else a user should know of it.
    """

    model: nn.Module
    note: str
    warning: str = ""


def extract(
    config: FineTuningConfig,
    run: Path,
    setting: Setting,
    folder: Path,
    *,
    form: Literal["plain", "baked"] = "plain",
    server: str | None = None,
    onnx: bool = False,
) -> Iterator[str]:
    """Write a sub-model, or where the run trained an adapter the adapter, and yield what a user should know.

    Args:
        config: The run's configuration.
        run: The run's folder.
        setting: The sub-model.
        folder: Where it goes.
        form: Of an adapter, see `sortednet.save_adapter`.
        server: Of an adapter, see `sortednet.save_adapter`.
        onnx: Whether to export it to ONNX too.

    Raises:
        CheckpointError: If the network is missing or damaged, or the folder cannot be written.
        ConfigError: If the form or the server is unknown.
        ExportError: If it cannot be exported.
    """
    opened = open_run(config, run)
    if config.adapter is None:
        found = write_sub_model(opened, setting, folder)
        what, size = type(found.model).__name__, sum(one.numel() for one in found.model.parameters())
        plain = f"Plain {what}.from_pretrained opens it, without sortednet."
        remedy = f"Open it with sortednet.load({str(folder)!r}, at={str(setting)!r})."
    else:
        found = write_adapter(opened, setting, folder, form=form, server=server)
        what, size = "the adapter", sum(one.numel() for one in found.model.parameters() if one.requires_grad)
        plain = f"Plain PeftModel.from_pretrained opens it on {config.pretrained.path}, without sortednet."
        remedy = f"sortednet.load({str(run / 'model')!r}, at={str(setting)!r}, model=...) opens the whole sub-model."
    yield f"Wrote {what} at {setting}, {size:,} parameters: {folder}"
    if found.warning:
        yield f"note: {found.warning}"
    yield f"note: {found.note} {remedy}" if found.note else plain
    if onnx:
        with saving(folder, EXTRACTED, adds=True) as save:
            difference = to_onnx(opened, found.model, save.beside / "model.onnx")
        yield (
            f"Wrote {folder / 'model.onnx'} for texts of any number and length; onnxruntime differs by "
            f"{difference:.1e} at most."
        )


def write_sub_model(run: Opened, setting: Setting, folder: Path) -> Extracted:
    """Write a sub-model and the tokenizer, and try whether plain `from_pretrained` opens it.

    The folder is what transformers writes. A file beside it says what the config cannot express, so that
    `sortednet.load(folder, at=setting)` opens it in any case.

    Args:
        run: The run.
        setting: The sub-model.
        folder: Where it goes.

    Returns:
        What was written.

    Raises:
        CheckpointError: If the folder cannot be written.
    """
    net: Any = run.net
    model: Any = net.extract(setting).eval().cpu()
    build = replace(net.builder, config=model.config, sizes=dict(setting))
    alone_in_it = Space([dict(setting)])
    with quiet():
        own = SortedNet(build, alone_in_it, model=model, layouts=build.layouts(model))
        own.write(folder, model.state_dict(), kind=EXTRACTED)
        _write_beside(run, setting, folder)
        batch, expected = _outputs(run, model)
        try:
            with torch.no_grad():
                found = type(model).from_pretrained(folder, dtype=expected.dtype).eval()(**batch).logits
        except Exception:  # whatever transformers makes of a config that cannot express it
            why = unopened(model) or "its weights have other shapes"
            return Extracted(
                model, f"plain from_pretrained cannot open it: its config cannot express {setting} ({why})."
            )
    difference = _difference(expected, found)
    if difference <= TOLERANCE:
        return Extracted(model, "")
    why = f", since it does not know the readout {build.readout.name!r}" if build.readout is not None else ""
    return Extracted(model, f"plain from_pretrained opens it, but its outputs differ by {100 * difference:.0f} %{why}.")


def write_adapter(
    run: Opened, setting: Setting, folder: Path, *, form: Literal["plain", "baked"] = "plain", server: str | None = None
) -> Extracted:
    """Write the adapter of a sub-model and the tokenizer, and try whether plain PEFT opens it.

    Args:
        run: The run, of a network with an adapter.
        setting: The sub-model.
        folder: Where it goes.
        form: See `sortednet.save_adapter`.
        server: See `sortednet.save_adapter`.

    Returns:
        What was written. A note says which model it needs, where that is not the pretrained one as it is.

    Raises:
        CheckpointError: If the folder cannot be written.
        ConfigError: If the form or the server is unknown.
    """
    model: Any = run.net.extract(setting).eval().cpu()
    sizes = {name: value for name, value in setting.items() if name != RANK}
    shown = ", ".join(f"{name}={value}" for name, value in sizes.items())
    with quiet(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        save_adapter(run.net, folder, setting, form=form, server=server)
    warning = " ".join(str(one.message) for one in caught if server is not None and server in str(one.message))
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers that the pretrained model has beyond those of the sub-model
        _write_beside(run, setting, folder)
        batch, expected = _outputs(run, model)
        try:
            base = fine_tuning_parts.make_model(run.config, run.data, run.tokenizer, **sizes)
            opened = open_plain(base, folder)
        except CheckpointError:
            return Extracted(model, f"it is for a model of {shown}, which cannot be opened so.", warning)
        with torch.no_grad():
            difference = _difference(expected, opened(**batch).logits)
    if difference > TOLERANCE:
        return Extracted(model, f"plain PEFT opens it, but its outputs differ by {100 * difference:.0f} %.", warning)
    return Extracted(model, f"it is for the pretrained model opened with {shown}." if sizes else "", warning)


def _write_beside(run: Opened, setting: Setting, folder: Path) -> None:
    with saving(folder, EXTRACTED, adds=True) as save:
        run.tokenizer.save_pretrained(save.beside, save_jinja_files=False)  # else in a folder of its own
        save.write(SETTING, json.dumps(dict(setting)).encode())


def _outputs(run: Opened, model: nn.Module) -> tuple[dict[str, Tensor], Tensor]:
    """Return two examples, and what a sub-model makes of them."""
    batch = {name: one.cpu() for name, one in inputs_of(run.batch(run.examples[:2])).items()}
    with torch.no_grad():
        return batch, model(**batch).logits


def _difference(expected: Tensor, found: Tensor) -> float:
    return float((expected - found).abs().max()) / max(float(expected.abs().max()), 1e-6)


def to_onnx(run: Opened, model: nn.Module, path: Path) -> float:
    """Export a sub-model for texts of any number and length, and return how far onnxruntime differs.

    An adapter is added to the weights of its model first.

    Raises:
        ExportError: If it cannot be exported.
    """
    texts = [{name: one[name] for name in one if name != "labels"} for one in run.examples[:2]]
    # Of one length: a padded token that sees none is computed differently, and does not count.
    length = min(len(one["input_ids"]) for one in texts)
    batch = {name: torch.as_tensor([one[name][:length] for one in texts]) for name in texts[0]}
    if "attention_mask" in run.tokenizer.model_input_names:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    if run.config.adapter is not None:
        adapted: Any = copy.deepcopy(model)
        model = adapted.merge_and_unload()
    return export.to_onnx(model, batch, path)
