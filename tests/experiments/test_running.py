"""What every experiment shares, with jobs of no cost in place of training."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sortednet.errors import CheckpointError, ConfigError, TrainingError
from sortednet.experiments.running import Conditions, Experiment, Job, Outcome, main_job, markdown, run

# In place of `python -m sortednet reproduce NAME ... --job=JOB`: it writes what `main_job` would, and keeps a record.
SCRIPT = """#!/bin/sh
for word in "$@"; do
  case "$word" in --job=*) job="${word#--job=}";; --output=*) output="${word#--output=}";; esac
done
echo "$@" >> "$output/calls"
if [ -e "$output/$job.slow" ]; then touch "$output/$job.started"; exec sleep 60; fi
if [ -e "$output/$job.broken" ]; then
  for slow in "$output"/*.slow; do
    while [ -e "$slow" ] && [ ! -e "${slow%.slow}.started" ]; do sleep 0.01; done
  done
  sleep 0.1; echo "first line"; echo "the job broke"; exit 3
fi
mkdir -p "$output/cpu-0/jobs"
echo "{\\"value\\": 1, \\"described\\": {\\"job\\": {\\"name\\": \\"$job\\"}, \\"seconds\\": 2.0}}" \
  > "$output/cpu-0/jobs/$job.json"
"""


def double(folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": 2 * sum(found["value"] for found in results.values()), "folder": folder.name}


def one(folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": 1}


def jobs(conditions: Conditions) -> dict[str, Job]:
    return {
        "last": Job(double, {"name": "last"}, needs=("first", "second")),
        "first": Job(one, {"name": "first"}),
        "second": Job(one, {"name": "second"}),
    }


def summarise(conditions: Conditions, results: Mapping[str, Any]) -> Outcome:
    rows = [[name, found["value"], None] for name, found in results.items()]
    return Outcome(["job", "value", "nothing"], rows, {"sum": sum(row[1] for row in rows)}, "Nothing is compared.")


def draw(path: Path, conditions: Conditions, results: Mapping[str, Any]) -> None:
    path.write_bytes(b"PNG")


EXPERIMENT = Experiment("fake", "A fake", jobs, summarise, draw)
CPU = Conditions()


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let jobs run by the script; return the folder for all experiments."""
    file, output = tmp_path / "python", tmp_path / "runs"
    file.write_text(SCRIPT)
    file.chmod(0o755)
    output.mkdir()
    monkeypatch.setattr(sys, "executable", str(file))
    return output


def started(output: Path) -> list[str]:
    """Return the jobs that were started, in order."""
    return [line.rpartition("--job=")[2] for line in (output / "calls").read_text().splitlines()]


# --- one job --------------------------------------------------------------------------------------------------------


def test_a_job_gets_its_folder_and_the_results_of_what_it_needs(tmp_path: Path) -> None:
    for name in ("first", "second", "last"):
        main_job(EXPERIMENT, CPU, tmp_path, name)
    found = json.loads((tmp_path / "cpu-0" / "jobs" / "last.json").read_text())
    assert (found["value"], found["folder"]) == (4, "last")


def test_a_result_says_what_was_done_where_and_how_long(tmp_path: Path) -> None:
    main_job(EXPERIMENT, CPU, tmp_path, "first")
    described = json.loads((tmp_path / "cpu-0" / "jobs" / "first.json").read_text())["described"]
    assert described["job"] == {"name": "first"}
    assert described["seconds"] >= 0
    assert {"device", "threads", "python", "torch", "sortednet"} < set(described)


def test_every_scale_and_seed_has_a_folder_of_its_own(tmp_path: Path) -> None:
    main_job(EXPERIMENT, Conditions("gpu", 3), tmp_path, "first")
    assert (tmp_path / "gpu-3" / "jobs" / "first.json").is_file()


def test_an_unknown_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"job='third' is none of fake\. Choose one of last, first, second\."):
        main_job(EXPERIMENT, CPU, tmp_path, "third")


def test_a_job_before_what_it_needs_is_refused(tmp_path: Path) -> None:
    main_job(EXPERIMENT, CPU, tmp_path, "first")
    with pytest.raises(ConfigError, match=r"Job last needs second, which is not done\. Run the whole.*without --job"):
        main_job(EXPERIMENT, CPU, tmp_path, "last")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"described": {}}', '{"described": 3}'])
def test_a_damaged_result_is_named(tmp_path: Path, text: str) -> None:
    main_job(EXPERIMENT, CPU, tmp_path, "first")
    (tmp_path / "cpu-0" / "jobs" / "first.json").write_text(text)
    for use in (lambda: main_job(EXPERIMENT, CPU, tmp_path, "last"), lambda: run(EXPERIMENT, CPU, tmp_path)):
        with pytest.raises(CheckpointError, match=r"first\.json is damaged\. Remove it and its folder.*another output"):
            use()


def test_a_result_of_another_job_is_refused(tmp_path: Path) -> None:
    def changed(conditions: Conditions) -> dict[str, Job]:
        return {**jobs(conditions), "first": Job(one, {"name": "first", "updates": 3})}

    main_job(EXPERIMENT, CPU, tmp_path, "first")
    with pytest.raises(CheckpointError, match=r"first\.json belongs to another run: .* was .*\. Remove it"):
        run(Experiment("fake", "A fake", changed, summarise, draw), CPU, tmp_path)


# --- all of them ----------------------------------------------------------------------------------------------------


def test_each_job_starts_once_what_it_needs_is_done(script: Path) -> None:
    run(EXPERIMENT, CPU, script, workers=2, say=lambda text: None)
    assert sorted(started(script)[:2]) == ["first", "second"]
    assert started(script)[2:] == ["last"]


def test_a_job_is_told_the_conditions(script: Path) -> None:
    run(EXPERIMENT, Conditions(data="images", model=None), script, workers=1, say=lambda text: None)
    call = (script / "calls").read_text().splitlines()[0]
    assert call == (f"-m sortednet reproduce fake --output={script} --scale=cpu --seed=0 --data=images --job=first")


def test_finished_jobs_are_used_again(script: Path) -> None:
    main_job(EXPERIMENT, CPU, script, "first")
    run(EXPERIMENT, CPU, script, workers=1, say=lambda text: None)
    assert started(script) == ["second", "last"]


def test_the_outcome_is_written_as_json_markdown_and_png(script: Path) -> None:
    said: list[str] = []
    outcome = run(EXPERIMENT, CPU, script, workers=1, say=said.append)
    folder = script / "cpu-0"
    held = json.loads((folder / "fake.json").read_text())
    assert outcome is not None
    assert held["table"] == {"columns": list(outcome.columns), "rows": [list(row) for row in outcome.rows]}
    assert held["figures"] == {"sum": 3}
    assert (held["seconds"], held["scale"], held["seed"]) == (6.0, "cpu", 0)
    text = (folder / "fake.md").read_text()
    assert text == f"# A fake\n\nNothing is compared.\n\n{markdown(outcome)}\n"
    assert (folder / "fake.png").read_bytes() == b"PNG"
    assert said[:2] == ["first: 2 s", "second: 2 s"]
    assert said[-1] == f"Wrote {folder / 'fake'}.json, .md and .png"


def test_where_the_data_lie_is_not_written(script: Path) -> None:
    run(EXPERIMENT, Conditions(data="/home/me/images"), script, workers=1, say=lambda text: None)
    assert "/home/me" not in (script / "cpu-0" / "fake.json").read_text()


def test_when_time_is_up_the_same_call_goes_on(script: Path) -> None:
    (script / "second.slow").touch()
    said: list[str] = []
    assert run(EXPERIMENT, CPU, script, workers=1, minutes=0.02, say=said.append) is None
    assert said[-1] == "Time is up with 1 of 3 jobs done. The same command goes on from here."
    assert not (script / "cpu-0" / "fake.json").exists()
    (script / "second.slow").unlink()
    assert run(EXPERIMENT, CPU, script, workers=1, say=said.append) is not None
    assert started(script) == ["first", "second", "second", "last"]


def test_a_job_that_fails_is_named_with_the_end_of_its_log(script: Path) -> None:
    (script / "second.broken").touch()
    message = r"Job second failed: first line the job broke The whole log is .*second\.log\."
    with pytest.raises(TrainingError, match=message):
        run(EXPERIMENT, CPU, script, workers=1, say=lambda text: None)


def test_a_job_that_fails_stops_those_that_still_run(script: Path) -> None:
    (script / "first.slow").touch()
    (script / "second.broken").touch()
    start = time.monotonic()
    with pytest.raises(TrainingError, match="Job second failed"):
        run(EXPERIMENT, CPU, script, workers=2, say=lambda text: None)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, r"workers=0 is below 1\."),
        ({"minutes": 0.0}, r"minutes=0\.0 is not above 0\."),
        ({"minutes": -1.0}, r"minutes=-1\.0 is not above 0\."),
    ],
)
def test_a_number_outside_its_range_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(EXPERIMENT, CPU, tmp_path, **options)


# --- conditions and tables ------------------------------------------------------------------------------------------


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"scale='tpu' is unknown\. Choose cpu or gpu\."):
        Conditions("tpu")  # type: ignore[arg-type]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"seed=-1 is negative\. Give 0 or more\."):
        Conditions(seed=-1)


def test_a_table_has_numbers_to_the_right_with_two_decimals_and_gaps_where_nothing_was_measured() -> None:
    outcome = Outcome(["name", "share", "count"], [["a", 0.125, 3], ["b", None, 4]], {}, "")
    assert markdown(outcome) == "| name | share | count |\n| --- | ---: | ---: |\n| a | 0.12 | 3 |\n| b |  | 4 |"
