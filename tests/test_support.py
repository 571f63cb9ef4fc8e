"""`tools/support.py`: what a run of other versions leaves, and the page made of it."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("support", ROOT / "tools" / "support.py")
assert SPEC is not None
assert SPEC.loader is not None
support = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(support)


def record(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "newest",
        "pins": [],
        "date": "2026-01-02",
        "system": "Linux x86_64",
        "commit": "abc",
        "every": 1,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "features": {"core": {"passed": 3, "failed": 0, "skipped": 1, "first": ""}},
        "warnings": 5,
        "failure": "",
        **changes,
    }


def test_page_is_the_one_made_from_the_results() -> None:
    assert support.PAGE.read_text() == support.page(json.loads(support.RESULTS.read_text()))


@pytest.mark.parametrize("feature", support.FEATURES)
def test_tests_of_a_feature_are_there(feature: str) -> None:
    for file in support.FEATURES[feature]:
        assert (ROOT / "tests" / file).is_file(), file


def test_contract_tests_are_all_among_them() -> None:
    files = {file for files in support.FEATURES.values() for file in files}
    assert {f"contracts/{path.name}" for path in (ROOT / "tests/contracts").glob("test_*.py")} <= files


def test_tests_are_counted_by_feature_and_the_first_failure_is_named(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.test_space" name="test_a"/>'
        '<testcase classname="tests.test_space" name="test_b[1]"><failure message="x"/></testcase>'
        '<testcase classname="tests.test_space.TestX" name="test_c"><error message="x"/></testcase>'
        '<testcase classname="tests.contracts.test_objectives" name="test_d"><skipped/></testcase>'
        '<testcase classname="" name="tests.export.test_onnx"><error message="collection failure"/></testcase>'
        '<testcase classname="tests.test_elsewhere" name="test_e"/>'
        "</testsuite></testsuites>"
    )
    counts = support.counted(report, ["core", "onnx", "text"])
    assert counts["core"] == {"passed": 1, "failed": 2, "skipped": 1, "first": "tests/test_space.py::test_b[1]"}
    assert counts["onnx"] == {"passed": 0, "failed": 1, "skipped": 0, "first": "tests/export/test_onnx.py (its import)"}
    assert counts["text"] == {"passed": 0, "failed": 0, "skipped": 0, "first": ""}


def test_failed_run_is_shown_with_its_first_failing_test() -> None:
    failed = {"passed": 3, "failed": 2, "skipped": 0, "first": "tests/test_space.py::test_b"}
    text = support.page([record(features={"core": failed}, failure=failed["first"])])
    assert "| 1 newest | **2 of 5 failed** | not run |" in text
    assert "- 1 newest: core: `tests/test_space.py::test_b`" in text


def test_installation_that_failed_is_shown() -> None:
    text = support.page([record(features={}, failure="installation: no Python 3.14 could be had")])
    assert "- 1 newest: installation: no Python 3.14 could be had" in text
    assert "| 1 newest | not run | not run |" in text


def test_run_that_passed_is_shown_with_its_versions() -> None:
    text = support.page([record()])
    assert "| 1 newest | 2026-01-02 | 3.11.7 | 2.13.0 | - | - | - | 3 | 0 | 1 | 5 | all |" in text
    assert "| 1 newest | ok 3 | not run |" in text
    assert text.count("Nothing.") == 1


def test_later_run_takes_the_place_of_an_earlier_one_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "RESULTS", tmp_path / "support.json")
    support.keep(record(kind="tried", pins=["torch==2.6.0"]))
    support.keep(record(warnings=1))
    support.keep(record(versions={"python": "3.12.1"}))
    support.keep(record(warnings=2, versions={"python": "3.11.9"}))
    kept = json.loads((tmp_path / "support.json").read_text())
    shown = [(each["kind"], each["versions"]["python"], each["warnings"]) for each in kept]
    assert shown == [("newest", "3.11.9", 2), ("newest", "3.12.1", 5), ("tried", "3.11.7", 5)]


def test_tried_version_takes_the_place_of_the_locked_one() -> None:
    lock = support.lock_without(["torch==2.6.0", "peft==0.18.1"])
    names = {line.split("==")[0] for line in lock.splitlines()}
    assert not names & {"torch", "peft", "triton"}
    assert not any(name.startswith("nvidia-") for name in names)
    assert {"transformers", "numpy"} <= names


def test_floors_are_read_from_the_project() -> None:
    asked = support.floors()
    assert asked["python"].startswith(">=3.11")
    assert asked["torch"].startswith(">=2.")
    assert {"transformers", "peft", "accelerate", "safetensors", "trl"} <= set(asked)
