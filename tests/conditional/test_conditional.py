import copy
import io
import logging
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

import sortednet as sn
from sortednet.conditional import Conditioned, condition
from sortednet.errors import ConfigError, DataError
from sortednet.generation.adapters import decoder_of
from sortednet.generation.engine import Engine
from sortednet.generation.statistics import Statistics

BLOCKS = "transformer.h.*"


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Compute in float64, from the same weights each time."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    yield
    torch.set_default_dtype(torch.float32)


def gpt2(n_layer: int = 3, n_embd: int = 16) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=13, n_positions=24, n_embd=n_embd, n_layer=n_layer, n_head=n_embd // 8, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=12, pad_token_id=12, loss_type="ForCausalLM",
    )  # fmt: skip
    return GPT2LMHeadModel(config).double().eval()


def conditioned_gpt2(n_layer: int = 3, n_embd: int = 16) -> Conditioned:
    return condition(gpt2(n_layer, n_embd), BLOCKS, size=4)


def trained(one: Conditioned) -> Conditioned:
    """Give controls the weights that training could give."""
    for parameter in one.controls.parameters():
        nn.init.normal_(parameter, std=0.5)
    return one


def texts(count: int = 4) -> Tensor:
    return torch.randint(1, 12, (count, 7))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: one.grad.clone() for name, one in module.named_parameters() if one.grad is not None}


