import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sortednet.cli import main
from sortednet.errors import ConfigError
from sortednet.evaluation.table import Table
from sortednet.jobs import config_file, configurations, fine_tuning
from sortednet.jobs.configurations import read_config
from sortednet.models import MLP, PreResNet
from sortednet.network.sorted_net import SortedNet
from sortednet.space import Space

DIGITS = Path(__file__).parent.parent / "configs" / "digits.yaml"

CONFIG = """
output: {output}
space: {{depth: [1, 2], width: [4, 8]}}
model: {{name: preresnet, options: {{stages: 1, norm: group}}}}
data: {{name: npz, options: {{path: {data}}}, shift: 1}}
objective: {{draws: 2}}
training: {{updates: 12, batch_size: 8, checkpoint_every: 5}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    arrays = {
        "train_images": generator.integers(0, 255, (40, 8, 8), dtype=np.uint8),
        "train_labels": np.arange(40) % 3,
        "test_images": generator.integers(0, 255, (20, 8, 8), dtype=np.uint8),
        "test_labels": np.arange(20) % 3,
    }
    np.savez(tmp_path / "data.npz", **arrays)
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.format(output=tmp_path / "run", data=tmp_path / "data.npz"))
    return file


@pytest.fixture
def run(config: Path) -> str:
    assert main(["train", str(config)]) == 0
    return str(config.parent / "run")


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail, and return its message."""
    capsys.readouterr()
    assert main(list(words)) == 2
    message = capsys.readouterr().err
    assert "error: " in message
    assert "Traceback" not in message
    return " ".join(message.split())


def test_the_main_job_goes_from_a_config_to_an_ordinary_model(run: str, capsys) -> None:
    assert main(["evaluate", run]) == 0
    assert main(["select", run, "max_params=1000", "--name", "small"]) == 0
    assert main(["extract", run, "small", "--onnx", "true"]) == 0
    assert main(["report", run]) == 0
    chosen = json.loads((Path(run) / "chosen.json").read_text())["chosen"]["small"]
    folder = Path(run) / "extracted" / chosen
    setting = json.loads((folder / "setting.json").read_text())
    model = PreResNet(**setting, stages=1, norm="group", channels=1, classes=3)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    assert (folder / "model.onnx").stat().st_size > 0
    page = (Path(run) / "report.html").read_text()
    assert f"Take {chosen}, which was chosen as small" in page.replace("<wbr>", "")
    assert f"sortednet extract {run} {{setting}}" in page
    assert (Path(run) / "report.png").stat().st_size > 0


def test_a_setting_can_be_extracted_by_its_text(run: str, tmp_path: Path) -> None:
    assert main(["extract", run, "depth=1,width=4", "--output", str(tmp_path / "small")]) == 0
    assert (tmp_path / "small" / "model.safetensors").is_file()


