"""What a stranger's configuration, run folder or checkpoint may name, and what it may not do."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import sortednet as sn
from sortednet.cli import main
from sortednet.errors import CheckpointError, ConfigError
from sortednet.evaluation.table import Row
from sortednet.files import records
from sortednet.imports.names import MODELS
from sortednet.imports.trusted import check_module
from sortednet.models import MLP, resolve

RUN = Path(__file__).parent.parent / "fixtures" / "0.1" / "runs" / "images"
MINE = """
import subprocess
from functools import partial
from subprocess import Popen
from torch import nn
from torch.nn import Linear

def build(depth, width=1):
    return nn.Sequential(*(nn.Linear(depth, depth) for _ in range(width)))

class Net(nn.Module):
    def __init__(self, depth): super().__init__()

class Plain:
    pass

wide = partial(build, width=2)
run = partial(Popen, shell=True)
call = Popen.__init__
text = "x"
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "my_own_models.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_own_models", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["build", "Net", "wide"])
def test_functions_and_modules_of_ones_own_may_be_named(mine: Path, name: str) -> None:
    assert isinstance(resolve(f"my_own_models:{name}")(depth=2), nn.Module)


@pytest.mark.parametrize("name", [*MODELS.places, "sortednet.models.mlp:MLP"])
def test_the_librarys_own_may_be_named(name: str) -> None:
    assert callable(resolve(name))


FOREIGN = [
    "subprocess:Popen", "os:system", "os.path:join", "builtins:exec", "sys:exit", "posix:system", "code:interact",
    "shutil:rmtree", "importlib:import_module", "runpy:run_path", "torch:load", "torch.nn:Linear", "torch.hub:load",
    "numpy:load", "transformers:pipeline", "transformers:AutoModel", "pip:main", "_pytest:main", "yaml:unsafe_load",
    "antigravity:geohash", "this:s", "ctypes:CDLL", "_posixsubprocess:fork_exec",
]  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_nothing_of_the_standard_library_or_of_packages_may_be_named(name: str) -> None:
    module = name.partition(":")[0]
    with pytest.raises(ConfigError, match=rf"a configuration may name code of your own alone.* --trust {module} on"):
        resolve(name)


