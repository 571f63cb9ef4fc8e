import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sympy")

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sortednet.cli import main
from sortednet.jobs import formulas as symbolic_commands
from sortednet.symbolic import Familiarity, Pretrained, load_model, save_model
from sortednet.symbolic.commands import training as symbolic_job

from ..symbolic.cases import SIMPLE, fresh
from ..test_cli import error_of

CONFIGS = Path(__file__).parent.parent.parent / "configs"
FEW = ["--candidates", "4"]

TRAINING = """
output: {output}
generator: {{variables: [1], levels: [0, 1, 2], operators: [id, add, mul, sin], points: [[20, 20]], longest: 24}}
model: {{variables: 1, width: 8, layers: 2, heads: 1}}
problems: {{draws: 300, points: [20, 20]}}
depths: [1, 2]
training: {{updates: 3, batch_size: 4, checkpoint_every: 2}}
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the file of a model that was never trained, and writes nothing but nonsense."""
    file = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(file, Pretrained(fresh().eval(), SIMPLE, Familiarity({}, fewest=20), {}))
    return str(file)


def csv_of(folder: Path, columns: dict[str, object]) -> str:
    lines = [",".join(columns)] + [
        ",".join(f"{one:.12g}" for one in row) for row in zip(*columns.values(), strict=True)
    ]
    (folder / "points.csv").write_text("\n".join(lines))
    return str(folder / "points.csv")


@pytest.fixture
def points(tmp_path: Path) -> str:
    x = np.linspace(-2, 2, 30)
    return csv_of(tmp_path, {"speed (m/s)": x, "y": 3 * x - 1})


@pytest.fixture
def fit(points: str, model: str, tmp_path: Path, capsys) -> Callable[..., tuple[dict, str, str]]:
    """Return a function that fits, and returns fit.json, what was printed, and the notes."""

    def run(*words: str, file: str = points) -> tuple[dict, str, str]:
        capsys.readouterr()
        output = ["--output", str(tmp_path / "out"), "--model", model]
        assert main(["symbolic", "fit", file, *output, *FEW, *words]) == 0
        printed = capsys.readouterr()
        held = json.loads((tmp_path / "out" / "fit.json").read_text(encoding="utf-8"))
        return held, printed.out, " ".join(printed.err.split())

    return run


def fit_error(capsys, model: str, *words: str) -> str:
    return error_of(capsys, "symbolic", "fit", *FEW, "--model", model, *words)


def noisy(folder: Path) -> str:
    """Return a file whose points no simple law goes through, so that the model is asked."""
    x = np.linspace(-2, 2, 45)
    return csv_of(folder, {"x": x, "y": 3 * x - 1 + 0.1 * np.random.default_rng(0).normal(size=45)})


def test_a_formula_is_found_printed_and_written(fit, tmp_path: Path) -> None:
    held, printed, notes = fit("--candidates", "6", "--beams", "2", "--seed", "3", file=noisy(tmp_path))
    formula = held["formula"]
    assert f"y = {formula['text']}" in printed
    assert "R2 " in printed
    assert formula["text"] in {one["text"] for one in held["candidates"]}
    assert all(str(one["complexity"]) in printed for one in held["candidates"])
    assert "fit.json. See it as a page: sortednet symbolic report" in notes
    assert held["facts"]["written"] == 8
    assert held["facts"]["seed"] == 3
    assert held["facts"]["invalid_share"] == held["facts"]["invalid"] / 8


def test_fit_json_says_all_that_is_known(fit, points: str, model: str) -> None:
    held, _, _ = fit()
    assert (held["format"], held["source"], held["target"]) == (1, "points.csv", "y")
    assert (held["columns"], held["names"]) == (["speed (m/s)"], ["speed_m_s"])
    assert set(held["formula"]) == {"text", "plain", "latex", "mathml", "complexity", "error"}
    assert held["formula"]["mathml"].startswith("<math")
    assert held["points"]["total"] == len(held["points"]["x"]) == len(held["points"]["y"]) == 30
    facts = held["facts"]
    assert facts["familiar"] is True
    assert facts["finished"] is True
    assert facts["seconds"] > 0
    assert facts["model"] == model


def test_the_same_seed_gives_the_same_formula(fit) -> None:
    first, again = (fit("--seed", "1")[0] for _ in range(2))
    assert first["candidates"] == again["candidates"]
    assert first["facts"]["seed"] == 1


