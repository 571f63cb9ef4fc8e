"""Files from strangers that are whole, and say what no file of this library says: refused, before memory or time."""

import copy
import gzip
import io
import json
import os
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    SwinConfig,
    SwinForImageClassification,
)

import sortednet as sn
from sortednet.cli import main
from sortednet.data.images import load_image_folder, load_npz
from sortednet.data.text import TextTask, load_files
from sortednet.errors import CheckpointError, ConfigError, DataError, SortedNetError
from sortednet.evaluation.similarity import Similarity
from sortednet.evaluation.table import Row, Table
from sortednet.files import records
from sortednet.files.manifest import MANIFEST
from sortednet.files.run_folder import METRICS, read_curves
from sortednet.files.weights import METADATA, WEIGHTS
from sortednet.jobs.configurations import read_config
from sortednet.jobs.selection import chosen_in
from sortednet.models import resolve
from sortednet.network import checkpoint
from sortednet.report.report import write_picture, write_report
from sortednet.symbolic.commands.points import read_points
from sortednet.symbolic.commands.record import FormulaRecord

FIXTURES = Path(__file__).parent.parent / "fixtures" / "0.1"
SHAPE = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}


# Arrays, pictures, texts


def npy(shape: tuple[int, ...], descr: str = "|u1", data: bytes = b"123") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    ("shape", "descr"),
    [((10**12,), "|u1"), ((2**40, 2**40), "|u1"), ((10**6,), "<U100000"), ((-5,), "|u1"), ((4,), "<f8"),
     ((10**30,), "|u1")],
)  # fmt: skip
def test_an_array_that_says_it_is_larger_than_it_is_is_refused(tmp_path: Path, shape: Any, descr: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        for name in ("train_images", "test_images", "train_labels", "test_labels"):
            file.writestr(f"{name}.npy", npy(shape, descr))
    with pytest.raises(DataError, match=r"x\.npz cannot be read as named arrays"):
        load_npz(tmp_path / "x.npz")


def test_what_unpacks_to_far_more_than_it_is_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    np.savez_compressed(tmp_path / "x.npz", train_images=np.zeros((1000, 300, 300), np.uint8))
    with pytest.raises(DataError, match="unpack to"):
        load_npz(tmp_path / "x.npz")
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("L", (5000, 5000)).save(tmp_path / part / "a" / "1.png")
    with pytest.raises(DataError, match="pixels, and no more than"):
        load_image_folder(tmp_path)
    Image.new("RGB", (4000, 4000)).save(tmp_path / "train" / "a" / "1.png")
    with pytest.raises(DataError, match="unpack to"):
        load_image_folder(tmp_path)
    with gzip.open(tmp_path / "x.txt.gz", "wb") as file:
        for _ in range(60):
            file.write(bytes(1 << 20))
    with pytest.raises(DataError, match="unpacks to far more"):
        load_files(tmp_path / "x.txt.gz", task=TextTask("causal", ("text",)))


def test_a_file_that_is_nearly_nothing_but_a_hole_is_refused(tmp_path: Path) -> None:
    for name in (METRICS, "x.csv"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 40 << 30)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl has 42,949,672,960 bytes"):
        read_curves(tmp_path)
    with pytest.raises(DataError, match="larger than"):
        read_points(tmp_path / "x.csv", None, None)


def test_a_pipe_is_no_file_of_points(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(DataError, match="is a pipe"):
        read_points(tmp_path / "x.csv", None, None)


def test_a_long_list_of_settings_is_read(tmp_path: Path) -> None:
    """The parser of configurations would take a copy of the whole list for each entry."""
    held = records.read(FIXTURES / "runs" / "images" / "config.json")
    many = [{"depth": depth, "width": 2} for depth in range(1, 3001)]
    (tmp_path / "config.json").write_text(json.dumps({**held, "space": many}))
    assert len(read_config(tmp_path / "config.json").make_space()) == 3000
    (tmp_path / "config.json").write_text(json.dumps({**held, "space": [held["space"]] * 3000}))
    with pytest.raises(ConfigError, match=r"a list\. Give an int or a float") as told:
        read_config(tmp_path / "config.json")
    assert len(str(told.value)) < 1000


@pytest.mark.parametrize("lost", ["optimizer.pt", "trainer_state.json", "sortednet_objective.json"])
def test_a_checkpoint_that_lacks_a_file_is_not_gone_on_from(tmp_path: Path, lost: str) -> None:
    run = shutil.copytree(FIXTURES / "runs" / "text", tmp_path / "run")
    from sortednet.huggingface.resuming import last_checkpoint, seal

    folder = Path(last_checkpoint(next(run.rglob("checkpoint-*")).parent))
    seal(folder)
    if not (folder / lost).is_file():
        pytest.skip(f"the fixture has no {lost}")
    (folder / lost).unlink()
    others = sorted(folder.parent.glob("checkpoint-*"))
    if len(others) > 1:
        with pytest.warns(UserWarning, match="earlier"):
            assert last_checkpoint(folder.parent) != str(folder)
    else:
        with pytest.warns(UserWarning, match="earlier"), pytest.raises(CheckpointError, match="no checkpoint"):
            last_checkpoint(folder.parent)


def test_a_column_that_writes_on_the_terminal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\x1b[31m,y\n1,2\n2,3\n")
    with pytest.raises(DataError, match="not shown"):
        read_points(tmp_path / "x.csv", None, None)


# JSON


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]'])
def test_json_with_a_key_twice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the key 'a' twice"):
        records.parse(text)


def places(held: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = list(held) if isinstance(held, dict) else range(len(held)) if isinstance(held, list) else ()
    return [place for key in keys for place in ((*path, key), *places(held[key], (*path, key)))]


def table_at(folder: Path) -> Path:
    table = Table([Row(sn.Setting({"depth": depth}), 0.5, 10 * depth, flops=3) for depth in (1, 2)], metric="F1")
    table.to_json(folder / "table.json")
    return folder / "table.json"


def similarity_at(folder: Path) -> Path:
    Similarity("kl", ("depth=1", "depth=2"), (0, 1), ((0.5, 0.1), (0.1, 0.2)), (3, 4)).to_json(folder / "s.json")
    return folder / "s.json"


def formula_at(folder: Path) -> Path:
    return Path(shutil.copy(FIXTURES / "formula" / "fit.json", folder))


READ: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "table": (table_at, lambda file: repr((list(Table.from_json(file)), Table.from_json(file).higher_is_better))),
    "similarity": (similarity_at, lambda file: repr(Similarity.from_json(file))),
    "formula": (formula_at, lambda file: repr(FormulaRecord.from_json(file))),
}
WRONG = ["false", "1", 0, 1, True, [1], ["a", 1], {"a": 1}, {}, "a\x1b[31mb", "a\nb"]


@pytest.mark.parametrize("kind", READ)
def test_a_value_of_another_kind_is_refused_or_not_read(kind: str, tmp_path: Path) -> None:
    write, read = READ[kind]
    file = write(tmp_path)
    whole = records.read(file)
    file.write_text(records.to_text(whole))
    right = read(file)
    for path in places(whole):
        if path[-1] in ("recovery", "flops", "latency_ms", "memory_bytes", "model"):  # which may be left out
            continue
        for wrong in WRONG:
            held = copy.deepcopy(whole)
            inside = held
            for key in path[:-1]:
                inside = inside[key]
            given = inside[path[-1]]
            if isinstance(given, list) and isinstance(wrong, list):
                continue
            is_text = isinstance(given, str) and isinstance(wrong, str) and wrong.isprintable()
            if is_text or (type(given) in (int, float) and type(wrong) is int):
                continue  # of the same kind
            inside[path[-1]] = wrong
            file.write_text(records.to_text(held))
            try:
                found = read(file)
            except SortedNetError:
                continue
            assert found == right, (path, given, wrong)


def test_metrics_of_other_kinds_are_left_out(tmp_path: Path) -> None:
    good = {"update": 1, "loss": 1.0, "terms": {"depth=1": 0.5}}
    bad = [
        {**good, "terms": terms} for terms in ({"a": "abc"}, {"a": {"b": 1}}, {"a": None}, {"a": True}, [], {"\x1b": 1})
    ] + [{**good, "update": update} for update in (True, -1, "1", 1.5, None)]
    lines = [records.to_text(line, indent=None) for line in (good, *bad)]
    (tmp_path / METRICS).write_text("\n".join(lines) + "\n")
    with pytest.warns(UserWarning, match="lines 2, 3, 4, 5, 6 are left out"):
        assert read_curves(tmp_path) == {"depth=1": [(1, 0.5)]}


def test_labels_are_texts_of_settings(tmp_path: Path) -> None:
    net = sn.SortedNet(lambda depth: nn.Sequential(*(nn.Linear(2, 2) for _ in range(depth))), sn.Space(depth=[1, 2]))
    net.save_pretrained(tmp_path / "model")
    from sortednet.files.weights import digest

    for chosen in ({"a": 1}, {"a": ["depth=1"]}, ["depth=1"], {"a\x1b[31m": "depth=1"}, {"a": "depth="}):
        (tmp_path / "chosen.json").write_text(records.to_text({"model": digest(tmp_path / "model"), "chosen": chosen}))
        with pytest.raises(ConfigError, match="damaged"):
            chosen_in(tmp_path)


@pytest.mark.parametrize("largest", [1e308, -1e308, float("inf"), float("nan"), 1e-308])
def test_whatever_was_measured_can_be_drawn(largest: float, tmp_path: Path) -> None:
    table = Table([Row(sn.Setting({"depth": 1}), largest, 10**29), Row(sn.Setting({"depth": 2}), 0.5, 3)])
    found = Similarity("kl", ("depth=1",), (0, 1), ((abs(largest), 0.5),), (3, 4))
    write_picture(tmp_path / "a.png", table)
    write_report(
        tmp_path / "a.html", table, curves={"depth=1": [(1, largest), (2, 0.5)]}, similarities=[found],
        chosen={"a": sn.Setting({"depth": 1})},
    )  # fmt: skip


def test_an_absurd_cost_is_no_cost() -> None:
    with pytest.raises(SortedNetError, match=r"params=1e\+308 .* is no cost"):
        Row(sn.Setting({"depth": 1}), 0.5, 10**308)


def test_markup_in_the_name_of_a_curve_is_text(tmp_path: Path) -> None:
    table = Table([Row(sn.Setting({"depth": 1}), 0.5, 3)])
    write_report(tmp_path / "a.html", table, curves={"<a href='javascript:1'>": [(1, 0.5), (2, 0.4)]}, similarities=[])
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "\\u003ca href='javascript" in page  # among the data, which the page's script shows as text alone
    assert "<a href='javascript" not in page
    assert not any(way in page for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"))


# Pretrained models


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=20)).save_pretrained(folder / "llama")
    swin = SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], image_size=16, patch_size=2, window_size=2)
    SwinForImageClassification(swin).save_pretrained(folder / "swin")
    kinds = [[["global", "local"], 1]]
    GPTNeoForCausalLM(
        GPTNeoConfig(vocab_size=20, hidden_size=8, num_layers=2, num_heads=2, attention_types=kinds)
    ).save_pretrained(folder / "gpt_neo")
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=20))
    sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2]).save_pretrained(folder / "saved")
    return folder


