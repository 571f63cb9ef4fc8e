"""SymbolicGPT on drawn and published problems, against gplearn, pyoperon and an MLP in the same run.

Beside that: pyoperon started from our formulas, a sorted model by depth, node control against a summed condition, and
how many problems a second the generator draws. Finished parts are kept under runs/symbolic, so that the command goes
on where it was interrupted. Compared are CPU seconds of methods with one thread, so that two jobs at a time, or another
program on the machine, change little.
"""

import argparse
import hashlib
import json
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from measuring import context, run_apart, write
from torch.utils.data import DataLoader

import sortednet as sn
from sortednet.experiments.formulas import formulas as symbolic
from sortednet.experiments.formulas.depths import SOLVED, at_depth, solved_share
from sortednet.experiments.formulas.problems import Problem, check_unseen, load_problems
from sortednet.experiments.running import Conditions
from sortednet.symbolic import Pretrained, ProblemData, collate_problems, load_model, make_pool, shipped

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "runs" / "symbolic"
PICTURES = ROOT / "docs"
DEPTH_SETS = ("generated-1", "generated-2", "generated-3")
BATCHES, WARMUP, WORKERS, BATCH = 400, 40, 2, 128
SHOWN_FAILURES = 12


@dataclass(frozen=True)
class Part:
    """What is measured in one process, and what it depends on."""

    run: Callable[[Path], dict]
    described: dict[str, Any]

    @property
    def key(self) -> str:
        """Name what it depends on, but for the number of problems: more of them go on from fewer."""
        fixed = {**self.described, "rows": self.described.get("rows", [0])[0]}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:10]

    def is_done(self, path: Path) -> bool:
        """Return whether the kept result has enough problems."""
        if not path.is_file():
            return False
        wanted = self.described.get("rows", [0, None])
        return wanted[1] is None or len(json.loads(path.read_text())["rows"]) >= wanted[1] - wanted[0]

    def read(self, path: Path) -> dict:
        found = json.loads(path.read_text())
        wanted = self.described.get("rows", [0, None])
        return found if wanted[1] is None else {**found, "rows": found["rows"][: wanted[1] - wanted[0]]}


def main() -> None:
    given = arguments()
    parts = {f"{name}-{own.key}": (name, own) for name, own in all_parts(given).items()}
    if given.run:
        found = parts[given.run][1].run(KEPT / given.run)
        KEPT.mkdir(parents=True, exist_ok=True)
        (KEPT / f"{given.run}.json").write_text(json.dumps(found))
        return
    chosen = [key for key in parts if not given.only or key.startswith(tuple(given.only))] if not given.collect else []
    for key in chosen:
        if not parts[key][1].is_done(KEPT / f"{key}.json"):
            (KEPT / f"{key}.json").unlink(missing_ok=True)
    apart = [key for key in chosen if not key.startswith("generator")]
    run_apart(__file__, apart, KEPT, given.workers, given.only)
    run_apart(__file__, [key for key in chosen if key not in apart], KEPT, 1, given.only)  # it takes both cores itself
    if given.only:
        return
    results = {
        name: own.read(KEPT / f"{key}.json") for key, (name, own) in parts.items() if own.is_done(KEPT / f"{key}.json")
    }
    experiment = {name: found for name, found in results.items() if name.startswith("symbolic-")}
    outcome = symbolic.summarise(conditions_of(given), experiment)
    metrics = {**headlines(outcome.figures, experiment), **of_depths(results), **of_conditions(results)}
    if "generator" in results:
        metrics |= {name: results["generator"][name] for name in ("examples_per_second", "examples_per_second_clock")}
    write(
        given.out,
        {**metrics, **outcome.figures},
        context(
            **described(given), notes=outcome.notes,
            table={"columns": outcome.columns, "rows": outcome.rows}, curves=outcome.curves,
            depths={name: one for name, one in results.items() if name.startswith("depth-")},
            conditional={name: one for name, one in results.items() if name.startswith("conditional-")},
            missing=[name for name in all_parts(given) if name not in results],
            failures=failures(experiment),
            about=dict(model_of(given.model).about), parameters=parameters(model_of(given.model)),
        ),
    )  # fmt: skip
    picture = KEPT / "symbolic.png"
    symbolic.SYMBOLIC.draw(picture, conditions_of(given), experiment)
    for one in (picture, *(picture.with_name(f"symbolic-{part}.png") for part in ("curves", "formulas"))):
        shutil.copy(one, PICTURES / one.name)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the result")
    parser.add_argument("--model", help="our model's file; the one that comes with the package where left out")
    parser.add_argument("--sorted", help="file of a model that was trained sorted over depth")
    parser.add_argument("--node", nargs="*", default=[], help="files of models with node control, one for each seed")
    parser.add_argument("--summed", nargs="*", default=[], help="the same with the summed condition")
    parser.add_argument("--data", default="data/symbolic", help="folder of the published lists")
    parser.add_argument("--seed", type=int, default=0)
    small = symbolic.SIZES["cpu"]
    parser.add_argument("--problems", type=int, default=small.generated, help="drawn problems of one variable")
    parser.add_argument("--more-variables", type=int, default=small.more_variables, help="the same of 2, 3 and 1 to 3")
    parser.add_argument("--nguyen-seeds", type=int, default=small.seeds)
    parser.add_argument("--hybrid", type=int, default=small.hybrid, help="drawn problems that pyoperon is started on")
    parser.add_argument("--depth-problems", type=int, default=60, help="drawn problems of 1, of 2 and of 3 variables")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="make the parts whose names begin so, and stop")
    parser.add_argument("--collect", action="store_true", help="make no part, and write what the finished ones found")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    return parser.parse_args()


