"""Exits give what the sub-models give: outputs, losses and gradients, for whole batches and for parts of one."""

import copy
import itertools
import threading
import warnings
from functools import cache, partial

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import sortednet as sn
from sortednet.errors import DataError, SettingError, TrainingError
from sortednet.huggingface.chunked_loss import ChunkedHead, ExitOutput, _CrossEntropy, _pieces
from sortednet.models import MLP, Transformer
from sortednet.network.cache_names import cache_name
from sortednet.network.exits import Trunk, block_list
from sortednet.network.sharing import Sharing

from ..contracts.pretrained_cases import PRETRAINED, TOKENS

FAMILIES = {case.name: case for case in PRETRAINED}
CAUSAL = ["llama", "llama_tied", "mistral", "qwen2_tied", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gpt2_untied",
          "gpt_neox", "opt", "opt_projected"]  # fmt: skip
CLASSIFIERS = ["bert", "bert_mean", "roberta", "distilbert", "vit"]
SIZE = 6  # examples, and tokens of each, so that an axis cannot be told by its size


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def spread(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(3)))
    return model


@cache
def _pretrained(name, readout, private):
    case = FAMILIES[name]
    depth = next(iter(case.supports))
    own = {"layer_types": ["full_attention", "sliding_attention", "full_attention"]} if name == "gemma3" else {}
    if name in ("mistral", "gemma2", "gemma3"):
        own["sliding_window"] = 16  # a smaller one leaves padding nothing to attend to
    model = spread(case.model_class(case.make_config(**{depth: 3}, **own)))
    return sn.SortedNet.from_pretrained(
        model, **{depth: [1, 2, 3]}, readout=readout or case.readout, private=private
    ).double()


def pretrained(name, readout=None, private=()):
    net = copy.deepcopy(_pretrained(name, readout, private))
    (depth,) = net.space.supports
    return net, depth


def batch(name, size=SIZE, tokens=SIZE, padded=True, labels=False):
    if name == "vit":
        return {"pixel_values": torch.randn(size, 3, 16, 16, dtype=torch.float64, generator=generator())}
    ids = torch.randint(5, 40, (size, tokens), generator=generator())
    found = {"input_ids": ids}
    if padded:
        lengths = torch.arange(size) % (tokens - 1)
        mask = (torch.arange(tokens) < (tokens - lengths)[:, None]).long()
        # A token of Gemma 2 that attends to nothing is not a number in float64.
        found["attention_mask"] = mask.flip(1) if name in CAUSAL and name != "gemma2" else mask
    if labels:
        found["labels"] = ids.masked_fill(torch.rand(ids.shape, generator=generator(2)) < 0.3, -100)
    return found


def exits(net, depth, **others):
    return [net.space.setting({**net.space.full, **others, depth: one}) for one in net.space.supports[depth].values]


@pytest.fixture
def only_shared(monkeypatch):
    """Let a network fail where it runs a sub-model by itself."""

    def watch(net):
        def run(*_):
            raise AssertionError("a sub-model ran by itself")

        net.__dict__["_run"] = run
        return net

    return watch


def logits_of(output):
    return output.logits if hasattr(output, "logits") else output


def parts(inputs, sizes):
    if isinstance(inputs, Tensor):
        return list(inputs.split(sizes))
    columns = {name: one.split(sizes) for name, one in inputs.items()}
    return [{name: column[place] for name, column in columns.items()} for place in range(len(sizes))]


def call(module, inputs, **how):
    return module(inputs, **how) if isinstance(inputs, Tensor) else module(**inputs, **how)


def gradients(net, loss):
    net.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def assert_same(one, other, tolerance=1e-6):  # RMS norms are float32 in any model
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(
            gradient, other[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


# --- models of one's own ------------------------------------------------------------------------------------------


class Net(nn.Module):
    """The README's: shortcuts outside of the blocks."""

    def __init__(self, depth, width=8):
        super().__init__()
        self.stem = nn.Linear(5, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x.relu())
        return self.head(x)


class FromZero(Net):
    """Its blocks give zero at first, so that nothing shows where an exit reads."""

    def __init__(self, depth, width=8):
        super().__init__(depth, width)
        for block in self.blocks:
            nn.init.zeros_(block.weight)
            nn.init.zeros_(block.bias)


class Mixing(Net):
    """Its head reads the mean of what all blocks return."""

    def forward(self, x):
        x, seen = self.stem(x), []
        for block in self.blocks:
            x = block(x).tanh()
            seen.append(x)
        return self.head(torch.stack(seen).mean(0))


class Indexed(Net):
    """It takes its blocks by number."""

    def __init__(self, depth, width=8):
        super().__init__(depth, width)
        self.depth = depth

    def forward(self, x):
        x = self.stem(x)
        for place in range(self.depth):
            x = self.blocks[place](x).tanh()
        return self.head(x)


class Scaled(Net):
    """What goes into its blocks depends on how many there are."""

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x / len(self.blocks)).tanh()
        return self.head(x)


class Twice(Net):
    """It runs all of its blocks twice."""

    def forward(self, x):
        x = self.stem(x)
        for block in (*self.blocks, *self.blocks):
            x = block(x).tanh()
        return self.head(x)


class Backwards(Net):
    """It runs its last block first."""

    def forward(self, x):
        x = self.stem(x)
        for block in reversed(self.blocks):
            x = block(x).tanh()
        return self.head(x)


class Inside(Net):
    """It does not call its blocks, but layers in them."""

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = functional.linear(x, block.weight, block.bias).tanh()
        return self.head(x)


class Dropping(Net):
    """It drops units outside of its blocks, which shortcuts carry to the head."""

    def forward(self, x):
        x = functional.dropout(self.stem(x), 0.5, self.training)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Attention(nn.Module):
    """Blocks of torch's own with a mask of shape (T, T); time comes first where `first` is."""

    def __init__(self, depth, first=False):
        super().__init__()
        self.first = first
        self.embed = nn.Embedding(40, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=not first) for _ in range(depth)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        x = self.embed(ids)
        mask = torch.full((ids.shape[1],) * 2, -torch.inf, dtype=x.dtype).triu(1)
        x = x.transpose(0, 1) if self.first else x
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x.transpose(0, 1) if self.first else x)


