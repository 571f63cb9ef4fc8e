"""Models whose cuts are known, and the pad test of each, with nothing declared: `benchmarks/axis_truths*.py`."""

import sys
from pathlib import Path

import pytest
import torch

from sortednet.errors import LayoutError

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))  # where the models are

import axis_truths_layers  # noqa: F401  # registers its models, as the next three do
import axis_truths_others  # noqa: F401
import axis_truths_sequences  # noqa: F401
import axis_truths_trials  # noqa: F401
import pad_test
from axis_truths import TRUTHS, VECTOR, Truth, places_of

CUTTABLE = [pytest.param(one, id=one.name) for one in TRUTHS if one.cuttable]
UNCUTTABLE = [pytest.param(one, id=one.name) for one in TRUTHS if not one.cuttable]


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("truth", CUTTABLE)
def test_every_axis_is_cut_as_known(truth: Truth) -> None:
    net, inputs = truth.net(), (truth.inputs, {})
    smallest = truth.space[0]
    assert not truth.faults(pad_test.cuts_of(net, smallest))
    assert pad_test.exactness(net, smallest, inputs) <= pad_test.EXACT
    if truth.padded:
        assert pad_test.verdict(net, smallest, inputs).error <= pad_test.TOLERANCE


@pytest.mark.parametrize("truth", UNCUTTABLE)
def test_where_no_cut_is_right_it_is_refused(truth: Truth) -> None:
    with pytest.raises(LayoutError, match="these axes cannot be cut"):
        truth.net()


def test_places_are_read_as_they_are_written() -> None:
    assert places_of("2/4 + 1/2") == [0, 1, 4]
    assert places_of("2 x 1/3 x 2 + 1") == [0, 1, 6, 7, 12]


def test_the_pad_test_notices_a_wrong_cut() -> None:
    truth = next(one for one in TRUTHS if one.name == "crelu")
    net = truth.net()
    small, full = (truth.build(**setting) for setting in truth.space)
    cuts = pad_test.cuts_of(net, truth.space[0])
    right = pad_test.pad_error(small, full, cuts, ((VECTOR,), {}))
    plain = type(cuts["b.weight"])(cuts["b.weight"].shape, tuple(((0, size),) for size in cuts["b.weight"].shape))
    wrong = pad_test.pad_error(small, full, {**cuts, "b.weight": plain}, ((VECTOR,), {}))
    assert right <= pad_test.TOLERANCE < 0.01 < wrong


def test_norms_without_statistics_leave_no_trace_behind() -> None:
    norm = torch.nn.LayerNorm(4)
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    before = norm(x)
    with pad_test.plain(norm):
        assert torch.equal(norm(x), x)
    assert torch.equal(norm(x), before)
