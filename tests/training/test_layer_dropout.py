"""Blocks are passed by at their rates in training, in every sub-model and shared forward, and nowhere else."""

import copy
import pickle
import re
from functools import partial

import pytest
import torch
import torch.distributed as dist
import transformers as hf
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn
from torch.distributed.fsdp import fully_shard

import sortednet as sn
from sortednet.errors import BuildError, ConfigError
from sortednet.models import PreResNet, Transformer
from sortednet.training.layer_dropout import LayerDropout, drop_layers, growing_rates

from ..contracts.adapter_cases import QUIET
from ..contracts.pretrained_cases import GROUPS, HEADS, SIZES, TOKENS

ALWAYS = 1 - 1e-9  # no float32 below 1 lies above
CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
IDS = torch.randint(5, 40, (6, 5), generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def llama():
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**SIZES, "num_hidden_layers": 4}, **GROUPS, **TOKENS))


def bert():
    return hf.BertForSequenceClassification(
        hf.BertConfig(**{**SIZES, "num_hidden_layers": 4}, **HEADS, pad_token_id=0, num_labels=3, **CALM)
    )


def network(name, **options):
    torch.manual_seed(0)
    if name == "transformer":
        build = partial(Transformer, width=6, heads=2, hidden=8, head_size=4, vocabulary=40, positions=16)
        return sn.SortedNet(build, sn.Space(depth=[1, 2, 4]), **options).double()
    model = {"llama": llama, "bert": bert}[name]()
    return sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2, 4], **options).double()


PATHS = {"transformer": "blocks", "llama": "model.layers", "bert": "bert.encoder.layer"}
each_name = pytest.mark.parametrize("name", PATHS)
each_unit = pytest.mark.parametrize("unit", ["batch", "example"])


def logits(output):
    return getattr(output, "logits", output)


def seeded(call, seed=5):
    torch.manual_seed(seed)
    return call()


def gradients(net):
    found = {name: one.grad.clone() for name, one in net.named_parameters() if one.grad is not None}
    net.zero_grad()
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, rtol=1e-6, atol=1e-9)


def stack(blocks=3):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(5, 5) for _ in range(blocks))).double()


# --- one block ------------------------------------------------------------------------------------------------------


def test_one_decision_by_batch_passes_all_examples_by_or_none():
    model = stack(1)
    plain = model(ROWS)
    drop_layers(model, "", 0.5)
    found = [seeded(lambda: model(ROWS), seed) for seed in range(20)]
    dropped = [float(seeded(lambda: torch.rand(1), seed)) < 0.5 for seed in range(20)]
    assert 0 < sum(dropped) < 20
    assert all(torch.equal(one, ROWS if gone else plain) for one, gone in zip(found, dropped, strict=True))


def test_one_decision_by_example_passes_each_by_itself():
    model = stack(1)
    plain = model(ROWS)
    drop_layers(model, "", 0.5, unit="example")
    found = seeded(lambda: model(ROWS))
    dropped = seeded(lambda: torch.rand(8)) < 0.5
    assert 0 < dropped.sum() < 8
    assert torch.equal(found, torch.where(dropped[:, None], ROWS, plain))


@each_unit
def test_blocks_are_passed_by_as_often_as_their_rates_say(unit):
    rates, count = [0.1, 0.6], 2000
    model = nn.Sequential(nn.Hardtanh(-1, 0), nn.Hardtanh(-1, 0.5))  # lowers 2 to 0, or to 0.5 only
    drop_layers(model, "", rates, unit=unit)
    torch.manual_seed(0)
    x = torch.full((count, 1), 2.0)
    found = model(x) if unit == "example" else torch.cat([model(x[:1]) for _ in range(count)])
    assert float((found == 0).float().mean()) == pytest.approx(0.9, abs=0.03)
    assert float((found == 0.5).float().mean()) == pytest.approx(0.1 * 0.4, abs=0.03)
    assert float((found == 2).float().mean()) == pytest.approx(0.1 * 0.6, abs=0.03)