def sizes_of(given: argparse.Namespace) -> symbolic.Sizes:
    return symbolic.Sizes(given.problems, given.more_variables, given.nguyen_seeds, given.hybrid)


def conditions_of(given: argparse.Namespace) -> Conditions:
    return Conditions("cpu", given.seed, given.data, given.model)


def digest(path: str | None) -> str:
    return "shipped" if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def described(given: argparse.Namespace) -> dict[str, Any]:
    """Return what the kept parts depend on."""
    return {
        "seed": given.seed,
        "sizes": asdict(sizes_of(given)),
        "depth_problems": given.depth_problems,
        "models": {
            "ordinary": digest(given.model), "sorted": None if given.sorted is None else digest(given.sorted),
            "node": [digest(one) for one in given.node], "summed": [digest(one) for one in given.summed],
        },
    }  # fmt: skip


def model_of(path: str | None) -> Pretrained:
    found = shipped() if path is None else load_model(path)
    check_unseen(found)
    return found


def parameters(pretrained: Pretrained) -> int:
    return sum(one.numel() for one in pretrained.model.parameters())


def all_parts(given: argparse.Namespace) -> dict[str, Part]:
    """Return all that is measured, by name; without the parts of a model whose file is not there yet."""
    parts: dict[str, Part] = {}
    ready = given.model is None or Path(given.model).is_file()
    methods = ("ours", "gplearn", "pyoperon", "mlp") if ready else ("gplearn", "pyoperon", "mlp")
    conditions = conditions_of(given) if ready else replace(conditions_of(given), model=None)
    for name, job in symbolic.jobs(conditions, sizes_of(given), methods).items():
        parts[name] = Part(lambda folder, job=job: job.run(folder, {}), dict(job.described))
    drawn_ones = {"seed": given.seed, "problems": given.depth_problems}
    depths = (
        ("sorted-full", given.sorted, False, False),
        ("sorted-half", given.sorted, True, False),
        ("sorted-full-speculative", given.sorted, False, True),
        ("ordinary-full", given.model, False, False),
        ("ordinary-half", given.model, True, False),
    )
    for name, path, half, speculative in depths if given.sorted is not None else ():
        if path is None or Path(path).is_file():
            parts[f"depth-{name}"] = Part(
                lambda _, path=path, half=half, own=speculative: depth(given, path, half, own),
                {**drawn_ones, "model": digest(path)},
            )
    for kind in ("node", "summed"):
        for place, path in enumerate(getattr(given, kind)):
            if Path(path).is_file():
                parts[f"conditional-{kind}-{place}"] = Part(
                    lambda _, path=path: by_set(given, model_of(path)), {**drawn_ones, "model": digest(path)}
                )
    if ready:
        parts["generator"] = Part(lambda _: examples_per_second(given), {"seed": given.seed})
    return parts


def drawn(given: argparse.Namespace, name: str) -> list[Problem]:
    return load_problems(name, given.depth_problems, given.seed, None)


def by_set(given: argparse.Namespace, pretrained: Pretrained, writing: Callable[[], dict] = dict) -> dict:
    """Return what a model solves in each set of drawn problems, and in all."""
    rows = {
        name: solved_share(pretrained, drawn(given, name), seed=given.seed, writing=writing()) for name in DEPTH_SETS
    }
    keys = ("share", "inside", "invalid", "distinct", "seconds", "writing_seconds")
    mean = {key: statistics.mean(row[key] for row in rows.values()) for key in keys}
    count = sum(row["problems"] for row in rows.values())
    sd = (mean["share"] * (1 - mean["share"]) / count) ** 0.5
    return {**mean, "sd": sd, "problems": count, "sets": rows, "layers": pretrained.model.config.layers}