class Norms(nn.Module):
    """Blocks with statistics over the batch."""

    def __init__(self, depth):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = block(x).tanh()
        return x


def vectors(size=SIZE):
    return torch.randn(size, 5, dtype=torch.float64, generator=generator())


def ids(size=SIZE, tokens=SIZE):
    return torch.randint(0, 40, (size, tokens), generator=generator())


OWN = {
    "mlp": (partial(MLP, width=8, inputs=5, classes=3), vectors),
    "transformer": (partial(Transformer, width=6, heads=2, hidden=8, head_size=4, vocabulary=40, positions=16), ids),
    "readme": (Net, vectors),
    "from_zero": (FromZero, vectors),
    "mixing": (Mixing, vectors),
    "indexed": (Indexed, vectors),
    "sequential": (
        lambda depth: nn.Sequential(nn.Tanh(), nn.Sequential(*(nn.Linear(5, 5) for _ in range(depth))), nn.Tanh()),
        vectors,
    ),
    "only_sequential": (lambda depth: nn.Sequential(*(nn.Linear(5, 5) for _ in range(depth))), vectors),
    "masked": (Attention, ids),
    "time_first": (partial(Attention, first=True), ids),
}  # fmt: skip


def own(name, **options):
    build, data = OWN[name]
    torch.manual_seed(0)
    return sn.SortedNet(build, sn.Space(depth=[1, 2, 3, 4]), **options).double(), data()


def any_net(name):
    if name in OWN:
        return *own(name), "depth"
    net, depth = pretrained(name)
    return net, batch(name), depth


SHARING = [*OWN, *CAUSAL, *CLASSIFIERS]
SHARING_PARTS = [name for name in SHARING if name not in ("readme", "from_zero", "mixing")]


# --- outputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARING)
def test_outputs_at_all_exits_equal_the_sub_models(name, only_shared):
    net, inputs, depth = any_net(name)
    net.eval()
    settings = exits(net, depth)[::-1]
    expected = [logits_of(call(net.at(one), inputs)) for one in settings]
    found = call(only_shared(net), inputs, settings=settings)
    assert list(net.exits) == [depth]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(logits_of(one), other)


