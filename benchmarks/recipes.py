"""The papers' experiments, several seeds each: our default recipe against the methods that the papers compare with.

Finished jobs are kept under runs/reproduce, so that the command goes on where it was interrupted.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path

from measuring import context, write

from sortednet.experiments import Conditions, run
from sortednet.imports.names import EXPERIMENTS

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "runs" / "reproduce"
SEEDS = (0, 1, 2)
PICTURES = ROOT / "docs"
SHOWN = ("fig4.2", "table4.2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the result")
    parser.add_argument("--scale", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--images", help="folder of CIFAR-10")
    parser.add_argument("--text", help="folder of the GLUE files")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    names = [name for name in EXPERIMENTS if name != "symbolic"]  # which has a benchmark of its own
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    given = parser.parse_args()
    for seed in given.seeds:
        for name in given.only:
            data = given.text if name in ("table4.3", "tableC.3") else given.images
            run(EXPERIMENTS[name], Conditions(given.scale, seed, data), KEPT)
    found = {name: _read(name, given.scale) for name in names}
    metrics: dict[str, float] = {"seeds": min((len(runs) for runs in found.values() if runs), default=0)}
    for runs in found.values():
        for key in runs[0]["figures"] if runs else ():
            values = [one["figures"][key] for one in runs]
            metrics[key] = statistics.mean(values)
            if len(values) > 1:
                metrics[f"{key}_sd"] = statistics.stdev(values)
    for name in SHOWN:
        picture = KEPT / f"{given.scale}-{given.seeds[0]}" / f"{name}.png"
        if picture.is_file():
            shutil.copy(picture, PICTURES / picture.name)
    experiments = {name: _merged(runs) for name, runs in found.items() if runs}
    write(given.out, metrics, context(scale=given.scale, experiments=experiments))


def _read(name: str, scale: str) -> list[dict]:
    """Read what was found for every seed."""
    return [json.loads(path.read_text()) for path in sorted(KEPT.glob(f"{scale}-*/{name}.json"))]


def _merged(runs: list[dict]) -> dict:
    """Join the tables of all seeds: numbers become their mean and standard deviation."""
    tables = [one["table"]["rows"] for one in runs]
    alike = len({len(rows) for rows in tables}) == 1 and all(
        len({str(row[0]) for row in rows}) == 1 for rows in zip(*tables, strict=False)
    )
    return {
        "title": runs[0]["title"],
        "notes": runs[0]["notes"],
        "columns": runs[0]["table"]["columns"],
        "rows": [[_cell(cells) for cells in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]
        if alike
        else tables[0],
        "seeds": [one["seed"] for one in runs],
        "seconds": [one["seconds"] for one in runs],
        "figures": [one["figures"] for one in runs],
        "device": runs[0]["device"],
        "torch": runs[0]["torch"],
    }


def _cell(values: tuple) -> object:
    if any(isinstance(value, str) or value is None for value in values) or len(set(values)) == 1:
        return values[0]  # a name, or a figure of the papers
    mean = statistics.mean(values)
    return [mean, statistics.stdev(values)] if len(values) > 1 else mean


if __name__ == "__main__":
    main()