def test_at_most_two_thousand_points_are_kept(fit, tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 2100)
    held, printed, _ = fit(file=csv_of(tmp_path, {"x": x, "y": 2 * x}))
    assert (held["points"]["total"], len(held["points"]["y"])) == (2100, 2000)
    assert "2,100 points, 2,000 of them kept" in printed


def test_a_constant_target_gives_a_constant_and_says_so(fit, tmp_path: Path) -> None:
    held, printed, notes = fit(file=csv_of(tmp_path, {"x": np.arange(5.0), "y": np.full(5, 2.5)}))
    assert "y = 2.5" in printed
    assert "warning: Column y is constant: so is the formula, and the model wrote nothing." in notes
    assert held["r2"] == 1


def test_too_many_columns_warn_with_their_names(fit, tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (24, 60))
    held, _, notes = fit(
        file=csv_of(tmp_path, {**dict(zip("abcdefghijklmnopqrstuvwx", values, strict=True)), "y": values[1] * 2})
    )
    assert "There are 24 columns beside y, more than formulas are looked for among. Only " in notes
    assert "Choose others by --columns" in notes
    assert "X has" not in notes
    assert len(held["columns"]) <= 20
    assert "b" in held["columns"]
    assert held["formula"]["text"] == "2*b"


def test_unfamiliar_data_and_poor_formulas_warn_in_a_line_each(fit, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(2, 9))
    _, _, notes = fit(file=csv_of(tmp_path, {"x": noise[0], "y": noise[1]}))
    assert "warning: The data are unlike those that the model learned from: there are 9 distinct points" in notes
    assert "of the variance of y unexplained. Try more --candidates or another --seed" in notes
    assert "UserWarning" not in notes


def test_a_time_limit_that_ends_the_search_is_told(fit, tmp_path: Path) -> None:
    held, _, notes = fit("--time_limit_s", "1e-6", file=noisy(tmp_path))
    assert "Time was up after 1e-06 s, before all was tried. Give a larger --time_limit_s" in notes
    assert held["facts"]["finished"] is False