@pytest.mark.parametrize("name", SHARING_PARTS)
def test_parts_of_a_batch_leave_at_exits_as_the_sub_models_give_them(name, only_shared):
    net, inputs, depth = any_net(name)
    net.eval()
    settings = exits(net, depth)[:3]
    watched = only_shared(copy.deepcopy(net))
    for order, sizes in zip(
        itertools.permutations(settings),
        [[1, 4, 1], [2, 2, 2], [1, 1, 4], [4, 1, 1], [3, 2, 1], [1, 2, 3]],
        strict=True,
    ):
        found = call(watched, inputs, settings=order, split=sizes)
        for setting, part, output in zip(order, parts(inputs, sizes), found, strict=True):
            # Another number of rows takes another kernel.
            torch.testing.assert_close(logits_of(output), logits_of(call(net.at(setting), part)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize("split", [False, [2, 1, 3]], ids=["whole", "parts"])
def test_gradients_at_exits_are_the_sum_of_the_sub_models(name, split, only_shared):
    net, inputs, depth = any_net(name)
    net.eval()
    settings = exits(net, depth)[:3]
    given = parts(inputs, split) if split else [inputs] * 3
    separate = sum(
        one * logits_of(call(net.at(setting), part)).square().mean()
        for one, setting, part in zip((1, 2, 3), settings, given, strict=True)
    )
    expected = gradients(net, separate)
    net = only_shared(net) if not split or name in SHARING_PARTS else net
    outputs = call(net, inputs, settings=settings, split=split)
    found = gradients(
        net, sum(one * logits_of(out).square().mean() for one, out in zip((1, 2, 3), outputs, strict=True))
    )
    assert_same(found, expected)


@pytest.mark.parametrize("name", ["transformer", "llama", "bert_mean", "readme"])
def test_a_batch_of_one_example(name, only_shared):
    net, inputs, depth = any_net(name)
    net.eval()
    one = inputs[:1] if isinstance(inputs, Tensor) else {key: value[:1] for key, value in inputs.items()}
    expected = [logits_of(call(net.at(setting), one)) for setting in exits(net, depth)]
    for output, other in zip(call(only_shared(net), one, settings=exits(net, depth)), expected, strict=True):
        assert torch.equal(logits_of(output), other)


@pytest.mark.parametrize("name", ["llama", "bert", "bert_mean", "distilbert", "gemma2"])
def test_padding_that_comes_later_is_seen(name, only_shared):
    # Without padding there is no mask; where its examples are must be found out when it comes.
    net, depth = pretrained(name)
    net.eval()
    watched = only_shared(copy.deepcopy(net))
    for padded in (False, True, False):
        inputs = batch(name, padded=padded)
        outputs = watched(**inputs, settings=exits(net, depth), split=[1, 3, 2])
        for setting, part, output in zip(exits(net, depth), parts(inputs, [1, 3, 2]), outputs, strict=True):
            torch.testing.assert_close(output.logits, net.at(setting)(**part).logits, rtol=0, atol=1e-12)


def test_heads_as_many_as_examples_are_no_examples(only_shared):
    # The bias that MPT adds to the scores has shape (heads, 1, T).
    config = hf.MptConfig(vocab_size=40, d_model=16, n_layers=3, n_heads=4, expansion_ratio=2, max_seq_len=16)
    net = sn.SortedNet.from_pretrained(spread(hf.MptForCausalLM(config)), n_layers=[1, 2, 3]).double().eval()
    inputs = batch("mpt", 4, 4, padded=False)
    expected = [
        net.at(setting)(**part).logits
        for setting, part in zip(exits(net, "n_layers"), parts(inputs, [2, 1, 1]), strict=True)
    ]
    outputs = only_shared(net)(**inputs, settings=exits(net, "n_layers"), split=[2, 1, 1])
    for output, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output.logits, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth", ["num_layers", "num_decoder_layers"])
@pytest.mark.parametrize("split", [False, [2, 1, 3]], ids=["whole", "parts"])
def test_an_encoder_and_a_decoder_each_have_exits(depth, split, only_shared):
    model = spread(hf.T5ForConditionalGeneration(FAMILIES["t5"].make_config(num_layers=3, decoder_start_token_id=0)))
    supports = {"num_layers": [1, 2, 3], "num_decoder_layers": [1, 2, 3]}
    net = sn.SortedNet.from_pretrained(model, **supports).double().eval()
    assert net.exits == {"num_layers": "encoder.block", "num_decoder_layers": "decoder.block"}
    inputs = {**batch("t5"), "labels": ids(SIZE, 4)}
    settings = exits(net, depth)
    given = parts(inputs, split) if split else [inputs] * 3
    alone = [net.at(setting)(**part) for setting, part in zip(settings, given, strict=True)]
    expected = gradients(net, sum(one.loss for one in alone))
    outputs = only_shared(net)(**inputs, settings=settings, split=split)
    for output, other in zip(outputs, alone, strict=True):
        torch.testing.assert_close(output.logits, other.logits, rtol=0, atol=1e-12)
    assert_same(gradients(net, sum(one.loss for one in outputs)), expected, 1e-6)


def test_settings_that_differ_in_width_too_share_a_forward_by_width(only_shared):
    torch.manual_seed(0)
    net = sn.SortedNet(Net, sn.Space(depth=[1, 2, 4], width=[4, 8])).double()
    runs = []
    shared = net._sharing.run

    def watch(full, path, settings, *rest):
        runs.append([str(one) for one in settings])
        return shared(full, path, settings, *rest)

    net._sharing.run = watch
    settings = [net.space[place] for place in (4, 1, 0, 3, 2)]
    for output, setting in zip(net(vectors(), settings=settings), settings, strict=True):
        assert torch.equal(output, net.at(setting)(vectors()))
    assert runs == [["depth=4,width=4", "depth=1,width=4", "depth=2,width=4"], ["depth=1,width=8", "depth=2,width=8"]]


def test_an_exit_keeps_no_cache_and_one_that_is_asked_for_runs_alone():
    net, depth = pretrained("llama")
    net.eval()
    inputs = batch("llama")
    kept = cache_name(net.full.forward)
    assert all(getattr(one, kept) is None for one in net(**inputs, settings=exits(net, depth)))
    for blocks, output in enumerate(net(**inputs, settings=exits(net, depth), use_cache=True), 1):
        assert getattr(output, kept).get_seq_length(blocks - 1) == SIZE


@pytest.mark.parametrize("where", ["argument", "config"])
def test_hidden_states_are_those_of_each_sub_model(where):
    net, depth = pretrained("llama")
    net.eval()
    how = {"output_hidden_states": True} if where == "argument" else {}
    net.full.config.output_hidden_states = where == "config"
    for blocks, output in enumerate(net(**batch("llama"), settings=exits(net, depth), **how), 1):
        assert (
            len(output.hidden_states if where == "argument" else output.hidden_states or [0] * (blocks + 1))
            == blocks + 1
        )


def test_the_same_setting_twice_runs_twice():
    net, inputs, _ = any_net("transformer")
    first, second = net(inputs, settings=[net.space[1], net.space[1]], split=[2, 4])
    torch.testing.assert_close(torch.cat([first, second]), net.at(net.space[1])(inputs), rtol=0, atol=1e-12)


def test_rows_that_all_examples_share_go_to_every_part():
    net, depth = pretrained("llama")
    net.eval()
    inputs = batch("llama")
    positions = torch.arange(3, 3 + SIZE)[None]
    outputs = net(**inputs, position_ids=positions, settings=exits(net, depth), split=[1, 2, 3])
    for setting, part, output in zip(exits(net, depth), parts(inputs, [1, 2, 3]), outputs, strict=True):
        alone = net.at(setting)(**part, position_ids=positions).logits
        torch.testing.assert_close(output.logits, alone, rtol=0, atol=1e-12)


# --- models without exits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Scaled, "after 1 of its blocks it gives something else than its sub-model"),
        (Twice, "it runs block 0 where block 1 is next"),
        (Backwards, "it runs block 1 where block 0 is next"),
        (Inside, "it ran 0 blocks of its list and not 1"),
    ],
)
def test_a_model_that_does_not_run_its_blocks_in_order_says_so_and_runs_them_one_by_one(kind, reason):
    torch.manual_seed(0)
    net = sn.SortedNet(kind, sn.Space(depth=[1, 2, 3, 4])).double()
    with pytest.warns(
        UserWarning, match=rf"{kind.__name__} has no exits: {reason}\. Its sub-models run one by one, with"
    ):
        outputs = net(vectors(), settings=list(net.space))
    assert net.exits == {}
    assert all(torch.equal(out, net.at(one)(vectors())) for out, one in zip(outputs, net.space, strict=True))
    net(vectors(), settings=list(net.space))  # and says it once


@pytest.mark.parametrize("reentrant", [True, False])
def test_blocks_inside_of_a_models_own_checkpoint_run_one_by_one(reentrant):
    class Checkpointed(Net):
        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=reentrant) if self.training else block(x)
            return self.head(x)

    torch.manual_seed(0)
    net = sn.SortedNet(Checkpointed, sn.Space(depth=[1, 2, 3])).double()
    expected = gradients(net, sum(net.at(one)(vectors()).square().sum() for one in net.space))
    with pytest.warns(
        UserWarning, match=r"it calls its blocks inside of torch\.utils\.checkpoint; let the blocks call it"
    ):
        outputs = net(vectors(), settings=list(net.space))
    assert_same(gradients(net, sum(out.square().sum() for out in outputs)), expected)


