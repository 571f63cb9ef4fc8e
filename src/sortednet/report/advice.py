"""What to take, what it costs and how sure that is, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..errors import SettingError
from ..evaluation.table import Row, Table

__all__ = ["advised", "how_sure", "in_short", "largest_of"]


def largest_of(table: Table) -> tuple[str, Row]:
    """Find the full model, or what comes closest where a list of settings leaves it out; and what to call it."""
    full = {name: max(row.setting[name] for row in table) for name in table.dimensions}
    found = next((row for row in table if dict(row.setting) == full), None)
    return ("Largest", table[-1]) if found is None else ("Full model", found)


def advised(table: Table, marked: Mapping[str, Row]) -> Row | None:
    """Return the sub-model to take: the first that was chosen, else the smallest that is not measurably worse than the
    best, or the best where nothing tells how sure it is; None where nothing can be chosen.
    """
    if marked:
        return next(iter(marked.values()))
    for within_error in (True, False):
        try:
            return table.row(table.select(within_error=within_error))
        except SettingError:
            continue
    return None


def in_short(table: Table, marked: Mapping[str, Row]) -> str:
    """Say in one sentence what to take, what it costs, and how sure it is."""
    row = advised(table, marked)
    if row is None and table.higher_is_better is None:
        return (
            f"Nothing says whether more {table.metric} is better, so nothing is recommended here: evaluate with "
            "higher_is_better=True or False."
        )
    if row is None:
        return f"The {table.metric} of no sub-model is a number, so nothing is recommended here: evaluate again."
    chosen = f", which was chosen as {next(iter(marked))}" if marked else ""
    return f"Take {row.setting}{chosen}: {_quality(table, row)}, {_costs(table, row)}{_against_best(table, row)}."


def _quality(table: Table, row: Row) -> str:
    between = table.interval(row)
    sure = f" ({between}, 19 times of 20)" if between else ""
    return f"{table.metric} {table.text(row, 'quality')}{sure}"


def _costs(table: Table, row: Row) -> str:
    name, full = largest_of(table)
    of = "the full model's" if name == "Full model" else "the largest's"
    part = f" ({100 * row.params / full.params:.3g} % of {of})" if full.params and row is not full else ""
    time = f" and {table.text(row, 'latency_ms')} a forward" if row.latency_ms is not None else ""
    return f"for {table.text(row, 'params')} parameters{part}{time}"


def _against_best(table: Table, row: Row) -> str:
    if table.higher_is_better is None or math.isnan(row.quality):
        return ""
    best = table.row(table.select())
    if best.setting == row.setting:
        return "; it is the best of all"
    difference = abs(best.quality - row.quality)
    margin = table.differ_by(row, best)
    at = f"the best, {table.text(best, 'quality')} at {best.setting}"
    if margin is None:
        return f"; {at}, may be better by chance alone"
    if difference <= margin:
        return f"; it is not measurably worse than {at}"
    return f"; it is measurably worse than {at}"


def how_sure(table: Table, row: Row | None) -> str:
    """Say on how much it was measured, and whether on what it was chosen by; empty where nothing is known."""
    count, apart = (table.conditions.get(name) for name in ("examples", "reported examples"))
    if count is None:
        return ""
    measured = f"Measured on {count:,} examples." if not isinstance(count, str) else f"Measured on {count} examples."
    if row is None:
        return measured
    if row.reported is None or apart is None:
        return f"{measured} What is chosen by them looks a little better on them than it is: report on others."
    between = table.interval(row, "reported")
    told = f" ({between})" if between else ""
    return f"{measured} On {apart:,} others, which nothing was chosen by: {table.text(row, 'reported')}{told}."
