"""What an example is: every form of a batch is parted by examples, or refused with a remedy."""

import numpy as np
import pytest
import torch

from sortednet.errors import DataError
from sortednet.views.batches import arguments_of, call_with, inputs_and_targets, map_tensors
from sortednet.views.examples import (
    batch_size,
    is_joinable,
    join_batch,
    pick_inputs,
    size_of_inputs,
    split_inputs,
    split_targets,
)

from ..contracts.batch_cases import COUNT, REFUSED, SHARED, TENSOR, batch_of, forms, same

FORMS = [pytest.param(make, where, id=name) for name, make, where in forms()]


def parted(batch, sizes, batch_axis=None):
    """Part a batch as an objective does, and put the parts together as batches."""
    assert batch_size(batch, batch_axis) == sum(sizes)
    inputs, targets = inputs_and_targets(batch)
    call = ((), inputs) if inputs is targets else (inputs, {})
    rows = split_inputs(call, sizes, batch_axis)
    if inputs is targets:
        return [kwargs for _, kwargs in rows]
    labels = split_targets(targets, sizes, batch_axis)
    return [(*args, label) for (args, _), label in zip(rows, labels, strict=True)]


@pytest.mark.parametrize(("make", "where"), FORMS)
def test_every_form_is_parted_by_examples(make, where):
    batch = batch_of(make, where, range(COUNT))
    for sizes, examples in (([1, 3], [[0], [1, 2, 3]]), ([2, 2], [[0, 1], [2, 3]])):
        for part, of in zip(parted(batch, sizes), examples, strict=True):
            assert same(part, batch_of(make, where, of)), part


@pytest.mark.parametrize(("make", "where"), [one for one in FORMS if one.values[1] != "targets"])
def test_examples_are_picked_in_any_order(make, where):
    inputs, targets = inputs_and_targets(batch_of(make, where, range(COUNT)))
    call = ((), inputs) if inputs is targets else (inputs, {})
    found = pick_inputs(call, [3, 1])
    expected, other = inputs_and_targets(batch_of(make, where, [3, 1]))
    assert same(found, ((), expected) if expected is other else (expected, {}))


@pytest.mark.parametrize("shared", SHARED.values(), ids=list(SHARED))
def test_what_is_no_examples_is_handed_to_all(shared):
    parts = split_inputs(((TENSOR, shared), {"again": {"deep": shared}}), [1, 3])
    for args, kwargs in parts:
        assert args[1] is shared
        assert kwargs["again"]["deep"] is shared


@pytest.mark.parametrize("batch", REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_told_apart_is_refused_with_the_remedy(batch):
    with pytest.raises(DataError, match=r"batch_axis=.*split=False") as caught:
        parted(batch, [1, COUNT - 1])
    assert "Argument" in str(caught.value) or "targets" in str(caught.value)


def test_what_is_said_is_followed():
    time_first = torch.arange(2 * COUNT).view(2, COUNT)
    for axis in (1, {0: 1}):
        first, second = parted((time_first, torch.arange(COUNT)), [1, 3], axis)
        assert first[0].tolist() == [[0], [4]]
        assert second[1].tolist() == [1, 2, 3]
    mask = torch.ones(COUNT, COUNT)
    first, _ = parted({"x": TENSOR, "mask": mask}, [1, 3], {"mask": None})
    assert first["mask"] is mask
    first, _ = parted(([torch.ones(COUNT, 5) * one for one in range(COUNT)], torch.arange(COUNT)), [1, 3], {0: 0})
    assert len(first[0]) == 1
    first, _ = parted((TENSOR, torch.arange(2 * COUNT).view(2, COUNT)), [1, 3], {"targets": 1})
    assert first[1].tolist() == [[0], [4]]


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ({"no_such_name": 0}, r"names 'no_such_name', and the batch has \['x', 'y'\]"),
        ({2: 0}, "names 2"),
        ("0", "is no axis"),
        (1.5, "is no axis"),
        (True, "is no axis"),
        ({"x": "0"}, "is no axis"),
        (3, "says axis 3, and .*x.*shape"),
        ({"y": 1}, "says axis 1, and .*y.*shape"),
        ({"x": -3}, "says axis -3, and .*x.*shape"),
    ],
)
def test_an_axis_that_nothing_has_is_refused(axis, said):
    with pytest.raises(DataError, match=said):
        batch_size({"x": torch.ones(COUNT, 2), "y": torch.ones(COUNT)}, axis)
    with pytest.raises(DataError, match=said):
        split_inputs(((), {"x": torch.ones(COUNT, 2), "y": torch.ones(COUNT)}), [1, 3], axis)


def test_the_number_of_examples_is_the_one_that_fits_everything():
    images = [torch.ones(3, 4, one + 2) for one in range(COUNT)]
    assert batch_size((images, [{"labels": [one]} for one in range(COUNT)])) == COUNT
    assert batch_size((torch.ones(1, 3), torch.ones(5, 2), torch.arange(5))) == 5
    assert batch_size((torch.ones(1, 3), (2, 2), torch.zeros(1))) == 1
    assert batch_size((["a", "b"], [0, 1])) == 2
    assert batch_size((np.ones((6, 2)), np.arange(6))) == 6
    assert batch_size((torch.ones(0, 3), torch.zeros(0))) == 0
    assert size_of_inputs(((), {"x": torch.ones(3, 2), "scale": torch.ones(1)})) == 3


def test_tensors_are_views_and_join_again():
    call = (TENSOR, {"deep": (TENSOR, None)}), {"scale": torch.ones(1), "mode": "sum"}
    parts = split_inputs(call, [1, 3])
    assert parts[1][0][0].untyped_storage().data_ptr() == TENSOR.untyped_storage().data_ptr()
    assert is_joinable(call, COUNT)
    assert same(join_batch(parts), call)
    assert not is_joinable(((TENSOR, ["a", "b", "c", "d"]), {}), COUNT)
    assert not is_joinable(call, COUNT, batch_axis=1)


def test_a_mapping_beside_targets_holds_keyword_arguments_where_the_model_takes_them():
    class Named(torch.nn.Module):
        def forward(self, x, y=1):
            return x + y

    class Whole(torch.nn.Module):
        def forward(self, batch):
            return batch["x"]

    assert call_with(Named(), ({"x": 1, "y": 2},)) == 3
    assert call_with(Whole(), ({"x": 1},)) == 1
    assert arguments_of(Named(), (1, 2)) == ((1, 2), {})


def test_a_name_that_the_forward_does_not_take_is_told():
    class Named(torch.nn.Module):
        def forward(self, x):
            return x

    with pytest.raises(DataError, match="'labels', which the model's forward does not take"):
        call_with(Named(), {"x": 1, "labels": 2})


def test_tensors_are_mapped_in_data_classes_and_named_tuples_too():
    from ..contracts.batch_cases import Pair, Record

    found = map_tensors(lambda one: one + 1, Record(Pair(torch.zeros(1), "a"), [torch.zeros(2)]))
    assert same(found, Record(Pair(torch.ones(1), "a"), [torch.ones(2)]))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused_in_words() -> None:
    rows = [torch.ones(2, 4), torch.zeros(3, 4)]
    for layout, why in ((torch.jagged, "no parts can be taken"), (torch.strided, r"tells no sizes.*torch\.jagged")):
        with pytest.raises(DataError, match=why):
            split_inputs(((torch.nested.nested_tensor(rows, layout=layout),), {}), [1, 1])