def test_examples_merged_with_heads_cannot_leave_on_the_way():
    # The bias that Bloom adds to the scores has shape (B * heads, 1, T).
    config = hf.BloomConfig(vocab_size=40, hidden_size=16, n_layer=3, n_head=4, **TOKENS)
    net = sn.SortedNet.from_pretrained(spread(hf.BloomForCausalLM(config)), n_layer=[1, 2, 3]).double().eval()
    inputs = batch("bloom", padded=False)
    settings = exits(net, "n_layer")
    with pytest.warns(
        UserWarning, match=r"no exits for parts of a batch: kwargs\['alibi'\] of its blocks grows from \(8, "
    ):
        outputs = net(**inputs, settings=settings, split=[1, 2, 3])
    for setting, part, output in zip(settings, parts(inputs, [1, 2, 3]), outputs, strict=True):
        assert torch.equal(output.logits, net.at(setting)(**part).logits)
    assert net.exits  # for whole batches
    for setting, output in zip(settings, net(**inputs, settings=settings), strict=True):
        assert torch.equal(output.logits, net.at(setting)(**inputs).logits)


def test_random_numbers_between_the_blocks_are_drawn_once_for_each_sub_model():
    torch.manual_seed(0)
    net = sn.SortedNet(Dropping, sn.Space(depth=[1, 2])).double()
    with pytest.warns(UserWarning, match="no exits in training: it draws random numbers between its blocks"):
        net(vectors(), settings=list(net.space))
    outputs = net.eval()(vectors(), settings=list(net.space))
    assert all(torch.equal(out, net.at(one)(vectors())) for out, one in zip(outputs, net.space, strict=True))
    assert net.exits


def test_layers_skipped_by_chance_in_training_run_one_by_one():
    model = hf.OPTForCausalLM(FAMILIES["opt"].make_config(num_hidden_layers=3, layerdrop=1.0))
    net = sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2, 3])
    net.head = None
    with pytest.warns(UserWarning, match="no exits in training: it ran 0 blocks of its list and not 3"):
        outputs = net(**batch("opt"), settings=exits(net, "num_hidden_layers"))
    assert len(outputs) == 3
    assert net.exits


def test_statistics_of_a_batch_are_those_of_a_sub_models_own_examples():
    torch.manual_seed(0)
    net = sn.SortedNet(Norms, sn.Space(depth=[1, 2])).double()
    other = copy.deepcopy(net)
    outputs = net(vectors(), settings=list(net.space), split=[2, 4])
    for one, part, output in zip(net.space, vectors().split([2, 4]), outputs, strict=True):
        assert torch.equal(output, other.at(one)(part))
    assert all(torch.equal(one, two) for one, two in zip(net.buffers(), other.buffers(), strict=True))
    outputs = net.eval()(vectors(), settings=list(net.space))
    assert all(torch.equal(out, net.at(one)(vectors())) for out, one in zip(outputs, net.space, strict=True))


def test_what_trying_exits_draws_and_changes_is_undone():
    net, inputs, depth = any_net("llama")
    state, buffers = torch.get_rng_state(), [one.clone() for one in net.buffers()]
    net.eval()(**inputs, settings=exits(net, depth))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, two) for one, two in zip(net.buffers(), buffers, strict=True))


def test_an_error_of_the_model_itself_is_the_users_to_see():
    net, inputs, depth = any_net("transformer")
    with pytest.raises(sn.SortedNetError, match=r"The sequences have 20 tokens"):
        net(ids(3, 20), settings=exits(net, depth))
    assert net.exits
    net(inputs, settings=exits(net, depth))


@pytest.mark.parametrize("name", ["transformer", "readme"])
def test_a_middle_depth_whose_blocks_differ_is_no_exit(name):
    def build(depth):
        model = OWN[name][0](depth)
        if depth == 2:  # the same tensors, another function
            model.head.register_forward_hook(lambda *args: args[-1].sin())
            model.get_submodule("blocks.1").register_forward_hook(lambda *args: args[-1].sin())
        return model

    torch.manual_seed(0)
    net, inputs = sn.SortedNet(build, sn.Space(depth=[1, 2, 4])).double(), OWN[name][1]()
    with pytest.warns(UserWarning, match="after 2 of its blocks"):
        outputs = net(inputs, settings=list(net.space))
    assert all(torch.equal(out, net.at(one)(inputs)) for out, one in zip(outputs, net.space, strict=True))


def test_blocks_are_found_where_nothing_but_their_number_differs():
    assert block_list(Net(3), Net(1)) == "blocks"
    assert block_list(Net(3), Net(3)) is None
    assert block_list(Net(3, 8), Net(1, 4)) is None
    assert block_list(OWN["only_sequential"][0](3), OWN["only_sequential"][0](1)) == ""


# --- chunks -------------------------------------------------------------------------------------------------------


