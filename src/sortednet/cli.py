"""The command line: train, evaluate, select, extract, generate, report, symbolic, reproduce."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from . import checkpoint, config_file, evaluation, export, generation_job, image_job, symbolic_commands
from ._version import __version__
from .config import RunConfig
from .errors import ConfigError, SettingError, SortedNetError
from .experiments import EXPERIMENTS, Conditions, Scale, main_job, markdown
from .experiments import run as run_experiment
from .fine_tuning_config import FineTuningConfig
from .generation_job import GenerateConfig
from .network import SortedNet
from .recipes import plain
from .report import write_picture, write_report
from .run_folder import read_curves
from .space import Setting
from .symbolic_commands import FitConfig
from .table import Row, Table

__all__ = ["main"]

CONFIG, TABLE, CHOSEN, EVALUATED = "config.json", "table.json", "chosen.json", "evaluated.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words behind `sortednet`; those of the process where left out.

    Returns:
        The exit status: 0, or 2 after an error, which is printed in one line without a traceback.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    parser = _parser()
    parsed = Namespace(command=None)
    try:
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                parsed = parser.parse_args(arguments)
            if parsed.command is None:
                parser.print_help()
                return 2
        except ArgumentError as error:
            raise ConfigError(f"{config_file.detail_of(error)}. See sortednet --help.") from None
        _COMMANDS[parsed.command](parsed[parsed.command], console)
    except (SortedNetError, ImportError) as error:
        console.print("[bold red]error:[/]", end=" ")
        console.print(str(error), markup=False)
        return 2
    except KeyboardInterrupt:
        saved = " What was trained is saved; the same command goes on from there." if _trains(parsed) else ""
        console.print(f"Interrupted.{saved}")
        return 130
    return 0


def _trains(parsed: Namespace) -> bool:
    return "train" in (parsed.command, parsed.symbolic.command if parsed.command == "symbolic" else None)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="sortednet", description="One trained network, every size.", exit_on_error=False, version=__version__
    )
    commands = parser.add_subcommands(dest="command", required=False)

    def command(name: str, purpose: str) -> ArgumentParser:
        one = ArgumentParser(description=purpose, exit_on_error=False)
        commands.add_subcommand(name, one, help=purpose)
        return one

    run = "the run's folder"
    train = command("train", "Train or fine-tune a network as a YAML file says; goes on from the last checkpoint.")
    _add_training(train)
    evaluate = command("evaluate", "Measure every sub-model of a run; writes table.json and table.csv.")
    evaluate.add_argument("run", type=str, help=run)
    evaluate.add_argument("--measure", type=list[str], default=["flops", "latency", "memory"], help="costs to measure")
    evaluate.add_argument(
        "--batch_size", type=int | None, default=None, help="examples in a batch: 256 images, 32 texts"
    )
    evaluate.add_argument("--cost_batch", type=int, default=1, help="examples that latency and memory are measured on")
    select = command("select", "Choose the best sub-model under budgets, such as: select RUN max_params=50000")
    select.add_argument("run", type=str, help=run)
    select.add_argument("budgets", nargs="+", type=str, help="max_COLUMN=number or min_COLUMN=number")
    select.add_argument("--name", type=str | None, default=None, help="label in the report; the budgets where left out")
    extract = command("extract", "Write a sub-model as an ordinary model.")
    extract.add_argument("run", type=str, help=run)
    extract.add_argument("setting", type=str, help="such as depth=4,width=32, or the label of a selection")
    extract.add_argument("--output", type=str | None, default=None, help="folder; RUN/extracted/SETTING where left out")
    extract.add_argument("--onnx", type=bool, default=False, help="export to ONNX too, checked in onnxruntime")
    extract.add_argument(
        "--form", type=Literal["plain", "baked"], default="plain",
        help="of an adapter: as PEFT writes it, or its scaling multiplied into its weights",
    )  # fmt: skip
    extract.add_argument(
        "--server", type=Literal["vllm"] | None, default=None, help="warn where this server has no such rank"
    )
    generate = command(
        "generate", "Continue a text with a causal language model; each token in the colour of its exit."
    )
    generate.add_argument("run", type=str, help=f"{run}, or one that SortedNet.save_pretrained wrote")
    generate.add_argument("prompt", type=str, help="the text, or - to read it from standard input")
    generate.add_class_arguments(GenerateConfig)
    report = command("report", "Write report.html and report.png of a measured run.")
    report.add_argument("run", type=str, help=run)
    report.add_argument("--title", type=str | None, default=None, help="heading of the page")
    _add_symbolic(command("symbolic", "Find formulas for tables of numbers, and train models that do."))
    reproduce = command("reproduce", "Repeat an experiment of the papers; goes on where it was stopped.")
    reproduce.add_argument("experiment", type=str, help=f"which one: {', '.join(EXPERIMENTS)}")
    reproduce.add_argument("--scale", type=Scale, default="cpu", help="a small version, or the papers' size on a GPU")
    reproduce.add_argument("--seed", type=int, default=0, help="of weights, of the order of the data, of what is drawn")
    reproduce.add_argument("--data", type=str | None, default=None, help="folder of CIFAR-10, or of the GLUE files")
    reproduce.add_argument("--model", type=str | None, default=None, help="folder or name of the pretrained encoder")
    reproduce.add_argument("--output", type=str, default="runs/reproduce", help="folder for all experiments")
    reproduce.add_argument("--workers", type=int | None, default=None, help="jobs at a time; one a core, one on a GPU")
    reproduce.add_argument("--minutes", type=float | None, default=None, help="save what runs after these, and stop")
    reproduce.add_argument("--job", type=str | None, default=None, help="do this job alone, in this process")
    return parser


def _add_symbolic(parser: ArgumentParser) -> None:
    commands = parser.add_subcommands(dest="command", required=False)

    def command(name: str, purpose: str) -> ArgumentParser:
        one = ArgumentParser(description=purpose, exit_on_error=False)
        commands.add_subcommand(name, one, help=purpose)
        return one

    train = command("train", "Train a model that writes formulas, as a YAML file says; goes on where it was stopped.")
    _add_training(train)
    fit = command("fit", "Find a formula for the points of a CSV file; writes fit.json.")
    fit.add_argument("points", type=str, help="the CSV or TSV file, names in its first line")
    fit.add_argument("--columns", nargs="+", type=str, default=None, help="what y may depend on; all where left out")
    fit.add_class_arguments(FitConfig)
    report = command("report", "Write report.html and report.png of a formula that was found.")
    report.add_argument("folder", type=str, help="the folder that fit wrote to")
    report.add_argument("--title", type=str | None, default=None, help="heading of the page")


def _add_training(parser: ArgumentParser) -> None:
    parser.add_argument("config", type=str, help="the YAML file")
    parser.add_argument("changes", nargs="*", type=str, help="values to change, such as training.updates=100")
    parser.add_argument("--output", type=str | None, default=None, help="the run's folder, instead of the file's")
    parser.add_argument("--resume", type=bool, default=True, help="go on from the last checkpoint in the folder")


def read_config(path: str | Path, changes: Sequence[str] = ()) -> RunConfig | FineTuningConfig:
    """Read a YAML or JSON file into a `RunConfig`, or where it has the key `pretrained` into a `FineTuningConfig`.

    Args:
        path: The file.
        changes: Values to change, such as `training.updates=100`.

    Returns:
        The configuration.

    Raises:
        ConfigError: If the file is missing, a key is unknown, or a value has the wrong type.
    """
    kind: type[RunConfig | FineTuningConfig] = RunConfig
    keys = config_file.read_keys(path, "configs/digits.yaml")
    if {"generator", "problems"} & keys and "space" not in keys:
        raise ConfigError(f"{path} is for another command. Use it so: sortednet symbolic train {path}")
    if "pretrained" in keys:
        kind = FineTuningConfig
    return config_file.read(path, kind, changes)


def _train(given: Namespace, console: Console) -> None:
    config = read_config(given.config, given.changes)
    config = replace(config, output=given.output or config.output).absolute()
    if not config.output:
        raise ConfigError("output is empty. Give the run's folder, such as --output runs/mine.")
    if isinstance(config, FineTuningConfig):
        net = _fine_tune(config, given.resume, console)
    else:
        net = image_job.train(config, resume=given.resume, console=console)
    console.print(f"Trained {len(net.space)} sub-models in one network: {Path(config.output) / 'model'}")


def _fine_tune(config: FineTuningConfig, resume: bool, console: Console) -> SortedNet:
    from . import fine_tuning_job

    columns = (
        TextColumn("fine-tuning"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    progress = Progress(*columns, console=console)
    task = progress.add_task("", total=None, loss="-")

    def show(done: int, total: int, loss: float | None) -> None:
        progress.start()  # with the first update
        progress.update(task, completed=done, total=total, loss="-" if loss is None else f"{loss:.4f}")

    try:
        return fine_tuning_job.train(config, resume=resume, progress=show, say=console.print)
    finally:
        progress.stop()


def _trained(run: str) -> RunConfig | FineTuningConfig:
    """Read the configuration of a finished run."""
    config = read_config(_in_run(run, CONFIG, "sortednet train"))
    if not checkpoint.is_there(Path(run) / "model"):
        raise ConfigError(f"{run} holds no trained network yet. Finish it first: sortednet train {Path(run) / CONFIG}")
    return config


def _in_run(run: str, name: str, command: str) -> Path:
    path = Path(run) / name
    if not path.is_file():
        raise ConfigError(f"There is no {name} in {run}. Give the folder of a run; '{command}' writes it.")
    return path


def _evaluate(given: Namespace, console: Console) -> None:
    unknown = sorted(set(given.measure) - {"flops", "latency", "memory"})
    if unknown or (given.batch_size or 1) < 1 or given.cost_batch < 1:
        raise ConfigError(
            f"measure={given.measure} may hold flops, latency and memory; batch_size={given.batch_size} and "
            f"cost_batch={given.cost_batch} are at least 1."
        )
    config = _trained(given.run)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("evaluating", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        costs = {"measure": given.measure, "cost_batch": given.cost_batch, "progress": show}
        if isinstance(config, FineTuningConfig):
            from . import fine_tuning_job

            opened = fine_tuning_job.open_run(config, Path(given.run))
            table = fine_tuning_job.evaluate(opened, Path(given.run), batch_size=given.batch_size or 32, **costs)
        else:
            images, net = image_job.open_run(config, Path(given.run))
            held = (images.test_images, images.test_labels)
            batches = list(zip(*(torch.split(one, given.batch_size or 256) for one in held), strict=True))
            table = evaluation.evaluate(net, batches, **costs)
    digest = checkpoint.digest(Path(given.run) / "model")
    checkpoint.write_bytes(Path(given.run) / EVALUATED, json.dumps({"model": digest}).encode())
    table.to_json(Path(given.run) / TABLE)
    table.to_csv(Path(given.run) / "table.csv")
    front = table.pareto()
    _print_rows(table, front, f"{len(table)} sub-models; the {len(front)} that no smaller one beats:")
    console.print(f"The whole table: {Path(given.run) / 'table.csv'}")


def _print_rows(table: Table, rows: Sequence[Row], title: str) -> None:
    shown = RichTable(title=title, title_justify="left")
    for name in ("setting", table.metric, "recovery", "parameters", "MFLOPs", "latency ms", "memory MB"):
        shown.add_column(name, justify="left" if name == "setting" else "right", overflow="fold")
    for row in rows:
        cells = [(row.recovery, "{:.1f} %", 1.0), (row.params, "{:,}", 1), (row.flops, "{:.2f}", 1e-6)]
        cells += [(row.latency_ms, "{:.2f}", 1.0), (row.memory_bytes, "{:.2f}", 1e-6)]
        shown.add_row(
            str(row.setting),
            f"{row.quality:.{2 if table.higher_is_better else 3}f}",
            *("-" if v is None else form.format(v * by) for v, form, by in cells),
        )
    out = Console()
    Console(width=max(out.width, 110)).print(shown)


def _select(given: Namespace, console: Console) -> None:
    table = _table(given.run)
    budgets: dict[str, float] = {}
    for one in given.budgets:
        key, _, value = one.partition("=")
        try:
            budgets[key] = float(value)
        except ValueError:
            raise SettingError(f"{one!r} is no budget. Write max_params=50000 or min_quality=90.") from None
    setting = table.select(**budgets)
    chosen = _chosen(given.run)
    label = given.name or " ".join(given.budgets)
    if set(table.dimensions) & {part.partition("=")[0] for part in label.split(",")}:
        raise SettingError(f"--name {label!r} reads like a setting. Give a word, such as small.")
    chosen[label] = setting
    held = {"model": _evaluated(given.run), "chosen": {name: str(one) for name, one in chosen.items()}}
    text = json.dumps(held, indent=1)
    checkpoint.write_bytes(Path(given.run) / CHOSEN, text.encode())
    _print_rows(table, [table.row(setting)], f"Best under {' '.join(given.budgets)}:")


def _chosen(run: str) -> dict[str, Setting]:
    """Read what was chosen for the network as it is now; choices made for an earlier one are dropped."""
    path = Path(run) / CHOSEN
    if not path.is_file():
        return {}
    try:
        held = json.loads(path.read_text())
        if held["model"] != _evaluated(run):
            return {}
        return {label: Setting.parse(text) for label, text in held["chosen"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error!r}). Remove it, and select again.") from None


def _evaluated(run: str) -> str:
    """Return the digest of the network that was evaluated last."""
    path = _in_run(run, EVALUATED, "sortednet evaluate")
    try:
        return str(json.loads(path.read_text())["model"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is damaged. Evaluate again: sortednet evaluate {run}") from None


def _table(run: str) -> Table:
    """Read the table, if it is that of the network as it is now."""
    table = Table.from_json(_in_run(run, TABLE, "sortednet evaluate"))
    if _evaluated(run) != checkpoint.digest(Path(run) / "model"):
        raise ConfigError(f"{Path(run) / TABLE} is of an earlier network. Evaluate again: sortednet evaluate {run}")
    return table


def _extract(given: Namespace, console: Console) -> None:
    config = _trained(given.run)
    chosen = _chosen(given.run)
    space = config.make_space()
    setting = chosen.get(given.setting) or space.setting(**Setting.parse(given.setting))
    output = Path(given.output) if given.output else Path(given.run) / "extracted" / str(setting)
    if isinstance(config, FineTuningConfig):
        from . import extraction_job

        how = {"form": given.form, "server": given.server, "onnx": given.onnx}
        for line in extraction_job.cut_out(config, Path(given.run), setting, output, **how):
            console.print(line, markup=False)
        return
    if given.form != "plain" or given.server is not None:
        raise ConfigError(f"--form and --server are for an adapter, and {given.run} trained none. Leave them out.")
    images, net = image_job.open_run(config, Path(given.run))
    model = plain(net.extract(setting)).eval().cpu()
    checkpoint.write_bytes(output / "model.safetensors", checkpoint.to_bytes(model.state_dict()))
    checkpoint.write_bytes(output / "setting.json", json.dumps(dict(setting)).encode())
    parameters = sum(one.numel() for one in model.parameters())
    console.print(
        f"Wrote {type(model).__name__} at {setting}, {parameters:,} parameters: {output / 'model.safetensors'}"
    )
    if given.onnx:
        difference = export.to_onnx(model, images.test_images[:2], output / "model.onnx")
        console.print(f"Wrote {output / 'model.onnx'}; onnxruntime differs by {difference:.1e} at most.")


def _generate(given: Namespace, console: Console) -> None:
    config = GenerateConfig(**{one.name: given[one.name] for one in fields(GenerateConfig)})
    label = _chosen(given.run).get(config.setting or "")
    config = config if label is None else replace(config, setting=str(label))
    out = Console(soft_wrap=True, highlight=False)
    generation_job.generate(given.run, given.prompt, config, out, console, _adapted_model(given.run))


def _adapted_model(run: str) -> Any:
    """Return the pretrained model of a run's adapter; None where the run holds a model or is none."""
    if not checkpoint.is_adapter(Path(run) / "model") or not (Path(run) / CONFIG).is_file():
        return None
    config = read_config(Path(run) / CONFIG)
    if not isinstance(config, FineTuningConfig) or config.pretrained.task != "causal_lm":
        return None
    return config.make_base(None, config.make_tokenizer())


