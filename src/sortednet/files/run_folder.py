"""What a run leaves in its folder: checkpoints, metrics, a network; and what of it a fresh start removes."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..space import Setting
from . import records
from .locks import locked
from .manifest import MANIFEST, Manifest
from .saving import Saving, adopt, check_place, remove_own, saving
from .tensor_file import read_header
from .weights import ADAPTER, CONFIGS, METADATA, NETWORK, WEIGHTS, is_there, recognised

__all__ = [
    "CHECKPOINT",
    "CHECKPOINTS",
    "CONFIG",
    "KIND",
    "METRICS",
    "MODEL",
    "SIMILARITIES",
    "STAGES",
    "Log",
    "checkpoints_of_earlier_version",
    "claim",
    "clear",
    "clear_folder",
    "metrics_text",
    "of_earlier_version",
    "read_curves",
    "refuse_finished",
    "refuse_links",
    "refuse_other_run",
    "stages_of",
    "writing",
]

CHECKPOINTS, CONFIG, METRICS, MODEL, STAGES = "checkpoints", "config.json", "metrics.jsonl", "model", "stages"
SIMILARITIES = "similarity*.json"
_MOST_METRICS, _MOST_LINE = 1 << 30, 1 << 24  # bytes
_SHOWN = 6
_REMEDY = "Give another output folder, restore the old configuration, or start anew without resuming."
_CHECKPOINT_NAMES = "update-*.safetensors"
KIND, CHECKPOINT = "run", "training checkpoint"
_WRITTEN = (
    CONFIG, METRICS, "table.json", "table.csv", "evaluated.json", "chosen.json", "report.html", "report.png",
)  # fmt: skip


class Log:
    """Averages losses by sub-model and appends lines of JSON. Lines beyond the point of resumption are dropped."""

    def __init__(self, path: Path, start: int, enabled: bool) -> None:
        self.path, self.enabled = path, enabled
        self.losses: list[float] = []
        self.terms: dict[str, list[float]] = defaultdict(list)
        if enabled:
            with writing(path.parent) as save:
                save.write(path.name, metrics_text(line for line in _lines(path) if line["update"] <= start))
            adopt(path.parent, KIND, (), grows=[path.name])

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
            with open(self.path, "ab") as file:
                file.write(metrics_text([line]))
        return line


def metrics_text(lines: Iterable[dict[str, Any]]) -> bytes:
    """Return lines of metrics as they are written: each with a digest of its own."""
    return "".join(records.to_text(line, indent=None) + "\n" for line in lines).encode()


def claim(folder: Path, names: Iterable[str]) -> None:
    """Refuse to write a run's files where others are in the way; nothing is written.

    Args:
        folder: The run's folder.
        names: Of the files.

    Raises:
        CheckpointError: If one of them is not this library's, or what the run makes below is a link.
    """
    refuse_links(*(folder / below for below in (CHECKPOINTS, MODEL)), *stages_of(folder))
    check_place(folder, KIND, names, of_earlier_version(folder))
    checkpoints, model = folder / CHECKPOINTS, folder / MODEL
    known = {*Manifest.read(checkpoints).files, *checkpoints_of_earlier_version(folder)}  # damaged ones are ours too
    check_place(
        checkpoints, CHECKPOINT, [one.name for one in checkpoints.glob(_CHECKPOINT_NAMES) if one.name not in known]
    )
    check_place(model, NETWORK, (WEIGHTS, ADAPTER, METADATA, *CONFIGS), recognised(model))


@contextmanager
def writing(run: str | Path, recognised: Iterable[str] = ()) -> Iterator[Saving]:
    """Write files of a run, all or none.

    Args:
        run: The run's folder.
        recognised: What is known to be ours beside what an earlier version's run is known by.

    Raises:
        CheckpointError: If files of somebody else's are in the way, or the folder cannot be written.
    """
    with saving(run, KIND, adds=True, recognised=[*of_earlier_version(Path(run)), *recognised]) as save:
        yield save


def of_earlier_version(run: Path) -> list[str]:
    """Return the files of a run that version 0.1 wrote, which kept no manifest."""
    if (run / MANIFEST).exists() or not (recognised(run / MODEL) or checkpoints_of_earlier_version(run)):
        return []
    found = [*(run / name for name in _WRITTEN), *run.glob(SIMILARITIES)]
    return [one.name for one in found if one.is_file() and not one.is_symlink()]


def checkpoints_of_earlier_version(run: Path) -> list[str]:
    """Return the training checkpoints of a run that version 0.1 wrote, which kept no manifest."""
    if (run / CHECKPOINTS / MANIFEST).exists():
        return []
    return [one.name for one in (run / CHECKPOINTS).glob(_CHECKPOINT_NAMES) if _is_checkpoint(one)]


def _is_checkpoint(file: Path) -> bool:
    try:
        return "run" in read_header(file).metadata
    except CheckpointError:
        return False


def refuse_links(*paths: Path) -> None:
    """Refuse links in the places of what a run makes below its folder.

    Raises:
        CheckpointError: If one is a link.
    """
    for path in paths:
        if path.is_symlink():
            raise CheckpointError(f"{path} is a link, and links are not followed. Remove it, or give another folder.")


def refuse_finished(output: Path) -> None:
    """Refuse to go on where a trained network lies, of which no checkpoint is left.

    Raises:
        CheckpointError: If one does.
    """
    if is_there(output / MODEL):
        raise CheckpointError(
            f"{output / MODEL} holds a trained network, but no checkpoint is left to go on from. "
            "Give another output folder, or replace it by starting anew without resuming."
        )


def refuse_other_run(place: Path, then: Mapping[str, Any], now: Mapping[str, Any], remedy: str = _REMEDY) -> None:
    """Refuse to go on with what another run has left.

    Args:
        place: The file or the folder that it left.
        then: What says which run that was; plain JSON values.
        now: The same of the run that is to go on.
        remedy: What to do.

    Raises:
        CheckpointError: If they differ; the message says in what.
    """
    changed = list(_differences(then, json.loads(json.dumps(now)), ""))
    if changed:
        shown = "; ".join(changed[:_SHOWN]) + (f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else "")
        raise CheckpointError(f"{place} belongs to another run: {shown}. {remedy}")


def _differences(then: Any, now: Any, key: str) -> Iterator[str]:
    """Yield in words where two plain values differ, each by its dotted key."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in [*now, *(one for one in then if one not in now)]:
            yield from _differences(then.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif then != now:
        yield f"{key} was {then!r:.100} and is {now!r:.100}"


def stages_of(output: Path) -> list[Path]:
    """Return the folders of a run's stages, in order.

    Raises:
        CheckpointError: If one is a link.
    """
    found = sorted((output / STAGES).glob("*"))
    refuse_links(output / STAGES, *found)
    return found


def clear(output: str | Path) -> None:
    """Remove the checkpoints, metrics and network of an earlier run, of all its stages, and nothing else.

    Args:
        output: The run's folder.

    Raises:
        CheckpointError: If another process trains there, or a file was changed since it was written.
    """
    for folder in (Path(output), *stages_of(Path(output))):
        if folder.is_dir():
            with locked(folder, patience_s=0):
                clear_folder(folder, *(() if folder == Path(output) else (CONFIG,)))


def clear_folder(folder: Path, *more: str) -> None:
    """Remove the same of one folder, and what else is named."""
    claim(folder, ())
    checkpoints, model, own = folder / CHECKPOINTS, folder / MODEL, of_earlier_version(folder)
    stale = checkpoints_of_earlier_version(folder)
    remove_own(model, NETWORK, recognised=recognised(model))
    remove_own(checkpoints, CHECKPOINT, recognised=stale)
    remove_own(folder, KIND, [METRICS, *more], own)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics that are as they were written.

    Raises:
        CheckpointError: If the file is larger than metrics are.
    """
    lines: list[dict[str, Any]] = []
    damaged = []
    if not path.is_file():
        return lines
    if path.stat().st_size > _MOST_METRICS:
        raise CheckpointError(
            f"{path} has {path.stat().st_size:,} bytes, and no more than {_MOST_METRICS:,} of metrics are read. Move "
            "it away; the network and the table do without."
        )
    with open(path, "rb") as file:
        for number, text in enumerate(iter(partial(file.readline, _MOST_LINE), b""), 1):
            try:
                line = records.parse(text)
                records.whole(line["update"])
                for setting, loss in line["terms"].items():
                    records.text(setting), records.number(loss)
                lines.append(line)
            except records.MALFORMED:
                if text.endswith(b"\n") or len(text) == _MOST_LINE:  # a kill can leave the last line unfinished
                    damaged.append(number)
    if damaged:
        warnings.warn(
            f"{path} is damaged: line{'s' * (len(damaged) > 1)} {', '.join(map(str, damaged[:5]))} are left out.",
            stacklevel=3,
        )
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