def causal(name, split=False, frozen=(), size=12, labels=None, weights=(0.5, 0.2, 0.3), dtype=torch.float64, **options):
    """Return the losses and gradients of the exits in chunks, and of the sub-models by themselves."""
    net, depth = pretrained(name, **options)
    net.to(dtype)
    for parameter_name, parameter in net.full.named_parameters():
        parameter.requires_grad_(not any(one in parameter_name for one in frozen))
    net.eval().head = ChunkedHead(elements=1)  # chunks of 64 tokens
    inputs = batch(name, size, size, labels=True)
    if labels is not None:
        inputs["labels"] = labels(inputs["labels"])
    sizes = [2, 3, size - 5] if split else False
    given = parts(inputs, sizes) if split else [inputs] * 3
    alone = [net.at(setting)(**part).loss for setting, part in zip(exits(net, depth), given, strict=True)]
    expected = gradients(net, sum(weight * one for weight, one in zip(weights, alone, strict=True)))
    outputs = net(**inputs, settings=exits(net, depth), split=sizes, weights=weights)
    assert all(isinstance(one, ExitOutput) for one in outputs)
    assert net.head is not None
    found = gradients(net, sum(weight * one.loss for weight, one in zip(weights, outputs, strict=True)))
    return [one.loss for one in outputs], alone, found, expected


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("split", [False, True], ids=["whole", "parts"])
def test_losses_in_chunks_are_the_models_own(name, split):
    losses, alone, found, expected = causal(name, split)
    for one, other in zip(losses, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert_same(found, expected, 2e-6)  # the loss itself is float32


@pytest.mark.parametrize("frozen", [("lm_head",), ("model.layers", "embed_tokens"), ("model.",), ("model.norm",)])
def test_losses_in_chunks_train_what_is_not_frozen(frozen):
    losses, alone, found, expected = causal("llama", frozen=frozen)
    torch.testing.assert_close(losses[0], alone[0], rtol=1e-6, atol=1e-6)
    assert not any(part in name for name in found for part in frozen)
    assert_same(found, expected, 2e-6)


def test_whole_outputs_are_read_one_at_a_time_with_their_logits():
    net, depth = pretrained("llama")
    net.eval()
    inputs = batch("llama", labels=True)
    with torch.no_grad():
        outputs = net(**inputs, settings=exits(net, depth), inference=True, whole=True)
        for setting in exits(net, depth):
            output, alone = next(outputs), net.submodel(setting)(**inputs)
            assert torch.equal(output.logits, alone.logits)
            assert torch.equal(output.loss, alone.loss)
    assert next(outputs, None) is None


def test_the_first_trial_of_a_long_text_runs_on_a_few_tokens():
    net, depth = pretrained("llama")
    net.eval()
    lengths, own = [], Trunk.run
    ids = torch.arange(3 * 60).view(3, 60) % 40
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Trunk, "run", lambda *args, **how: lengths.append(args[3]["input_ids"].shape) or own(*args, **how)
        )
        outputs = net(input_ids=ids, settings=exits(net, depth))
    assert lengths == [(2, 16), (3, 16), (3, 60)]
    for setting, output in zip(exits(net, depth), outputs, strict=True):
        torch.testing.assert_close(output.logits, net.at(setting)(input_ids=ids).logits, rtol=0, atol=1e-10)


def test_a_network_all_frozen_gives_losses_in_chunks():
    net, depth = pretrained("llama")
    net.requires_grad_(False)
    outputs = net(**batch("llama", labels=True), settings=exits(net, depth))
    assert not any(one.loss.requires_grad for one in outputs)


def test_separate_heads_are_read_in_chunks():
    net, depth = pretrained("llama", private="lm_head.*")
    with torch.no_grad():
        for parameter in net.private.parameters():
            parameter.mul_(0.5)
    assert list(net.exits) == [depth]
    inputs = batch("llama", labels=True)
    alone = [net.at(setting)(**inputs).loss for setting in exits(net, depth)]
    expected = gradients(net, sum(alone))
    outputs = net(**inputs, settings=exits(net, depth))
    assert all(isinstance(one, ExitOutput) for one in outputs)
    assert_same(gradients(net, sum(one.loss for one in outputs)), expected, 2e-6)
    assert len({round(float(one.loss.detach()), 3) for one in outputs}) == 3


@pytest.mark.parametrize("split", [False, [1, 2, 3]], ids=["whole", "parts"])
def test_separate_classifiers_are_read_at_their_exits(split, only_shared):
    net, depth = pretrained("bert", private="classifier.*")
    with torch.no_grad():
        for place, parameter in enumerate(net.private.parameters()):
            parameter.mul_(place + 2)
    net.eval()
    inputs = {**batch("bert"), "labels": torch.arange(SIZE) % 2}
    given = parts(inputs, split) if split else [inputs] * 3
    alone = [net.at(one)(**part).loss for one, part in zip(exits(net, depth), given, strict=True)]
    expected = gradients(net, sum(alone))
    outputs = only_shared(net)(**inputs, settings=exits(net, depth), split=split)
    assert_same(gradients(net, sum(one.loss for one in outputs)), expected)


def test_tensors_of_their_own_in_the_blocks_let_sub_models_run_one_by_one():
    net, depth = pretrained("bert", private="*.layer.0.*")
    assert net.exits == {}
    net.eval()
    outputs = net(**batch("bert"), settings=exits(net, depth))
    for setting, output in zip(exits(net, depth), outputs, strict=True):
        assert torch.equal(output.logits, net.at(setting)(**batch("bert")).logits)


def test_tensors_added_to_the_blocks_later_are_seen():
    net, inputs = own("readme")
    net.eval()(inputs, settings=list(net.space))
    net.private.add(net.space[0], {"blocks.0.weight": nn.Parameter(torch.ones(8, 8, dtype=torch.float64))})
    assert net.exits == {}
    outputs = net(inputs, settings=list(net.space))
    assert torch.equal(outputs[0], net.at(net.space[0])(inputs))


def test_labels_that_are_all_ignored_give_a_loss_of_zero():
    # The model's own is 0 / 0; in a part of a batch it would spoil the sum.
    def ignore(labels):
        labels[2:5] = -100  # the second part
        return labels

    losses, alone, _, _ = causal("llama", split=True, labels=ignore)
    assert float(losses[1].detach()) == 0
    assert alone[1].isnan()
    torch.testing.assert_close(losses[2], alone[2], rtol=1e-6, atol=1e-6)
    net, depth = pretrained("llama")
    inputs = batch("llama", labels=True)
    inputs["labels"].fill_(-100)
    outputs = net(**inputs, settings=exits(net, depth))
    assert not any(gradient.any() for gradient in gradients(net, sum(one.loss for one in outputs)).values())


@pytest.mark.parametrize("split", [False, [2, 9, 1]], ids=["whole", "parts"])
@pytest.mark.parametrize("name", CAUSAL)
def test_losses_in_chunks_under_autocast(name, split):
    net, depth = pretrained(name)
    net.float().eval()
    inputs = batch(name, 12, 12, labels=True)
    given = parts(inputs, split) if split else [inputs] * 3
    with torch.autocast("cpu", torch.bfloat16):
        outputs = net(**inputs, settings=exits(net, depth), split=split, weights=(0.5, 0.2, 0.3))
        alone = [net.at(setting)(**part).loss for setting, part in zip(exits(net, depth), given, strict=True)]
    assert all(isinstance(one, ExitOutput) for one in outputs)
    found = gradients(net, sum(weight * one.loss for weight, one in zip((0.5, 0.2, 0.3), outputs, strict=True)))
    expected = gradients(net, sum(weight * one for weight, one in zip((0.5, 0.2, 0.3), alone, strict=True)))
    for one, other in zip(outputs, alone, strict=True):
        torch.testing.assert_close(one.loss, other, rtol=2e-3, atol=2e-3)
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        if "k_proj.bias" not in key:  # whose gradient is 0 but for rounding
            assert functional.cosine_similarity(gradient.flatten(), expected[key].flatten(), 0) > 0.99, key


