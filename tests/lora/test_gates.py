"""Examples of several ranks in one forward give what each one's own sub-model gives."""

import copy
import math
import threading
import warnings
from functools import partial

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sortednet as sn
from sortednet.lora import AdapterBuilder, Gates
from sortednet.network.trials import Unshareable
from sortednet.views.examples import split_inputs

from ..contracts.adapter_cases import ADAPTERS, QUIET, ROWS, Pictures, bert, gpt2, llama, plain, spread
from ..contracts.pretrained_cases import IDS, LEFT, TEXT
from .test_builder import checkpoint_activations, poison

pytestmark = QUIET


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


each_case = pytest.mark.parametrize("case", ADAPTERS, ids=[case.name for case in ADAPTERS])

_calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LABELS = torch.tensor([0, 2])


def logits(output) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def call(module, inputs, **how):
    return module(**inputs, **how) if isinstance(inputs, dict) else module(inputs, **how)


def ranked(model: nn.Module, targets, ranks=(1, 2, 4), **options) -> sn.SortedNet:
    config = LoraConfig(r=ranks[-1], lora_alpha=6, target_modules=targets, **options)
    return spread(sn.dylora(model, config, ranks=ranks))


def gradients(net: sn.SortedNet) -> dict[str, Tensor]:
    found = {name: one.grad.clone() for name, one in net.full.named_parameters() if one.grad is not None}
    net.zero_grad()
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, rtol=1e-4, atol=1e-5 * max(1.0, float(one.abs().max())))


class Counted(nn.Module):
    """Counts the forwards of all of its copies."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(7, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        Counted.calls += 1
        return self.second(torch.tanh(self.first(x)))


class Transposing(nn.Module):
    """Runs with the time first, as recurrent networks do, so that rows are no examples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(7, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, 7)
        return self.second(torch.tanh(self.first(x.transpose(0, 1)))).mean(0)


