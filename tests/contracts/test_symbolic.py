"""SymbolicGPT is a network like any other: sorted over depth, cut out, and decoded by self-speculation."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sortednet as sn
from sortednet.symbolic import ModelConfig, SearchConfig, SymbolicGPT, token_loss
from sortednet.symbolic.expressions import PAD, START
from sortednet.symbolic.proposals import propose

CONFIG = ModelConfig(variables=2, width=16, layers=4, heads=2)
DEPTHS = (1, 2, 4)
EMBEDDINGS = ("add", "prefix", "node")
every_embedding = pytest.mark.parametrize("embedding", EMBEDDINGS)


@cache
def sorted_net(embedding: str) -> sn.SortedNet:
    """Return a sorted model whose controls are no longer the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = replace(CONFIG, embedding=embedding)
        net = sn.SortedNet(lambda n_layer: SymbolicGPT(replace(config, layers=n_layer)), sn.Space(n_layer=list(DEPTHS)))
        full: Any = net.full
        with torch.no_grad():
            for parameter in full.decoder.controls.parameters():
                parameter.normal_(0, 0.3)
            for name, parameter in full.decoder.network.named_parameters():
                parameter.normal_(0, 1) if "wpe" in name else parameter.mul_(2)
    return net.eval()


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(batch, 9, 3, generator=generator)
    tokens = torch.randint(3, 40, (batch, 6), generator=generator)
    tokens[:, 0] = START
    return points, torch.ones(batch, 9), tokens


@every_embedding
def test_invariant_1_full_setting_is_the_original_model(embedding: str) -> None:
    net = sorted_net(embedding)
    original = SymbolicGPT(replace(CONFIG, embedding=embedding)).eval()
    original.load_state_dict(net.full.state_dict())
    assert torch.equal(net(*inputs()), original(*inputs()))


@every_embedding
@pytest.mark.parametrize("depth", DEPTHS)
def test_invariant_2_sub_model_equals_extracted_model(embedding: str, depth: int) -> None:
    net = sorted_net(embedding)
    extracted = net.extract(n_layer=depth)
    assert torch.equal(net.at(n_layer=depth)(*inputs()), extracted(*inputs()))
    assert type(extracted) is SymbolicGPT


@every_embedding
@pytest.mark.parametrize("depth", DEPTHS)
def test_invariant_2_submodel_for_use_equals_extracted_model(embedding: str, depth: int) -> None:
    net = sorted_net(embedding)
    assert torch.equal(net.submodel(n_layer=depth)(*inputs()), net.extract(n_layer=depth)(*inputs()))


@every_embedding
@pytest.mark.parametrize("depth", [1, 2])
def test_invariant_4_gradient_is_zero_outside_and_that_of_the_extracted_model_inside(
    embedding: str, depth: int
) -> None:
    net = sorted_net(embedding)
    points, mask, tokens = inputs()
    net.zero_grad()
    token_loss(net.at(n_layer=depth)(points, mask, tokens), tokens).backward()
    extracted = net.extract(n_layer=depth).requires_grad_(True)
    token_loss(extracted(points, mask, tokens), tokens).backward()
    inside = {name: parameter.grad for name, parameter in extracted.named_parameters()}
    for name, parameter in net.full.named_parameters():
        if name in inside:
            assert torch.equal(parameter.grad, inside[name]), name
        else:
            assert parameter.grad is None or not parameter.grad.any(), name
    net.zero_grad()


@every_embedding
def test_shallower_models_write_something_else(embedding: str) -> None:
    net = sorted_net(embedding)
    assert not torch.allclose(net.at(n_layer=1)(*inputs()), net(*inputs()), atol=1e-3)


def written(model: Any, points: Tensor, texts: int = 1, **options: Any) -> list[list[int]]:
    """Return the greedy texts about one set of points, each with another second token."""
    start = torch.tensor([[START, 3 + text] for text in range(texts)])
    with torch.no_grad(), model.given(points, torch.ones(points.shape[:2])):
        found = model.decoder.network.generate(
            start, attention_mask=torch.ones_like(start), max_length=24, pad_token_id=PAD, do_sample=False, **options
        )
    return found.tolist()


@every_embedding
@pytest.mark.parametrize("exit_layer", [1, 2])
@pytest.mark.parametrize("texts", [1, 4])
def test_invariant_6_self_speculation_gives_the_tokens_of_greedy_decoding(
    embedding: str, exit_layer: int, texts: int
) -> None:
    full: Any = sorted_net(embedding).full
    points = inputs()[0][:1]
    policy = sn.SelfSpeculative(exits=exit_layer, adaptive=False)
    assert written(full, points, texts, custom_generate=policy) == written(full, points, texts)


@every_embedding
@pytest.mark.parametrize("depth", DEPTHS)
def test_points_reach_sub_models_of_every_depth(embedding: str, depth: int) -> None:
    net = sorted_net(embedding)
    points, mask, tokens = inputs()
    assert not torch.allclose(
        net.at(n_layer=depth)(points + 1, mask, tokens), net.at(n_layer=depth)(points, mask, tokens)
    )


@every_embedding
def test_a_sub_model_writes_as_the_extracted_one(embedding: str) -> None:
    net = sorted_net(embedding)
    points = inputs()[0][:1]
    assert written(net.submodel(n_layer=2), points, 4) == written(net.extract(n_layer=2), points, 4)


@pytest.mark.parametrize("shown", [10, 128])
def test_the_search_takes_self_speculation(shown: int) -> None:
    full: Any = sorted_net("add").full
    generator = np.random.default_rng(0)
    x, y = generator.uniform(-3, 3, (20, 2)), generator.normal(size=20)
    policy = sn.SelfSpeculative(exits=2, adaptive=False)
    found = propose(full, x, y, SearchConfig(candidates=4, shown=shown), generator, {"custom_generate": policy})
    assert found.written == 4