@pytest.mark.parametrize("counts", [[3, 0, 5], [0, 0, 0], [64], [130, 70, 1]])
@pytest.mark.parametrize("even", [False, True])
def test_chunks_hold_every_token_once(counts, even):
    pieces = _pieces([range(len(counts))], counts, 64, even)
    seen = [(index, place) for piece in pieces for index, start, end in piece for place in range(start, end)]
    assert seen == [(index, place) for index, count in enumerate(counts) for place in range(count)]
    sizes = [sum(end - start for _, start, end in piece) for piece in pieces]
    assert len(sizes) == -(-sum(counts) // 64)
    assert all(size <= 64 for size in sizes)
    assert not even or max(sizes, default=0) - min(sizes, default=0) <= max(len(sizes) - 1, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_loss_in_half_precision_is_exact_where_the_label_is_nearly_certain(dtype):
    given = torch.tensor([[9.0, 0.0, -1.0], [0.5, 0.25, 3.0]], dtype=dtype)
    logits = given.clone().requires_grad_()
    labels, shares = torch.tensor([0, 1]), torch.tensor([0.25, 0.75])
    total, losses = _CrossEntropy.apply(logits, labels, shares)
    (found,) = torch.autograd.grad(total, logits)
    assert torch.equal(logits.detach(), given)  # a model may need them for its own gradient
    exact = logits.detach().double().requires_grad_()
    each = functional.cross_entropy(exact, labels, reduction="none")
    (expected,) = torch.autograd.grad((each * shares).sum(), exact)
    torch.testing.assert_close(losses.double(), each.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=0)


def test_losses_of_a_bfloat16_model_add_their_gradients_up_in_float32():
    losses, alone, found, expected = causal("llama", dtype=torch.bfloat16)
    for one, other in zip(losses, alone, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=3e-2, atol=3e-2)
    assert {gradient.dtype for gradient in found.values()} == {torch.bfloat16}
    head = "full.lm_head.weight"
    assert functional.cosine_similarity(found[head].float().flatten(), expected[head].float().flatten(), 0) > 0.99


@pytest.mark.parametrize("how", [torch.no_grad, torch.inference_mode])
def test_losses_without_gradients(how):
    net, depth = pretrained("llama")
    net.eval()
    inputs = batch("llama", labels=True)
    with how():
        outputs = net(**inputs, settings=exits(net, depth))
        for setting, output in zip(exits(net, depth), outputs, strict=True):
            torch.testing.assert_close(output.loss, net.at(setting)(**inputs).loss, rtol=1e-6, atol=1e-6)
            assert not output.loss.requires_grad


def test_losses_added_up_in_another_proportion_are_refused():
    net, depth = pretrained("llama")
    outputs = net(**batch("llama", labels=True), settings=exits(net, depth), weights=[1, 1, 2])
    with pytest.raises(
        TrainingError,
        match=r"in the proportion \[1\.0, 1\.0, 1\.0\], but \[0\.25, 0\.25, 0\.5\] was announced\. Give net",
    ):
        sum(one.loss for one in outputs).backward()


def test_losses_may_be_scaled_together():
    net, depth = pretrained("llama")
    inputs = batch("llama", labels=True)
    first, second = (
        gradients(net, scale * sum(one.loss for one in net(**inputs, settings=exits(net, depth))))
        for scale in (1, 1024)  # a power of two, which no rounding sees
    )
    assert_same({name: 1024 * one for name, one in first.items()}, second, 1e-5)


def test_a_second_backward_is_refused():
    net, depth = pretrained("llama")
    loss = sum(one.loss for one in net(**batch("llama", labels=True), settings=exits(net, depth)))
    loss.backward(retain_graph=True)
    with pytest.raises(TrainingError, match=r"differentiated twice\. Add them up, and call backward once"):
        loss.backward()


def test_two_forwards_before_a_backward_keep_their_gradients_apart():
    net, depth = pretrained("llama")
    inputs = batch("llama", labels=True)
    once = gradients(net, sum(one.loss for one in net(**inputs, settings=exits(net, depth))))
    losses = [sum(one.loss for one in net(**inputs, settings=exits(net, depth))) for _ in range(2)]
    twice = gradients(net, losses[0] + losses[1])
    assert_same({name: 2 * one for name, one in once.items()}, twice)


def test_what_has_no_logits_says_how_to_get_them():
    net, depth = pretrained("llama")
    output = net(**batch("llama", labels=True), settings=exits(net, depth))[0]
    assert output["loss"] is output[0] is output.loss
    with pytest.raises(KeyError):
        output["hidden_states"]
    for read in (lambda: output.logits, lambda: output["logits"]):
        with pytest.raises(DataError, match=r"logits of several exits are not kept.*Set net\.head = None"):
            read()


def test_distillation_clashes_with_chunks_in_words_and_works_without_them():
    net, _ = pretrained("llama")
    objective = sn.Summation(net.space, sn.Distillation())
    inputs = batch("llama", labels=True, padded=False)
    with pytest.raises(DataError, match=r"Set net\.head = None to read every exit whole"):
        objective(net, inputs, lambda out, _: out.loss)
    net.head = None
    objective(net, inputs, lambda out, _: out.loss).backward()


@pytest.mark.parametrize(
    "how",
    [{"num_items_in_batch": torch.tensor(7)}, {"logits_to_keep": 3}, {"return_dict": False}],
    ids=["num_items_in_batch", "logits_to_keep", "return_dict"],
)
def test_what_changes_the_loss_or_the_output_is_read_whole(how, only_shared):
    net, depth = pretrained("llama")
    inputs = batch("llama", labels=True)
    if "logits_to_keep" in how:
        inputs["labels"] = inputs["labels"][:, -3:]
        del inputs["attention_mask"]
    alone = [net.at(setting)(**inputs, **how)[0] for setting in exits(net, depth)]
    outputs = only_shared(net)(**inputs, settings=exits(net, depth), **how)
    for output, other in zip(outputs, alone, strict=True):
        assert not isinstance(output, ExitOutput)
        torch.testing.assert_close(output[0], other, rtol=1e-6, atol=1e-6)


def test_a_loss_of_the_models_own_is_found_out_and_kept():
    model = copy.deepcopy(_pretrained("llama", None, ()).full)
    model.loss_function = lambda logits, labels, **_: logits.square().mean()

    class Squares(hf.LlamaForCausalLM):
        def __init__(self, config):
            super().__init__(config)
            self.loss_function = model.loss_function

    Squares.__name__ = "LlamaForCausalLM"
    model.__class__ = Squares
    net = sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2, 3])
    assert net.head is not None
    inputs = batch("llama", labels=True)
    outputs = net(**inputs, settings=exits(net, "num_hidden_layers"))
    assert net.head is None
    for setting, output in zip(exits(net, "num_hidden_layers"), outputs, strict=True):
        torch.testing.assert_close(output.loss, output.logits.square().mean())
        torch.testing.assert_close(output.loss, net.at(setting)(**inputs).loss)