def changed(models: Path, folder: Path, kind: str, values: dict[str, Any], name: str = "config.json") -> Path:
    shutil.copytree(models / kind, folder / kind)
    file = folder / kind / name
    held = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**held, **values}))
    (folder / kind / MANIFEST).unlink(missing_ok=True)
    return folder / kind


ABSURD = [
    ("llama", {"num_hidden_layers": 50000}, "more than any model has"),
    ("llama", {"num_hidden_layers": 9999}, "far larger than its weights"),
    ("llama", {"hidden_size": 10**9}, "far larger than its weights"),
    ("llama", {"vocab_size": 10**11}, "far larger than its weights"),
    ("llama", {"vocab_size": 10**18}, "more than any model has"),
    ("llama", {"head_dim": 10**8}, "far larger than its weights"),
    ("llama", {"num_labels": 10**9}, "more than any model has"),
    ("llama", {"rms_norm_eps": float("nan")}, "which no model has"),
    ("llama", {"architectures": {"a": 1}}, "are no names"),
    ("llama", {"architectures": "LlamaForCausalLM"}, "are no names"),
    ("llama", {"architectures": ["RagModel"]}, "and its model a RagModel"),
    ("llama", {"model_type": "bert"}, "its config is a BertConfig"),
    ("llama", {"dtype": "system"}, "damaged"),
    ("swin", {"depths": [30000000, 2]}, "more than any model has"),
    ("swin", {"depths": [9000, 1]}, "far larger than its weights"),
    ("swin", {"window_size": 10**5}, "far larger than its weights"),
    ("gpt_neo", {"attention_types": [[["global", "local"], 10**8]]}, "more than any model has"),
    ("llama", {"attn_implementation": "org/repo"}, "asks for code of the Hub"),
    ("llama", {"_attn_implementation": "org/repo@main:x"}, "asks for code of the Hub"),
    ("llama", {"attn_implementation": {"text_config": "org/repo"}}, "asks for code of the Hub"),
    ("llama", {"text_config": {"experts_implementation": "org/repo"}}, "asks for code of the Hub"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values", "said"), ABSURD, ids=lambda one: str(one)[:60])
def test_a_config_of_no_model_is_refused_at_once(
    models: Path, tmp_path: Path, kind: str, values: dict[str, Any], said: str
) -> None:
    folder = changed(models, tmp_path, kind, values)
    with pytest.raises(CheckpointError, match=said):
        sn.SortedNet.from_pretrained(folder, num_hidden_layers=[1, 2])


@pytest.mark.parametrize(
    "values",
    [{"num_hidden_layers": 50000}, {"hidden_size": 10**9}, {"vocab_size": 10**11}, {"attn_implementation": "a/b"},
     {"rms_norm_eps": float("nan")}, {"head_dim": 10**9}, {"model_type": "bert"}],
    ids=str,
)  # fmt: skip
def test_so_it_is_in_a_saved_network(models: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    folder = changed(models, tmp_path, "saved", values)
    for at in (None, "num_hidden_layers=1"):
        with pytest.raises(CheckpointError, match=r"config\.json|does not fit the builder|its config is"):
            sn.load(folder, at=at)


@pytest.mark.parametrize(
    "values", [{"max_length": "x"}, {"temperature": float("nan")}, {"top_k": [1]}, {"num_beams": "3"}], ids=str
)
def test_a_generation_config_holds_numbers(models: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    folder = changed(models, tmp_path, "llama", values, "generation_config.json")
    with pytest.raises(CheckpointError, match=r"generation_config\.json is damaged"):
        sn.SortedNet.from_pretrained(folder, num_hidden_layers=[1, 2])


def outside(folder: Path) -> None:
    with open(folder / WEIGHTS, "rb") as file:
        names = [name for name in json.loads(file.read(int.from_bytes(file.read(8), "little"))) if name[0] != "_"]
    (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "../outside.safetensors")})
    )


def deep_index(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text("[" * 100_000)


def absurd_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((10**15).to_bytes(8, "little") + b"{}")


def pickled(folder: Path) -> None:
    import pickle

    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(os.system))


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def with_adapter(folder: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "x", "megatron_core": "this"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("damage", [outside, deep_index, absurd_header, pickled, no_weights, with_adapter])
def test_files_beside_a_config_ask_for_nothing_else(
    models: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = changed(models, tmp_path, "llama", {})
    damage(folder)
    with pytest.raises(CheckpointError, match=str(folder)):
        sn.SortedNet.from_pretrained(folder, num_hidden_layers=[1, 2])


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Say something else of a network, with digests that fit."""
    tensors, metadata = checkpoint.read_file(folder / WEIGHTS)
    held = json.loads(metadata["sortednet"])
    change(held)
    (folder / WEIGHTS).write_bytes(checkpoint.to_bytes(tensors, {"sortednet": json.dumps(held)}))
    (folder / METADATA).write_text(records.to_text(held))


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held["space"]["supports"].update({"config": {"values": [1, 2]}}),
        lambda held: held["space"].update({"supports": {"config": {"values": [1, 2]}}}),
        lambda held: held.update(
            {"space": {"supports": {"_name_or_path": {"values": [1, 2]}}}, "sizes": {"_name_or_path": 2}}
        ),
        lambda held: held.update({"space": {"supports": {"forward": {"values": [1, 2]}}}, "sizes": {"forward": 2}}),
        lambda held: held["sizes"].update({"hidden_size": 3}),
        lambda held: held.update({"layouts": [{"pattern": "*q_proj.weight", "axis": 7, "blocks": 2}]}),
    ],
)
def test_a_network_of_dimensions_that_its_model_has_not_is_refused(models: Path, tmp_path: Path, change: Any) -> None:
    folder = changed(models, tmp_path, "saved", {})
    rewritten(folder, change)
    for at in (None, "num_hidden_layers=1"):
        with pytest.raises(SortedNetError, match=r"damaged|no size|cannot take|refuses|dimension"):
            sn.load(folder, at=at)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 0, "8", None, True])
def test_an_adapter_is_multiplied_by_a_number(alpha: Any, tmp_path: Path) -> None:
    from peft import LoraConfig

    def base() -> nn.Module:
        torch.manual_seed(0)
        return BertForSequenceClassification(BertConfig(**SHAPE, vocab_size=20, max_position_embeddings=8))

    net = sn.dylora(base(), LoraConfig(r=2, lora_alpha=2, target_modules=["query"]))
    net.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "lora_alpha": alpha}))
    (tmp_path / "adapter" / MANIFEST).unlink()
    with pytest.raises(SortedNetError, match=r"lora_alpha|damaged"):
        sn.load(tmp_path / "adapter", model=base())


# Links, names


def test_a_folder_whose_files_are_links_is_read_and_not_written(models: Path, tmp_path: Path) -> None:
    """As the Hub's cache is."""
    (tmp_path / "snapshot").mkdir()
    for file in (models / "saved").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    net = sn.load(tmp_path / "snapshot")
    before = (models / "saved" / WEIGHTS).read_bytes()
    with pytest.raises(CheckpointError, match="link"):
        net.save_pretrained(tmp_path / "snapshot")
    assert (models / "saved" / WEIGHTS).read_bytes() == before


@pytest.mark.parametrize(
    "name", ["__main__:x", "__mp_main__:x", "sortednet.network.sorted_net:SortedNet",
             "sortednet.views.skeletons:Skeleton", "sortednet.lora:AdapterBuilder", "sortednet.modelsx:y"],
)  # fmt: skip
def test_neither_the_program_nor_the_library_is_a_users_own(name: str) -> None:
    with pytest.raises(ConfigError, match="code of your own alone"):
        resolve(name)


def test_the_command_line_says_so_in_one_line(tmp_path: Path, capsys) -> None:
    run = shutil.copytree(FIXTURES / "runs" / "images", tmp_path / "run")
    held = records.read(run / "config.json")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("train_images.npy", npy((10**12,)))
    (run / "x.npz").write_bytes(buffer.getvalue())
    held["data"] = {**held["data"], "name": "npz", "options": {"path": str(run / "x.npz")}}
    (run / "config.json").write_text(json.dumps(held))
    assert main(["evaluate", str(run)]) == 2
    assert "cannot be read as named arrays" in " ".join(capsys.readouterr().err.split())


# What a third reader found


HIDDEN = [
    r'{"class\x5fpath": "os.system", "init_args": {"command": "touch PWNED"}}', '{"class\\u005fpath": "antigravity.X"}',
    "antigravity.X", "a: &a [1, 2]\nb: [*a, *a]",
]  # fmt: skip
SECTIONS = [
    ("model", "options"), ("data", "options"), ("sampler", "options"), ("space",), ("recipe_options",), ("private",),
    ("training", "updates"), ("objective", "draws"), ("layouts",), ("data", "flip"),
]  # fmt: skip


@pytest.mark.parametrize("keys", SECTIONS, ids=".".join)
@pytest.mark.parametrize("text", HIDDEN, ids=range(len(HIDDEN)))
def test_a_text_of_a_configuration_is_never_read_as_anything_else(
    keys: tuple[str, ...], text: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    held = records.read(FIXTURES / "runs" / "images" / "config.json")
    inside = held
    for key in keys[:-1]:
        inside = inside.setdefault(key, {})
    is_options = keys[-1].endswith("options")
    inside[keys[-1]] = {"a": text} if is_options else text
    (tmp_path / "config.json").write_text(json.dumps(held))
    try:
        found = read_config(tmp_path / "config.json")
    except ConfigError:
        assert keys[-1] != "options"
    else:
        value = found
        for key in keys:
            value = getattr(value, key)
        assert value == {"a": text}
    assert not (tmp_path / "PWNED").exists()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("values", [{"updates": "7"}, {"learning_rate": "1e-3"}, {"tensorboard": "true"}], ids=str)
def test_a_number_in_quotes_is_a_text(values: dict[str, Any], tmp_path: Path) -> None:
    held = records.read(FIXTURES / "runs" / "images" / "config.json")
    (tmp_path / "config.json").write_text(json.dumps({**held, "training": {**held["training"], **values}}))
    with pytest.raises(ConfigError, match=rf"training\.{next(iter(values))}: Expected"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("values", [{"axis": "1"}, {"blocks": "3"}, {"blocks": "[1, 2]"}], ids=str)
def test_so_it_is_in_a_list_of_sections(values: dict[str, Any], tmp_path: Path) -> None:
    held = records.read(FIXTURES / "runs" / "images" / "config.json")
    (tmp_path / "config.json").write_text(json.dumps({**held, "layouts": [{"pattern": "*", **values}]}))
    with pytest.raises(ConfigError, match=rf"layouts\.0\.{next(iter(values))}: Expected"):
        read_config(tmp_path / "config.json")


NESTED = [
    {"text_config": {"model_type": "blip_text_model", "auto_map": {"AutoModel": "x--m.C"}}},
    {"a": [{"auto_map": {"AutoModel": "x--m.C"}}]},
    {"transformers_weights": "sub/model.safetensors"},
    {"attribute_map": "x"},
    {"architectures": ["PreTrainedModel"]},
]


@pytest.mark.parametrize("values", NESTED, ids=lambda one: next(iter(one)))
def test_a_config_that_leads_elsewhere_is_refused(models: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    for kind in ("llama", "saved"):
        folder = changed(models, tmp_path, kind, values)
        with pytest.raises(CheckpointError):
            sn.SortedNet.from_pretrained(folder, num_hidden_layers=[1, 2])
        if kind == "saved" and "architectures" not in values:  # of which a saved network has the class itself
            with pytest.raises(CheckpointError):
                sn.load(folder)


@pytest.mark.parametrize("values", [{"do_sample": "no"}, {"use_cache": "no"}, {"eos_token_id": 1.5}], ids=str)
def test_a_generation_config_holds_flags_and_tokens(models: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    folder = changed(models, tmp_path, "llama", values, "generation_config.json")
    with pytest.raises(CheckpointError, match=r"generation_config\.json is damaged"):
        sn.SortedNet.from_pretrained(folder, num_hidden_layers=[1, 2])


def test_compressed_weights_of_torch_are_refused(models: Path, tmp_path: Path) -> None:
    folder = changed(models, tmp_path, "llama", {})
    state = LlamaForCausalLM.from_pretrained(folder).state_dict()
    (folder / WEIGHTS).unlink()
    torch.save(state, tmp_path / "whole.bin")
    place = folder / "pytorch_model.bin"
    with zipfile.ZipFile(tmp_path / "whole.bin") as given, zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as out:
        for name in given.namelist():
            out.writestr(name, given.read(name))
    with pytest.raises(CheckpointError, match="is compressed"):
        sn.SortedNet.from_pretrained(folder, num_hidden_layers=[1, 2])


def test_a_folder_with_a_file_named_setting_json_is_not_ours(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("README.md", "tokenizer.json", "config.json", "vocab.txt", "model.onnx", WEIGHTS, METADATA):
        (mine / name).write_text("mine")
    (mine / "setting.json").write_text('{"volume": 3}')
    run = shutil.copytree(FIXTURES / "runs" / "images", tmp_path / "run")
    assert main(["extract", str(run), "depth=1,width=2", "--output", str(mine)]) == 2
    assert all(one.read_text() in ("mine", '{"volume": 3}') for one in mine.iterdir())
    assert len(list(mine.iterdir())) == 8


def test_a_run_whose_network_is_a_link_is_refused(tmp_path: Path, capsys) -> None:
    run = shutil.copytree(FIXTURES / "runs" / "images", tmp_path / "run")
    (run / "model").rename(tmp_path / "elsewhere")
    (run / "model").symlink_to(tmp_path / "elsewhere")
    for command in (["evaluate", str(run)], ["extract", str(run), "depth=1,width=2", "--output", str(tmp_path / "o")]):
        assert main(command) == 2
        assert "link" in capsys.readouterr().err


def small(**options: Any) -> sn.SortedNet:
    torch.manual_seed(0)
    return sn.SortedNet(mlp, sn.Space(depth=[1, 2], width=[2, 4]), **options)


def mlp(depth: int, width: int) -> nn.Module:
    layers = [nn.Linear(3 if place == 0 else width, width) for place in range(depth)]
    return nn.ModuleDict({"body": nn.Sequential(*layers), "head": nn.Linear(width, 2)})


def private_as(change: Callable[[dict[str, torch.Tensor]], None], folder: Path) -> None:
    """Write the private tensors of a network in another way, with digests that fit."""
    from sortednet.files import tensor_file

    small(private="head.*").save_pretrained(folder)
    file = next(folder.glob("private-*.safetensors"))
    tensors, _ = checkpoint.read_file(file)
    file.unlink()
    change(tensors)
    out = io.BytesIO()
    found = checkpoint.write_tensors(out, tensors)
    name = f"private-{tensor_file.digest_of(found)[:12]}.safetensors"
    (folder / name).write_bytes(out.getvalue())
    rewritten(folder, lambda held: held.update({"private_file": name}))
    (folder / MANIFEST).unlink()


KEY = "depth=1,width=2|head.bias"
OTHER: dict[str, Callable[[dict[str, torch.Tensor]], None]] = {
    "shorter": lambda held: held.update({KEY: torch.zeros(1)}),
    "scalar": lambda held: held.update({KEY: torch.tensor(1.0)}),
    "wider": lambda held: held.update({"depth=1,width=2|head.weight": torch.zeros(5, 2)}),
    "missing": lambda held: held.__delitem__(KEY),
    "complex": lambda held: held.update({KEY: torch.zeros(2, dtype=torch.complex64)}),
    "whole": lambda held: held.update({KEY: torch.zeros(2, dtype=torch.int64)}),
    "unknown name": lambda held: held.update({"depth=1,width=2|body.9.bias": torch.zeros(2)}),
    "unknown setting": lambda held: held.update({"depth=7,width=2|head.bias": torch.zeros(2)}),
    "spaces": lambda held: held.update({" depth=1 , width=2|head.bias": held.pop(KEY)}),
    "many digits": lambda held: held.update({f"depth={'9' * 5000}|head.bias": torch.zeros(2)}),
}


@pytest.mark.parametrize("how", OTHER)
def test_private_tensors_are_exactly_those_of_the_network(how: str, tmp_path: Path) -> None:
    private_as(OTHER[how], tmp_path / "net")
    with pytest.raises(SortedNetError):
        sn.load(tmp_path / "net", mlp)
    if how not in ("unknown name", "unknown setting", "many digits"):  # which a corner does not look at
        with pytest.raises(SortedNetError):
            sn.load(tmp_path / "net", mlp, at="depth=1,width=2")


def test_private_tensors_as_they_were_written_are_read(tmp_path: Path) -> None:
    private_as(lambda held: None, tmp_path / "net")
    assert len(sn.load(tmp_path / "net", mlp).private.tensors()) == 6


def test_complex_numbers_are_not_taken_for_real_ones(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    tensors, metadata = checkpoint.read_file(tmp_path / WEIGHTS)
    tensors["head.bias"] = tensors["head.bias"].to(torch.complex64)
    (tmp_path / WEIGHTS).write_bytes(checkpoint.to_bytes(tensors, {"sortednet": metadata["sortednet"]}))
    for at in (None, "depth=1"):
        with pytest.raises(CheckpointError, match=r"head\.bias is stored as"):
            sn.load(tmp_path, mlp, at=at)


PATTERNS = [
    {"target_modules": "(.|.)*!"}, {"exclude_modules": ".?" * 60 + "!"}, {"rank_pattern": {"(.|.)*!": 2}},
    {"alpha_pattern": {"(a|a)+$": 2}}, {"layers_pattern": "(.|.)*!", "layers_to_transform": [0]},
    {"layers_pattern": ["(.*)*!"]}, {"target_modules": r"(a)\1\1"}, {"target_modules": "(?=a*)*b"},
    {"use_rslora": "false"}, {"fan_in_fan_out": "no"}, {"target_modules": {"query": 1}}, {"rank_pattern": ["a"]},
]  # fmt: skip


@pytest.mark.parametrize("values", PATTERNS, ids=str)
def test_patterns_that_take_for_ever_and_other_kinds_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    from sortednet.lora import read_config as read_adapter

    held = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["query"], **values}
    (tmp_path / "adapter_config.json").write_text(json.dumps(held))
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is damaged"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("pattern", [r".*\.(q_proj|v_proj)", r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$",
                                     r"model\.layers\.\d+\.mlp", "query"])  # fmt: skip
def test_patterns_as_people_write_them_are_read(pattern: str, tmp_path: Path) -> None:
    from sortednet.lora import read_config as read_adapter

    held = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": pattern}
    (tmp_path / "adapter_config.json").write_text(json.dumps(held))
    assert read_adapter(tmp_path).target_modules == pattern


def test_a_label_that_reads_like_a_setting_is_refused(tmp_path: Path) -> None:
    from sortednet.files.weights import digest

    small().save_pretrained(tmp_path / "model")
    held = {"model": digest(tmp_path / "model"), "chosen": {"depth=1,width=2": "depth=1,width=4"}}
    (tmp_path / "chosen.json").write_text(records.to_text(held))
    with pytest.raises(ConfigError, match="reads like a setting"):
        chosen_in(tmp_path)


def test_a_table_with_a_row_twice_is_refused(tmp_path: Path) -> None:
    rows = [Row(sn.Setting({"depth": depth}), float(depth), depth) for depth in range(1, 101)]
    Table(rows).to_json(tmp_path / "table.json")
    held = records.read(tmp_path / "table.json")
    held["rows"].append(held["rows"][-1])
    (tmp_path / "table.json").write_text(records.to_text(held))
    with pytest.raises(CheckpointError, match="depth=100 has more than one row"):
        Table.from_json(tmp_path / "table.json")


@pytest.mark.parametrize("change", [
    {"metric": "x" * 20_000}, {"format": True}, {"format": 1.0},
    {"rows": [{"setting": {"depth": 1}, "quality": 1, "params": 5.0}]},
])  # fmt: skip
def test_a_table_of_other_kinds_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    held = records.read(table_at(tmp_path))
    (tmp_path / "table.json").write_text(records.to_text({**held, **change}))
    with pytest.raises(CheckpointError):
        Table.from_json(tmp_path / "table.json")


def test_json_of_far_more_lists_than_letters_is_refused() -> None:
    with pytest.raises(ValueError, match="lists and objects"):
        records.parse("[" + "[]," * 2_000_000 + "1]")


def test_a_formula_that_multiplies_out_to_far_more_is_refused(tmp_path: Path) -> None:
    held = records.read(formula_at(tmp_path))
    held["formula"]["plain"] = "*".join(["(x1+1)"] * 200)
    (tmp_path / "fit.json").write_text(records.to_text(held))
    with pytest.raises(ConfigError, match="brackets"):
        FormulaRecord.from_json(tmp_path / "fit.json")


def test_a_picture_of_another_kind_than_its_name_says_is_not_opened(tmp_path: Path) -> None:
    from PIL import Image

    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / part / "a" / "1.png", format="TIFF")
    with pytest.raises(DataError, match="cannot be read as an image"):
        load_image_folder(tmp_path)
    for part in ("train", "test"):
        (tmp_path / part / "a" / "1.png").unlink()
        os.mkfifo(tmp_path / part / "a" / "1.png")
    with pytest.raises(DataError, match="holds no image"):
        load_image_folder(tmp_path)


@pytest.mark.parametrize("largest", [2**40, 7])
def test_labels_are_no_larger_than_there_are_images(largest: int, tmp_path: Path) -> None:
    images = np.arange(96, dtype=np.uint8).reshape(6, 4, 4)
    labels = np.array([0, 1, 0, 1, 0, largest])
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    with pytest.raises(DataError, match="Number the classes"):
        load_npz(tmp_path / "x.npz")


def test_a_tokenizer_that_blows_texts_up_is_refused(tmp_path: Path) -> None:
    from sortednet.huggingface.families import check_tokenizer_files

    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}
    steps = {"normalizer": {"type": "Sequence", "normalizers": [step, step]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(steps))
    with pytest.raises(CheckpointError, match="times as long"):
        check_tokenizer_files(tmp_path)


def test_an_error_writes_no_control_characters_on_the_terminal(tmp_path: Path, capsys) -> None:
    (tmp_path / "c.yaml").write_text('"\\e[31mspace": {depth: [1]}\n')
    assert main(["train", str(tmp_path / "c.yaml")]) == 2
    assert "\x1b" not in capsys.readouterr().err