def _report(given: Namespace, console: Console) -> None:
    table = _table(given.run)
    config = read_config(_in_run(given.run, CONFIG, "sortednet train"))
    title = given.title or config.title
    curves = read_curves(given.run)
    draws = f", {config.objective.draws} draws a batch" if config.objective.name == "stochastic" else ""
    tuned = config if isinstance(config, FineTuningConfig) else None
    sections = {
        "objective": f"{config.objective.name}{draws}",
        **({} if config.objective.name == "summation" else {"sampler": config.sampler.name}),
    }
    facts = {
        "updates": f"{max((curve[-1][0] for curve in curves.values()), default=0):,}",
        **(sections if config.recipe is None else {"recipe": config.recipe}),
        **({"update": tuned.update} if tuned and tuned.update != "standard" else {}),
        **({"adapter": f"r={tuned.adapter.r}"} if tuned and tuned.adapter else {}),
    }
    path = Path(given.run) / "report.html"
    write_report(path, table, curves=curves, chosen=_chosen(given.run), title=title, facts=facts)
    write_picture(Path(given.run) / "report.png", table, title=title)
    console.print(f"Wrote {Path(given.run) / 'report.html'} and report.png; open the page in a browser.")


def _symbolic(given: Namespace, console: Console) -> None:
    if given.command is None:
        raise ConfigError("symbolic does nothing alone. Add train, fit or report; see sortednet symbolic --help.")
    own = given[given.command]
    if given.command == "train":
        symbolic_commands.train(own.config, own.changes, own.output, own.resume, console)
    elif given.command == "fit":
        config = FitConfig(**{one.name: own[one.name] for one in fields(FitConfig)})
        symbolic_commands.fit(own.points, own.columns, config, console)
    else:
        symbolic_commands.report(own.folder, own.title, console)


def _reproduce(given: Namespace, console: Console) -> None:
    if given.experiment not in EXPERIMENTS:
        raise ConfigError(f"experiment={given.experiment!r} is unknown. Choose one of {', '.join(EXPERIMENTS)}.")
    experiment = EXPERIMENTS[given.experiment]
    if given.data is not None and not Path(given.data).expanduser().is_dir():
        raise ConfigError(f"data={given.data!r} is no folder. Give the folder that holds the data.")
    conditions = Conditions(given.scale, given.seed, given.data, given.model)
    if given.job is not None:
        main_job(experiment, conditions, given.output, given.job)
        return
    outcome = run_experiment(
        experiment, conditions, given.output, workers=given.workers, minutes=given.minutes, say=console.print
    )
    if outcome is not None:
        Console(soft_wrap=True).print(markdown(outcome), markup=False)


_COMMANDS = {
    "train": _train,
    "evaluate": _evaluate,
    "select": _select,
    "extract": _extract,
    "generate": _generate,
    "report": _report,
    "symbolic": _symbolic,
    "reproduce": _reproduce,
}