def test_a_loss_that_is_not_shifted_is_found_out():
    config = hf.BartConfig(vocab_size=40, d_model=16, decoder_layers=3, decoder_ffn_dim=8, decoder_attention_heads=2,
                           max_position_embeddings=16, is_decoder=True, is_encoder_decoder=False, **TOKENS)  # fmt: skip
    net = sn.SortedNet.from_pretrained(spread(hf.BartForCausalLM(config)), decoder_layers=[1, 2, 3]).eval()
    inputs = batch("bart", padded=False, labels=True)
    outputs = net(**inputs, settings=exits(net, "decoder_layers"))
    for setting, output in zip(exits(net, "decoder_layers"), outputs, strict=True):
        torch.testing.assert_close(output.loss, net.at(setting)(**inputs).loss, rtol=1e-5, atol=1e-5)


# --- with the rest of the library ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert_mean", "t5"])
def test_activation_checkpointing_gives_the_same_gradients(name, reentrant):
    net, depth = pretrained(name) if name != "t5" else (None, "num_layers")
    if net is None:
        model = spread(
            hf.T5ForConditionalGeneration(
                FAMILIES["t5"].make_config(num_layers=3, dropout_rate=0.0, decoder_start_token_id=0)
            )
        )
        net = sn.SortedNet.from_pretrained(model, num_layers=[1, 2, 3], readout="own").double()
    for module in net.full.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    config = net.full.config
    for rate in ("attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(config, rate):
            setattr(config, rate, 0.0)
    net = sn.SortedNet.from_pretrained(type(net.full)(config).double(), **{depth: [1, 2, 3]}).train()
    labels = {"labels": torch.arange(SIZE) % 2} if name == "bert_mean" else {}
    inputs = {**batch(name, labels=name in CAUSAL), **labels, **({"labels": ids()} if name == "t5" else {})}

    def grads(split):
        return gradients(net, sum(one.loss for one in net(**inputs, settings=exits(net, depth), split=split)))

    expected = [grads(split) for split in (False, [1, 2, 3])]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`gradient_checkpointing_enable` is deprecated")
        net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")
        found = [grads(split) for split in (False, [1, 2, 3])]
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other, 1e-6)
    assert list(net.exits) == [depth]


