"""Run the tests with other versions than the lock's, keep what came out, and write docs/support.md from it.

    python tools/support.py newest --pythons 3.11 3.12 3.13   # what the registry has today
    python tools/support.py oldest --pythons 3.11             # the floors of pyproject.toml
    python tools/support.py tried torch==2.6.0                # the lock, with one version changed
    python tools/support.py page

Each run makes an environment of its own under build/support with uv. It fails if a test fails; the page says which.
"""

import argparse
import datetime
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "support.json"
PAGE = ROOT / "docs" / "support.md"
BUILD = ROOT / "build" / "support"
KINDS = ("newest", "oldest", "tried")
SHOWN = ("torch", "transformers", "peft", "accelerate")
PACKAGES = (*SHOWN, "safetensors", "trl", "datasets", "numpy", "onnx", "onnxruntime", "pytest")
FEATURES = {
    "core": [
        "contracts/test_sub_models.py",
        "contracts/test_objectives.py",
        "contracts/test_containers.py",
        "test_space.py",
        "network/test_sorted_net.py",
        "views/test_layouts.py",
        "network/test_checkpoint.py",
        "training/test_sampling.py",
        "evaluation/test_evaluator.py",
        "evaluation/test_cost.py",
    ],
    "training, trainer": [
        "contracts/test_recipes.py",
        "training/test_steps.py",
        "training/test_trainer.py",
        "training/test_distillation.py",
        "training/test_classifiers.py",
    ],
    "command line": ["test_cli.py", "data/test_images.py"],
    "report": ["report/test_report.py", "report/test_pictures.py", "evaluation/test_table.py"],
    "onnx": ["export/test_onnx.py"],
    "pretrained (transformers)": [
        "huggingface/families/test_families.py",
        "training/test_importance.py",
        "training/test_units.py",
    ],
    "exits and generation": [
        "contracts/test_decoders.py",
        "network/test_exits.py",
        "huggingface/test_readouts.py",
        "generation/test_engine.py",
        "generation/test_generate.py",
        "generation/test_cache.py",
    ],
    "adapters (peft)": [
        "contracts/test_arriving.py",
        "lora/test_builder.py",
        "lora/test_gates.py",
        "lora/test_saving.py",
        "lora/test_ranks.py",
    ],
    "fine-tuning (trl)": ["huggingface/test_trainer.py", "jobs/test_training_arguments.py"],
    "text": [
        "contracts/test_text_recipes.py",
        "data/text/test_examples.py",
        "data/text/test_encoding.py",
        "data/text/test_pretraining.py",
    ],
    "symbolic": ["contracts/test_symbolic.py", "symbolic/test_estimator.py", "symbolic/test_model.py"],
    "distributed": ["training/test_distributed.py", "huggingface/test_trainer_distributed.py"],
}


