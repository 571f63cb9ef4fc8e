"""Files of earlier versions: each of every kind opens, and holds what it held.

`tools/fixtures.py` wrote the folders below `tests/fixtures`, one for each version, and the expectations in them.
"""

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("jsonargparse")
pytest.importorskip("peft")
pytest.importorskip("sklearn")
pytest.importorskip("sympy")
pytest.importorskip("transformers")

import transformers
from peft import PeftModel
from safetensors.torch import load_file

import sortednet as sn
from sortednet.cli import main
from sortednet.experiments import Conditions
from sortednet.experiments.formulas import formulas as symbolic
from sortednet.jobs import formulas as symbolic_commands
from sortednet.jobs import images as image_job
from sortednet.jobs.configurations import read_config, read_symbolic_config
from sortednet.symbolic import load_model
from sortednet.symbolic.commands import training as symbolic_job
from sortednet.symbolic.commands.record import FormulaRecord
from sortednet.training.config import ObjectiveConfig, SamplerConfig
from sortednet.training.names import make_objective
from sortednet.training.recipes import recipe_of

FOLDER = Path(__file__).parent / "fixtures"
VERSIONS = sorted(one.name for one in FOLDER.iterdir())
HERE = "<here>"  # stands for the folder of the version
KINDS = {
    "adapters", "draws", "experiments", "formula", "models", "networks", "pretrained", "runs", "similarity", "tables",
    "texts",
}  # fmt: skip
# PEFT 0.21 asks a model by a name that transformers gives up.
OF_PLAIN_PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def of_each(pattern: str, beside: str | None = None) -> pytest.MarkDecorator:
    """Return the parameter `place`: the folders of every version that match, if a file or folder lies in them."""
    places = [one for one in FOLDER.glob(f"*/{pattern}") if beside is None or (one / beside).exists()]
    return pytest.mark.parametrize("place", sorted(str(one.relative_to(FOLDER)) for one in places))


@pytest.fixture
def here(place: str, tmp_path: Path) -> Path:
    """Return a copy of a folder of a version, as if it had been written there, with the models and texts it names."""
    version, *inside = Path(place).parts
    copy = tmp_path / version
    named = ("models", "texts") if inside[0] in ("adapters", "runs") else ()
    for one in (Path(*inside), *named):
        shutil.copytree(FOLDER / version / one, copy / one)
    for file in copy.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        if HERE in text:
            file.write_text(text.replace(HERE, str(copy)), encoding="utf-8")
    return copy.joinpath(*inside)


def expected(folder: Path) -> Any:
    return json.loads((folder / "expected.json").read_text())


def tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the inputs by name, and what is to be given by the text of the setting."""
    held = {tuple(name.split("|")): one for name, one in load_file(folder / "expected.safetensors").items()}
    inputs = {name: one for (kind, name), one in held.items() if kind == "input"}
    return inputs, {name: one for (kind, name), one in held.items() if kind == "output"}


def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(**inputs).logits
    return found


def text_of(place: str | Path) -> str:
    return Path(place).read_text(encoding="utf-8")


def test_every_kind_of_every_version_is_tested() -> None:
    assert VERSIONS
    for version in VERSIONS:
        assert {one.name for one in (FOLDER / version).iterdir() if one.is_dir()} <= KINDS


def test_fixtures_name_no_folder_of_a_machine() -> None:
    for file in FOLDER.rglob("*"):
        if file.suffix in (".csv", ".json", ".jsonl", ".md", ".yaml"):
            assert not [one for one in ("/tmp", "/home", "/root", "/Users", "/work") if one in text_of(file)], file


def test_fixtures_of_a_version_are_written_once(tmp_path: Path) -> None:
    script = FOLDER.parent.parent / "tools" / "fixtures.py"
    spec = importlib.util.spec_from_file_location("fixtures", script)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit, match="exists: fixtures are written once and never again"):
        module.make(tmp_path)


# Networks of builders


def builder_of(folder: Path) -> Callable[..., nn.Module]:
    held = expected(folder)
    build = partial(sn.models.resolve(held["builder"], trust=["torch.nn"]), **held["options"])
    if held["recipe"] is None:
        return build
    return recipe_of(held["recipe"], sn.Space.from_json(held["space"]), {}).wrap(build)


def fitting(inputs: dict[str, Tensor], setting: sn.Setting) -> Tensor:
    """Return the inputs, cut to a sub-model that takes fewer features."""
    return inputs["x"][..., : setting.get("num_features", inputs["x"].shape[-1])]


@of_each("networks/*")
def test_every_sub_model_of_a_network_gives_what_it_gave(here: Path) -> None:
    net = sn.load(here, builder_of(here)).eval()
    inputs, outputs = tensors(here)
    assert set(outputs) == {str(one) for one in net.space}
    for setting in net.space:
        torch.testing.assert_close(net.submodel(setting)(fitting(inputs, setting)), outputs[str(setting)], **CLOSE)


@of_each("networks/*")
def test_every_corner_of_a_network_gives_what_it_gave(here: Path) -> None:
    inputs, outputs = tensors(here)
    for text, output in outputs.items():
        model = sn.load(here, builder_of(here), at=text).eval()
        torch.testing.assert_close(model(fitting(inputs, sn.Setting.parse(text))), output, **CLOSE)


@of_each("networks/*")
def test_plain_torch_opens_the_full_model_of_a_network(here: Path) -> None:
    full = sn.Space.from_json(expected(here)["space"]).full
    model = builder_of(here)(**full)
    model.load_state_dict(load_file(here / "model.safetensors"))
    inputs, outputs = tensors(here)
    torch.testing.assert_close(model.eval()(inputs["x"]), outputs[str(full)], **CLOSE)


# Pretrained models and adapters


@of_each("pretrained/*")
def test_every_sub_model_of_a_pretrained_network_gives_what_it_gave(here: Path) -> None:
    net = sn.load(here).eval()
    inputs, outputs = tensors(here)
    assert set(outputs) == {str(one) for one in net.space}
    for text, output in outputs.items():
        torch.testing.assert_close(logits(net.submodel(text), inputs), output, **CLOSE)


@of_each("pretrained/*")
def test_every_corner_of_a_pretrained_network_gives_what_it_gave(here: Path) -> None:
    inputs, outputs = tensors(here)
    for text, output in outputs.items():
        torch.testing.assert_close(logits(sn.load(here, at=text), inputs), output, **CLOSE)


@of_each("pretrained/*")
def test_plain_transformers_opens_a_pretrained_network(here: Path) -> None:
    held = expected(here)
    model = getattr(transformers, held["class"]).from_pretrained(here)
    net = sn.load(here)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, net.full.state_dict()[name], rtol=0, atol=0)
    inputs, outputs = tensors(here)
    if held["plain"]:
        torch.testing.assert_close(logits(model, inputs), outputs[str(net.space.full)], **CLOSE)


def base_of(folder: Path) -> nn.Module:
    """Open the model of an adapter by transformers."""
    place = Path(json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"])
    name = json.loads((place / "config.json").read_text())["architectures"][0]
    model: nn.Module = getattr(transformers, name).from_pretrained(place)
    return model


@of_each("adapters/*", "sortednet.json")
def test_every_rank_of_an_adapter_gives_what_it_gave(here: Path) -> None:
    net = sn.load(here).eval()
    inputs, outputs = tensors(here)
    assert set(outputs) == {str(one) for one in net.space}
    for text, output in outputs.items():
        torch.testing.assert_close(logits(net.submodel(text), inputs), output, **CLOSE)


@of_each("adapters/*", "sortednet.json")
def test_an_adapter_opens_at_one_rank_on_a_model_that_is_given(here: Path) -> None:
    inputs, outputs = tensors(here)
    text = next(iter(outputs))
    torch.testing.assert_close(logits(sn.load(here, at=text, model=base_of(here)), inputs), outputs[text], **CLOSE)


@OF_PLAIN_PEFT
@of_each("adapters/*")
def test_plain_peft_opens_an_adapter(here: Path) -> None:
    inputs, outputs = tensors(here)
    largest = max(outputs, key=lambda text: sum(sn.Setting.parse(text).values()))
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(base_of(here), here), inputs), outputs[largest], **CLOSE
    )


@of_each("adapters/*", "expected.json")
def test_an_adapter_of_one_rank_is_a_start_for_all(here: Path) -> None:
    if expected(here)["all_ranks"]:
        return
    inputs, outputs = tensors(here)
    net = sn.load_adapter(base_of(here), here)
    torch.testing.assert_close(logits(net.submodel(), inputs), *outputs.values(), **CLOSE)


# Runs


def times(folder: Path) -> dict[Path, int]:
    """Return when the files of checkpoints were written."""
    return {one: one.stat().st_mtime_ns for one in folder.glob("checkpoints/**/*") if one.is_file()}


@of_each("runs/*")
def test_training_goes_on_as_if_it_had_not_been_interrupted(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MEASURED", "_VALIDATED"):  # takes most of the time, and changes nothing that is trained
        monkeypatch.setattr(symbolic_job, name, 256, raising=False)
    before = times(here)
    command = ["symbolic"] if here.name == "symbolic" else []
    assert main([*command, "train", str(here / "config.json"), "--output", str(here)]) == 0
    after = times(here)
    assert before.items() < after.items()  # not begun anew, and gone further
    found = [json.loads(line) for line in text_of(here / "metrics.jsonl").splitlines()]
    for one, wanted in zip(found, expected(here)["metrics"], strict=True):
        assert (one["update"], set(one["terms"])) == (wanted["update"], set(wanted["terms"]))
        assert one["terms"] == pytest.approx(wanted["terms"], rel=1e-3)
        assert [one["loss"], one["learning_rate"]] == pytest.approx([wanted["loss"], wanted["learning_rate"]], rel=1e-3)


@of_each("runs/*", "table.json")
def test_a_run_is_measured_as_it_was(here: Path) -> None:
    before = {one.name: sn.evaluation.Similarity.from_json(one) for one in here.glob("similarity-*.json")}
    assert main(["evaluate", str(here), "--measure", "[]"]) == 0
    found, wanted = sn.Table.from_json(here / "table.json"), expected(here)["table"]
    assert (found.metric, found.higher_is_better) == (wanted["metric"], wanted["higher_is_better"])
    assert [(str(one.setting), one.params) for one in found] == [
        (one["setting"], one["params"]) for one in wanted["rows"]
    ]
    # One of the 180 images may fall on the other side of a tie.
    assert [one.quality for one in found] == pytest.approx(
        [one["quality"] for one in wanted["rows"]], rel=1e-4, abs=0.6
    )
    for name, one in before.items():
        again = sn.evaluation.Similarity.from_json(here / name)
        assert [again.mean(at) for at in one.settings] == pytest.approx([one.mean(at) for at in one.settings], abs=1e-5)


@of_each("runs/*", "table.json")
def test_the_table_of_a_run_is_read_and_chosen_from(here: Path) -> None:
    held = expected(here)
    assert described(sn.Table.from_json(here / "table.json"), held["table"]) == held["table"]
    assert main(["select", str(here), held["budget"], "--name", "again"]) == 0
    chosen = json.loads((here / "chosen.json").read_text())["chosen"]
    assert chosen == {"small": held["chosen"], "again": held["chosen"]}


@of_each("runs/*", "chosen.json")
def test_what_was_chosen_is_cut_out_as_it_was(here: Path, tmp_path: Path) -> None:
    assert main(["extract", str(here), "small", "--output", str(tmp_path / "again")]) == 0
    files = list((here / "extracted" / expected(here)["chosen"]).glob("*.safetensors"))
    assert files
    for file in files:
        before, after = load_file(file), load_file(tmp_path / "again" / file.name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


@OF_PLAIN_PEFT
@of_each("runs/*", "extracted")
def test_what_was_cut_out_opens_without_this_library(here: Path) -> None:
    for folder in (here / "extracted").iterdir():
        setting = json.loads((folder / "setting.json").read_text())
        assert str(sn.Setting(setting)) == folder.name
        if (folder / "adapter_config.json").is_file():
            model = PeftModel.from_pretrained(base_of(folder), folder)
            whole = sn.load(here / "model", at=setting, model=base_of(folder))
        elif (folder / "config.json").is_file():
            name = json.loads((folder / "config.json").read_text())["architectures"][0]
            model = getattr(transformers, name).from_pretrained(folder)
            whole = sn.load(folder, at=setting)
        else:
            config = read_config(here / "config.json")
            build = image_job.make_builder(config, image_job.load_data(config))
            model, whole = build(**setting), sn.load(here / "model", build, at=setting)
            model.load_state_dict(load_file(folder / "model.safetensors"))
        wanted = whole.state_dict()
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=0)


@of_each("runs/text")  # it has all that a page can show
def test_a_run_is_reported(here: Path) -> None:
    assert main(["report", str(here)]) == 0
    page = text_of(here / "report.html")
    assert "small" in page
    assert page.count("against the full model") == len(list(here.glob("similarity-*.json")))
    assert all(row["setting"].partition("=")[0] in page for row in expected(here)["table"]["rows"])
    assert "Training" in page


@of_each("runs/*")
def test_a_run_keeps_what_its_configuration_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here.parent.parent)
    if here.name == "symbolic":
        given, kept = (read_symbolic_config(here / f"config.{end}") for end in ("yaml", "json"))
        assert given == kept
        return
    assert read_config(here / "config.yaml").absolute() == read_config(here / "config.json")


# Formulas


@of_each("runs/symbolic")
def test_a_model_of_formulas_gives_what_it_gave(here: Path) -> None:
    inputs, outputs = tensors(here)
    config = read_symbolic_config(here / "config.json")
    for name, output in outputs.items():
        held = load_model(here / f"{name}.safetensors")
        torch.testing.assert_close(held.model(**inputs), output, **CLOSE)
        assert held.generator == config.generator
        assert held.about["updates"] == config.training.updates
    net = symbolic_job.open_network(here, config)
    torch.testing.assert_close(net.submodel()(**inputs), outputs["symbolic"], rtol=0, atol=0.05)  # not yet in float16


@of_each("formula")
def test_a_formula_is_read(here: Path) -> None:
    record, held = FormulaRecord.from_json(here / "fit.json"), expected(here)
    assert str(record.best) == held["text"]
    assert record.best(record.x).tolist() == pytest.approx(held["values"], abs=1e-9)
    assert record.r2 == held["r2"]
    assert [[str(one), one.complexity, one.error] for one in record.candidates] == held["candidates"]
    assert [list(record.columns), [record.x.tolist(), record.y.tolist(), record.total]] == [
        held["columns"],
        held["points"],
    ]
    assert {**vars(record.facts), "warnings": list(record.facts.warnings)} == held["facts"]


@of_each("formula")
def test_a_formula_is_reported(here: Path) -> None:
    assert main(["symbolic", "report", str(here)]) == 0
    page = text_of(here / symbolic_commands.PAGE)
    assert expected(here)["text"] in page


# What is drawn, measured and compared


def drawings(place: str) -> Iterator[tuple[sn.Objective, dict[str, Any]]]:
    held = expected(FOLDER / place)
    space = sn.Space.from_json(held["space"])
    for one in held["drawn"]:
        if one["objective"] == "held":
            yield sn.Stochastic(sn.training.Held(sn.Stratified(space, seed=0), 4), draws=2), one
        else:
            sampler = SamplerConfig(**one["sampler"])
            yield make_objective(ObjectiveConfig(one["objective"], draws=4), sampler, space, seed=0), one


@of_each("draws")
def test_an_objective_draws_on_from_where_it_stood(place: str) -> None:
    for objective, held in drawings(place):
        objective.load_state_dict(held["state"])
        found = [[str(one) for one in objective.choose(5)[0]] for _ in held["next"]]
        assert found == held["next"], held["sampler"]


def described(table: sn.Table, held: dict[str, Any]) -> dict[str, Any]:
    """Return what a version wrote of a table: the columns that it had."""
    rows = [{**{name: getattr(row, name) for name in held["rows"][0]}, "setting": str(row.setting)} for row in table]
    return {"metric": table.metric, "higher_is_better": table.higher_is_better, "rows": rows}


@of_each("tables")
def test_tables_are_read(here: Path) -> None:
    for name, held in expected(here)["tables"].items():
        table = sn.Table.from_json(here / f"{name}.json")
        assert repr(described(table, held)) == repr(held)  # NaN equals itself only so
        best = max if table.higher_is_better else min
        rows = [row for row in table if row.quality == row.quality]
        assert table.select(max_params=10**9) == best(rows, key=lambda row: row.quality).setting


@of_each("tables")
def test_a_curve_of_ranks_is_read(here: Path) -> None:
    curve, held = sn.lora.RankCurve(sn.Table.from_json(here / "ranks.json")), expected(here)["curve"]
    found = {"base": curve.base, "best": curve.best, "area": curve.area(), "within": curve.smallest_within(2)}
    assert found == pytest.approx(held)


@of_each("similarity")
def test_a_similarity_is_read(here: Path) -> None:
    found, held = sn.evaluation.Similarity.from_json(here / "similarity.json"), expected(here)
    mean = held.pop("mean")
    assert json.dumps(vars(found)) == json.dumps(held)
    assert found.mean("depth=2") == pytest.approx(mean)


# Experiments


@of_each("experiments")
def test_an_experiment_that_is_done_is_summarised_without_doing_it_again(here: Path) -> None:
    job = here / "run" / "cpu-0" / "jobs" / "order-dependency.json"
    before = job.stat().st_mtime_ns
    assert main(["reproduce", "order-dependency", "--output", str(here / "run")]) == 0
    assert job.stat().st_mtime_ns == before
    held, found = expected(here), json.loads((here / "run" / "cpu-0" / "order-dependency.json").read_text())
    assert {name: found[name] for name in ("table", "figures")} == {name: held[name] for name in ("table", "figures")}


@of_each("experiments")
def test_problems_of_an_experiment_that_are_done_are_kept(here: Path) -> None:
    job = symbolic.jobs(Conditions(data=str(here / "lists")), symbolic.Sizes(1, 1, seeds=1), methods=("mlp",))
    file = here / "symbolic" / "rows.json"
    held = json.loads(file.read_text())
    assert json.dumps(held["rows"]) == json.dumps(expected(here)["rows"])
    held["rows"][0]["name"] = "from before"
    file.write_text(json.dumps(held))
    found = job["symbolic-nguyen-mlp"].run(here / "symbolic", {})["rows"]
    assert json.dumps(found) == json.dumps(held["rows"])
