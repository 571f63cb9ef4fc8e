"""Every kind of file that the library writes and reads, small: how it is made, opened, and what is in it.

`fuzz.py` and `reliability.py` damage them.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM, TrainingArguments
from transformers.utils import logging

import sortednet as sn
from sortednet.data.images import load as load_images
from sortednet.evaluation.similarity import Similarity
from sortednet.evaluation.table import Row, Table
from sortednet.files import records
from sortednet.files.run_folder import read_curves
from sortednet.huggingface.resuming import last_checkpoint, read_draws, restore
from sortednet.huggingface.trainer import SortedTrainer
from sortednet.jobs.configurations import read_config
from sortednet.jobs.selection import chosen_in, table_of
from sortednet.models import MLP
from sortednet.symbolic import load_model, save_model
from sortednet.symbolic.commands.points import read_points
from sortednet.symbolic.commands.record import FormulaRecord
from sortednet.training.trainer import Trainer, TrainingConfig

__all__ = ["KINDS", "Kind"]

logging.set_verbosity_error()
logging.disable_progress_bar()

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures" / "0.1"
SPACE = sn.Space(depth=[1, 2], width=[2, 4])
SHAPE = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = 20


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        write: Writes a folder; with another number, another content.
        open: Opens the folder, and returns what is in it as plain values and tensors.
        files: A shell pattern of the files in it that are this kind.
    """

    write: Callable[[Path, int], None]
    open: Callable[[Path], Any]
    files: str = "*"


def build(**setting: Any) -> nn.Module:
    return MLP(**setting, inputs=3, classes=2)


def _filled(net: sn.SortedNet, number: int) -> sn.SortedNet:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(number)
    return net


def network(number: int = 0, **options: Any) -> sn.SortedNet:
    return _filled(sn.SortedNet(build, SPACE, **options), number)


def language_model(number: int = 0) -> sn.SortedNet:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=WORDS, rms_norm_eps=(1 + number) * 1e-6))
    return _filled(sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2]), number)


def base() -> nn.Module:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SHAPE, vocab_size=WORDS, max_position_embeddings=8, num_labels=2))


def adapter(number: int = 0) -> sn.SortedNet:
    net = sn.dylora(base(), LoraConfig(r=2, lora_alpha=2 + number, target_modules=["query"]))
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.fill_(number)
    return net


def _state(net: sn.SortedNet) -> dict[str, Any]:
    private = {f"{setting}|{name}": tensor for (setting, name), tensor in net.private.tensors().items()}
    config = getattr(net.full, "config", None)
    described = {} if config is None else {"eps": getattr(config, "rms_norm_eps", 0)}
    tensors = {name: tensor.detach().clone() for name, tensor in {**net.full.state_dict(), **private}.items()}
    return {**tensors, **described, "space": net.space.to_json(), "buffers": net.private.policy}