def main() -> None:
    """Parse the arguments, run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*KINDS, "page"])
    parser.add_argument("pins", nargs="*", help="of `tried`: versions that take the place of the lock's")
    parser.add_argument("--pythons", nargs="+", default=["3.11"], help="versions, or paths of interpreters")
    parser.add_argument("--features", nargs="+", choices=list(FEATURES), default=list(FEATURES))
    parser.add_argument("--every", type=int, default=1, help="run each n-th test only; the page says so")
    parser.add_argument("--minutes", type=int, default=90, help="a run that takes longer is ended and has failed")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--environment", type=Path, help="use one that is installed, instead of making one")
    parser.add_argument("--uv", default="uv")
    given = parser.parse_args()
    if (given.what == "tried") != bool(given.pins) and given.what != "page":
        parser.error("give versions such as torch==2.6.0 to `tried`, and to nothing else")
    failed = False
    for python in given.pythons if given.what != "page" else []:
        record = run(given, python)
        keep(record)
        failed = failed or bool(record["failure"])
    PAGE.write_text(page(json.loads(RESULTS.read_text())))
    sys.exit(1 if failed else 0)


def run(given: argparse.Namespace, python: str) -> dict[str, Any]:
    """Make the environment, run the tests and return what came out."""
    name = "-".join([given.what, Path(python).name, *(re.sub(r"\W+", "-", pin) for pin in given.pins)])
    record: dict[str, Any] = {
        "kind": given.what,
        "pins": sorted(given.pins),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": said(["git", "rev-parse", "--short", "HEAD"]),
        "every": given.every,
        "versions": {"python": python},
        "features": {},
        "warnings": 0,
        "failure": "",
    }
    folder = given.environment or BUILD / name
    if not given.environment:
        problem = environment(given, python, folder)
        if problem:
            return {**record, "failure": f"installation: {problem}"}
    interpreter = folder / "bin" / "python"
    record["versions"] = json.loads(said([str(interpreter), "-c", VERSIONS, *PACKAGES]))
    report = BUILD / f"{name}.xml"
    log = BUILD / f"{name}.log"
    BUILD.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    ended = test(given, interpreter, report, log)
    record["features"] = counted(report, given.features) if report.exists() else {}
    found = re.findall(r"(\d+) warnings? in ", log.read_text())
    record["warnings"] = int(found[0]) if found else 0
    failures = [feature["first"] for feature in record["features"].values() if feature["failed"]]
    record["failure"] = failures[0] if failures else ended if not record["features"] or ended else ""
    print(f"support: {name}: {record['failure'] or 'passed'}; the log is {log.relative_to(ROOT)}", flush=True)
    return record


VERSIONS = """
import importlib.metadata as metadata, json, platform, sys
versions = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(versions))
"""


def environment(given: argparse.Namespace, python: str, folder: Path) -> str:
    """Make a fresh environment; return what went wrong, or nothing."""
    made = subprocess.run(
        [given.uv, "venv", "--clear", "--python", python, str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        return f"no Python {python} could be had"
    command = [given.uv, "pip", "install", "--no-config", "--python", str(folder / "bin" / "python")]
    if given.what == "newest":
        command += ["--upgrade"]
    elif given.what == "oldest":
        command += ["--resolution", "lowest-direct"]
    else:
        versions = BUILD / f"{folder.name}.txt"
        BUILD.mkdir(parents=True, exist_ok=True)
        versions.write_text(lock_without(given.pins))
        # The floors and caps are what is tried, so that they do not bind here.
        overrides = BUILD / f"{folder.name}-pins.txt"
        overrides.write_text("\n".join(given.pins) + "\n")
        command += ["-c", str(versions), "--override", str(overrides)]
    installed = subprocess.run(
        [*command, "-e", f"{ROOT}[all,test]"], stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False
    )
    if not installed.returncode:
        return ""
    sys.stderr.write(installed.stderr)
    causes = [line.strip() for line in installed.stderr.splitlines() if "ecause" in line]
    return (causes or ["it failed"])[0]


def lock_without(pins: list[str]) -> str:
    """Return the lock without these packages and without what belongs to one build of torch."""
    names = {re.split(r"[=<>!~]", pin)[0] for pin in pins}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    free = re.compile(r"(nvidia-|cuda-|triton==)") if "torch" in names else re.compile(r"$^")
    return "\n".join(line for line in lines if line.split("==")[0] not in names and not free.match(line)) + "\n"


def test(given: argparse.Namespace, interpreter: Path, report: Path, log: Path) -> str:
    """Run the tests; return what is wrong besides tests that failed."""
    files = [f"tests/{file}" for feature in given.features for file in FEATURES[feature]]
    # What other packages deprecate is counted, and is no failure here: the locked versions are tested for it.
    command = [str(interpreter), "-m", "pytest", "-q", "-n", given.workers, "-W", "default", "--tb=short"]
    command += ["-p", "no:cacheprovider", "-p", "every", f"--every={given.every}", f"--junit-xml={report}", *files]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tools")])
    variables = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=out, stderr=out, env={**os.environ, **variables}, start_new_session=True
        )
        try:
            status = process.wait(timeout=60 * given.minutes)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"it did not end within {given.minutes} minutes"
    return "" if status in (0, 1) else f"pytest ended with status {status}"


def counted(report: Path, features: list[str]) -> dict[str, dict[str, Any]]:
    """Count the tests of each feature in a JUnit file, and name the first that failed.

    Args:
        report: The file.
        features: Those that ran.

    Returns:
        By feature: `passed`, `failed` and `skipped`, and `first`, a test's id or nothing.
    """
    owner = {f"tests/{file}": feature for feature in features for file in FEATURES[feature]}
    counts: dict[str, dict[str, Any]] = {
        feature: {"passed": 0, "failed": 0, "skipped": 0, "first": ""} for feature in features
    }
    for case in ElementTree.parse(report).iter("testcase"):
        # A file that cannot be imported is a case without a class, named as its module is.
        words = (case.get("classname") or case.get("name") or "").split(".")
        last = next((i for i, word in enumerate(words) if word.startswith("test_")), len(words) - 1)
        file = "/".join(words[: last + 1]) + ".py"
        if file not in owner:
            continue
        count = counts[owner[file]]
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        count[outcome] += 1
        if outcome == "failed" and not count["first"]:
            count["first"] = f"{file}::{case.get('name')}" if case.get("classname") else f"{file} (its import)"
    return counts


def said(command: list[str]) -> str:
    """Return what a command prints."""
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a later run of the same takes the place of."""
    short = ".".join(record["versions"]["python"].split(".")[:2])
    return KINDS.index(record["kind"]), record["pins"], [int(number) for number in re.findall(r"\d+", short)]


