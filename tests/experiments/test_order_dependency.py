"""The papers' order dependency: sorting puts the neurons in order."""

import pytest
import torch

from sortednet.errors import ConfigError
from sortednet.experiments.order_dependency import PAPER, PAPER_AVERAGES, run, table

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def result():
    return run(seeds=(0,))


def test_table_c4_sorted_network_depends_on_its_first_neurons(result):
    assert result["target"]["sorted"]["mean"] >= result["reverse"]["sorted"]["mean"] + 10


def test_table_c4_sorted_network_beats_the_plain_one_in_target_order(result):
    assert result["target"]["sorted"]["mean"] > result["target"]["plain"]["mean"]


def test_table_c4_no_neuron_leaves_one_class_of_four(result):
    row = next(row for row in result["rows"] if row["mask"] == "OOOOOOOOOO")
    assert row["plain"]["mean"] == row["sorted"]["mean"] == 25


def test_table_c4_has_a_row_for_each_of_the_papers(result):
    assert [row["mask"] for row in result["rows"]] == list(PAPER)


@pytest.mark.parametrize("order", ["target", "reverse"])
def test_table_c4_papers_averages_are_those_of_their_rows(order, result):
    masks = [row["mask"] for row in result["rows"] if row["order"] == order]
    for kind in (0, 1):
        means = torch.tensor([PAPER[mask][kind][0] for mask in masks], dtype=torch.float64)
        mean, sd = PAPER_AVERAGES[order][kind]
        assert (float(means.mean()), float(means.std(correction=0))) == pytest.approx((mean, sd), abs=0.011)


def test_same_seed_gives_the_same_result():
    assert run(seeds=(0,), epochs=1) == run(seeds=(0,), epochs=1)


def test_run_leaves_the_random_state_as_it_was():
    before = torch.get_rng_state()
    run(seeds=(0,), epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_table_sets_each_row_beside_the_papers(result):
    lines = table(result).splitlines()
    assert len(lines) == 2 + len(PAPER) + len(PAPER_AVERAGES)
    assert lines[2].startswith("| XXXXXXXXXX | ")
    assert lines[2].endswith(" | 93.70 ± 0.38 |")


@pytest.mark.parametrize(("seeds", "epochs"), [((), 1), ((0,), 0)])
def test_run_without_a_seed_or_an_epoch_is_refused(seeds, epochs):
    with pytest.raises(ConfigError, match="at least one seed and at least one epoch"):
        run(seeds=seeds, epochs=epochs)