def test_a_finished_run_trains_no_further(run: str, config: Path) -> None:
    before = load_file(Path(run) / "model" / "model.safetensors")
    assert main(["train", str(config)]) == 0
    after = load_file(Path(run) / "model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def read_once(monkeypatch: pytest.MonkeyPatch, file: Path, *words: str) -> None:
    """Train as a file says, and see how often it is opened, parsed and made a configuration."""
    opened, parsed, made = [], [], []
    own, yaml, read = open, config_file._yaml, config_file.read

    def count_open(path: object, *given: object, **named: object) -> object:
        opened.extend([path] if str(path) == str(file) else [])
        return own(path, *given, **named)

    monkeypatch.setattr("builtins.open", count_open)
    monkeypatch.setattr("io.open", count_open)
    monkeypatch.setattr(config_file, "_yaml", lambda *given: parsed.append(given[1]) or yaml(*given))
    monkeypatch.setattr(configurations, "read", lambda *given: made.append(given[1]) or read(*given))
    assert main([*words, str(file)]) == 0
    assert (len(opened), parsed, len(made)) == (1, [str(file)], 1)


def test_training_reads_its_file_once(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    read_once(monkeypatch, config, "train")


def test_fine_tuning_reads_its_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tuning, "train", lambda *_, **__: SimpleNamespace(space=[{}]))
    read_once(monkeypatch, DIGITS.with_name("minilm_sst2.yaml"), "train")


def test_values_can_be_changed_on_the_command_line() -> None:
    changed = read_config(DIGITS, ["training.updates=7", "space={depth: [1, 2], width: [0.5, 1.0]}"])
    assert changed.training.updates == 7
    assert changed.space == {"depth": [1, 2], "width": [0.5, 1.0]}
    assert changed.training.learning_rate == read_config(DIGITS).training.learning_rate


@pytest.mark.parametrize("name", ["digits", "cifar10_preresnet", "cifar10_mobilenet_v2"])
def test_every_shipped_config_describes_a_network(name: str) -> None:
    config = read_config(DIGITS.with_name(f"{name}.yaml"))
    assert len(config.make_space()) >= 4


def test_a_run_with_measured_statistics_keeps_them(config: Path) -> None:
    text = config.read_text() + "buffers: reestimated\n"
    config.write_text(text.replace("norm: group", "norm: batch"))
    assert main(["train", str(config)]) == 0
    assert list((config.parent / "run" / "model").glob("private-*.safetensors"))
    assert main(["evaluate", str(config.parent / "run")]) == 0


def test_no_command_shows_the_commands(capsys) -> None:
    assert main([]) == 2
    assert "{init,list,train,evaluate,select,extract,generate,report,symbolic,reproduce}" in capsys.readouterr().out


def test_reproduce_does_one_job_of_an_experiment(tmp_path: Path, monkeypatch) -> None:
    from sortednet.experiments import order_dependency

    plain = order_dependency.run
    monkeypatch.setattr(order_dependency, "run", lambda seeds: plain(seeds[:1], epochs=1))
    job = ["--job", "order-dependency"]
    assert main(["reproduce", "order-dependency", "--output", str(tmp_path), *job]) == 0
    assert json.loads((tmp_path / "cpu-0" / "jobs" / "order-dependency.json").read_text())["target"]


def test_reproduce_writes_table_and_picture_of_an_experiment(tmp_path: Path, capsys) -> None:
    assert main(["reproduce", "order-dependency", "--output", str(tmp_path), "--seed", "3"]) == 0
    assert "average, target order" in capsys.readouterr().out
    held = json.loads((tmp_path / "cpu-3" / "order-dependency.json").read_text())
    assert held["seed"] == 3
    assert held["figures"]["order_target_sorted"] > 50
    assert (tmp_path / "cpu-3" / "order-dependency.md").is_file()
    assert (tmp_path / "cpu-3" / "order-dependency.png").is_file()


def test_a_missing_config_is_named(capsys) -> None:
    assert "no configuration at nowhere.yaml" in error_of(capsys, "train", "nowhere.yaml")


def test_a_misspelt_command_lists_the_commands(capsys) -> None:
    assert "'train', 'evaluate'" in error_of(capsys, "tran")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("updates: 12", "updaets: 12", r"training.updaets'. Did you mean training.updates"),
        ("updates: 12", "updates: many", r"training.updates.*Expected int. Got value: many"),
        ("updates: 12", "updates: 0", r"training.updates=0 is below 1"),
        ("draws: 2", "name: stocastic", r"objective.name.*stochastic_summation.*Got value: stocastic"),
        ("name: preresnet", "name: resnet", r"'resnet'.*preresnet"),
        ("norm: group", "norms: group", r"preresnet takes no argument norms. It takes depth, width"),
        ("width: [4, 8]", "height: [4, 8]", r"preresnet takes no argument height"),
        ("width: [4, 8]", "width: []", r"Dimension width: A support is empty"),
        ("width: [4, 8]", "width: [8, 4]", r"Dimension width: The support \[8, 4\] is not strictly increasing"),
        ("width: [4, 8]", "width: [0, 4]", r"width=0"),
        ("data.npz", "nodata.npz", r"nodata.npz"),
        ("name: npz", "name: npx", r"'npx'.*npz"),
        ("shift: 1", "shift: -1", r"-1"),
        ("draws: 2", "draws: 0", r"objective.draws=0 must be at least 1"),
        ("batch_size: 8", "batch_size: 64", r"40 examples, fewer than a batch of 64"),
    ],
)
def test_a_wrong_config_is_one_clear_error(config: Path, capsys, old: str, new: str, message: str) -> None:
    import re

    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    assert re.search(message, error_of(capsys, "train", str(config)))


