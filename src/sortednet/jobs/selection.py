"""Choose sub-models of a measured run under budgets. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import ConfigError, SettingError
from ..evaluation.table import Row, Table
from ..files import records
from ..files.run_folder import MODEL, refuse_links, writing
from ..files.weights import digest, is_there, network_in
from ..imports.packages import needs
from ..space import Setting
from .terminal import output_console

with needs("A command", "cli"):
    from rich.table import Table as RichTable

__all__ = [
    "EVALUATED",
    "TABLE",
    "check_trained",
    "chosen_in",
    "evaluated_text",
    "in_run",
    "print_conditions",
    "print_rows",
    "select",
    "table_of",
]

TABLE = "table.json"
_CHOSEN, EVALUATED = "chosen.json", "evaluated.json"


def in_run(run: str | Path, name: str, command: str) -> Path:
    """Return the path of a file of a run.

    Args:
        run: The run's folder.
        name: The file.
        command: The command that writes it.

    Raises:
        ConfigError: If there is none.
    """
    path = Path(run) / name
    if not path.is_file():
        if (Path(run) / "fit.json").is_file():
            raise ConfigError(f"{run} holds a formula. See it as a page: sortednet symbolic report {run}")
        raise ConfigError(f"There is no {name} in {run}. Give the folder of a run; '{command}' writes it.")
    return path


def check_trained(run: str | Path, config: str) -> None:
    """Refuse a run that holds no trained network yet.

    Args:
        run: The run's folder.
        config: Its configuration's file.

    Raises:
        ConfigError: If it does not.
    """
    refuse_links(Path(run) / MODEL)
    if not is_there(Path(run) / MODEL):
        raise ConfigError(f"{run} holds no trained network yet. Finish it first: sortednet train {Path(run) / config}")


def select(run: str, budgets: Sequence[str], name: str | None = None, *, within_error: bool = False) -> Setting:
    """Choose the best sub-model under budgets, print it, and keep it under a label.

    Args:
        run: The run's folder.
        budgets: Such as `max_params=50000` or `min_quality=90`.
        name: The label; the budgets where left out.
        within_error: Take the smallest that is not measurably worse than the best.

    Returns:
        The sub-model's setting.

    Raises:
        ConfigError: If the run was not measured, or its table is of an earlier network.
        SettingError: If a budget cannot be read or met, or the label reads like a setting.
    """
    table = table_of(run)
    limits: dict[str, float] = {}
    for one in budgets:
        key, _, value = one.partition("=")
        try:
            limits[key] = float(value)
        except ValueError:
            raise SettingError(f"{one!r} is no budget. Write max_params=50000 or min_quality=90.") from None
    setting = table.select(within_error=within_error, **limits)
    chosen = chosen_in(run)
    best = "smallest not measurably worse" if within_error else "best"
    told = " ".join([*budgets, *(["within error"] if within_error else [])])
    label = name or told or best
    if _reads_like_setting(label, table.dimensions):
        raise SettingError(f"--name {label!r} reads like a setting. Give a word, such as small.")
    chosen[label] = setting
    held = {"model": _evaluated(run), "chosen": {name: str(one) for name, one in chosen.items()}}
    with writing(run) as save:
        save.write(_CHOSEN, records.to_text(held).encode())
    under = f" under {' '.join(budgets)}" if budgets else " of all"
    print_rows(table, [table.row(setting)], f"{best[0].upper()}{best[1:]}{under}:")
    return setting


def print_rows(table: Table, rows: Sequence[Row], title: str) -> None:
    """Print some rows of a table."""
    shown = RichTable(title=title, title_justify="left")
    further = {"95 %": "quality_low", "reported": "reported", "recovery": "recovery"}
    there = [name for name, column in further.items() if any(getattr(row, column) is not None for row in table)]
    for name in ("setting", table.metric, *there, "parameters", "MFLOPs", "latency ms", "memory MB"):
        shown.add_column(name, justify="left" if name == "setting" else "right", overflow="fold")
    for row in rows:
        texts = {"95 %": table.interval(row), **{name: table.text(row, name) for name in ("reported", "recovery")}}
        cells: list[tuple[float | None, str, float]] = [(row.params, "{:,}", 1), (row.flops, "{:.2f}", 1e-6)]
        cells += [(row.latency_ms, "{:.2f}", 1.0), (row.memory_bytes, "{:.2f}", 1e-6)]
        shown.add_row(
            str(row.setting),
            table.text(row, "quality"),
            *(texts[name] for name in there),
            *("-" if v is None else form.format(v * by) for v, form, by in cells),
        )
    output_console(124).print(shown, soft_wrap=False)


def print_conditions(table: Table) -> None:
    """Print on what and with what a table was measured, and why a column is empty."""
    lines = [f"{name}: {value}" for name, value in table.conditions.items()]
    lines += [f"{name} is empty or has gaps: {reason}" for name, reason in table.notes.items()]
    for line in lines:
        output_console(110).print(line, markup=False, highlight=False)


def chosen_in(run: str | Path) -> dict[str, Setting]:
    """Read what was chosen for the network as it is now; choices made for an earlier one are dropped."""
    path = Path(run) / _CHOSEN
    if not path.is_file():
        return {}
    try:
        held = records.read(path)
        if records.text(held["model"]) != digest(network_in(run)):
            return {}
        chosen = {records.text(label, 200): Setting.parse(records.text(one)) for label, one in held["chosen"].items()}
        for label, setting in chosen.items():
            if _reads_like_setting(label, setting):
                raise ValueError(f"the label {label!r} reads like a setting")
        return chosen
    except records.MALFORMED as error:
        raise ConfigError(f"{path} is damaged ({error!r}). Remove it, and select again.") from None


def _reads_like_setting(label: str, dimensions: Iterable[str]) -> bool:
    return bool({*dimensions} & {part.partition("=")[0].strip() for part in label.split(",")})


def evaluated_text(run: str | Path) -> str:
    """Return the JSON text that says which network was measured."""
    return records.to_text({"model": digest(Path(run) / "model")})


def _evaluated(run: str | Path) -> str:
    """Return the digest of the network that was evaluated last."""
    path = in_run(run, EVALUATED, "sortednet evaluate")
    try:
        return records.text(records.read(path)["model"])
    except (OSError, *records.MALFORMED):
        raise ConfigError(f"{path} is damaged. Evaluate again: sortednet evaluate {run}") from None


def table_of(run: str | Path) -> Table:
    """Read the table of a run, if it is that of the network as it is now.

    Raises:
        ConfigError: If it is not, or there is none.
    """
    refuse_links(Path(run) / MODEL)
    table = Table.from_json(in_run(run, TABLE, "sortednet evaluate"))
    if _evaluated(run) != digest(Path(run) / "model"):
        raise ConfigError(f"{Path(run) / TABLE} is of an earlier network. Evaluate again: sortednet evaluate {run}")
    return table