def test_a_block_that_is_passed_by_gets_no_gradient_and_lets_that_of_its_input_through():
    model = stack(1)
    drop_layers(model, "", 0.5, unit="example")
    x = ROWS.clone().requires_grad_()
    seeded(lambda: model(x)).sum().backward()
    dropped = seeded(lambda: torch.rand(8)) < 0.5
    assert torch.equal(model[0].bias.grad, (~dropped).sum().double().expand(5))
    assert torch.equal(x.grad[dropped], torch.ones(int(dropped.sum()), 5, dtype=torch.float64))


@each_unit
def test_nothing_is_passed_by_nor_drawn_in_evaluation(unit):
    model = stack()
    plain = model(ROWS)
    drop_layers(model, "", ALWAYS, unit=unit)
    before = torch.get_rng_state()
    assert torch.equal(model.eval()(ROWS), plain)
    assert torch.equal(torch.get_rng_state(), before)


class Block(nn.Module):
    """Returns what it doubles in some kind of output."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, hidden_states):
        return self.kind(hidden_states * 2)


@pytest.mark.parametrize("kind", [lambda x: (x, "other"), lambda x: [x, "other"]], ids=["tuple", "list"])
def test_what_a_block_returns_beside_the_hidden_states_stays(kind):
    model = nn.Sequential(Block(kind))
    drop_layers(model, "", ALWAYS)
    found = model(ROWS)
    assert type(found) is type(kind(ROWS))
    assert torch.equal(found[0], ROWS)
    assert found[1] == "other"


def test_hidden_states_may_be_given_by_name():
    model = nn.ModuleList([Block(lambda x: x)])
    drop_layers(model, "", ALWAYS)
    assert torch.equal(model[0](hidden_states=ROWS), ROWS)


def test_a_block_that_is_passed_by_returns_the_type_it_would_have_returned():
    model = nn.Sequential(Block(torch.Tensor.bfloat16))
    drop_layers(model, "", 0.5, unit="example")
    assert model(ROWS).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("block", "given", "text"),
    [
        (
            nn.Linear(5, 4),
            ROWS.float(),
            r"Linear takes torch.float32 of shape \(8, 5\) and .*float32 of shape \(8, 4\)",
        ),
        (nn.Embedding(40, 5), IDS, r"Embedding takes torch.int64 of shape \(6, 5\) and .*float32 of shape \(6, 5, 5\)"),
        (Block(lambda x: {"x": x}), ROWS, r"Block takes torch.float64 of shape \(8, 5\) and returns dict"),
        (Block(lambda x: ()), ROWS, r"Block takes torch.float64 of shape \(8, 5\) and returns tuple"),
    ],
    ids=["shape", "type", "dict", "empty"],
)
def test_a_block_that_cannot_be_passed_by_is_refused(block, given, text):
    model = nn.Sequential(block)
    drop_layers(model, "", 0.1)
    with pytest.raises(BuildError, match=text + r", so that it cannot be passed by\. A block .* Give it the rate 0\."):
        model(given)
    drop_layers(model, "", 0)
    model(given)


# --- which blocks ---------------------------------------------------------------------------------------------------


def test_each_block_has_its_own_rate():
    model = stack()
    plain = model[2](model[0](ROWS))
    drop_layers(model, "", [0, ALWAYS, 0])
    assert torch.equal(model(ROWS), plain)


def test_rates_of_0_take_layer_dropout_off():
    model = stack()
    plain = model(ROWS)
    drop_layers(model, "", 0.5)
    drop_layers(model, "", 0)
    before = torch.get_rng_state()
    assert torch.equal(model(ROWS), plain)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(one._forward_hooks or one._forward_hooks_with_kwargs for one in model)


def test_new_rates_take_the_place_of_former_ones():
    model = stack()
    drop_layers(model, "", 0.5)
    drop_layers(model, "", 0.25, unit="example")
    assert [list(one._forward_hooks.values()) for one in model] == [[LayerDropout(0.25, "example")]] * 3


def test_other_hooks_stay():
    model = stack(1)
    model[0].register_forward_hook(lambda block, args, output: output + 1)
    drop_layers(model, "", ALWAYS)
    assert torch.equal(model(ROWS), ROWS + 1)
    drop_layers(model, "", 0)
    assert len(model[0]._forward_hooks) == 1


@pytest.mark.parametrize(
    ("model", "path", "text"),
    [
        (Transformer(depth=2), "layers", "'layers' is no list of blocks of Transformer. Choose one of ['blocks']."),
        (Transformer(depth=2), "head", "'head' is no list of blocks of Transformer. Choose one of ['blocks']."),
        (PreResNet(stages=2), "stages", "'stages' is no list of blocks of PreResNet. Choose one of ['stages.0', 's"),
        (nn.Linear(2, 2), "", "'' is no list of blocks of Linear. Give a model that has an nn.ModuleList or nn.Seq"),
        (nn.Sequential(), "", "'' is no list of blocks of Sequential. Give a model that has an nn.ModuleList or nn"),
    ],
    ids=["unknown", "no list", "list of lists", "no lists", "empty"],
)
def test_a_path_without_blocks_is_refused(model, path, text):
    with pytest.raises(BuildError, match=re.escape(text)):
        drop_layers(model, path, 0.1)


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, float("nan"), True, "0.1", None])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(
        ConfigError, match=rf"rates holds {rate!r}, which is no rate\. Give numbers of at least 0 and b"
    ):
        drop_layers(stack(), "", [0.1, 0.1, rate])


def test_another_number_of_rates_than_blocks_is_refused():
    with pytest.raises(ConfigError, match=r"rates=\[0.1, 0.2\] are 2 for the 3 blocks of ''\. Give one number, or one"):
        drop_layers(stack(), "", [0.1, 0.2])


def test_an_unknown_unit_is_refused():
    with pytest.raises(ConfigError, match=r"unit='token' is unknown\. Choose one of \['batch', 'example'\]"):
        drop_layers(stack(), "", 0.1, unit="token")


def test_refused_rates_leave_the_model_as_it_was():
    model = stack()
    with pytest.raises(ConfigError):
        drop_layers(model, "", [0.1, 0.1, 2])
    assert not any(one._forward_hooks for one in model)


# --- rates ----------------------------------------------------------------------------------------------------------


def test_layer_skip_sec_4_1_rates_grow_exponentially_with_the_depth():
    assert growing_rates(3, 0.2) == pytest.approx((0.0, 0.2 * (2**0.5 - 1), 0.2))


@pytest.mark.parametrize("blocks", [2, 7, 32])
def test_growing_rates_are_exact_at_both_ends(blocks):
    rates = growing_rates(blocks, 0.3)
    assert len(rates) == blocks
    assert (rates[0], rates[-1]) == (0.0, 0.3)


def test_a_single_block_grows_no_rate():
    assert growing_rates(1, 0.3) == (0.0,)


@pytest.mark.parametrize("blocks", [0, -1, 2.0, True])
def test_a_number_of_blocks_below_1_is_refused(blocks):
    with pytest.raises(ConfigError, match=rf"blocks={blocks!r} is no number of blocks\. Give a whole number of at lea"):
        growing_rates(blocks, 0.1)


@pytest.mark.parametrize("highest", [1, -0.1])
def test_a_highest_rate_out_of_range_is_refused(highest):
    with pytest.raises(ConfigError, match=rf"highest holds {highest}, which is no rate\. Give numbers of at least 0"):
        growing_rates(3, highest)


# --- sub-models -----------------------------------------------------------------------------------------------------


@each_name
def test_a_sub_model_passes_its_blocks_by_at_their_rates(name):
    net = network(name)
    shallow, deep = net.space[0], net.space.full
    expected = logits(net.at(shallow)(IDS))
    drop_layers(net.full, PATHS[name], [0, ALWAYS, ALWAYS, ALWAYS])
    assert torch.equal(logits(net.at(deep)(IDS)), expected)
    assert torch.equal(logits(net.full(IDS)), expected)


@each_name
def test_the_full_setting_draws_as_the_full_model_itself(name):
    net = network(name)
    drop_layers(net.full, PATHS[name], 0.5, unit="example")
    assert torch.equal(seeded(lambda: logits(net(IDS))), seeded(lambda: logits(net.full(IDS))))


@each_name
def test_a_sub_model_that_ran_before_follows_new_rates(name):
    net = network(name)
    shallow, plain = net.space[0], [logits(net.at(one)(IDS)) for one in net.space]
    drop_layers(net.full, PATHS[name], [0, ALWAYS, ALWAYS, ALWAYS])
    assert all(torch.equal(logits(net.at(one)(IDS)), plain[0]) for one in net.space)
    drop_layers(net.full, PATHS[name], [0, 0, ALWAYS, ALWAYS])
    assert torch.equal(logits(net.at(net.space.full)(IDS)), plain[1])
    drop_layers(net.full, PATHS[name], 0)
    assert torch.equal(logits(net.at(net.space.full)(IDS)), plain[2])
    assert torch.equal(logits(net.at(shallow)(IDS)), plain[0])


def test_inference_passes_nothing_by_while_the_network_trains():
    net = network("transformer")
    plain = net(IDS, inference=True)
    drop_layers(net.full, "blocks", ALWAYS)
    assert torch.equal(net(IDS, inference=True), plain)


@each_name
@pytest.mark.parametrize("way", ["extract", "submodel"])
def test_an_extracted_model_is_a_plain_one(name, way):
    net = network(name, **({"readout": "own"} if name != "transformer" else {}))
    drop_layers(net.full, PATHS[name], 0.5)
    for setting in net.space:
        net.at(setting)(IDS)
        model = getattr(net, way)(setting)
        assert not any(one._forward_hooks for one in model.modules())
        assert torch.equal(logits(model.eval()(IDS)), logits(net.at(setting)(IDS, inference=True)))


def test_a_narrower_sub_model_passes_its_blocks_by():
    build = partial(Transformer, heads=2, hidden=8, head_size=4, vocabulary=40, positions=16)
    net = sn.SortedNet(build, sn.Space(depth=[1, 3], width=[4, 6])).double()
    expected = net.at(depth=1, width=4)(IDS)
    drop_layers(net.full, "blocks", [0, ALWAYS, ALWAYS])
    assert torch.equal(net.at(depth=3, width=4)(IDS), expected)


@QUIET
def test_sub_models_that_differ_in_the_rank_of_their_adapter_pass_the_same_blocks_by():
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    net = sn.dylora(llama(), adapter, ranks=[1, 2, 4]).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1)
    drop_layers(net.full, "base_model.model.model.layers", 0.5)
    outputs = seeded(lambda: net(IDS, settings=list(net.space), split=True))
    for setting, rows, output in zip(net.space, IDS.split(2), outputs, strict=True):
        alone = seeded(lambda setting=setting, rows=rows: net.at(setting)(rows))
        torch.testing.assert_close(output.logits, alone.logits, rtol=0, atol=1e-6)


def test_what_a_readout_reads_of_a_block_that_is_passed_by_is_what_the_block_was_given():
    net = network("bert", readout="mean")
    expected = net.at(net.space[0])(IDS).logits
    drop_layers(net.full, PATHS["bert"], [0, ALWAYS, ALWAYS, ALWAYS])
    assert torch.equal(net(IDS).logits, expected)
    assert torch.equal(net.full(IDS).logits, expected)


# --- saved and copied -----------------------------------------------------------------------------------------------


def test_layer_dropout_adds_nothing_to_the_state_of_a_model():
    net = network("llama")
    before = list(net.state_dict())
    drop_layers(net.full, PATHS["llama"], 0.5)
    assert list(net.state_dict()) == before


def test_a_saved_network_opens_without_layer_dropout(tmp_path):
    net, plain = network("llama"), network("llama")
    drop_layers(net.full, PATHS["llama"], ALWAYS)
    for one, name in ((net, "one"), (plain, "other")):
        one.save_pretrained(tmp_path / name)
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], one) for name, one in expected.items())
    assert torch.equal(sn.load(tmp_path / "one").train()(IDS).logits, sn.load(tmp_path / "other").train()(IDS).logits)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_the_full_model_keeps_it_for_itself(way):
    model = stack()
    plain = model(ROWS)
    drop_layers(model, "", ALWAYS)
    other = way(model)
    drop_layers(model, "", 0)
    assert torch.equal(model(ROWS), plain)
    assert torch.equal(other(ROWS), ROWS)


def test_a_copy_of_a_network_passes_the_same_blocks_by():
    net = network("transformer")
    drop_layers(net.full, "blocks", [0, ALWAYS, ALWAYS, ALWAYS])
    other = copy.deepcopy(net)
    assert torch.equal(other(IDS), net.at(depth=1)(IDS))


# --- shared forwards ------------------------------------------------------------------------------------------------


@pytest.fixture
def only_shared(monkeypatch):
    """Let a network fail where it runs a sub-model by itself."""

    def run(*_):
        raise AssertionError("a sub-model ran by itself")

    return lambda: monkeypatch.setattr(sn.SortedNet, "_run", run)


@each_name
@each_unit
def test_exits_give_what_the_sub_models_give_from_the_same_random_state(name, unit, only_shared):
    net = network(name)
    drop_layers(net.full, PATHS[name], growing_rates(4, 0.9), unit=unit)
    settings = list(net.space)
    net(IDS, settings=settings)  # tries the exits
    expected = [seeded(lambda one=one: logits(net.at(one)(IDS))) for one in settings]
    sum(one.square().mean() for one in expected).backward()
    gradient = gradients(net)
    only_shared()
    found = seeded(lambda: [logits(one) for one in net(IDS, settings=settings)])
    sum(one.square().mean() for one in found).backward()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert not torch.equal(found[-1], logits(net(IDS, settings=settings, inference=True)[-1]))
    assert_same(gradients(net), gradient)


@each_name
def test_deep_exits_whose_blocks_are_always_passed_by_equal_the_shallow_one(name, only_shared):
    net = network(name)
    expected = logits(net.at(net.space[0])(IDS))
    drop_layers(net.full, PATHS[name], [0, ALWAYS, ALWAYS, ALWAYS])
    only_shared()
    for one in net(IDS, settings=list(net.space)):
        assert torch.equal(logits(one), expected)


@each_name
@each_unit
def test_parts_of_a_batch_that_leave_at_exits_pass_the_blocks_by(name, unit, only_shared):
    net = network(name)
    expected = logits(net.at(net.space[0])(IDS))
    drop_layers(net.full, PATHS[name], [0, ALWAYS, ALWAYS, ALWAYS], unit=unit)
    only_shared()
    found = net(IDS, settings=list(net.space), split=[1, 2, 3])
    torch.testing.assert_close(torch.cat([logits(one) for one in found]), expected, rtol=0, atol=1e-12)


@each_name
@pytest.mark.parametrize("how", ["evaluation", "rates of 0"])
def test_exits_are_bit_for_bit_the_same_without(name, how, only_shared):
    net = network(name)
    net.train(how != "evaluation")
    settings = list(net.space)
    expected = [logits(one) for one in net(IDS, settings=settings)]
    drop_layers(net.full, PATHS[name], ALWAYS)
    if how == "rates of 0":
        drop_layers(net.full, PATHS[name], 0)
    only_shared()
    before = torch.get_rng_state()
    found = net(IDS, settings=settings)
    assert all(torch.equal(logits(one), other) for one, other in zip(found, expected, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_exits_that_ran_before_follow_new_rates(only_shared):
    net = network("llama")
    settings = list(net.space)
    plain = [one.logits for one in net(IDS, settings=settings)]
    only_shared()
    for rates, expected in (([0, ALWAYS, ALWAYS, ALWAYS], plain[:1] * 3), ([0] * 4, plain)):
        drop_layers(net.full, PATHS["llama"], rates)
        found = net(IDS, settings=settings)
        assert all(torch.equal(one.logits, other) for one, other in zip(found, expected, strict=True))


def test_losses_of_language_model_exits_are_those_of_what_the_blocks_passed_on():
    net = network("llama")
    expected = net.at(net.space[0])(IDS, labels=IDS).loss
    drop_layers(net.full, PATHS["llama"], [0, ALWAYS, ALWAYS, ALWAYS])
    for one in net(input_ids=IDS, labels=IDS, settings=list(net.space)):
        torch.testing.assert_close(one.loss, expected, rtol=0, atol=1e-6)


# --- checkpointed, compiled, sharded --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@each_unit
def test_activation_checkpointing_gives_the_same_gradients(unit):
    net = network("llama")
    drop_layers(net.full, PATHS["llama"], 0.5, unit=unit)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            net.full.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(3)
        for setting in net.space:
            net.at(setting)(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        sum(one.loss for one in net(input_ids=IDS, labels=IDS, settings=list(net.space))).backward()
        found.append(gradients(net))
    assert_same(found[1], found[0])


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(5, width), nn.Linear(width, 5)

    def forward(self, x):
        return x + self.down(self.up(x))


class Residuals(nn.Module):
    def __init__(self, depth, width):
        super().__init__()
        self.blocks = nn.ModuleList(Residual(width) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture
def traced():
    """Compile a network, and return what holds the graphs it has traced so far."""
    from torch._dynamo.testing import CompileCounter

    def compiled(net):
        counter = CompileCounter()
        net.compile(backend=counter)
        return counter

    torch._dynamo.reset()
    yield compiled
    torch._dynamo.reset()


@pytest.mark.parametrize("first", ["compiled", "dropped"])
def test_compiled_blocks_are_passed_by_at_their_rates(first, traced):
    torch.manual_seed(0)
    net = sn.SortedNet(Residuals, sn.Space(depth=[1, 3], width=[4, 6])).double()
    plain, rates = copy.deepcopy(net), [0, 0.3, 0.6]
    drop_layers(plain.full, "blocks", rates, unit="example")
    if first == "compiled":
        traced(net)
        net(ROWS, settings=list(net.space))
    drop_layers(net.full, "blocks", rates, unit="example")
    if first == "dropped":
        traced(net)
    for seed in range(3):
        for settings in ([net.space.full], [net.space.smallest], list(net.space)):
            found, expected = (
                seeded(lambda one=one, chosen=settings: one(ROWS, settings=chosen), seed) for one in (net, plain)
            )
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_compiled_blocks_of_many_rates_share_graphs(traced):
    net = sn.SortedNet(Residuals, sn.Space(depth=[2, 12], width=[4, 6])).double()
    drop_layers(net.full, "blocks", growing_rates(12, 0.5))
    counter = traced(net)
    for setting in net.space:
        net.at(setting)(ROWS)
    assert 1 <= counter.frame_count <= 5


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # returns a view, which nothing changes in place
def test_sharded_blocks_are_passed_by_once():
    net, sharded = network("transformer"), network("transformer")
    for one in (net, sharded):
        drop_layers(one.full, "blocks", 0.5, unit="example")
    for block in sharded.full.blocks:
        fully_shard(block)
    fully_shard(sharded)
    for how in ({"setting": net.space[0]}, {"setting": net.space.full}, {"settings": list(net.space)}):
        expected, found = (seeded(lambda one=one, how=how: torch.stack([*one(IDS, **how)])) for one in (net, sharded))
        assert torch.equal(found, expected)
        assert not torch.equal(found, torch.stack([*net(IDS, **how, inference=True)]))
        assert torch.equal(*(torch.stack([*one(IDS, **how, inference=True)]) for one in (net, sharded)))
        (expected.square().mean() + found.square().mean()).backward()
    for one, other in zip(sharded.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(one.grad.full_tensor(), other.grad, rtol=0, atol=1e-12)
