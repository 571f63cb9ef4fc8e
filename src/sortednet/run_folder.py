"""What a run leaves in its folder beside checkpoints: its metrics, line by line, and what a fresh start removes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .files.writing import write_bytes
from .processes import alone
from .space import Setting

__all__ = ["METRICS", "STAGES", "Log", "clear", "clear_folder", "read_curves"]

METRICS, STAGES = "metrics.jsonl", "stages"


class Log:
    """Averages losses by sub-model and appends lines of JSON. Lines beyond the point of resumption are dropped."""

    def __init__(self, path: Path, start: int, enabled: bool) -> None:
        self.path, self.enabled = path, enabled
        self.losses: list[float] = []
        self.terms: dict[str, list[float]] = defaultdict(list)
        if enabled:
            kept = [line for line in _lines(path) if line["update"] <= start]
            write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def add(self, terms: Iterable[tuple[Setting, float]], loss: float) -> None:
        self.losses.append(loss)
        for setting, value in terms:
            self.terms[str(setting)].append(value)

    def write(self, update: int, learning_rate: float) -> dict[str, Any]:
        line = {
            "update": update,
            "loss": sum(self.losses) / len(self.losses),
            "learning_rate": learning_rate,
            "terms": {setting: sum(values) / len(values) for setting, values in self.terms.items()},
        }
        self.losses, self.terms = [], defaultdict(list)
        if self.enabled:
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")
        return line


def clear(output: str | Path) -> None:
    """Remove the checkpoints, metrics and network of an earlier run, of all its stages.

    Args:
        output: The run's folder.

    Raises:
        CheckpointError: If another process trains there.
    """
    for folder in (Path(output), *(Path(output) / STAGES).glob("*")):
        if folder.is_dir():
            with alone(folder):
                clear_folder(folder)
                if folder != Path(output):
                    (folder / "config.json").unlink(missing_ok=True)


def clear_folder(folder: Path) -> None:
    """Remove the same of one folder, whose lock is held."""
    stale = [*(folder / "checkpoints").glob("update-*.safetensors"), folder / METRICS, *(folder / "model").glob("*")]
    for one in stale:
        one.unlink(missing_ok=True)


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    if path.is_file():
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break  # A kill can leave the last line unfinished.
    return lines


def read_curves(output: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Read the training loss of every sub-model from a run's metrics.

    Args:
        output: The run's folder; the stages of a recipe follow one another.

    Returns:
        For each setting's text, pairs of update and loss.
    """
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    done = 0
    for folder in (*sorted((Path(output) / STAGES).glob("*")), Path(output)):
        lines = _lines(folder / METRICS)
        for line in lines:
            for setting, loss in line["terms"].items():
                curves[setting].append((done + line["update"], loss))
        done += max((line["update"] for line in lines), default=0)
    return dict(curves)