def test_a_file_that_is_no_yaml_is_refused(config: Path, capsys) -> None:
    config.write_text("space: {depth: [1")
    assert "cannot be used" in error_of(capsys, "train", str(config))


def test_evaluating_what_is_not_trained_says_what_to_do(tmp_path: Path, capsys) -> None:
    assert "'sortednet train' writes it" in error_of(capsys, "evaluate", str(tmp_path))


def test_a_share_of_the_images_is_reported_on_alone(run: str, capsys) -> None:
    assert main(["evaluate", run, "--measure", "[]", "--report_share", "0.5"]) == 0
    table = Table.from_json(Path(run) / "table.json")
    total = table.conditions["examples"] + table.conditions["reported examples"]
    assert table.conditions["reported examples"] == round(total / 2)
    assert table.conditions["split"] == "50% of the test images to choose by, 50% to report"
    assert table.conditions["seed"] == 0
    assert all(row.reported_low <= row.reported <= row.reported_high for row in table)
    said = capsys.readouterr().out
    assert all(one in said for one in ("reported", "95 %", "threads: ", "processor: ", "versions: sortednet "))
    assert main(["select", run, "--within_error", "true"]) == 0
    chosen = json.loads((Path(run) / "chosen.json").read_text())["chosen"]
    assert chosen == {"within error": str(table.select(within_error=True))}
    assert "Smallest not measurably worse of all" in capsys.readouterr().out
    assert main(["report", run]) == 0
    assert "which nothing was chosen by" in (Path(run) / "report.html").read_text()


@pytest.mark.parametrize("share", ["1", "-0.5", "0.0001"])
def test_a_share_that_leaves_nothing_is_refused(run: str, share: str, capsys) -> None:
    assert f"report_share={float(share)}" in error_of(capsys, "evaluate", run, "--report_share", share)


def test_selecting_before_evaluating_says_what_to_do(run: str, capsys) -> None:
    assert "'sortednet evaluate' writes it" in error_of(capsys, "select", run, "max_params=100")


def test_a_budget_that_nothing_meets_says_what_is_possible(run: str, capsys) -> None:
    main(["evaluate", run, "--measure", "[]"])
    assert "max_params=1" in error_of(capsys, "select", run, "max_params=1")


def test_a_budget_that_cannot_be_read_is_refused(run: str, capsys) -> None:
    main(["evaluate", run, "--measure", "[]"])
    assert "no budget" in error_of(capsys, "select", run, "max_params=few")


def test_extracting_an_unknown_setting_lists_the_support(run: str, capsys) -> None:
    assert "width=5 is outside its support [4, 8]" in error_of(capsys, "extract", run, "depth=1,width=5")


def test_a_damaged_network_is_named(run: str, capsys) -> None:
    file = Path(run) / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert "damaged or cut short" in error_of(capsys, "evaluate", run)


def test_a_config_error_is_also_a_value_error() -> None:
    with pytest.raises(ValueError, match="no configuration"):
        read_config("nowhere.yaml")
    assert issubclass(ConfigError, ValueError)


def test_a_refused_training_leaves_the_runs_configuration(run: str, config: Path, capsys) -> None:
    before = (Path(run) / "config.json").read_bytes()
    error_of(capsys, "train", str(config), "space={depth: [1, 2, 3], width: [4, 8]}")
    error_of(capsys, "train", str(config), "data.options={path: nowhere.npz}")
    assert (Path(run) / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "change", ["model.options={stages: 1, norm: batch}", "objective.name=summation", "buffers=private", "data.shift=0"]
)
def test_a_run_is_not_continued_with_another_model_or_objective(run: str, config: Path, capsys, change: str) -> None:
    assert "belongs to another run" in error_of(capsys, "train", str(config), change)


