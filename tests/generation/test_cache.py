"""The cache holds rows of different lengths, and the mask hides what is behind them."""

import pytest
import torch
from torch import Tensor

from sortednet.generation.cache import Cache, causal_mask

from ..contracts import decoding_cases as decoders

CPU = torch.device("cpu")


def keys(rows: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, count, 3, generator=generator), torch.randn(rows, 2, count, 3, generator=generator)


def test_update_returns_all_keys_and_values_so_far() -> None:
    cache, first, second = Cache(1, 2, 8), keys(2, 3), keys(2, 2, 1)
    cache.aim([0, 0], 3, CPU)
    cache.update(*first, 0)
    cache.aim([3, 3], 2, CPU)
    for found, *parts in zip(cache.update(*second, 0), first, second, strict=True):
        assert torch.equal(found, torch.cat(parts, 2))


def test_rows_of_different_lengths_write_behind_their_own() -> None:
    cache, first, second = Cache(1, 2, 8), keys(2, 3), keys(2, 2, 1)
    cache.aim([0, 0], 3, CPU)
    cache.update(*first, 0)
    cache.aim([1, 3], 2, CPU)
    found = cache.update(*second, 0)[0]
    assert found.shape[2] == 5
    assert torch.equal(found[0, :, :3], torch.cat([first[0][0, :, :1], second[0][0]], 1))
    assert torch.equal(found[1], torch.cat([first[0][1], second[0][1]], 1))


def test_going_back_writes_over_what_is_stale() -> None:
    cache, first, second = Cache(1, 1, 8), keys(1, 4), keys(1, 1, 1)
    cache.aim([0], 4, CPU)
    cache.update(*first, 0)
    cache.aim([2], 1, CPU)
    found = cache.update(*second, 0)[0]
    assert torch.equal(found, torch.cat([first[0][:, :, :2], second[0]], 2))


@pytest.mark.parametrize("most", [2, 70, 500])
def test_more_positions_than_expected_are_held(most: int) -> None:
    cache, whole = Cache(1, 1, most), keys(1, 200)
    for place in range(0, 200, 40):
        cache.aim([place], 40, CPU)
        found = cache.update(*(one[:, :, place : place + 40] for one in whole), 0)
        assert torch.equal(found[1], whole[1][:, :, : place + 40])


def test_what_was_never_written_is_zero() -> None:
    """Hidden values are multiplied by 0, and 0 times nan is nan."""
    cache = Cache(1, 2, 8)
    cache.aim([0, 4], 1, CPU)
    found = cache.update(*keys(2, 1), 0)
    assert found[0].isfinite().all()
    assert found[0][0, :, 1:].eq(0).all()


def test_kept_rows_stay_in_order() -> None:
    cache, first = Cache(2, 3, 8), keys(3, 2)
    cache.aim([0, 0, 0], 2, CPU)
    for layer in range(2):
        cache.update(*first, layer)
    cache.keep([0, 2])
    for key, value in decoders.held(cache, 2):
        assert torch.equal(key, first[0][[0, 2]])
        assert torch.equal(value, first[1][[0, 2]])


def test_what_is_drained_is_given_away() -> None:
    cache, first = Cache(2, 1, 8), keys(1, 3)
    cache.aim([0], 3, CPU)
    for layer in range(2):
        cache.update(*first, layer)
    drained = list(cache.drain(2))
    assert all(
        torch.equal(key, first[0][:, :, :2]) and torch.equal(value, first[1][:, :, :2]) for key, value in drained
    )
    assert len(drained) == 2
    assert not list(cache.drain(2))


def test_fewer_rows_may_write_than_are_held() -> None:
    cache, first = Cache(1, 3, 8), keys(2, 2)
    cache.aim([0, 0], 2, CPU)
    assert torch.equal(cache.update(*first, 0)[0], first[0])


def test_mask_hides_what_is_behind_each_query() -> None:
    mask = causal_mask([2, 0], 2, CPU, torch.float32)
    assert mask is not None
    assert mask.shape == (2, 1, 2, 4)
    seen = mask.eq(0).squeeze(1).int().tolist()
    assert seen == [[[1, 1, 1, 0], [1, 1, 1, 1]], [[1, 0, 0, 0], [1, 1, 0, 0]]]
    assert mask[mask.ne(0)].eq(torch.finfo(torch.float32).min).all()


def test_mask_of_rows_of_one_length_is_one_for_all() -> None:
    mask = causal_mask([3, 3], 2, CPU, torch.bfloat16)
    assert mask is not None
    assert (mask.shape, mask.dtype) == ((1, 1, 2, 5), torch.bfloat16)


def test_no_mask_where_each_single_query_sees_all() -> None:
    assert causal_mask([3, 3], 1, CPU, torch.float32) is None
    assert causal_mask([3, 2], 1, CPU, torch.float32) is not None