@pytest.mark.parametrize("module", ["antigravity", "this", "turtledemo", "idlelib.idle"])
def test_what_may_not_be_named_is_not_even_imported(module: str) -> None:
    program = f"import sys; from sortednet.models import resolve\ntry: resolve('{module}:x')\nexcept Exception: pass\n"
    program += f"assert '{module}' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    "name", ["Popen", "Plain", "run", "call", "subprocess", "sortednet.jobs.beginning:begin",
             "sortednet.files.saving:remove_own", "sortednet:load"],
)  # fmt: skip
def test_what_was_imported_into_a_module_of_ones_own_is_not_its_own(mine: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be called|no function of your own|code of your own alone"):
        resolve(name if ":" in name else f"my_own_models:{name}")


def test_what_is_trusted_may_be_named() -> None:
    assert resolve("torch.nn:Linear", trust=["torch"]) is nn.Linear
    assert resolve("torch.nn:Linear", trust=["torch.nn"]) is nn.Linear
    assert resolve("torch.nn:Linear", trust=["torch.nn:Linear"]) is nn.Linear
    for trust in (["torch.nn.functional"], ["torc"], ["torch.nn:Conv1d"], [""]):
        with pytest.raises(ConfigError, match="code of your own alone"):
            resolve("torch.nn:Linear", trust=trust)


def test_a_module_that_is_not_there_is_no_stranger() -> None:
    check_module("no_such_module:x")


# The command line


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = shutil.copytree(RUN, tmp_path / "run")
    held = records.read(folder / "config.json")
    held["model"] = {"name": "subprocess:Popen", "options": {"args": f"touch {tmp_path / 'pwned'}", "shell": True}}
    (folder / "config.json").write_text(json.dumps(held))
    return folder


@pytest.mark.parametrize("command", ["evaluate", "extract", "train"])
def test_a_run_folder_of_a_stranger_runs_nothing(run: Path, tmp_path: Path, capsys, command: str) -> None:
    words = {"evaluate": [str(run)], "extract": [str(run), "depth=1"], "train": [str(run / "config.json")]}[command]
    if command == "extract":
        setting = next(iter(sn.Space.from_json(json.loads((run / "model" / "sortednet.json").read_text())["space"])))
        words = [str(run), str(setting)]
    assert main([command, *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "'subprocess:Popen' names 'subprocess', a module of the standard library" in said
    assert "--trust subprocess" in said
    assert not (tmp_path / "pwned").exists()


def test_a_package_of_the_users_choice_is_trusted_on_the_command_line(tmp_path: Path, capsys) -> None:
    (tmp_path / "c.yaml").write_text(
        "space: {depth: [1, 2]}\nmodel: {name: 'torch.nn:Identity'}\ndata: {name: digits}\n"
        f"training: {{updates: 1}}\noutput: {tmp_path / 'run'}\n"
    )
    assert main(["train", str(tmp_path / "c.yaml")]) == 2
    assert "an installed package" in " ".join(capsys.readouterr().err.split())
    main(["train", str(tmp_path / "c.yaml"), "--trust", "timm,torch"])
    assert "an installed package" not in " ".join(capsys.readouterr().err.split())


def test_a_pretrained_path_imports_no_package() -> None:
    from sortednet.jobs.fine_tuning_config import PretrainedConfig

    for path in ("python:antigravity/x", "python:this/x", "python:encodings/../../..", "python:no_such/x"):
        with pytest.raises(ConfigError, match=r"pretrained\.path"):
            PretrainedConfig(path).resolve()
    assert "antigravity" not in sys.modules
    assert Path(PretrainedConfig("python:torch/nn").resolve()).name == "nn"
    assert Path(PretrainedConfig("python:torch.nn/modules").resolve()).name == "modules"


# Checkpoints


def described_as(folder: Path, **changes: object) -> None:
    """Write the description of a saved network anew, with digests as whoever wants to mislead would write them."""
    from safetensors.torch import load_file, save_file

    held = {**records.read(folder / "sortednet.json"), **changes}
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"sortednet": json.dumps(held)})
    for name in (".sortednet-files.json", "sortednet.json"):
        (folder / name).unlink()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    sn.SortedNet(partial(MLP, inputs=3, classes=2), sn.Space(depth=[1, 2], width=[2, 4])).save_pretrained(tmp_path)
    return tmp_path


def product(**values: list) -> dict:
    return json.loads(json.dumps(sn.Space(**values).to_json()))


@pytest.mark.parametrize(
    "values",
    [{"depth": [1, 10**9], "width": [2, 4]}, {"depth": [1, 2], "width": [2, 10**7]},
     {"depth": [1, 2], "width": [2, 10**18]}],
    ids=["deep", "wide", "beyond measure"],
)  # fmt: skip
@pytest.mark.parametrize("at", [None, "depth=1,width=2"])
def test_a_space_far_larger_than_what_is_stored_is_never_built(saved: Path, values: dict, at: str | None) -> None:
    described_as(saved, space=product(**values))
    with pytest.raises((CheckpointError, sn.errors.BuildError), match=r"does not fit the builder|failed with"):
        sn.load(saved, partial(MLP, inputs=3, classes=2), at=at)


@pytest.mark.parametrize(
    "changes",
    [
        {"layouts": "abc"}, {"layouts": [{}]}, {"layouts": [{"pattern": 5, "axis": 0, "blocks": 1}]},
        {"layouts": [{"pattern": "*", "axis": "0", "blocks": 1}]},
        {"layouts": [{"pattern": "*", "axis": 0, "blocks": 0}]},
        {"layouts": [{"pattern": "*", "axis": -1, "blocks": 3}]}, {"private_file": ["x"]}, {"private_file": "../x"},
        {"private_file": "/etc/passwd"}, {"private": 5}, {"private": [5]}, {"buffers": 3}, {"buffers": "x"},
        {"space": []}, {"space": {}}, {"space": "x"}, {"space": {"supports": {}}}, {"format": "1"}, {"format": None},
        {"format": 10**400}, {"space": {"supports": {"depth": {"values": [1, 10**400]}}}},
        {"space": {"supports": {"depth": {"values": ["a"]}}}}, {"space": {"settings": [{"depth": "a"}]}},
        {"adapter": 5}, {"adapter": {}}, {"class": "pipeline", "sizes": {}, "readout": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_description_of_other_kinds_is_one_error_with_the_file(saved: Path, changes: dict) -> None:
    described_as(saved, **changes)
    build = None if "class" in changes else partial(MLP, inputs=3, classes=2)
    with pytest.raises(CheckpointError, match=str(saved)):
        sn.load(saved, build)


def test_names_of_columns_run_nothing_in_the_page(tmp_path: Path, capsys) -> None:
    from sortednet.symbolic import Formula
    from sortednet.symbolic.commands.record import mathml_of
    from sortednet.symbolic.expressions import parse

    formula = Formula.of(parse("2*x1 + 1"), ("<img src=x onerror=alert(1)>",), 0.0)
    assert "<img" not in mathml_of(formula)
    assert "&lt;img" in mathml_of(formula)


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "z=__import__('os').system('x')", "a b", "1a", "def", ""]
)
def test_a_formula_with_names_that_are_none_is_refused(tmp_path: Path, capsys, name: str) -> None:
    fixture = next((Path(__file__).parent.parent / "fixtures" / "0.1" / "formula").rglob("fit.json"))
    held = records.read(fixture)
    held["names"] = [name, *held["names"][1:]]
    (tmp_path / "fit.json").write_text(json.dumps(held))
    assert main(["symbolic", "report", str(tmp_path)]) == 2
    assert "is no name of a variable" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "report.html").exists()


def test_a_model_that_comes_with_code_is_refused_without_a_question(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}})
    )
    (tmp_path / "code.py").write_text("raise SystemExit('ran')")
    torch.save({}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    with pytest.raises(CheckpointError, match="which is never run"):
        sn.SortedNet.from_pretrained(tmp_path, num_hidden_layers=[1, 2])


# What a reviewer has broken


SPEC = {"class_path": "os.system", "init_args": {"command": "touch PWNED"}}


@pytest.mark.parametrize("place", ["model.options", "data.options", "recipe_options", "space", "training", "sampler"])
@pytest.mark.parametrize("form", [SPEC, {"x": SPEC}, {"x": [SPEC]}, {"x": {"y": SPEC}}, {"x": json.dumps(SPEC)}])
def test_a_configuration_makes_no_object_of_what_it_names(tmp_path: Path, monkeypatch, capsys, place, form) -> None:
    monkeypatch.chdir(tmp_path)
    held: dict = {"space": {"depth": [1, 2]}, "model": {"name": "mlp"}, "data": {"name": "digits"}}
    section, _, key = place.partition(".")
    held[section] = form if not key else {**held[section], key: form}
    (tmp_path / "c.json").write_text(json.dumps(held))
    assert main(["train", "c.json"]) == 2
    assert not (tmp_path / "PWNED").exists()
    assert main(["train", str(RUN / "config.json"), f"model.options.x={json.dumps(SPEC)}"]) == 2
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("link", ["stages/1", "stages", "checkpoints", "model"])
def test_links_in_a_run_lead_to_nobody_elses(tmp_path: Path, capsys, link: str) -> None:
    victim = shutil.copytree(RUN, tmp_path / "victim")
    before = {one: one.read_bytes() for one in victim.rglob("*") if one.is_file()}
    strange = tmp_path / "strange"
    (strange / link).parent.mkdir(parents=True)
    (strange / link).symlink_to(victim)
    shutil.copy(victim / "config.json", strange.parent / "c.json")
    assert main(["train", str(tmp_path / "c.json"), "--resume", "false", "--output", str(strange)]) == 2
    assert "is a link, and links are not followed" in " ".join(capsys.readouterr().err.split())
    assert {one: one.read_bytes() for one in victim.rglob("*") if one.is_file()} == before


def test_a_linked_checkpoint_of_fine_tuning_is_not_removed(tmp_path: Path) -> None:
    from sortednet.huggingface.resuming import remove_checkpoint

    victim = shutil.copytree(RUN.parent / "text", tmp_path / "victim")
    checkpoint = next((victim / "checkpoints").glob("checkpoint-*"))
    names = sorted(one.name for one in checkpoint.iterdir())
    (tmp_path / "checkpoint-1").symlink_to(checkpoint)
    with pytest.raises(CheckpointError, match="is a link"):
        remove_checkpoint(tmp_path / "checkpoint-1")
    assert sorted(one.name for one in checkpoint.iterdir()) == names


def test_an_extraction_does_not_follow_a_link(tmp_path: Path, capsys) -> None:
    run = shutil.copytree(RUN, tmp_path / "run")
    shutil.rmtree(run / "extracted", ignore_errors=True)
    (tmp_path / "mine").mkdir()
    (run / "extracted").symlink_to(tmp_path / "mine")
    setting = next(iter(sn.Space.from_json(json.loads((run / "model" / "sortednet.json").read_text())["space"])))
    assert main(["extract", str(run), str(setting)]) == 2
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("field", ["num_labels", "num_hidden_layers", "num_attention_heads"])
def test_a_config_of_absurd_counts_is_refused(tmp_path: Path, field: str) -> None:
    folder = shutil.copytree(RUN.parent / "text" / "model", tmp_path / "model")
    held = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**held, field: 10**9}))
    with pytest.raises(CheckpointError, match=rf"{field} is 1000000000, more than any model has"):
        sn.load(folder)