class Residual(nn.Module):
    """A block of which nothing but calling it says what it returns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(torch.tanh(self.one(x)))


# What a control computes.


def test_eq_a_10_node_control_re_weights_the_outputs_of_a_layer() -> None:
    layer = nn.Linear(2, 3)
    one = condition(nn.Sequential(layer), "0", size=2)
    control = one.controls.get_submodule("0").outputs
    control.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5]])
    control.bias.data = torch.tensor([0.0, 0.0, 1.0])
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = one(x, condition=torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    plain = layer.forward(x)
    torch.testing.assert_close(found[0], plain[0] * torch.tensor([2.0, 1.0, 2.5]))
    torch.testing.assert_close(found[1], plain[1] * torch.tensor([1.0, 3.0, 2.5]))


def test_eq_a_8_addition_on_a_linear_layer_is_the_extension_of_its_input() -> None:
    layer, extended = nn.Linear(3, 5), nn.Linear(3 + 2, 5)
    one = condition(nn.Sequential(layer), "0", size=2, how="add")
    layer.weight.data, layer.bias.data = extended.weight.data[:, :3], extended.bias.data
    one.controls.get_submodule("0").outputs.weight.data = extended.weight.data[:, 3:]
    x, c = torch.randn(4, 3), torch.randn(4, 2)
    torch.testing.assert_close(one(x, condition=c), extended(torch.cat([x, c], 1)))


@pytest.mark.parametrize("rank", [1, 3])
def test_eq_a_9_weight_control_re_weights_the_weights_for_each_example(rank: int) -> None:
    layer = nn.Linear(3, 5)
    one = trained(condition(nn.Sequential(layer), "0", size=2, how="weight", rank=rank))
    x, c = torch.randn(4, 3), torch.randn(4, 2)
    control = one.controls.get_submodule("0")
    for example, given, found in zip(x, c, one(x, condition=c), strict=True):
        pairs = zip(control.outputs, control.inputs, strict=True)
        factor = 1 + sum(torch.outer(out(given), into(given)) for out, into in pairs)
        torch.testing.assert_close(found, (layer.weight * factor) @ example + layer.bias)


def test_weight_control_of_the_conv1d_of_transformers_is_that_of_the_linear_layer() -> None:
    layer, same = Conv1D(5, 3).double(), nn.Linear(3, 5)
    same.weight.data, same.bias.data = layer.weight.data.T, layer.bias.data
    one = trained(condition(nn.Sequential(layer), "0", size=2, how="weight"))
    other = condition(nn.Sequential(same), "0", size=2, how="weight")
    other.controls.load_state_dict(one.controls.state_dict())
    x, c = torch.randn(4, 6, 3), torch.randn(4, 2)
    torch.testing.assert_close(one(x, condition=c), other(x, condition=c))


def test_weight_control_of_a_convolution_re_weights_its_kernels() -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1)
    one = trained(condition(nn.Sequential(layer), "0", size=2, how="weight"))
    control = one.controls.get_submodule("0")
    x, c = torch.randn(2, 2, 4, 4), torch.randn(2, 2)
    for example, given, found in zip(x, c, one(x, condition=c), strict=True):
        factor = 1 + torch.outer(control.outputs[0](given), control.inputs[0](given))
        weight = layer.weight * factor[:, :, None, None]
        torch.testing.assert_close(found, nn.functional.conv2d(example, weight, layer.bias, padding=1))


def test_a_hidden_layer_makes_the_control_no_affine_function() -> None:
    one = trained(condition(nn.Sequential(nn.Linear(2, 3)), "0", size=1, hidden=4))
    x = torch.ones(1, 2)
    low, middle, high = (one(x, condition=torch.tensor([value])) for value in (-1.0, 0.0, 1.0))
    assert not torch.allclose(low + high, 2 * middle)


def test_addition_at_one_token_makes_the_condition_a_token() -> None:
    one = trained(condition(nn.Sequential(nn.Embedding(5, 3)), "0", size=2, how="add", only=0))
    tokens, c = torch.tensor([[0, 1, 2], [0, 3, 4]]), torch.randn(2, 2)
    found, plain = one(tokens, condition=c), one.network[0].weight[tokens]
    torch.testing.assert_close(found[:, 1:], plain[:, 1:], rtol=0, atol=0)
    torch.testing.assert_close(found[:, 0], plain[:, 0] + one.controls.get_submodule("0").outputs(c))


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (nn.Conv2d(2, 4, 1), (3, 2, 5, 5), 1),
        (nn.Conv1d(2, 4, 1), (3, 2, 4), 1),
        (nn.ConvTranspose2d(2, 4, 1), (3, 2, 5, 5), 1),
        (nn.BatchNorm2d(4), (3, 4, 4, 4), 1),
        (nn.GroupNorm(2, 4), (3, 4, 4, 4), 1),
        (nn.LayerNorm(4), (3, 4, 4), -1),
        (nn.Linear(2, 4), (3, 4, 2), -1),
        (nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Dropout(0.0)), (3, 2, 4, 4), 1),
        (nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), (3, 4, 4), -1),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, nn.Module) else "",
)
def test_features_are_on_the_axis_of_the_layers_kind(layer: nn.Module, shape: tuple[int, ...], axis: int) -> None:
    layer = layer.double().eval()
    x, c = torch.randn(shape), torch.randn(3, 2)
    plain = layer(x).detach()
    one = trained(condition(nn.Sequential(layer), "0", size=2))
    factor = 1 + one.controls.get_submodule("0").outputs(c)
    aligned = factor.reshape(3, 4, *[1] * (plain.dim() - 2)) if axis == 1 else factor[:, None]
    torch.testing.assert_close(one(x, condition=c), plain * aligned)


def test_features_and_axis_can_be_said() -> None:
    block = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(2))
    with pytest.raises(ConfigError, match=r"has convolutions inside, so that the axis of its 3 features is not known"):
        condition(nn.Sequential(block), "0", size=2, features=3)
    one = trained(condition(nn.Sequential(block), "0", size=2, features=3, axis=1))
    c = torch.randn(2)
    found = one(torch.ones(2, 2, 4, 4), condition=c)
    plain = block.forward(torch.ones(2, 2, 4, 4))
    torch.testing.assert_close(found, plain * (1 + one.controls.get_submodule("0").outputs(c))[:, None])


@pytest.mark.parametrize("kind", [tuple, list, namedtuple("Output", "hidden cache")._make])
def test_the_first_of_several_outputs_is_re_weighted(kind: Callable[[Any], Any]) -> None:
    class Block(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return kind([super().forward(x), "cache"])

    one = trained(condition(nn.Sequential(Block(2, 3)), "0", size=2))
    x, c = torch.randn(4, 2), torch.randn(4, 2)
    found = one(x, condition=c)
    assert type(found) is type(kind(["", ""]))
    assert found[1] == "cache"
    plain = nn.functional.linear(x, one.network[0].weight, one.network[0].bias)
    torch.testing.assert_close(found[0], plain * (1 + one.controls.get_submodule("0").outputs(c)))


# Before training, and the network itself.


@pytest.mark.parametrize(
    ("layers", "how"),
    [
        (BLOCKS, "node"), ("transformer.wte", "add"), (BLOCKS + ".mlp.c_fc", "weight"),
        ([BLOCKS + ".attn.*", "lm_head"], "node"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_before_training_the_network_gives_what_it_gave(layers: Any, how: Any, dtype: torch.dtype) -> None:
    network, tokens = gpt2().to(dtype), texts()
    if how != "add":
        layers = [one for one in ([layers] if isinstance(layers, str) else layers) if "attn.*" not in one]
    before = network(tokens).logits
    one = condition(network, layers, size=4, how=how)
    assert torch.equal(one(tokens, condition=torch.randn(4, 4)).logits, before)


def test_the_network_keeps_its_class_names_and_weights() -> None:
    network = gpt2()
    names, kind = list(network.state_dict()), type(network)
    one = condition(network, BLOCKS, size=4)
    assert one.network is network
    assert type(network) is kind
    assert list(network.state_dict()) == names
    assert one.layers == tuple(f"transformer.h.{place}" for place in range(3))
    assert [name for name in one.state_dict() if not name.startswith("network.")] == [
        f"controls.transformer__h__{place}.outputs.{kind}" for place in range(3) for kind in ("weight", "bias")
    ]


def test_a_star_stands_for_one_part_of_a_name() -> None:
    assert condition(gpt2(), "transformer.h.[12].mlp.c_*", size=4).layers == (
        "transformer.h.1.mlp.c_fc", "transformer.h.1.mlp.c_proj",
        "transformer.h.2.mlp.c_fc", "transformer.h.2.mlp.c_proj",
    )  # fmt: skip


def test_controls_have_the_type_and_gradients_of_training() -> None:
    one = condition(gpt2().bfloat16(), BLOCKS, size=4)
    assert {p.dtype for p in one.controls.parameters()} == {torch.bfloat16}
    one(texts(), condition=torch.randn(4, 4), labels=texts()).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in one.controls.parameters())


def test_the_condition_gets_its_gradient() -> None:
    one, c = trained(conditioned_gpt2()), torch.randn(4, 4, requires_grad=True)
    assert (
        torch.autograd.gradcheck(lambda given: one(tokens, condition=given).logits, c)
        if (tokens := texts()).numel()
        else False
    )


# The condition.


def test_every_example_has_its_own_condition() -> None:
    one, tokens, c = trained(conditioned_gpt2()), texts(), torch.randn(4, 4)
    together = one(tokens, condition=c).logits
    for place in range(4):
        alone = one(tokens[place : place + 1], condition=c[place]).logits
        torch.testing.assert_close(together[place], alone[0])


@pytest.mark.parametrize("shape", [(4,), (1, 4)])
def test_one_condition_is_for_all_examples(shape: tuple[int, ...]) -> None:
    one, tokens, c = trained(conditioned_gpt2()), texts(), torch.randn(shape)
    expected = one(tokens, condition=c.reshape(1, 4).expand(4, 4)).logits
    torch.testing.assert_close(one(tokens, condition=c).logits, expected)


def test_integers_are_a_condition() -> None:
    one, tokens = trained(conditioned_gpt2()), texts()
    classes = torch.eye(4)[torch.tensor([0, 1, 2, 3])]
    assert torch.equal(one(tokens, condition=classes.long()).logits, one(tokens, condition=classes).logits)


def test_beams_have_the_condition_of_their_text() -> None:
    one, tokens, c = trained(conditioned_gpt2()), texts(2), torch.randn(2, 4)
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "attention_mask": torch.ones_like(tokens)}
    with one.given(c):
        together = one.network.generate(tokens, **options)
    for place in range(2):
        with one.given(c[place]):
            alone = one.network.generate(tokens[place : place + 1], **{**options, "attention_mask": None})
        assert torch.equal(together[place, : alone.shape[1]], alone[0])


def test_generation_is_greedy_decoding_of_the_conditional_model() -> None:
    one, tokens, c = trained(conditioned_gpt2()), texts(2), torch.randn(2, 4)
    with one.given(c):
        found = one.network.generate(
            tokens, max_new_tokens=6, do_sample=False, eos_token_id=None, attention_mask=torch.ones_like(tokens)
        )
    for _ in range(6):
        tokens = torch.cat([tokens, one(tokens, condition=c).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, tokens)


def test_our_decoding_runs_under_the_condition() -> None:
    one, tokens, c = trained(conditioned_gpt2()), texts(1), torch.randn(1, 4)
    engine = Engine(decoder_of(one.network), [1, 3], [3], 20, Statistics())
    with one.given(c), torch.no_grad():
        engine.push(tokens)
        engine.complete()
        logits = engine.decoder.logits(engine.hidden(3))
    torch.testing.assert_close(logits[0, 0].double(), one(tokens, condition=c).logits[0, -1], rtol=1e-5, atol=1e-5)


def test_inside_of_given_the_call_needs_no_condition() -> None:
    one, tokens, c = trained(conditioned_gpt2()), texts(), torch.randn(4, 4)
    with one.given(c):
        assert torch.equal(one(tokens).logits, one.network(tokens).logits)
        with one.given(-c):
            inner = one(tokens).logits
        outer = one(tokens).logits
    assert torch.equal(inner, one(tokens, condition=-c).logits)
    assert torch.equal(outer, one(tokens, condition=c).logits)


def test_the_network_does_not_run_without_a_condition() -> None:
    one = conditioned_gpt2()
    for call in (one, one.network):
        with pytest.raises(DataError, match=r"runs without a condition. Call the Conditioned with condition="):
            call(texts())
    with one.given(torch.zeros(4)):
        one(texts())
    with pytest.raises(DataError, match="runs without a condition"):
        one.network(texts())


def test_an_error_inside_ends_the_condition() -> None:
    one = conditioned_gpt2()
    with pytest.raises(IndexError):
        one(torch.full((1, 2), 99), condition=torch.zeros(4))
    with pytest.raises(DataError, match="runs without a condition"):
        one.network(texts())


def test_threads_do_not_mix_their_conditions() -> None:
    one, tokens = trained(conditioned_gpt2()), texts()
    conditions = [torch.randn(4, 4) for _ in range(4)]
    expected = [one(tokens, condition=c).logits for c in conditions]
    both, wrong = threading.Barrier(4), []

    def work(place: int) -> None:
        for _ in range(5):
            both.wait()
            with one.given(conditions[place]):
                both.wait()
                if not torch.equal(one.network(tokens).logits, expected[place]):
                    wrong.append(place)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_another_thread_has_no_condition() -> None:
    one, errors = conditioned_gpt2(), []

    def work() -> None:
        try:
            one.network(texts())
        except DataError as error:
            errors.append(str(error))

    with one.given(torch.zeros(4)):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert "runs without a condition" in errors[0]


# Several controls.


def test_nested_controls_take_one_condition() -> None:
    first, layer = nn.Embedding(7, 3), nn.Linear(3, 5)
    inner = trained(condition(nn.Sequential(first, layer), "0", size=2, how="add"))
    outer = trained(condition(inner, "1", size=2))
    tokens, c = torch.tensor([[1, 2], [3, 4]]), torch.randn(2, 2)
    embedded = first.weight[tokens] + inner.controls.get_submodule("0").outputs(c)[:, None]
    expected = nn.functional.linear(embedded, layer.weight, layer.bias)
    expected = expected * (1 + outer.controls.get_submodule("1").outputs(c)[:, None])
    torch.testing.assert_close(outer(tokens, condition=c), expected)
    with outer.given(c):
        torch.testing.assert_close(outer.network.network(tokens), expected)


def test_nested_controls_of_one_layer_follow_each_other_even_where_it_runs_again() -> None:
    layer = nn.Linear(3, 5)
    inner = trained(condition(nn.Sequential(layer), "0", size=2))
    outer = trained(condition(inner, "0", size=2, how="add"))
    x, c = torch.randn(4, 3), torch.randn(4, 2)
    expected = nn.functional.linear(x, layer.weight, layer.bias)
    expected = expected * (1 + inner.controls.get_submodule("0").outputs(c)) + outer.controls.get_submodule(
        "0"
    ).outputs(c)
    with outer.given(c):
        found = checkpoint(layer, x, use_reentrant=False)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected.square().sum(), list(outer.parameters()), retain_graph=True)
    for given, want in zip(torch.autograd.grad(found.square().sum(), list(outer.parameters())), wanted, strict=True):
        torch.testing.assert_close(given, want)


# Activation checkpointing.


def checkpointed(one: Conditioned, use_reentrant: bool) -> None:
    one.train()
    one.network.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    one.network.enable_input_require_grads()


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize(
    ("layers", "how"), [(BLOCKS, "node"), (f"{BLOCKS}.mlp.c_fc", "weight"), (f"{BLOCKS}.attn.c_proj", "node")]
)
def test_what_runs_again_in_the_backward_pass_gets_the_condition_of_its_own_forward(
    layers: str, how: Any, use_reentrant: bool
) -> None:
    one, tokens, c = trained(condition(gpt2(), layers, size=4, how=how)), texts(), torch.randn(4, 4)
    losses = [one(tokens, condition=given, labels=tokens).loss for given in (c, -c)]
    (losses[0] + 2 * losses[1]).backward()
    expected = gradients(one)
    one.zero_grad()
    checkpointed(one, use_reentrant)
    first = one(tokens, condition=c, labels=tokens).loss
    second = one(tokens, condition=-c, labels=tokens).loss
    with torch.no_grad():
        one.eval()(tokens, condition=3 * c)
    with one.given(torch.randn(4, 4)):  # says nothing of what was computed before
        (first + 2 * second).backward()
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(gradient, expected[name])


def test_a_backward_pass_in_another_thread_gets_the_condition_of_the_forward() -> None:
    one, tokens, c = trained(conditioned_gpt2()), texts(), torch.randn(4, 4)
    one(tokens, condition=c, labels=tokens).loss.backward()
    expected = gradients(one)
    one.zero_grad()
    checkpointed(one, use_reentrant=False)
    loss = one(tokens, condition=c, labels=tokens).loss
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(gradient, expected[name])


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_whole_call_can_run_again(use_reentrant: bool) -> None:
    one = trained(condition(nn.Sequential(nn.Linear(3, 5), nn.Tanh()), "0", size=2))
    x, c = torch.randn(4, 3, requires_grad=True), torch.randn(4, 2)

    def call(x: Tensor) -> Tensor:
        return one(x, condition=c).sum()

    call(x).backward()
    expected = gradients(one)
    one.zero_grad()
    loss = checkpoint(call, x, use_reentrant=use_reentrant)
    one(x, condition=-c)
    loss.backward()
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(gradient, expected[name])


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_one_input_under_two_conditions_cannot_run_again(use_reentrant: bool) -> None:
    one = trained(condition(nn.Sequential(nn.Linear(3, 5)), "0", size=2))
    x = torch.randn(4, 3, requires_grad=True)
    run = partial(checkpoint, one.network[0], use_reentrant=use_reentrant)
    with one.given(torch.randn(2)):
        first = run(x).sum()
    with one.given(torch.randn(2)):
        second = run(x).sum()
    with pytest.raises(DataError, match=r"runs again in the backward pass, and the condition of its forward"):
        (first + second).backward()


def test_parts_of_a_batch_are_inputs_of_their_own() -> None:
    one = trained(condition(nn.Sequential(nn.Linear(3, 5)), "0", size=2))
    x, c = torch.randn(4, 3), torch.randn(2, 2)
    losses = []
    for rows, given in zip(x.split(2), c, strict=True):
        with one.given(given):
            losses.append(checkpoint(one.network[0], rows, use_reentrant=False).square().sum())
    sum(losses).backward()
    found = gradients(one)
    one.zero_grad()
    sum(one(rows, condition=given).square().sum() for rows, given in zip(x.split(2), c, strict=True)).backward()
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(gradient, found[name])


def test_a_part_that_begins_at_no_module_cannot_run_again() -> None:
    one = trained(condition(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 5)), "1", size=2))
    with one.given(torch.randn(2)):
        loss = checkpoint(lambda x: one.network[1](x.exp()), torch.randn(4, 3), use_reentrant=False).square().sum()
    with pytest.raises(DataError, match=r"Let torch\.utils\.checkpoint begin at a module that is or"):
        loss.backward()


def test_a_condition_changed_in_place_cannot_run_again() -> None:
    one, c = trained(condition(nn.Sequential(nn.Linear(3, 5)), "0", size=2)), torch.randn(2)
    with one.given(c):
        loss = checkpoint(one.network[0], torch.randn(4, 3), use_reentrant=False).square().sum()
    c.mul_(2)
    with pytest.raises(DataError, match="changed in place since the forward"):
        loss.backward()


def test_what_is_remembered_does_not_grow() -> None:
    one = condition(nn.Sequential(nn.Linear(3, 5)), "0", size=2)
    for _ in range(500):
        one(torch.randn(4, 3), condition=torch.zeros(2))
    assert len(one._scopes._remembered) <= 1
    with one.given(torch.zeros(2)):
        for _ in range(500):
            one.network(torch.randn(4, 3))
        assert len(one._scopes._remembered) < 200


# Copies and files.


@pytest.mark.parametrize("how", ["node", "weight", "add"])
def test_a_copy_has_controls_of_its_own(how: Any) -> None:
    one = trained(condition(nn.Sequential(nn.Linear(3, 5)), "0", size=2, how=how))
    x, c = torch.randn(4, 3), torch.randn(4, 2)
    before = one(x, condition=c)
    other = copy.deepcopy(one)
    assert torch.equal(other(x, condition=c), before)
    trained(other)
    assert torch.equal(one(x, condition=c), before)
    assert not torch.equal(other(x, condition=c), before)
    with one.given(c), pytest.raises(DataError, match="runs without a condition"):
        other.network(x)


def test_a_conditioned_network_can_be_pickled() -> None:
    one = trained(condition(condition(gpt2(), "transformer.wte", size=4, how="add"), BLOCKS, size=4))
    tokens, c = texts(), torch.randn(4, 4)
    file = io.BytesIO()
    torch.save(one, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    assert torch.equal(other(tokens, condition=c).logits, one(tokens, condition=c).logits)


def test_weights_load_into_a_new_one() -> None:
    one, other = trained(conditioned_gpt2()), conditioned_gpt2()
    other.load_state_dict(one.state_dict())
    tokens, c = texts(), torch.randn(4, 4)
    assert torch.equal(other(tokens, condition=c).logits, one(tokens, condition=c).logits)


def test_it_can_be_exported() -> None:
    one = trained(condition(nn.Sequential(nn.Linear(3, 5), nn.ReLU()), "0", size=2)).eval()
    x, c = torch.randn(4, 3), torch.randn(4, 2)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(
        one, (x,), {"condition": c}, dynamic_shapes={"args": ({0: batch},), "condition": {0: batch}}
    )
    torch.testing.assert_close(exported.module()(x, condition=c), one(x, condition=c))


def test_it_can_be_differentiated_by_torch_func() -> None:
    one = trained(condition(nn.Sequential(nn.Linear(3, 5)), "0", size=2))
    x, c = torch.randn(4, 3), torch.randn(2)
    held = {name: p.detach() for name, p in one.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(one, parameters, (x[None],), {"condition": c}).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(held, x)
    one(x, condition=c).square().sum().backward()
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(each[name].sum(0), gradient)


# Sorting.


def test_a_sub_model_equals_the_extracted_model() -> None:
    net = sn.SortedNet(lambda n_layer: conditioned_gpt2(n_layer), sn.Space(n_layer=[1, 2, 4]))
    trained(net.full)
    tokens, c = texts(), torch.randn(4, 4)
    for depth in (1, 2, 4):
        found = net.at(n_layer=depth)(tokens, condition=c).logits
        assert torch.equal(net.extract(n_layer=depth)(tokens, condition=c).logits, found)
        assert torch.equal(net.submodel(n_layer=depth)(tokens, condition=c).logits, found)
    assert torch.equal(net.full(tokens, condition=c).logits, found)
    assert len(net.extract(n_layer=2).layers) == 2


def test_depths_in_one_call_equal_those_alone() -> None:
    net = sn.SortedNet(lambda n_layer: conditioned_gpt2(n_layer), sn.Space(n_layer=[1, 2]))
    trained(net.full)
    tokens, c = texts(), torch.randn(4, 4)
    parts = net(tokens, condition=c, settings=[{"n_layer": 2}, {"n_layer": 1}], split=True)
    torch.testing.assert_close(parts[0].logits, net.at(n_layer=2)(tokens[:2], condition=c[:2]).logits)
    torch.testing.assert_close(parts[1].logits, net.at(n_layer=1)(tokens[2:], condition=c[2:]).logits)


def test_the_gradient_of_a_sub_model_is_zero_outside_of_its_corner() -> None:
    def build(depth: int, width: int) -> Conditioned:
        blocks = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())]
        network = nn.Sequential(nn.Linear(3, width), *blocks)
        return condition(condition(network, ["[13]"], size=2), ["0"], size=2, how="weight", rank=2)

    net = sn.SortedNet(build, sn.Space(depth=[1, 2], width=[4, 8]))
    for parameter in net.full.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, c = torch.randn(5, 3), torch.randn(5, 2)
    net.at(depth=1, width=4)(x, condition=c).square().sum().backward()
    small = net.extract(depth=1, width=4)
    small.zero_grad()
    small(x, condition=c).square().sum().backward()
    inside = gradients(small)
    assert any("controls" in name for name in inside)
    for name, parameter in net.full.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        if name in inside:
            corner = gradient[tuple(slice(length) for length in inside[name].shape)]
            torch.testing.assert_close(corner, inside[name])
            corner.zero_()
        assert not gradient.any(), name


def test_sorted_depths_train_under_activation_checkpointing() -> None:
    net = sn.SortedNet(lambda n_layer: conditioned_gpt2(n_layer), sn.Space(n_layer=[1, 3]))
    trained(net.full)
    tokens, c = texts(), torch.randn(4, 4)

    def losses() -> Tensor:
        each = [(depth, given) for depth in (1, 3) for given in (c, -c)]
        return sum(net.at(n_layer=d)(tokens, condition=given, labels=tokens).loss for d, given in each)

    losses().backward()
    expected = gradients(net)
    net.zero_grad()
    checkpointed(net.full, use_reentrant=False)
    losses().backward()
    for name, gradient in gradients(net).items():
        torch.testing.assert_close(gradient, expected[name])


def test_a_pretrained_llama_can_be_conditioned() -> None:
    config = LlamaConfig(
        vocab_size=13, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    network, tokens = LlamaForCausalLM(config).double(), texts()
    before = network(tokens).logits
    one = condition(network, "model.layers.*", size=4)
    assert torch.equal(one(tokens, condition=torch.randn(4, 4)).logits, before)


# Errors.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "transformer.*.*.*"}, None),
        (
            {"layers": "blocks.*"},
            r"layers='blocks\.\*' matches no module of GPT2LMHeadModel\. A \* stands for one part",
        ),
        ({"layers": []}, r"layers=\(\) names no layer"),
        ({"layers": [BLOCKS, 3]}, r"layers=3 matches no module"),
        ({"layers": "transformer.h"}, r"transformer\.h is a list of modules and is never called\. Name its elements"),
        ({"layers": "transformer.drop"}, None),
        ({"size": 0}, r"size=0 is out of range\. Give a whole number of at least 1"),
        ({"size": True}, r"size=True is out of range"),
        ({"hidden": 0}, r"hidden=0 is out of range"),
        ({"features": -1}, r"features=-1 is out of range"),
        ({"how": "nodes"}, r"how='nodes' is unknown\. Choose one of \['node', 'weight', 'add'\]"),
        ({"rank": 2}, r"rank=2 is for how='weight', and how='node'"),
        ({"axis": 0}, r"axis=0 is no axis of features"),
        ({"how": "weight", "features": 3}, r"features=3 and axis=None are for outputs"),
        ({"how": "weight"}, r"transformer\.h\.0 is GPT2Block, whose weights cannot be re-weighted\. Name nn\.Linear"),
        ({"only": 3}, r"only=3 is a token, and transformer\.h\.0 is GPT2Block\. Name an nn\.Embedding"),
        ({"only": -1}, r"only=-1 with how='node' is no token"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str | None) -> None:
    given: dict[str, Any] = {"layers": BLOCKS, "size": 4, **options}
    if message is None:
        assert condition(gpt2(), **given).layers
        return
    with pytest.raises(ConfigError, match=message):
        condition(gpt2(), **given)


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no network"):
        condition(lambda x: x, "0", size=2)  # type: ignore[arg-type]


def test_a_module_of_two_names_gets_one_control() -> None:
    layer = nn.Linear(3, 3)
    with pytest.raises(ConfigError, match=r"0 and 1 are one module, which gets one control\. Name one of them only"):
        condition(nn.Sequential(layer, layer), "*", size=2)


def test_a_block_that_does_not_say_its_features_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"How many features 0, Residual, returns is not known\. Say it with features"
    ):
        condition(nn.Sequential(Residual(3)), "0", size=2)
    assert condition(nn.Sequential(Residual(3)), "0", size=2, features=3)(
        torch.ones(2, 3), condition=torch.ones(2)
    ).shape


def test_examples_on_another_axis_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"has batch_first=False, so that its examples are not on axis 0"):
        condition(nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8)), "0.linear1", size=2)


def test_a_network_that_is_conditioned_already_is_refused() -> None:
    one = conditioned_gpt2()
    with pytest.raises(ConfigError, match=r"transformer belongs to another Conditioned already\. Give that one as"):
        condition(one.network, BLOCKS, size=4)
    with pytest.raises(ConfigError, match=r"size=3, and the network takes conditions of size 4 already"):
        condition(one, "transformer.wte", size=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(4, 5), r"The condition is torch\.float32 of shape \(4, 5\)\. Give a row of 4 real numbers"),
        (torch.zeros(1, 1, 4), r"of shape \(1, 1, 4\)"),
        (torch.zeros(0, 4), r"of shape \(0, 4\)"),
        (torch.zeros(()), r"of shape \(\)"),
        (torch.zeros(4, dtype=torch.complex64), r"The condition is torch\.complex64"),
        (torch.tensor([0.0, 1.0, torch.nan, 0.0]), r"The condition holds numbers that are not finite"),
        (torch.tensor([0.0, 1.0, torch.inf, 0.0]), r"The condition holds numbers that are not finite"),
        ([0.0, 0.0, 0.0, 0.0], r"The condition is of type list, not a tensor\. Give a row of 4"),
        (torch.zeros(3, 4), r"transformer\.h\.0 has 4 examples on axis 0, and the condition 3 rows\. Give a row for"),
        (torch.zeros(8, 4), r"transformer\.h\.0 has 4 examples on axis 0, and the condition 8 rows"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        conditioned_gpt2()(texts(), condition=given)


def test_a_control_of_the_wrong_size_is_refused() -> None:
    one = condition(nn.Sequential(Residual(3)), "0", size=2, features=5)
    with pytest.raises(
        DataError, match=r"0 has a tensor of shape \(2, 3\), but its control is for 5 features on axis -1"
    ):
        one(torch.ones(2, 3), condition=torch.ones(2))


@pytest.mark.parametrize("axis", [2, -3, 4, -2])
def test_an_axis_that_is_not_there_is_refused(axis: int) -> None:
    one = condition(nn.Sequential(nn.Linear(3, 3)), "0", size=2, axis=axis)
    with pytest.raises(DataError, match=f"its control is for 3 features on axis {axis}"):
        one(torch.ones(3, 3), condition=torch.ones(2))


def test_a_layer_that_returns_no_numbers_is_refused() -> None:
    class Block(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return {"hidden": x}

    with pytest.raises(DataError, match=r"0 returns dict, which cannot be re-weighted\. Name layers that return"):
        condition(nn.Sequential(Block(3, 3)), "0", size=2)(torch.ones(2, 3), condition=torch.ones(2))


def test_layers_of_which_none_is_called_are_refused() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.layer.weight)

    with pytest.raises(DataError, match=r"None of the layers \['layer'\] was called, so that the condition changed"):
        condition(Network(), "layer", size=2)(torch.ones(2, 3), condition=torch.ones(2))