def test_a_table_of_an_earlier_network_is_refused(run: str, config: Path, capsys) -> None:
    main(["evaluate", run, "--measure", "[]"])
    main(["select", run, "max_params=1000", "--name", "small"])
    assert main(["train", str(config), "training.seed=1", "--resume", "false"]) == 0
    assert "is of an earlier network. Evaluate again" in error_of(capsys, "select", run, "max_params=1000")
    main(["evaluate", run, "--measure", "[]"])
    assert "small" in error_of(capsys, "extract", run, "small")


def test_a_label_that_reads_like_a_setting_is_refused(run: str, capsys) -> None:
    main(["evaluate", run, "--measure", "[]"])
    message = error_of(capsys, "select", run, "max_params=1000", "--name", "depth=2,width=8")
    assert "reads like a setting" in message


def test_damaged_choices_are_named(run: str, capsys) -> None:
    main(["evaluate", run, "--measure", "[]"])
    (Path(run) / "chosen.json").write_text("{")
    assert "chosen.json is damaged" in error_of(capsys, "report", run)


def test_a_run_can_be_used_from_another_folder(config: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(config), "data.options={path: data.npz}"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", str(tmp_path / "run"), "--measure", "[]"]) == 0


def test_a_model_that_does_not_fit_the_data_is_one_clear_error(config: Path, capsys) -> None:
    config.write_text(
        config.read_text().replace("name: preresnet, options: {stages: 1, norm: group}", "name: transformer")
    )
    message = error_of(capsys, "train", str(config))
    assert "transformer cannot be trained on npz" in message
    assert "logits of shape (B, 3)" in message


def test_layouts_can_be_configured(config: Path) -> None:
    changed = read_config(config, ["layouts=[{pattern: 'stem.*', axis: 0, blocks: 1}]"])
    assert changed.layouts[0].pattern == "stem.*"


def test_every_example_can_draw_its_own_sub_model(config: Path) -> None:
    assert main(["train", str(config), "objective.name=per_example"]) == 0
    assert (config.parent / "run" / "model" / "model.safetensors").is_file()


def test_a_recipe_goes_from_a_config_to_an_ordinary_model(config: Path) -> None:
    config.write_text(config.read_text().replace("objective: {draws: 2}", "recipe: slimmable"))
    run = str(config.parent / "run")
    assert main(["train", str(config)]) == 0
    assert main(["evaluate", run, "--measure", "[]"]) == 0
    assert main(["extract", run, "depth=1,width=4", "--output", f"{run}/small"]) == 0
    PreResNet(1, 4, stages=1, norm="group", channels=1, classes=3).load_state_dict(
        load_file(f"{run}/small/model.safetensors")
    )


def test_a_model_extracted_from_a_line_is_an_ordinary_one(config: Path) -> None:
    recipe = "recipe: lcs_l\nrecipe_options: {dimension: width, draws: 3}"
    config.write_text(config.read_text().replace("objective: {draws: 2}", recipe))
    run = str(config.parent / "run")
    assert main(["train", str(config)]) == 0
    assert main(["evaluate", run, "--measure", "[]"]) == 0
    assert main(["extract", run, "depth=1,width=4", "--output", f"{run}/small"]) == 0
    PreResNet(1, 4, stages=1, norm="group", channels=1, classes=3).load_state_dict(
        load_file(f"{run}/small/model.safetensors")
    )


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (
            "recipe: slimable",
            r"recipe='slimable' is unknown. Did you mean slimmable.* Choose one of sorted, ",
        ),
        ("recipe: lcs_p\nrecipe_options: {draw: 3}", r"Recipe lcs_p takes no option draw. It takes draws"),
        ("recipe: slimmable\nrecipe_options: {draws: 3}", r"Recipe slimmable takes no option draws. It takes none"),
        ("recipe_options: {draws: 3}", r"recipe_options={'draws': 3} have no recipe. Name one, or leave them out"),
        ("recipe: sorted\nobjective: {draws: 2}", r"recipe=sorted decides what objective says. Leave objective out"),
        ("recipe: sorted\nsampler: {name: uniform}", r"recipe=sorted decides what sampler says. Leave sampler out"),
        ("recipe: sorted\nbuffers: private", r"recipe=sorted decides what buffers says. Leave buffers out"),
        ("recipe: sorted\nprivate: [head.*]", r"recipe=sorted decides what private says. Leave private out"),
        ("recipe: lcs_p\nrecipe_options: {draws: 2}", r"draws=2 is too few for Sandwich. Draw at least 3"),
        ("recipe: lcs_l", r"has 2 dimensions of several values. Say which of them"),
        ("recipe: early_exit\nrecipe_options: {head: nope.*}", r"head='nope.\*' matches no parameter"),
    ],
)
def test_a_wrong_recipe_is_one_clear_error(config: Path, capsys, new: str, message: str) -> None:
    import re

    config.write_text(config.read_text().replace("objective: {draws: 2}", new))
    assert re.search(message, error_of(capsys, "train", str(config)))