class Attending(nn.Module):
    """PEFT runs the adapter of torch's own attention by adding it to its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Checkpointing(nn.Module):
    """Calls torch.utils.checkpoint by itself."""

    def __init__(self, reentrant: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.reentrant = nn.Linear(7, 5), nn.Linear(5, 3), reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(lambda one: torch.tanh(self.first(one)), x, use_reentrant=self.reentrant)
        return self.second(x)


# --- the same as each sub-model alone -------------------------------------------------------------------------------


def two_settings(case) -> list[sn.Setting]:
    """Return two settings of a case that differ in their rank alone."""
    space = case.net().space
    return [space.setting(r=case.ranks[0]), space.setting(r=case.ranks[-2])]


def split_batch(inputs, parts):
    if isinstance(inputs, dict):
        return [kwargs for _, kwargs in split_inputs(((), inputs), parts)]
    return [args[0] for args, _ in split_inputs(((inputs,), {}), parts)]


@each_case
def test_each_example_gets_its_own_sub_models_output(case):
    net = case.net().eval()
    chosen = two_settings(case)
    found = call(net, case.inputs(), settings=chosen, split=True)
    for setting, output, part in zip(chosen, found, split_batch(case.inputs(), 2), strict=True):
        torch.testing.assert_close(logits(output), logits(call(net.at(setting), part)), rtol=1e-4, atol=1e-4)


@each_case
def test_each_example_gives_its_own_sub_models_gradient(case):
    net = case.net().eval()
    chosen = two_settings(case)
    sum(logits(one).square().sum() for one in call(net, case.inputs(), settings=chosen, split=True)).backward()
    found = gradients(net)
    for setting, part in zip(chosen, split_batch(case.inputs(), 2), strict=True):
        logits(call(net.at(setting), part)).square().sum().backward()
    assert_same(found, gradients(net))


@each_case
def test_large_values_above_an_examples_rank_change_nothing(case):
    net = case.net().eval()
    small = net.space.setting(r=case.ranks[0])
    chosen = [small, net.space.full]
    before = logits(call(net, case.inputs(), settings=chosen, split=True)[0])
    poison(net, 2 if case.name == "adapter_proportional" else 1, 1e12)
    after = logits(call(net, case.inputs(), settings=chosen, split=True)[0])
    assert torch.equal(after, before)


@pytest.mark.parametrize("sizes", [[1, 1, 1], [1, 3, 2], [4, 1, 1]])
def test_parts_may_have_any_sizes(sizes):
    net = ranked(plain(), ["0", "2", "4"]).double().eval()
    x = torch.randn(sum(sizes), 7, dtype=torch.float64)
    found = net(x, settings=[{"r": 4}, {"r": 1}, {"r": 2}], split=sizes)
    for rank, output, part in zip((4, 1, 2), found, x.split(sizes), strict=True):
        torch.testing.assert_close(output, net.at(r=rank)(part), rtol=0, atol=1e-12)


def test_ranks_that_are_no_powers_of_two_are_exact_in_float64():
    net = ranked(plain(), ["0", "2", "4"], ranks=(1, 2, 3, 5, 6, 7)).double().eval()
    x = torch.randn(6, 7, dtype=torch.float64)
    found = net(x, settings=list(net.space), split=True)
    for setting, output, part in zip(net.space, found, x, strict=True):
        torch.testing.assert_close(output, net.at(setting)(part[None]), rtol=0, atol=1e-12)


def test_examples_of_several_ranks_take_one_forward():
    net = ranked(Counted(), ["first", "second"]).train()
    net(torch.ones(6, 7), settings=list(net.space), split=True)  # tried
    Counted.calls = 0
    net(torch.ones(6, 7), settings=list(net.space), split=True)
    assert Counted.calls == 1


def test_one_rank_for_the_whole_batch_runs_its_own_small_forward():
    net = ranked(Counted(), ["first", "second"]).train()
    Counted.calls = 0
    found = net(torch.ones(6, 7), settings=[{"r": 2}])
    assert Counted.calls == 1
    assert torch.equal(found[0], net.at(r=2)(torch.ones(6, 7)))


def test_every_setting_on_the_whole_batch_is_right():
    net = ranked(plain(), ["0", "2", "4"]).eval()
    found = net(ROWS, settings=list(net.space))
    assert all(torch.equal(output, net.at(one)(ROWS)) for one, output in zip(net.space, found, strict=True))


def test_a_setting_given_twice_is_right():
    net = ranked(plain(), ["0", "2", "4"]).eval()
    found = net(ROWS, settings=[{"r": 1}, {"r": 4}, {"r": 1}], split=[1, 2, 1])
    for rank, output, part in zip((1, 4, 1), found, ROWS.split([1, 2, 1]), strict=True):
        torch.testing.assert_close(output, net.at(r=rank)(part))


def test_rows_that_all_examples_share_are_joined_once():
    net = ranked(llama(), ["q_proj", "v_proj"]).eval()
    positions = torch.arange(7)[None]
    found = net(input_ids=IDS, position_ids=positions, settings=[{"r": 1}, {"r": 4}], split=True)
    for rank, output, part in zip((1, 4), found, IDS.split(1), strict=True):
        expected = net.at(r=rank)(input_ids=part, position_ids=positions).logits
        torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-5)


def test_the_modes_follow_inference():
    net = ranked(plain(), ["0", "2", "4"], lora_dropout=0.5).train()
    found = net(ROWS, settings=[{"r": 1}, {"r": 4}], split=True, inference=True)
    again = net(ROWS, settings=[{"r": 1}, {"r": 4}], split=True, inference=True)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_in_training_dropout_is_drawn_anew():
    net = ranked(plain(), ["0", "2", "4"], lora_dropout=0.5).train()
    found = net(ROWS, settings=[{"r": 1}, {"r": 4}], split=True)
    again = net(ROWS, settings=[{"r": 1}, {"r": 4}], split=True)
    assert not torch.equal(found[1], again[1])


def test_trying_moves_neither_random_numbers_nor_weights():
    net = ranked(plain(), ["0", "2", "4"]).train()
    weights = {name: one.clone() for name, one in net.state_dict().items()}
    state = torch.get_rng_state()
    net(ROWS, settings=[{"r": 1}, {"r": 4}], split=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, weights[name]) for name, one in net.state_dict().items())


@pytest.mark.parametrize("training", [False, True])
def test_statistics_are_those_of_the_sub_models_alone(training):
    nets = [ranked(Pictures(), ["first", "second"], ranks=(1, 4)).train(training)]
    nets.append(copy.deepcopy(nets[0]))
    x = torch.randn(8, 2, 6, 6)
    nets[0](x, settings=[{"r": 1}, {"r": 4}], split=True)
    [nets[1].at(r=rank)(part) for rank, part in zip((1, 4), x.split(4), strict=True)]
    for ours, theirs in zip(nets[0].full.buffers(), nets[1].full.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


# --- labels ---------------------------------------------------------------------------------------------------------


def calm_gpt2() -> nn.Module:
    model = gpt2().train()
    model.config.resid_pdrop = model.config.embd_pdrop = model.config.attn_pdrop = 0.0
    return type(model)(model.config)


_labelled = {
    "bert": (partial(bert, **_calm), {**TEXT, "labels": LABELS}, ["query", "value"], {"task_type": "SEQ_CLS"}),
    "bert_head": (partial(bert, **_calm), {**TEXT, "labels": LABELS}, ["query", "classifier"], {}),
    "bert_pooler": (partial(bert, **_calm), {**TEXT, "labels": LABELS}, ["query", "dense"], {}),
    "llama": (llama, {**LEFT, "labels": IDS}, ["q_proj", "down_proj"], {"task_type": "CAUSAL_LM"}),
    "llama_head": (llama, {**LEFT, "labels": IDS}, ["embed_tokens", "lm_head"], {}),
    "llama_tied": (partial(llama, tie_word_embeddings=True), {**LEFT, "labels": IDS}, ["q_proj"], {}),
    "gpt2": (calm_gpt2, {**LEFT, "labels": IDS}, ["c_attn"], {"fan_in_fan_out": True}),
}
each_labelled = pytest.mark.parametrize(("make", "inputs", "targets", "options"), _labelled.values(), ids=_labelled)


@each_labelled
def test_with_labels_each_sub_model_has_its_own_loss_and_head(make, inputs, targets, options):
    net = ranked(make(), targets, **options).eval()
    found = net(**inputs, settings=[{"r": 1}, {"r": 4}], split=True)
    for rank, output, part in zip((1, 4), found, split_batch(inputs, 2), strict=True):
        expected = net.at(r=rank)(**part)
        torch.testing.assert_close(output.loss, expected.loss, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-4)


@each_labelled
def test_with_labels_the_gradients_are_those_of_the_sub_models(make, inputs, targets, options):
    net = ranked(make(), targets, **options).train()
    sum(one.loss for one in net(**inputs, settings=[{"r": 1}, {"r": 4}], split=True)).backward()
    found = gradients(net)
    for rank, part in zip((1, 4), split_batch(inputs, 2), strict=True):
        net.at(r=rank)(**part).loss.backward()
    assert_same(found, gradients(net))


# --- what cannot run so ---------------------------------------------------------------------------------------------

_odd = {
    "transposing": (Transposing, torch.randn(4, 5, 7), ["first", "second"]),
    "transposing_as_many_steps_as_examples": (Transposing, torch.randn(4, 4, 7), ["first", "second"]),
    "transposing_three_steps": (Transposing, torch.randn(4, 3, 7), ["first", "second"]),
    "attention_of_torch": (Attending, torch.randn(4, 5, 8), ["attention", "head"]),
    "positions": (bert, {**TEXT}, ["position_embeddings", "query"]),
}
each_odd = pytest.mark.parametrize(("make", "inputs", "targets"), _odd.values(), ids=_odd)


@each_odd
def test_where_rows_are_no_examples_one_warning_says_so(make, inputs, targets):
    net = ranked(make(), targets).eval()
    with pytest.warns(
        UserWarning, match=r"does not run examples of several ranks in one forward: .*one by one"
    ) as held:
        call(net, inputs, settings=[{"r": 1}, {"r": 4}], split=True)
    assert sum("several ranks" in str(one.message) for one in held) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(net, inputs, settings=[{"r": 1}, {"r": 4}], split=True)


@pytest.mark.filterwarnings("ignore:.* does not run examples of several ranks")
@each_odd
def test_where_rows_are_no_examples_the_results_are_right(make, inputs, targets):
    net = ranked(make(), targets).eval()
    for _ in range(2):
        found = call(net, inputs, settings=[{"r": 1}, {"r": 4}], split=True)
        for rank, output, part in zip((1, 4), found, split_batch(inputs, 2), strict=True):
            assert torch.equal(logits(output), logits(call(net.at(r=rank), part)))


def test_a_model_of_its_own_that_computes_its_loss_gives_each_sub_model_its_own():
    class Losing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(7, 3)

        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return nn.functional.cross_entropy(self.layer(x), labels)

    net, labels = ranked(Losing(), ["layer"]), torch.tensor([0, 1, 2, 0])
    with pytest.warns(UserWarning, match="does not run examples of several ranks"):
        found = net(ROWS, labels, settings=[{"r": 1}, {"r": 4}], split=True)
    assert torch.equal(found[0], net.at(r=1)(ROWS[:2], labels[:2]))
    assert torch.equal(found[1], net.at(r=4)(ROWS[2:], labels[2:]))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:.* does not run examples of several ranks")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")  # while it is tried
def test_a_model_that_checkpoints_by_itself_has_the_right_gradients(reentrant):
    net = ranked(Checkpointing(reentrant), ["first", "second"]).train()
    x = ROWS.clone().requires_grad_()
    outputs = net(x, settings=[{"r": 1}, {"r": 4}], split=True)
    outputs += net(x, settings=[{"r": 2}, {"r": 1}], split=True)
    sum(one.square().sum() for one in outputs).backward()
    found = gradients(net)
    for rank, part in ((1, x[:2]), (4, x[2:]), (2, x[:2]), (1, x[2:])):
        net.at(r=rank)(part).square().sum().backward()
    assert_same(found, gradients(net))


def test_a_model_that_checkpoints_by_itself_is_told_of():
    net = ranked(Checkpointing(), ["first", "second"]).train()
    with pytest.warns(UserWarning, match="does not run examples of several ranks in one forward: it checkpoints"):
        net(ROWS.clone().requires_grad_(), settings=[{"r": 1}, {"r": 4}], split=True)


def test_a_copy_that_checkpoints_later_has_the_right_gradients():
    """Looking for checkpoints only at first would miss one that is switched on later."""

    class Later(Checkpointing):
        on = False

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if Later.on else self.second(torch.tanh(self.first(x)))

    net = ranked(Later(), ["first", "second"]).train()
    x = ROWS.clone().requires_grad_()
    net(x, settings=[{"r": 1}, {"r": 4}], split=True)
    Later.on = True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* does not run examples of several ranks")
        sum(one.square().sum() for one in net(x, settings=[{"r": 1}, {"r": 4}], split=True)).backward()
    found = gradients(net)
    for rank, part in ((1, x[:2]), (4, x[2:])):
        net.at(r=rank)(part).square().sum().backward()
    assert_same(found, gradients(net))


# --- activation checkpointing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("make", [partial(bert, **_calm), llama], ids=["bert", "llama"])
def test_activation_checkpointing_recomputes_each_examples_rank(make, reentrant, labels):
    inputs = {**TEXT, "labels": LABELS if make is not llama else IDS} if labels else TEXT
    net = ranked(make(), r".*\.(query|value|q_proj|v_proj)").train()

    def run() -> dict[str, Tensor]:
        # Two forwards of other ranks before the backward of both.
        outputs = net(**inputs, settings=[{"r": 1}, {"r": 4}], split=True)
        outputs += net(**inputs, settings=[{"r": 4}, {"r": 2}], split=True)
        sum(one.loss if labels else one.logits.square().mean() for one in outputs).backward()
        return gradients(net)

    expected = run()
    net.enable_input_require_grads()
    checkpoint_activations(net, reentrant)
    assert_same(run(), expected)


def test_a_forward_in_between_leaves_the_recomputed_ranks_alone():
    net = ranked(llama(), ["q_proj", "v_proj"]).train()

    def run(between: bool) -> dict[str, Tensor]:
        outputs = net(**LEFT, settings=[{"r": 1}, {"r": 4}], split=True)
        if between:
            with torch.no_grad():
                net(**LEFT, settings=[{"r": 4}, {"r": 1}], split=True)
                net.at(r=2)(**LEFT)
        sum(one.logits.square().mean() for one in outputs).backward()
        return gradients(net)

    expected = run(between=False)
    checkpoint_activations(net, reentrant=False)
    assert_same(run(between=True), expected)


# --- gates themselves -----------------------------------------------------------------------------------------------


def gated() -> tuple[nn.Module, Gates, sn.SortedNet]:
    net = ranked(plain(), ["0", "2", "4"]).double().eval()
    builder = AdapterBuilder(plain, LoraConfig(r=4, lora_alpha=6, target_modules=["0", "2", "4"]))
    model = builder(r=4).double().eval()
    model.load_state_dict(net.full.state_dict())
    return model, Gates(model, builder), net


def test_at_rank_0_an_example_gets_the_model_without_adapter():
    model, gates, net = gated()
    x = ROWS.double()
    with gates.at([0, 4, 0, 1]):
        found = model(x)
    with net.full.disable_adapter():
        expected = net.full(x)
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[[1]], net.at(r=4)(x[[1]]), rtol=0, atol=1e-12)


def test_every_example_may_have_a_rank_of_its_own():
    model, gates, net = gated()
    x = ROWS.double()
    with gates.at([4, 1, 2, 1]):
        found = model(x)
    expected = torch.cat([net.at(r=rank)(row[None]) for rank, row in zip((4, 1, 2, 1), x, strict=True)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_outside_of_the_context_no_rank_is_known():
    model, gates, _ = gated()
    with gates.at([1, 1, 1, 1]):
        model(ROWS.double())
    with pytest.raises(Unshareable, match="outside of its forward, where the ranks are not known"):
        model(ROWS.double())


def test_rows_that_are_no_multiple_of_the_examples_are_refused():
    model, gates, _ = gated()
    with gates.at([1, 2, 4]), pytest.raises(Unshareable, match="an adapted layer takes 4 rows for 3 examples"):
        model(ROWS.double())


# --- precision, copies, threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_a_model_of_another_type_gives_its_sub_models_outputs(dtype, tolerance):
    net = ranked(llama().to(dtype), ["q_proj", "v_proj"]).eval()
    found = net(**LEFT, settings=[{"r": 1}, {"r": 4}], split=True)
    for rank, output, part in zip((1, 4), found, split_batch(LEFT, 2), strict=True):
        expected = net.at(r=rank)(**part).logits
        assert output.logits.dtype == dtype
        torch.testing.assert_close(
            output.logits, expected, rtol=0, atol=tolerance * float(expected.detach().abs().max())
        )


def test_autocast_gives_the_sub_models_outputs():
    net = ranked(llama(), ["q_proj", "v_proj"]).train()
    with torch.autocast("cpu", torch.bfloat16):
        found = net(**LEFT, settings=[{"r": 1}, {"r": 4}], split=True)
        for rank, output, part in zip((1, 4), found, split_batch(LEFT, 2), strict=True):
            expected = net.at(r=rank)(**part).logits
            torch.testing.assert_close(output.logits, expected, rtol=0, atol=0.1 * float(expected.detach().abs().max()))


def test_a_change_of_type_reaches_gates_that_were_used_before():
    net = ranked(plain(), ["0", "2", "4"]).eval()
    net(ROWS, settings=[{"r": 1}, {"r": 4}], split=True)
    net.double()
    found = net(ROWS.double(), settings=[{"r": 1}, {"r": 4}], split=True)
    torch.testing.assert_close(found[0], net.at(r=1)(ROWS[:2].double()), rtol=0, atol=1e-12)


def test_a_deepcopy_runs_its_own_weights():
    net = ranked(plain(), ["0", "2", "4"]).eval()
    before = net(ROWS, settings=[{"r": 1}, {"r": 4}], split=True)
    other = copy.deepcopy(net)
    with torch.no_grad():
        [parameter.add_(1) for parameter in other.parameters()]
    found = other(ROWS, settings=[{"r": 1}, {"r": 4}], split=True)
    torch.testing.assert_close(found[0], other.at(r=1)(ROWS[:2]))
    after = net(ROWS, settings=[{"r": 1}, {"r": 4}], split=True)
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_threads_have_ranks_of_their_own():
    net, wrong = ranked(plain(), ["0", "2", "4"]).eval(), []
    x = torch.randn(4, 7)
    expected = {rank: net.at(r=rank)(x) for rank in (1, 2, 4)}

    def work(first: int, second: int) -> None:
        for _ in range(20):
            one, two = net(x, settings=[{"r": first}, {"r": second}], split=True)
            if not (torch.allclose(one, expected[first][:2], atol=1e-5)
                    and torch.allclose(two, expected[second][2:], atol=1e-5)):  # fmt: skip
                wrong.append((first, second))

    threads = [threading.Thread(target=work, args=pair) for pair in ((1, 4), (4, 2), (2, 1))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def test_threads_that_try_at_once_leave_the_compiler_on():
    import torch._dynamo

    nets, start = [ranked(plain(), ["0", "2", "4"]).eval() for _ in range(4)], threading.Barrier(4)

    def work(net: sn.SortedNet) -> None:
        start.wait()
        net(ROWS, settings=[{"r": 1}, {"r": 4}], split=True)

    threads = [threading.Thread(target=work, args=(net,)) for net in nets]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    found = torch._dynamo.eval_frame._stance.stance
    torch.compiler.set_stance("default")  # for the tests that follow
    assert found == "default"


# --- depth x rank ---------------------------------------------------------------------------------------------------


def test_depth_and_rank_of_each_example_are_its_own():
    case = next(case for case in ADAPTERS if case.name == "adapter_depth")
    net = case.net().eval()
    chosen = [net.space.setting(num_hidden_layers=depth, r=rank) for depth, rank in ((1, 1), (2, 4), (1, 4), (2, 1))]
    ids = torch.randint(5, 40, (8, 6), generator=torch.Generator().manual_seed(2))
    found = net(input_ids=ids, settings=chosen, split=True)
    for setting, output, part in zip(chosen, found, ids.split(2), strict=True):
        torch.testing.assert_close(output.logits, net.at(setting)(input_ids=part).logits, rtol=1e-4, atol=1e-4)


def test_depth_and_rank_of_each_example_have_their_own_losses():
    case = next(case for case in ADAPTERS if case.name == "adapter_depth")
    net = case.net().eval()
    chosen = [net.space.setting(num_hidden_layers=depth, r=rank) for depth, rank in ((1, 1), (2, 4), (1, 4), (2, 1))]
    ids = torch.randint(5, 40, (8, 6), generator=torch.Generator().manual_seed(2))
    found = net(input_ids=ids, labels=ids, settings=chosen, split=True)
    for setting, output, part in zip(chosen, found, ids.split(2), strict=True):
        torch.testing.assert_close(output.loss, net.at(setting)(input_ids=part, labels=part).loss)


# --- compilation ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(7, 9), nn.Linear(9, 7)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(3)), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def compiled(model: nn.Module, targets, **options):
    """Return a network, the graphs it has traced so far, and a copy that is not compiled."""
    from torch._dynamo.testing import CompileCounter

    net = ranked(model, targets, ranks=tuple(range(1, 9)), **options)
    other, counter = copy.deepcopy(net), CompileCounter()
    net.compile(backend=counter)
    return net, counter, other


@pytest.mark.usefixtures("fresh_dynamo")
def test_one_graph_serves_all_ranks():
    net, counter, _ = compiled(Blocks(), ["up", "down"])
    net.eval()
    with torch.no_grad():
        for setting in net.space:
            net.at(setting)(ROWS)
    assert counter.frame_count == 1


@pytest.mark.usefixtures("fresh_dynamo")
def test_further_ranks_compile_no_further_graph():
    net, counter, _ = compiled(Blocks(), ["up", "down"])
    net.train().at(r=1)(ROWS).sum().backward()
    first = counter.frame_count
    for setting in net.space:
        net.at(setting)(ROWS).sum().backward()
    net(ROWS, settings=[{"r": 1}, {"r": 8}], split=True)
    net(ROWS, settings=[{"r": 3}, {"r": 5}, {"r": 7}], split=[1, 1, 2])
    assert counter.frame_count == first
    assert first in (1, 2)  # what the first block takes needs no gradient


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_ranks_give_the_outputs_and_gradients_without_compilation():
    net, _, other = compiled(Blocks(), ["up", "down"])
    for setting in net.space:
        ours, theirs = net.at(setting)(ROWS), other.at(setting)(ROWS)
        torch.testing.assert_close(ours, theirs)
        ours.square().sum().backward()
        theirs.square().sum().backward()
        assert_same(gradients(net), gradients(other))


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("make", [partial(bert, **_calm), llama], ids=["bert", "llama"])
def test_one_graph_of_a_transformers_block_serves_all_ranks(make):
    net, counter, other = compiled(make(), r".*\.(query|value|q_proj|v_proj)")
    inputs = {**LEFT, "labels": IDS} if make is llama else {**TEXT, "labels": LABELS}
    with torch.no_grad():
        for setting in net.eval().space:
            torch.testing.assert_close(net.at(setting)(**inputs).loss, other.eval().at(setting)(**inputs).loss)
    assert counter.frame_count == 1


@pytest.mark.usefixtures("fresh_dynamo")
def test_a_compiled_convolution_gives_the_outputs_without_compilation():
    net, _, other = compiled(Pictures(), ["first", "second", "head"])
    net.eval(), other.eval()
    x = torch.randn(4, 2, 6, 6)
    for setting in net.space:
        torch.testing.assert_close(net.at(setting)(x), other.at(setting)(x))


@pytest.mark.usefixtures("fresh_dynamo")
def test_a_compiled_network_takes_one_graph_for_each_width_of_a_pattern():
    net, counter, other = compiled(Blocks(), ["up", "down"], rank_pattern={"blocks.1.up": 3})
    with torch.no_grad():
        for setting in net.space:
            torch.testing.assert_close(net.at(setting)(ROWS), other.at(setting)(ROWS))
    assert counter.frame_count <= 2  # one of each width


def test_nan_above_a_rank_reaches_no_single_rank():
    net = ranked(plain(), ["0", "2", "4"]).eval()
    before = net.at(r=2)(ROWS)
    poison(net, 2, math.nan)
    assert torch.equal(net(ROWS, settings=[{"r": 2}])[0], before)
