"""Models as files: what was written is read, and whatever else is there is refused with a remedy."""

import copy
import dataclasses
import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sortednet.errors import CheckpointError
from sortednet.symbolic import Familiarity, Pretrained, load_model, save_model, shipped

from .cases import SIMPLE, fresh, tiny

REMEDY = r"Make it again with sortednet symbolic train, or leave it out to use the one that comes with sortednet\."


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_model(tmp_path / "tiny.safetensors", tiny())
    return tmp_path / "tiny.safetensors"


def changed(file: Path, change: Any) -> Path:
    """Write a file again with other tensors and another description."""
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        described = json.loads(opened.metadata()["sortednet.symbolic"])
    change(tensors, described)
    save_file(tensors, file, {"sortednet.symbolic": json.dumps(described)})
    return file


def test_weights_are_those_that_were_written_within_float16(file: Path) -> None:
    written, read = tiny().model.state_dict(), load_model(file).model.state_dict()
    assert written.keys() == read.keys()
    for name, weight in written.items():
        assert torch.equal(read[name], weight.half().float()), name


def test_a_model_that_was_read_gives_nearly_the_same(file: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    held, mask = torch.randn(3, 20, 4, generator=generator), torch.ones(3, 20)
    tokens = torch.tensor([[1, 5, 7]] * 3)
    with torch.no_grad():
        ours, theirs = (one.model(held, mask, tokens) for one in (tiny(), load_model(file)))
    assert torch.allclose(ours, theirs, atol=0.05)


@pytest.mark.parametrize("embedding", ["add", "prefix", "node"])
@pytest.mark.parametrize("tokenizer", ["operators", "characters"])
def test_every_kind_of_model_is_read_back(tmp_path: Path, embedding: str, tokenizer: str) -> None:
    model = fresh(0, embedding=embedding, tokenizer=tokenizer).half().float().eval()
    save_model(tmp_path / "m.safetensors", Pretrained(model, SIMPLE, tiny().familiarity, {}))
    found = load_model(tmp_path / "m.safetensors")
    assert found.model.config == model.config
    held, mask = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0)), torch.ones(1, 5)
    with torch.no_grad():
        assert torch.equal(*(one(held, mask, torch.tensor([[1, 4]])) for one in (model, found.model)))


def test_what_is_known_of_the_training_is_read_back(file: Path) -> None:
    found = load_model(file)
    assert (found.generator, dict(found.about), found.model.config) == (SIMPLE, {"steps": 400}, tiny().model.config)


def test_familiarity_is_read_back_exactly(tmp_path: Path) -> None:
    own = Familiarity({"roughness": (0.3, float("inf")), "repeats": (0.2, 0.25)}, 7)
    save_model(tmp_path / "m.safetensors", dataclasses.replace(tiny(), familiarity=own))
    assert load_model(tmp_path / "m.safetensors").familiarity == own


def test_a_model_that_was_read_is_for_use_not_for_training(file: Path) -> None:
    model = load_model(file).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_tied_weights_are_written_once(file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        assert not any("lm_head" in name for name in opened.keys())  # noqa: SIM118


def test_tied_weights_stay_tied(file: Path) -> None:
    network: Any = load_model(file).model.decoder.network
    assert network.lm_head.weight is network.transformer.wte.weight


def test_files_hold_no_code(file: Path) -> None:
    assert b"torch" not in file.read_bytes()[:200]
    with safe_open(file, framework="pt") as opened:
        digests = {f"sortednet.{name}" for name in ("digest", "header", "pages")}
        assert set(opened.metadata()) <= {"sortednet.symbolic", "format"} | digests


def test_a_copy_of_a_pretrained_model_is_itself() -> None:
    assert copy.deepcopy(tiny()) is tiny()


# The model that comes with the package.


def test_the_model_of_the_package_is_small() -> None:
    with as_file(files("sortednet.symbolic") / "pretrained.safetensors") as path:
        assert 1e6 < path.stat().st_size < 3e6


def test_the_model_of_the_package_opens() -> None:
    found = shipped()
    assert found.model.config.variables >= 3
    assert not found.model.training
    assert all(torch.isfinite(weight).all() for weight in found.model.parameters())


def test_the_model_of_the_package_knows_what_is_usual() -> None:
    found = shipped()
    assert set(found.familiarity.limits) == {"roughness", "repeats", "outlier", "remoteness"}
    assert all(len(own) == found.model.config.variables for own in found.familiarity.limits.values())


# What cannot be read.


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        load_model(tmp_path / "none.safetensors")


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(CheckpointError, match="taken"):
        save_model(tmp_path / "taken" / "m.safetensors", tiny())


@pytest.mark.parametrize("data", [b"", b"no model at all", bytes(range(256)) * 8])
def test_a_file_of_something_else_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        load_model(path)


@pytest.mark.parametrize("kept", [100, 5000])
def test_a_file_that_was_cut_is_an_error(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors"):
        load_model(file)


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_model(tmp_path)


def test_weights_of_another_program_are_an_error(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=rf"m\.safetensors is no model of sortednet symbolic\. {REMEDY}"):
        load_model(tmp_path / "m.safetensors")


def test_a_description_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "m.safetensors", {"sortednet.symbolic": "{"})
    with pytest.raises(CheckpointError, match=rf"is no model of sortednet symbolic\. {REMEDY}"):
        load_model(tmp_path / "m.safetensors")


def test_a_description_of_another_kind_is_an_error(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "m.safetensors", {"sortednet.symbolic": "[1]"})
    with pytest.raises(CheckpointError, match=rf"is no model of sortednet symbolic\. {REMEDY}"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("version", [None, 0, 99, "2"])
def test_another_format_is_an_error(file: Path, version: Any) -> None:
    changed(file, lambda _, described: described.update(format=version))
    with pytest.raises(
        CheckpointError, match=rf"is of format {version}, and this version of sortednet reads \d\. {REMEDY}"
    ):
        load_model(file)


DAMAGES: dict[str, tuple[Any, str]] = {
    "a weight missing": (lambda tensors, _: tensors.pop("model.data.gain"), "data.gain"),
    "a tied weight missing": (
        lambda tensors, _: tensors.pop("model.decoder.network.transformer.wte.weight"),
        "transformer.wte.weight",
    ),
    "a weight of another shape": (
        lambda tensors, _: tensors.update({"model.data.gain": torch.zeros(9)}),
        "data.gain",
    ),
    "one weight more": (lambda tensors, _: tensors.update({"model.more": torch.zeros(9)}), "more"),
    "familiarity missing": (lambda _, described: described.pop("familiarity"), "familiarity"),
    "familiarity unknown": (lambda _, described: described["familiarity"].update(mean=1), "mean"),
    "no size": (lambda _, described: described.pop("model"), "model"),
    "no generator": (lambda _, described: described.pop("generator"), "generator"),
    "a size unknown": (lambda _, described: described["model"].update(colour=1), "colour"),
    "a size out of range": (lambda _, described: described["model"].update(width=-1), "width"),
    "a size of another kind": (lambda _, described: described["model"].update(width="wide"), "."),
    "a number out of range": (lambda _, described: described["generator"].update(levels=[99]), "levels"),
    "a size that is a list": (lambda _, described: described.update(model=[]), "."),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_an_error(file: Path, damage: str) -> None:
    change, named = DAMAGES[damage]
    changed(file, change)
    with pytest.raises(CheckpointError, match=rf"(?s)is damaged or of another version: .*{named}.*\. {REMEDY}"):
        load_model(file)