@pytest.mark.parametrize("name", ["bert_mean", "distilbert", "roberta"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_mean_over_tokens_is_the_same_everywhere_and_padding_does_not_change_it(name, attention):
    case, (depth, *_) = FAMILIES[name], FAMILIES[name].supports
    model = spread(case.model_class(case.make_config(**{depth: 3})))
    model.set_attn_implementation(attention)
    own = sn.SortedNet.from_pretrained(copy.deepcopy(model), **{depth: [1, 2, 3]}, readout="own").double().eval()
    net = sn.SortedNet.from_pretrained(model, **{depth: [1, 2, 3]}, readout="mean").double().eval()
    inputs = batch(name)
    padded = {key: functional.pad(one, (0, 3)) for key, one in inputs.items()}
    outputs = net(**inputs, settings=exits(net, depth))
    later = net(**padded, settings=exits(net, depth))
    for setting, output, with_padding in zip(exits(net, depth), outputs, later, strict=True):
        for other in (
            net.at(setting)(**inputs),
            net.extract(setting)(**inputs),
            net.submodel(setting)(**inputs),
            net.extract(setting)(**padded),
            with_padding,
        ):
            torch.testing.assert_close(output.logits, other.logits, rtol=0, atol=1e-10)
        shortest = net.at(setting)(inputs["input_ids"][4:5, :2])  # its two tokens, and no mask
        torch.testing.assert_close(output.logits[4:5], shortest.logits, rtol=0, atol=1e-10)
        assert not torch.allclose(output.logits, own.at(setting)(**inputs).logits)


def test_threads_use_exits_at_once_and_try_each_once(monkeypatch):
    tried, own = [], Sharing._try

    def count(sharing, full, way, path, trunk, readers, given):
        tried.extend(reader.blocks for reader in readers)
        own(sharing, full, way, path, trunk, readers, given)

    monkeypatch.setattr(Sharing, "_try", count)
    net, inputs, depth = any_net("llama")
    net.eval()
    settings = exits(net, depth)
    sizes = [[1, 2, 3], [3, 2, 1]]
    expected = [
        [net.at(setting)(**part).logits for setting, part in zip(settings, parts(inputs, one), strict=True)]
        for one in sizes
    ]
    wrong, barrier = [], threading.Barrier(2)

    def work(place):
        barrier.wait()
        for _ in range(4):
            outputs = net(**inputs, settings=settings, split=sizes[place])
            for output, other in zip(outputs, expected[place], strict=True):
                if not torch.allclose(output.logits, other, rtol=0, atol=1e-12):
                    wrong.append(place)
            sum(out.logits.sum() for out in outputs).backward()

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong
    assert len(tried) == len(set(tried))


@pytest.mark.parametrize("name", ["transformer", "readme", "llama"])
def test_compiled_exits_equal_the_sub_models(name, only_shared):
    net, inputs, depth = any_net(name)
    net.eval()
    settings = exits(net, depth)[:3]
    expected = [logits_of(call(net.at(one), inputs)) for one in settings]
    torch._dynamo.reset()
    net.compile(backend="eager")
    for split in (False, [1, 2, 3]) if name in SHARING_PARTS else (False,):
        outputs = call(only_shared(net), inputs, settings=settings, split=split)
        for place, (output, other) in enumerate(zip(outputs, expected, strict=True)):
            rows = slice(None) if not split else slice(sum(split[:place]), sum(split[: place + 1]))
            torch.testing.assert_close(logits_of(output), other[rows], rtol=0, atol=1e-10)
    torch._dynamo.reset()


def test_a_copy_of_a_network_has_exits_of_its_own():
    net, inputs, depth = any_net("llama")
    net.eval()(**inputs, settings=exits(net, depth))
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.5)
    assert other.head == net.head
    for setting, output in zip(exits(net, depth), other(**inputs, settings=exits(net, depth)), strict=True):
        assert torch.equal(output.logits, other.at(setting)(**inputs).logits)


def test_exits_follow_training_and_a_change_of_type():
    net, inputs, depth = any_net("llama")
    for dtype in (torch.float32, torch.float64):
        net.to(dtype)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        sum(one.logits.square().mean() for one in net(**inputs, settings=exits(net, depth))).backward()
        optimizer.step()
        net.eval()
        for setting, output in zip(exits(net, depth), net(**inputs, settings=exits(net, depth)), strict=True):
            assert torch.equal(output.logits, net.at(setting)(**inputs).logits)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"weights": [1, 2]}, r"weights=\[1, 2\] are 2 for 3 settings\. Give one for each"),
        ({"split": [3, 3]}, r"split=\[3, 3\] are 2 for 3 settings\. Give one for each"),
    ],
)
def test_numbers_that_are_not_one_for_each_setting_are_refused(how, text):
    net, inputs, depth = any_net("transformer")
    with pytest.raises(SettingError, match=text):
        net(inputs, settings=exits(net, depth)[:3], **how)


def test_tensors_that_are_no_part_of_the_batch_are_refused():
    net, depth = pretrained("llama")
    with pytest.raises(
        DataError, match=r"'position_ids' is a Tensor of shape \(4, 6\), and the batch has 6 examples .*batch_axis="
    ):
        net(**batch("llama"), position_ids=torch.zeros(4, 6).long(), settings=exits(net, depth), split=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda space: sn.Stochastic(sn.Stratified(space, seed=0), draws=3),
        lambda space: sn.PerExample(sn.Stratified(space, seed=0), settings_weight=lambda one: one["num_hidden_layers"]),
        lambda space: sn.StochasticSummation(sn.Cycle(space, [space.full])),
        lambda space: sn.Summation(space, settings_weight=lambda one: 1 / one["num_hidden_layers"]),
    ],
    ids=["stochastic", "per_example", "stochastic_summation", "summation"],
)
def test_objectives_train_language_models_by_exits(make):
    net, _ = pretrained("llama")
    inputs = batch("llama", labels=True)
    chunked = make(net.space)(net, inputs, lambda out, _: out.loss)
    found = gradients(net, chunked)
    net.head = None
    whole = make(net.space)(net, inputs, lambda out, _: out.loss)
    torch.testing.assert_close(chunked, whole, rtol=1e-6, atol=1e-6)
    assert_same(found, gradients(net, whole), 2e-6)


def test_parts_by_width_and_depth_get_their_own_examples():
    torch.manual_seed(0)
    build = partial(Transformer, heads=2, hidden=8, head_size=4, vocabulary=40, positions=16)
    net = sn.SortedNet(build, sn.Space(depth=[1, 2, 3], width=[4, 8])).double()
    settings, sizes = [net.space[place] for place in (5, 0, 2, 1, 4)], [2, 1, 3, 1, 2]
    outputs = net(ids(9), settings=settings, split=sizes)
    for setting, part, output in zip(settings, ids(9).split(sizes), outputs, strict=True):
        torch.testing.assert_close(output, net.at(setting)(part), rtol=0, atol=1e-12)


def test_exits_in_evaluation_of_a_network_in_training():
    net, depth = pretrained("gpt2")
    outputs = net.train()(**batch("gpt2"), settings=exits(net, depth), inference=True)
    net.eval()
    for setting, output in zip(exits(net, depth), outputs, strict=True):
        assert torch.equal(output.logits, net.at(setting)(**batch("gpt2")).logits)


def test_an_output_of_ones_own_kind_is_compared_too():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Own(Scaled):
        def forward(self, x):
            return Output(super().forward(x))

    torch.manual_seed(0)
    net = sn.SortedNet(Own, sn.Space(depth=[1, 2])).double()
    with pytest.warns(UserWarning, match="it gives something else than its sub-model"):
        outputs = net(vectors(), settings=list(net.space))
    assert torch.equal(outputs[0].logits, net.at(net.space[0])(vectors()).logits)


def test_a_row_for_all_examples_that_comes_first_does_not_count_them():
    net, depth = pretrained("llama")
    net.eval()
    positions, inputs = torch.arange(SIZE)[None], batch("llama", padded=False)
    for split in (True, [1, 2, 3]):
        outputs = net(position_ids=positions, **inputs, settings=exits(net, depth), split=split)
        sizes = [2, 2, 2] if split is True else split
        for setting, part, output in zip(exits(net, depth), parts(inputs, sizes), outputs, strict=True):
            torch.testing.assert_close(output.logits, net.at(setting)(**part).logits, rtol=0, atol=1e-12)
