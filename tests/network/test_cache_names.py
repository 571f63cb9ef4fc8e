"""Whoever takes a cache is asked by which name, and nothing that decodes or trains with exits warns."""

import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import sortednet as sn
from sortednet.errors import BuildError
from sortednet.generation.adapters import ADAPTERS, decoder_of
from sortednet.network.cache_names import cache_among, cache_name

from ..contracts import decoding_cases as decoders

every_family = pytest.mark.parametrize("family", ADAPTERS)
CHECKPOINT = next(
    name
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    if hasattr(hf.PreTrainedModel, name)
)
POLICIES = {
    "plain": None,
    "fixed_depth": sn.FixedDepth(),
    "one_exit": sn.SelfSpeculative(exits=2, adaptive=False),
    "adaptive": sn.SelfSpeculative(),
    "early_exit": sn.EarlyExit(exits=[2, 4], thresholds=0.5),
    "propagating": sn.EarlyExit(exits=[2, 4], thresholds=0.5, kv="propagate"),
}


class Layer(nn.Module):
    """A layer around another one, as hooks and wrappers of a user's stand there."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def run(self, hidden: Tensor, cache: Any, others: dict[str, Any]) -> Any:
        return self.inner(hidden, **{cache_name(self.inner.forward): cache}, **others)


class TakesCache(Layer):
    def forward(self, hidden: Tensor, cache: Any = None, **others: Any) -> Any:
        return self.run(hidden, cache, others)


class TakesPastKeyValues(Layer):
    def forward(self, hidden: Tensor, past_key_values: Any = None, **others: Any) -> Any:
        return self.run(hidden, past_key_values, others)


class TakesLayerPast(Layer):
    def forward(self, hidden: Tensor, layer_past: Any = None, **others: Any) -> Any:
        return self.run(hidden, layer_past, others)


class HandsOn(Layer):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def deprecating(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate as transformers does where an argument has got another name."""

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if "past_key_values" in kwargs:
            warnings.warn("`past_key_values` is deprecated", FutureWarning, stacklevel=2)
            kwargs["cache"] = kwargs.pop("past_key_values")
        return forward(*args, **kwargs)

    return wrapped


class Deprecates(TakesCache):
    forward = deprecating(TakesCache.forward)


class Nameless(nn.Module):
    def forward(self, hidden: Tensor, keys: Any = None) -> Tensor:
        return hidden