def keep(record: dict[str, Any]) -> None:
    """Put a run into the results in the place of an earlier one of its kind."""
    records = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    records = [other for other in records if key(other) != key(record)] + [record]
    RESULTS.write_text(json.dumps(sorted(records, key=key), indent=1) + "\n")


def floors() -> dict[str, str]:
    """Return what pyproject.toml asks of each of the packages, Python included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    asked = {"python": project["requires-python"]}
    for line in lines:
        name, bounds = re.match(r"([\w-]+)(?:\[.*\])?([^;]*)", line).groups()
        if name in PACKAGES and bounds:
            asked[name] = bounds.strip()
    return asked


def page(records: list[dict[str, Any]]) -> str:
    """Return docs/support.md."""
    asked = floors()
    lines = [
        "# Supported versions",
        "",
        "Made by `tools/support.py` from `docs/support.json`; `make newest` and `make oldest` run it.",
        "The lock (`constraints.txt`) is what `make test` runs the whole suite with. Here: the contract tests and the",
        "tests of each feature with the newest versions of the registry, with the floors of `pyproject.toml`, and",
        "with versions tried one by one in the place of the lock's. Warnings are counted, not errors.",
        "",
        "## What pyproject.toml asks for",
        "",
        "| package | range |",
        "| --- | --- |",
        *(f"| {name} | `{asked[name]}` |" for name in ("python", *SHOWN, "safetensors", "trl") if name in asked),
        "",
        "## Runs",
        "",
        "| run | date | Python | " + " | ".join(SHOWN) + " | passed | failed | skipped | warnings | tests |",
        "| --- " * (len(SHOWN) + 8) + "|",
        *(row(index, record) for index, record in enumerate(records, 1)),
        "",
        "## Version by feature",
        "",
        "`ok` and how many tests passed, or how many of how many failed; the runs are those above.",
        "",
        "| run | " + " | ".join(FEATURES) + " |",
        "| --- " * (len(FEATURES) + 1) + "|",
        *(
            f"| {title(index, record)} | " + " | ".join(cell(record, feature) for feature in FEATURES) + " |"
            for index, record in enumerate(records, 1)
        ),
        "",
        "## What failed first",
        "",
    ]
    failures = [
        f"- {title(index, record)}: {record['failure'] if not record['features'] else ''}"
        + "; ".join(f"{name}: `{count['first']}`" for name, count in record["features"].items() if count["failed"])
        for index, record in enumerate(records, 1)
        if record["failure"]
    ]
    lines += failures or ["Nothing."]
    lines += ["", "## The tests of a feature", ""]
    lines += [f"- {feature}: " + ", ".join(f"`{file}`" for file in files) for feature, files in FEATURES.items()]
    return "\n".join(lines) + "\n"


def title(index: int, record: dict[str, Any]) -> str:
    """Return a run's number and name."""
    name = ", ".join(record["pins"]) or record["kind"]
    return f"{index} {name}"


def row(index: int, record: dict[str, Any]) -> str:
    """Return the line of a run."""
    sums = [sum(count[kind] for count in record["features"].values()) for kind in ("passed", "failed", "skipped")]
    share = "all" if record["every"] == 1 else f"each {record['every']}th"
    versions = [record["versions"].get(name, "-") for name in ("python", *SHOWN)]
    cells = [title(index, record), record["date"], *versions, *map(str, sums), str(record["warnings"]), share]
    return "| " + " | ".join(cells) + " |"


def cell(record: dict[str, Any], feature: str) -> str:
    """Return what came out for a feature in a run."""
    count = record["features"].get(feature)
    if count is None or not any(count[kind] for kind in ("passed", "failed", "skipped")):
        return "not run"
    if count["failed"]:
        return f"**{count['failed']} of {count['passed'] + count['failed']} failed**"
    return f"ok {count['passed']}" if count["passed"] else "skipped"


if __name__ == "__main__":
    main()