def depth(given: argparse.Namespace, path: str | None, half: bool, speculative: bool) -> dict:
    """Return what a model solves at its full or half depth, its texts written plainly or by self-speculation."""
    pretrained = model_of(path)
    layers = pretrained.model.config.layers
    if half:
        pretrained = at_depth(pretrained, layers // 2)

    def writing() -> dict:
        if not speculative:
            return {}
        generator = torch.Generator().manual_seed(given.seed)
        return {"custom_generate": sn.SelfSpeculative(exits=layers // 2, generator=generator)}

    return by_set(given, pretrained, writing)


def examples_per_second(given: argparse.Namespace) -> dict:
    """Return how many training examples a data loader with two workers gives: drawn, scaled and tokenised."""
    pretrained = model_of(given.model)
    pool = make_pool(pretrained.generator, 20_000, given.seed, "train")
    data = ProblemData(pool, pretrained.generator, pretrained.model.config, (BATCHES + WARMUP) * BATCH, given.seed)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    batches = iter(DataLoader(data, batch_size=BATCH, num_workers=WORKERS, collate_fn=collate_problems))
    for _ in range(WARMUP):
        next(batches)
    start = time.perf_counter()
    count = sum(len(points) for points, *_ in batches)
    seconds = time.perf_counter() - start
    del batches  # waits for the workers, whose time is counted when they are gone
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        # Of two cores that do nothing else, whatever else this machine did.
        "examples_per_second": WORKERS * len(data) / busy,
        "examples_per_second_clock": count / seconds,
        "examples": len(data),
        "skeletons": len(pool),
    }


def headlines(figures: dict[str, float], experiment: dict[str, dict]) -> dict[str, float]:
    """Return the figures that the project is held to."""
    found = {}
    count = figures["generated_1_gplearn_problems"]
    for name, test in (("generated_share_ratio", "outside"), ("generated_share_ratio_inside", "inside")):
        theirs = figures[f"generated_1_gplearn_{test}_0.999"] / 100
        # Where gplearn solves none, the ratio to one problem is a bound from below.
        found[name] = figures[f"generated_1_ours_{test}_0.999"] / 100 / max(theirs, 1 / count)
    drawn_sets = [rows for name, rows in symbolic.gathered(experiment, "ours").items() if name.startswith("generated")]
    own = [row for rows in drawn_sets for row in rows]
    theirs = symbolic.gathered(experiment, "gplearn")["generated-1"]
    found["seconds_per_problem"] = statistics.median(row["cpu_seconds"] for row in own)
    first = statistics.median(row["cpu_seconds"] for row in symbolic.gathered(experiment, "ours")["generated-1"])
    found["seconds_per_problem_clock"] = statistics.median(row["seconds"] for row in own)
    found["speed_over_gplearn"] = statistics.median(row["cpu_seconds"] for row in theirs) / first
    for method in ("ours", "gplearn", "pyoperon", "mlp"):
        ending = "" if method == "ours" else f"_{method}"
        for name, key in (
            ("nguyen", f"nguyen_{method}_inside_{SOLVED}"),
            ("feynman3", f"feynman_{method}_inside_0.99"),
            ("feynman3_shapes", f"feynman_{method}_shapes_0.99"),
        ):
            if key in figures:
                found[f"{name}{ending}"] = figures[key]
    return found


def of_depths(results: dict[str, dict]) -> dict[str, float]:
    if sum(name.startswith("depth-") for name in results) < 5:
        return {}
    share = {name: 100 * one["share"] for name, one in results.items() if name.startswith("depth-")}
    seconds = {name: one["seconds"] for name, one in results.items() if name.startswith("depth-")}
    return {
        "sorted_depth_gap": share["depth-sorted-full"] - share["depth-sorted-half"],
        "sorted_half_minus_cut": share["depth-sorted-half"] - share["depth-ordinary-half"],
        "sorted_full_minus_ordinary": share["depth-sorted-full"] - share["depth-ordinary-full"],
        "sorted_half_speed": seconds["depth-sorted-full"] / seconds["depth-sorted-half"],
        "sorted_speculative_speed": seconds["depth-sorted-full"] / seconds["depth-sorted-full-speculative"],
    }


def of_conditions(results: dict[str, dict]) -> dict[str, float]:
    shares = {
        kind: [100 * one["share"] for name, one in results.items() if name.startswith(f"conditional-{kind}-")]
        for kind in ("node", "summed")
    }
    if not all(shares.values()):
        return {}
    found = {"conditional_gain": statistics.mean(shares["node"]) - statistics.mean(shares["summed"])}
    for kind, values in shares.items():
        found[f"conditional_{kind}"] = statistics.mean(values)
        if len(values) > 1:
            found[f"conditional_{kind}_sd"] = statistics.stdev(values)
    if min(map(len, shares.values())) > 1:
        variances = [statistics.variance(values) for values in shares.values()]
        found["conditional_gain_sd"] = sum(variances) ** 0.5
    return found


def failures(experiment: dict[str, dict]) -> dict[str, list[dict]]:
    """Return the first problems of each set that ours does not solve, what it found, and who solves them."""
    methods = {name: symbolic.gathered(experiment, name) for name in ("ours", "gplearn", "pyoperon", "mlp")}
    found = {}
    for name, rows in methods["ours"].items():
        test = "r2_outside" if name.startswith("generated") else "r2_inside"
        lost = [place for place, row in enumerate(rows) if not (row[test] is not None and row[test] > SOLVED)]
        found[name] = [
            {
                "name": rows[place]["name"], "truth": rows[place]["truth"], "found": rows[place]["found"],
                "r2": rows[place][test], "r2_inside": rows[place]["r2_inside"],
                "solved_by": [
                    other
                    for other, sets in methods.items()
                    if other != "ours" and name in sets and (sets[name][place][test] or -1) > SOLVED
                ],
            }
            for place in lost[: SHOWN_FAILURES if name.startswith("generated") else None]
        ]  # fmt: skip
    return found


if __name__ == "__main__":
    main()