def test_columns_are_chosen_by_name(fit, tmp_path: Path) -> None:
    x = np.linspace(0, 1, 25)
    held, _, _ = fit("--target", "b", "--columns", "c", file=csv_of(tmp_path, {"a": x, "b": x + 1, "c": -x}))
    assert (held["columns"], held["target"]) == (["c"], "b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "z"], "has no column 'z'. Choose from speed (m/s), y."),
        (["--columns", "z"], "has no column 'z'"),
        (["--candidates", "0"], "candidates=0 must be a whole number of at least 1"),
        (["--candidates", "many"], "candidates: Expected int"),
        (["--beams", "-1"], "beams=-1 must be a whole number of at least 0"),
        (["--parsimony", "-1"], "parsimony=-1.0 must be at least 0"),
        (["--time_limit_s", "0"], "time_limit_s=0.0 must be above 0"),
        (["--seed", "-1"], "seed=-1 must be from 0 to 4294967295"),
        (["--output", ""], "output is empty. Give a folder"),
        (["--model", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_an_argument_that_cannot_be_used_is_one_clear_error(points: str, model: str, capsys, words, message) -> None:
    assert message in fit_error(capsys, model, points, *words)


def test_a_file_that_is_no_table_is_one_clear_error(tmp_path: Path, model: str, capsys) -> None:
    assert "nowhere.csv cannot be read (No such file" in fit_error(capsys, model, str(tmp_path / "nowhere.csv"))
    (tmp_path / "text.csv").write_text("x,y\n1,2\nred,3\n")
    message = fit_error(capsys, model, str(tmp_path / "text.csv"))
    assert "Column 'x'" in message
    assert "'red' at line 3" in message


def test_a_damaged_model_and_one_of_another_version_are_named(points: str, model: str, tmp_path: Path, capsys) -> None:
    data = Path(model).read_bytes()
    damaged, other = tmp_path / "damaged.safetensors", tmp_path / "other.safetensors"
    damaged.write_bytes(data[: len(data) // 2])
    assert "damaged.safetensors" in fit_error(capsys, model, points, "--model", str(damaged))
    with safe_open(model, framework="pt") as opened:
        text = opened.metadata()["sortednet.symbolic"].replace('"format": 1', '"format": 7')
    save_file(load_file(model), other, {"sortednet.symbolic": text})
    message = fit_error(capsys, model, points, "--model", str(other))
    assert "is of format 7, and this version of sortednet reads 1. Make it again with sortednet symbolic" in message


def test_a_folder_that_cannot_be_written_is_named(points: str, model: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert "could not be written" in fit_error(capsys, model, points, "--output", str(tmp_path / "file" / "out"))


def test_what_is_missing_is_told_with_how_to_install_it(points: str, model: str, monkeypatch, capsys) -> None:
    for name in [
        one for one in sys.modules if one.startswith(("sortednet.symbolic.commands.record", "sortednet.symbolic."))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "sortednet.symbolic")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    message = fit_error(capsys, model, points)
    assert 'Finding formulas needs scikit-learn, which is not installed: pip install "sortednet[symbolic]"' in message


def test_a_report_is_written_beside_what_was_found(fit, tmp_path: Path, capsys) -> None:
    fit()
    assert main(["symbolic", "report", str(tmp_path / "out"), "--title", "My points"]) == 0
    assert "report.html and report.png; open the page in a browser" in " ".join(capsys.readouterr().err.split())
    assert "My points" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "report.png").stat().st_size > 0


def test_symbolic_alone_names_its_commands(capsys) -> None:
    assert "Add train, fit or report; see sortednet symbolic --help" in error_of(capsys, "symbolic")


def test_an_unknown_command_is_one_clear_error(capsys) -> None:
    assert "invalid choice: 'guess'" in error_of(capsys, "symbolic", "guess")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(TRAINING.format(output=tmp_path / "run"))
    return file


def test_training_goes_from_a_config_to_a_model_that_fits(config: Path, points: str, monkeypatch, capsys) -> None:
    for name in ("_MEASURED", "_VALIDATED"):
        monkeypatch.setattr(symbolic_job, name, 128)
    assert main(["symbolic", "train", str(config), "training.updates=2"]) == 0
    file = config.parent / "run" / symbolic_job.FILE
    notes = " ".join(capsys.readouterr().err.split())
    assert f"Trained a model of 2 depths: {file}" in notes
    assert f"Use it: sortednet symbolic fit POINTS.csv --model {file}" in notes
    assert load_model(file).about["updates"] == 2
    assert main(["symbolic", "fit", points, "--model", str(file), *FEW, "--output", str(config.parent / "out")]) == 0


def test_training_goes_on_and_writes_to_another_folder(config: Path, monkeypatch) -> None:
    given = []
    monkeypatch.setattr(
        symbolic_job,
        "train",
        lambda config, *, resume, console: given.append((config, resume)) or symbolic_job.make_network(config),
    )
    assert main(["symbolic", "train", str(config), "--output", "elsewhere", "--resume", "false"]) == 0
    assert main(["symbolic", "train", str(config), "model.width=16", "problems.points=[20,30]"]) == 0
    assert [(one.output, resume) for one, resume in given] == [("elsewhere", False), (str(config.parent / "run"), True)]
    assert (given[1][0].model.width, given[1][0].problems.points) == (16, (20, 30))


def test_the_shipped_config_describes_a_model() -> None:
    from sortednet.jobs.configurations import read_symbolic_config

    config = read_symbolic_config(CONFIGS / "symbolic.yaml")
    assert max(config.depths) == config.model.layers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.widht=8", "Did you mean model.width"),
        ("modell.width=8", "Did you mean model"),
        ("model.width=broad", "Expected int"),
        ("model.width", "'model.width' changes nothing. Write key=value"),
        ("depths=[1]", "depths=(1,) must be numbers of layers, the largest model.layers=2"),
        ("problems.draws=0", "problems.draws=0 is below 1"),
        ("output=", "output is empty. Give the run's folder"),
    ],
)
def test_a_config_that_cannot_be_used_is_one_clear_error(config: Path, capsys, change: str, message: str) -> None:
    assert message in error_of(capsys, "symbolic", "train", str(config), change)


def test_a_missing_config_and_one_of_another_command_are_named(config: Path, capsys) -> None:
    message = error_of(capsys, "symbolic", "train", "nowhere.yaml")
    assert "There is no configuration at nowhere.yaml. Give a YAML file, such as configs/symbolic.yaml" in message
    digits = str(CONFIGS / "digits.yaml")
    assert f"Use it so: sortednet train {digits}" in error_of(capsys, "symbolic", "train", digits)
    assert f"Use it so: sortednet symbolic train {config}" in error_of(capsys, "train", str(config))


def test_interrupted_training_says_that_it_goes_on(config: Path, monkeypatch, capsys) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(symbolic_commands, "train", interrupted)
    assert main(["symbolic", "train", str(config)]) == 130
    assert "same command goes on from what is saved" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(symbolic_commands, "fit", interrupted)
    assert main(["symbolic", "fit", "points.csv"]) == 130
    assert "goes on" not in capsys.readouterr().err
