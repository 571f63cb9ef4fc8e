"""Random programs: what is accepted passes the pad test. Those of `benchmarks/axis_programs.py`, from other seeds."""

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))  # where the programs are

import axis_programs

FIRST, COUNT = 10**6, 150


def test_random_programs_are_cut_rightly_or_refused() -> None:
    outcomes = {seed: axis_programs.outcome(seed) for seed in range(FIRST, FIRST + COUNT)}
    assert not {seed: one for seed, one in outcomes.items() if one.startswith("wrong")}
    assert Counter(outcomes.values())["right"] > COUNT / 2