@contextmanager
def nothing_said(plain: Callable[[], Any] | None = None) -> Iterator[None]:
    """Fail at a warning of any category, and at one that transformers logs beyond what it logs where `plain` is run."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    hf.utils.logging.warning_once.cache_clear()
    if plain is not None:
        plain()
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield
    finally:
        logger.removeHandler(handler)
    assert not said + [f"{one.category.__name__}: {one.message}" for one in warned]


@every_family
@pytest.mark.parametrize("policy", POLICIES)
def test_decoding_says_nothing(family: str, policy: str) -> None:
    model = decoders.decoder(family)
    with nothing_said():
        first = decoders.greedy(model, decoders.single(), POLICIES[policy], return_dict_in_generate=True)
        longer = torch.cat([first.sequences, torch.tensor([[9, 8]])], 1)
        given = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
        decoders.greedy(model, given, POLICIES[policy], **{decoders.CACHE: first[decoders.CACHE]})
        decoders.greedy(model, decoders.ragged(), POLICIES[policy])


@every_family
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_with_exits_says_nothing(family: str, checkpointing: bool) -> None:
    model = decoders.fresh(family)
    dimension = "n_layer" if family == "gpt2" else "num_hidden_layers"
    ids = decoders.PROMPT.repeat(6, 1)
    with nothing_said(lambda: model(input_ids=ids, labels=ids)):
        net = sn.SortedNet.from_pretrained(model, **{dimension: [2, 4, 6]}).train()
        if checkpointing:
            getattr(net.full, CHECKPOINT)()
        for head in (net.head, None):
            net.head = head
            together = net(input_ids=ids, labels=ids, settings=list(net.space))
            parted = net(input_ids=ids, labels=ids, settings=list(net.space), split=[2, 2, 2])
            sum(one.loss for one in (*together, *parted)).backward()
        assert net.exits


@every_family
def test_a_network_generates_without_a_word(family: str) -> None:
    dimension = "n_layer" if family == "gpt2" else "num_hidden_layers"
    with nothing_said():
        net = sn.SortedNet.from_pretrained(decoders.fresh(family), **{dimension: [2, 4, 6]})
        for decoding in (None, sn.SelfSpeculative()):
            net.generate(**decoders.single(), decoding=decoding, max_new_tokens=4, do_sample=False)


@every_family
@pytest.mark.parametrize("kind", [TakesCache, TakesPastKeyValues, TakesLayerPast, HandsOn, Deprecates])
def test_layers_are_asked_by_which_name_they_take_a_cache(family: str, kind: type[Layer]) -> None:
    model, given = decoders.fresh(family), decoders.single()
    expected = decoders.greedy(model, given)
    layers = model.get_submodule(decoders.case_of(family).layers)
    for place, layer in enumerate(layers):
        layers[place] = kind(layer)
    with nothing_said():
        found = decoders.greedy(model, given, sn.SelfSpeculative(exits=2, adaptive=False))
    assert found.tolist() == expected.tolist()


def test_layers_that_name_no_cache_are_refused() -> None:
    model = decoders.fresh()
    model.model.layers[0] = Nameless()
    message = (
        r"Nameless.forward takes no cache by a name that is known \(cache, past_key_values, layer_past, "
        r"cache_params\), so that it is not decoded layer by layer. Use the model's own generate."
    )
    with pytest.raises(BuildError, match=message):
        decoder_of(model)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
@pytest.mark.parametrize("policy", POLICIES)
def test_generate_takes_a_cache_by_every_name_that_transformers_takes_it(name: str, policy: str) -> None:
    net = sn.SortedNet.from_pretrained(decoders.decoder(), num_hidden_layers=[2, 4, 6])
    first = decoders.greedy(net.full, decoders.single(), return_dict_in_generate=True)
    ids = torch.cat([first.sequences, torch.tensor([[9, 8]])], 1)
    longer = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 4, "do_sample": False}

    def generated(generate: Callable[..., Any], **more: Any) -> list[list[int]] | None:
        keys = decoders.greedy(net.full, decoders.single(), return_dict_in_generate=True)[decoders.CACHE]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # a name that transformers gives up is the caller's
            try:
                return generate(**longer, **{name: keys}, **more).tolist()
            except ValueError:
                return None

    found = generated(net.generate, decoding=POLICIES[policy])
    assert (found is None) == (generated(net.full.generate) is None)
    if found is not None:
        assert found == net.generate(**longer, decoding=POLICIES[policy]).tolist()


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_sub_model_takes_a_cache_by_every_name_that_its_class_takes_it(name: str) -> None:
    net = sn.SortedNet.from_pretrained(decoders.decoder(), num_hidden_layers=[2, 4, 6]).eval()

    def logits(model: Any) -> Tensor:
        keys = hf.DynamicCache(config=net.full.config)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", FutureWarning)
            for part in decoders.PROMPT.split(3, 1):
                output = model(part, **{name: keys}, use_cache=True)
        return output.logits

    for setting in net.space:
        assert torch.equal(logits(net.at(setting)), logits(net.extract(setting)))


@pytest.mark.parametrize("name", ["cache", "past_key_values", "layer_past", "cache_params"])
def test_a_cache_is_found_by_any_of_its_names(name: str) -> None:
    assert cache_among({"input_ids": 1, name: "keys"}) == (name, "keys")
    assert cache_among({"input_ids": 1, name: None}) is None