def test_buffers_far_larger_than_what_is_stored_are_never_made(tmp_path: Path) -> None:
    class Wide(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("mask", torch.ones(10**5, 10**5, 10**3).tril(), persistent=False)

    sn.SortedNet(lambda width: nn.ModuleDict({"layer": nn.Linear(2, 2)}), sn.Space(width=[1])).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not fit the builder"):
        sn.load(tmp_path, Wide)


def test_settings_without_tensors_of_their_own_are_refused(saved: Path) -> None:
    described_as(saved, space=product(depth=list(range(1, 1001)), width=list(range(1, 1001))), private=["*"])
    with pytest.raises(CheckpointError, match=r"does not fit the builder|holds those of fewer"):
        sn.load(saved, lambda depth, width: nn.Sequential(nn.Linear(4, 4)))


@pytest.mark.parametrize("pattern", ["(.*.*.*)*!", "(a+)+$", ".*.*.*.*.*x", "((ab*)+c)*d", "x" * 5000])
def test_patterns_that_may_take_for_ever_are_refused(tmp_path: Path, pattern: str) -> None:
    from sortednet.lora.saving import read_config

    source = next((RUN.parent.parent / "adapters").rglob("adapter_config.json"))
    held = json.loads(source.read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**held, "target_modules": pattern}))
    with pytest.raises(CheckpointError, match="may take for ever"):
        read_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**held, "target_modules": r".*\.(q|v)_proj\d+"}))
    assert read_config(tmp_path).target_modules == r".*\.(q|v)_proj\d+"


@pytest.mark.parametrize("text", ["acc\x1b]0;OWNED\x07", "\x1b[2J", "a\x9b31m"])
def test_control_characters_do_not_reach_the_terminal(tmp_path: Path, text: str, capsys) -> None:
    table = sn.Table([Row(sn.Setting({"depth": 1}), quality=0.5, params=1)], metric=text)
    table.to_json(tmp_path / "table.json")
    with pytest.raises(CheckpointError, match="characters that are not shown"):
        sn.Table.from_json(tmp_path / "table.json")
    (tmp_path / "c.json").write_text(json.dumps({"space": {"depth": [1]}, "model": {"name": "mlp"}, "output": text}))
    assert main(["train", str(tmp_path / "c.json")]) == 2
    assert "\x1b" not in capsys.readouterr().err