def test_a_run_is_not_continued_by_another_recipe(config: Path, capsys) -> None:
    config.write_text(config.read_text().replace("objective: {draws: 2}", "recipe: lcs_p"))
    assert main(["train", str(config)]) == 0
    assert "belongs to another run" in error_of(capsys, "train", str(config), "recipe=matformer")


@pytest.mark.parametrize(
    "words",
    [
        ["{config}", "training.updates=2", "--output", "{output}"],
        ["{config}", "--output", "{output}", "training.updates=2"],
        ["--output", "{output}", "{config}", "training.updates=2"],
        ["training.updates=2", "{config}", "--output={output}"],
    ],
    ids=" ".join,
)
def test_changes_and_options_may_stand_anywhere(config: Path, tmp_path: Path, words: list[str], monkeypatch) -> None:
    from sortednet.jobs import images as image_job

    given = []

    def train(config, *, resume, console, trust):
        given.append((config.training.updates, config.output))
        return SortedNet(MLP, Space(depth=[1, 2]))

    monkeypatch.setattr(image_job, "train", train)
    output = str(tmp_path / "elsewhere")
    assert main(["train", *(word.format(config=config, output=output) for word in words)]) == 0
    assert given == [(2, output)]


def test_a_label_may_stand_before_the_budgets(run: str) -> None:
    main(["evaluate", run, "--measure", "[]"])
    assert main(["select", run, "--name", "small", "max_params=1000", "min_quality=0"]) == 0
    assert "small" in json.loads((Path(run) / "chosen.json").read_text())["chosen"]


@pytest.mark.parametrize(
    ("measure", "columns"),
    [
        ("flops", {"flops"}),
        ("flops,memory", {"flops", "memory_bytes"}),
        ("[flops, memory]", {"flops", "memory_bytes"}),
        ("[]", set()),
    ],
)
def test_costs_to_measure_are_a_plain_list(run: str, measure: str, columns: set[str]) -> None:
    assert main(["evaluate", run, "--measure", measure]) == 0
    row = Table.from_json(Path(run) / "table.json")[0]
    assert {name for name in ("flops", "latency_ms", "memory_bytes") if getattr(row, name) is not None} == columns


def test_a_cost_that_is_none_is_refused(run: str, capsys) -> None:
    assert "may hold flops, latency and memory" in error_of(capsys, "evaluate", run, "--measure", "speed")


@pytest.mark.parametrize("name", ["a[bold]b", "[red]", "a[/]", ":smile:", "a b", "[link=x]y[/link]"])
def test_paths_are_printed_as_they_are(tmp_path: Path, monkeypatch, capsys, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name.replace("/", "")).mkdir()
    path = f"{name.replace('/', '')}/c.yaml"
    assert main(["init", "images", "--output", path]) == 0
    assert f"Wrote {path}." in capsys.readouterr().err
    assert f"{path} is there already" in error_of(capsys, "init", "images", "--output", path)