def _module(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _adapter_state(net: sn.SortedNet) -> dict[str, Any]:
    held = net.full.peft_config["default"]
    kept = {name: tensor for name, tensor in _state(net).items() if "lora" in name or not isinstance(tensor, Tensor)}
    return {**kept, "alpha": held.lora_alpha, "r": held.r}


def trainer(folder: Path, number: int = 0) -> Trainer:
    torch.manual_seed(0)
    data = (torch.ones(8, 3), torch.zeros(8, dtype=torch.long))
    config = TrainingConfig(updates=2, batch_size=4, checkpoint_every=1, keep=2, log_every=1, learning_rate=0.1)
    from rich.console import Console

    return Trainer(
        network(number), sn.Summation(SPACE), functional.cross_entropy, data, config, folder,
        console=Console(quiet=True),
    )  # fmt: skip


def _resumed(folder: Path) -> dict[str, Any]:
    return _state(trainer(folder).train())


def fine_tuner(folder: Path, number: int = 0) -> SortedTrainer:
    torch.manual_seed(0)
    net = sn.SortedNet.from_pretrained(base(), num_hidden_layers=[1, 2])
    data = [{"input_ids": [1, 2, 3], "label": 1}] * 8
    args = TrainingArguments(
        str(folder), max_steps=2, save_steps=1, per_device_train_batch_size=4, report_to="none", disable_tqdm=True,
        use_cpu=True, logging_steps=10, save_total_limit=2, dataloader_pin_memory=False,
    )  # fmt: skip
    return SortedTrainer(_filled(net, number / 8), args, train_dataset=data, objective="summation")


def _fine_tuned(folder: Path) -> dict[str, Any]:
    held = fine_tuner(folder)
    taken = Path(last_checkpoint(folder))
    read_draws(taken, held._identity())
    restore(held.net, taken)
    optimiser = torch.load(taken / "optimizer.pt", weights_only=True)
    state = records.read(taken / "trainer_state.json")
    moments = {f"{key}|{name}": one for key, held in optimiser["state"].items() for name, one in held.items()}
    return {**_state(held.net), **moments, "step": state["global_step"]}


def table(number: int = 0) -> Table:
    rows = [Row(setting, quality=0.5 + number, params=10 * place) for place, setting in enumerate(SPACE, 1)]
    return Table(rows, metric="accuracy")


def _rows(found: Table) -> dict[str, Any]:
    return {str(row.setting): repr(row) for row in found} | {"metric": found.metric}


def _write_table(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table(number).to_json(folder / "table.json")


def _write_similarity(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Similarity("cosine", ("depth=1", "depth=2"), (0, 1), ((0.5, float(number)), (0.1, 0.2)), (3, 4)).to_json(
        folder / "similarity.json"
    )


def _copied(source: Path, *names: str) -> Callable[[Path, int], None]:
    def write(folder: Path, number: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            held = (source / name).read_bytes()
            if name.endswith(".json"):
                held = records.to_text(json.loads(held)).encode()
            (folder / name).write_bytes(held)

    return write


def _write_run(folder: Path, number: int) -> None:
    """Write what evaluating and selecting leave, with the network that they are of."""
    network(number).save_pretrained(folder / "model")
    from sortednet.files.run_folder import writing
    from sortednet.jobs.selection import EVALUATED, TABLE, evaluated_text, select

    with writing(folder) as save:
        save.write(EVALUATED, evaluated_text(folder).encode())
        table(number).to_json(save.beside / TABLE)
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        select(str(folder), ["min_quality=0"], "small")


def _open_run(folder: Path) -> dict[str, Any]:
    return {**_rows(table_of(folder)), "chosen": {label: str(one) for label, one in chosen_in(folder).items()}}


def _write_yaml(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "c.yaml").write_text(
        f"space: {{depth: [1, 2], width: [4, 8]}}\nmodel:\n  name: mlp\n  options: {{}}\ndata: {{name: digits}}\n"
        f"sampler: {{name: uniform}}\nobjective:\n  name: stochastic\n  draws: 2\ntraining:\n  updates: {number + 5}\n"
        "  learning_rate: 1e-3\n  tensorboard: false\noutput: runs/x\n"
    )


def _write_csv(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "points.csv").write_text("x,y\n" + "".join(f"{one},{one * 2.5 + number}\n" for one in range(12)))


def _write_npz(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = (np.arange(96) + number).astype(np.uint8).reshape(6, 4, 4)
    np.savez(
        folder / "images.npz", train_images=images, train_labels=np.arange(6) % 2, test_images=images,
        test_labels=np.arange(6) % 2,
    )  # fmt: skip


def _write_formulas(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / "symbolic.safetensors", load_model(FIXTURES / "runs" / "symbolic" / "symbolic.safetensors"))


def _points(folder: Path) -> dict[str, Any]:
    found = read_points(folder / "points.csv", "y", None)
    return {"x": torch.as_tensor(found.x), "y": torch.as_tensor(found.y), "columns": list(found.columns)}


def _images(folder: Path) -> dict[str, Any]:
    found = load_images("npz", path=str(folder / "images.npz"))
    return {"images": found.train_images, "labels": found.train_labels}


def _formula(folder: Path) -> dict[str, Any]:
    found = FormulaRecord.from_json(folder / "fit.json")
    return {
        "text": str(found.best),
        "names": list(found.best.names),
        "x": torch.as_tensor(found.x),
        "facts": repr(found.facts),
    }


KINDS: Mapping[str, Kind] = {
    "plain": Kind(lambda folder, n: network(n).save_pretrained(folder), lambda folder: _state(sn.load(folder, build))),
    "private": Kind(
        lambda folder, n: network(n, private="head.*").save_pretrained(folder),
        lambda folder: _state(sn.load(folder, build)),
    ),
    "corner": Kind(
        lambda folder, n: network(n, private="head.*").save_pretrained(folder),
        lambda folder: _module(sn.load(folder, build, at="depth=1,width=2")),
    ),
    "pretrained": Kind(
        lambda folder, n: language_model(n).save_pretrained(folder), lambda folder: _state(sn.load(folder))
    ),
    "shards": Kind(
        lambda folder, n: language_model(n).save_pretrained(folder, max_shard_size=1000),
        lambda folder: _state(sn.load(folder)),
    ),
    "corner of shards": Kind(
        lambda folder, n: language_model(n).save_pretrained(folder, max_shard_size=1000),
        lambda folder: _module(sn.load(folder, at="num_hidden_layers=1")),
    ),
    "adapter": Kind(
        lambda folder, n: adapter(n).save_pretrained(folder),
        lambda folder: _adapter_state(sn.load(folder, model=base())),
    ),
    "training": Kind(lambda folder, n: trainer(folder, n).train() and None, _resumed, "checkpoints/update-*"),
    "metrics": Kind(
        lambda folder, n: trainer(folder, n).train() and None, lambda folder: dict(read_curves(folder)), "*.jsonl"
    ),
    "fine-tuning": Kind(lambda folder, n: fine_tuner(folder, n).train() and None, _fine_tuned, "checkpoint-*/*"),
    "table": Kind(_write_table, lambda folder: _rows(Table.from_json(folder / "table.json"))),
    "similarity": Kind(_write_similarity, lambda folder: vars(Similarity.from_json(folder / "similarity.json"))),
    "selection": Kind(_write_run, _open_run),
    "formula": Kind(_copied(FIXTURES / "formula", "fit.json"), _formula),
    "model of formulas": Kind(
        _write_formulas,
        lambda folder: _module(load_model(folder / "symbolic.safetensors").model),
    ),
    "run's configuration": Kind(
        _copied(FIXTURES / "runs" / "images", "config.json"),
        lambda folder: {"config": repr(read_config(folder / "config.json"))},
    ),
    "yaml": Kind(_write_yaml, lambda folder: {"config": repr(read_config(folder / "c.yaml"))}),
    "points": Kind(_write_csv, _points),
    "images": Kind(_write_npz, _images),
}

warnings.filterwarnings("ignore")
