"""What is changed in the full model after construction is followed or refused, and never ignored."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import transformers as hf
from peft import LoraConfig
from torch import Tensor, nn

import sortednet as sn
from sortednet import SortedNet, Space
from sortednet.errors import BuildError
from sortednet.evaluation.cost import count_flops

SPACE = Space(depth=[1, 2], width=[3, 6])
X = torch.ones(3, 5)
REMEDY = r"Let the builder make it so, and give the changed model to a new SortedNet by model=; or change it back\."


class Net(nn.Module):
    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 4)) for _ in range(depth)
        )
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x))


def net(**options: object) -> SortedNet:
    torch.manual_seed(0)
    return SortedNet(Net, SPACE, **options).eval()


def _data(full: Net) -> None:
    full.head.weight.data = torch.zeros(5, 4)


def _parameter(full: Net) -> None:
    full.head.bias = nn.Parameter(torch.zeros(5))


def _bias_gone(full: Net) -> None:
    full.head.bias = None


def _buffer(full: Net) -> None:
    full.norm.running_mean = torch.zeros(5)


class Wrapped(nn.Linear):
    """A layer of the user's own."""


REFUSED: dict[str, tuple[Callable[[Net], object], str]] = {
    "head": (lambda full: setattr(full, "head", nn.Linear(4, 5)), r"head\.weight is \(5, 4\) in it and \(2, 4\)"),
    "data": (_data, r"head\.weight is \(5, 4\) in it and \(2, 4\) in what the builder makes"),
    "parameter": (_parameter, r"head\.bias is \(5,\) in it and \(2,\)"),
    "bias_gone": (_bias_gone, r"head\.bias is missing in it and \(2,\)"),
    "buffer": (_buffer, r"norm\.running_mean is \(5,\) in it and \(4,\)"),
    "added_parameter": (lambda full: full.head.register_parameter("gain", nn.Parameter(torch.ones(2))), "gain is "),
    "added_block": (lambda full: full.blocks.append(copy.deepcopy(full.blocks[0])), r"blocks\.2\.0\.weight is "),
    "block_gone": (lambda full: full.blocks.pop(1), r"blocks\.1\.0\.weight is missing in it"),
    "added_layer": (lambda full: full.blocks[0].append(nn.Tanh()), r"blocks\.0\.4 is Tanh in it and missing in what"),
    "activation": (lambda full: full.blocks[0].__setitem__(1, nn.GELU()), r"blocks\.0\.1 is GELU in it and ReLU in"),
    "class": (lambda full: setattr(full, "head", Wrapped(4, 2)), "head is Wrapped in it and Linear in what the"),
    "settings": (
        lambda full: full.blocks[0].__setitem__(2, nn.Dropout(0.5)),
        r"blocks\.0\.2 is Dropout\(p=0\.5, inplace=False\) in it and Dropout\(p=0\.1, inplace=False\)",
    ),
    "weight_norm": (lambda full: nn.utils.parametrizations.weight_norm(full.head), "head.*original0 is "),
}
KEPT: dict[str, Callable[[Net], object]] = {
    "same_sizes": lambda full: setattr(full, "head", nn.Linear(4, 2)),
    "block": lambda full: full.blocks.__setitem__(0, copy.deepcopy(full.blocks[0])),
    "parameter": lambda full: setattr(full.head, "weight", nn.Parameter(torch.ones(2, 4))),
    "data": lambda full: setattr(full.head.weight, "data", torch.ones(2, 4)),
    "dropout_rate": lambda full: setattr(full.blocks[0][2], "p", 0.7),  # documented: it is its own for each
}
USES: dict[str, Callable[[SortedNet], object]] = {
    "forward": lambda net: net(X),
    "at": lambda net: net.at("depth=1,width=3")(X),
    "settings": lambda net: net(X, settings=list(net.space)),
    "submodel": lambda net: net.submodel("depth=1,width=3"),
    "extract": lambda net: net.extract("depth=1,width=3"),
    "flops": lambda net: count_flops(net, "depth=1,width=6", X),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
def test_what_the_builder_does_not_make_is_refused(what, use, used):
    made = net()
    if used:
        for one in USES.values():
            one(made)
    change, text = REFUSED[what]
    change(made.full)
    for _ in range(2):  # and not only once
        with pytest.raises(BuildError, match=rf"The full model was changed, and sub-models do not have it: .*{text}"):
            USES[use](made)
    with pytest.raises(BuildError, match=REMEDY):
        USES[use](made)


@pytest.mark.parametrize("what", KEPT)
def test_what_the_builder_makes_too_is_followed(what):
    made = net()
    for use in USES.values():
        use(made)
    KEPT[what](made.full)
    assert torch.equal(made(X), made.full(X))
    for setting, output in zip(made.space, made(X, settings=list(made.space)), strict=True):
        assert torch.equal(output, made.extract(setting)(X))
        assert torch.equal(output, made.submodel(setting)(X))
        assert torch.equal(output, made.at(setting)(X))


def test_what_is_changed_back_is_used_again():
    made = net()
    head, before = made.full.head, made(X)
    made.full.head = nn.Linear(4, 5)
    with pytest.raises(BuildError, match="head"):
        made(X)
    made.full.head = head
    assert torch.equal(made(X), before)


@pytest.mark.parametrize("what", ["activation", "class", "added_layer"])
def test_a_given_model_of_other_layers_is_refused(what):
    model = Net(2, 6)
    change, text = REFUSED[what]
    change(model)
    with pytest.raises(BuildError, match=rf"The given model is not the full model: {text}.*Let the builder make the "):
        SortedNet(Net, SPACE, model=model)


def test_another_full_model_in_its_place_is_followed():
    made = net()
    for use in USES.values():
        use(made)
    made.full = Net(2, 6).eval()
    assert torch.equal(made(X), made.full(X))
    for setting, output in zip(made.space, made(X, settings=list(made.space)), strict=True):
        assert torch.equal(output, made.extract(setting)(X))
    made.full = Net(2, 7)
    with pytest.raises(BuildError, match=r"is \(7, 4\) in it and \(6, 4\)"):
        made(X)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_notices_changes_of_its_own(again):
    made = net()
    made(X)
    other = again(made)
    made.full.head = nn.Linear(4, 5)
    assert other(X).shape == (3, 2)
    other.full.blocks.pop(1)
    with pytest.raises(BuildError, match=r"blocks\.1"):
        other(X)


def test_nothing_is_built_anew_where_nothing_changed():
    built = []

    def build(depth: int, width: int) -> nn.Module:
        built.append((depth, width))
        return Net(depth, width)

    made = SortedNet(build, SPACE)
    for setting in SPACE:
        made.at(setting)(X)
    count = len(built)
    for setting in SPACE:
        made.at(setting)(X)
    assert len(built) == count


def test_a_followed_replacement_reaches_the_gradient():
    made = net()
    made.at(depth=1)(X)
    made.full.head = nn.Linear(4, 2)
    made.at(depth=1)(X).sum().backward()
    assert made.full.head.weight.grad is not None


# --- pretrained ---------------------------------------------------------------------------------------------------

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}


def llama(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=40, num_key_value_heads=2, **SIZES, **options)).eval()


def sorted_llama(**options: object) -> SortedNet:
    kept = {name: options.pop(name) for name in ("private",) if name in options}
    return SortedNet.from_pretrained(
        llama(**options), num_hidden_layers=[1, 3], intermediate_size=[16, 32], num_attention_heads=[2, 4], **kept
    )


def ids(symbols: int) -> Tensor:
    return torch.randint(0, symbols, (2, 5), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("symbols", [64, 30])
@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
def test_more_or_fewer_symbols_are_followed(tied, symbols, used, tmp_path):
    net = sorted_llama(tie_word_embeddings=tied)
    settings = list(net.space)
    if used:
        net(input_ids=ids(30), settings=settings)
    net.resize_token_embeddings(symbols, mean_resizing=False)
    tokens = ids(symbols)
    assert torch.equal(net(input_ids=tokens).logits, net.full(input_ids=tokens).logits)
    losses = net(input_ids=tokens, labels=tokens, settings=settings)
    for setting, exit_of in zip(settings, losses, strict=True):
        output = net.at(setting)(input_ids=tokens, labels=tokens)
        assert output.logits.shape == (2, 5, symbols)
        torch.testing.assert_close(exit_of.loss, output.loss)
        extracted = net.extract(setting)
        assert extracted.config.vocab_size == symbols
        assert torch.equal(output.logits, extracted(input_ids=tokens).logits)
        assert torch.equal(output.logits, net.submodel(setting)(input_ids=tokens).logits)
    net.save_pretrained(tmp_path)
    again = sn.load(tmp_path).eval()
    assert torch.equal(again.at(settings[0])(input_ids=tokens).logits, net.at(settings[0])(input_ids=tokens).logits)


@pytest.mark.parametrize("symbols", [64, 30])
def test_training_goes_on_where_the_symbols_change(symbols):
    net, tokens = sorted_llama(), ids(30)
    settings = list(net.space)
    for count in (40, symbols):
        net.resize_token_embeddings(count, mean_resizing=False)
        sum(one.loss for one in net(input_ids=tokens, labels=tokens, settings=settings)).backward()
        sum(net.at(one)(input_ids=tokens, labels=tokens).loss for one in settings).backward()
        gradient = net.full.lm_head.weight.grad
        assert gradient is not None
        assert gradient.shape[0] == count
        assert gradient.any()
        net.zero_grad()


def test_the_cuts_of_heads_stay_right_where_the_symbols_change():
    net = sorted_llama()
    setting = net.space.setting(num_attention_heads=2)
    before = dict(net.skeleton(setting).slots())
    net.resize_token_embeddings(64, mean_resizing=False)
    after = dict(net.skeleton(setting).slots())
    for name, cut in before.items():
        axes = slice(1, None) if after[name].shape[0] == 64 and cut.shape[0] == 40 else slice(None)
        assert after[name].pieces[axes] == cut.pieces[axes]


@pytest.mark.parametrize("labels", [5, 2])
def test_another_number_of_labels_is_followed_where_the_config_says_it(labels):
    config = hf.BertConfig(vocab_size=40, num_labels=3, **SIZES)
    net = SortedNet.from_pretrained(hf.BertForSequenceClassification(config).eval(), num_hidden_layers=[1, 3])
    assert net(input_ids=ids(40)).logits.shape == (2, 3)
    net.full.classifier = nn.Linear(16, labels)
    with pytest.raises(BuildError, match=rf"classifier\.weight is \({labels}, 16\) in it and \(3, 16\)"):
        net(input_ids=ids(40))
    net.full.config.num_labels = net.full.num_labels = labels
    for setting in net.space:
        output = net.at(setting)(input_ids=ids(40)).logits
        assert output.shape == (2, labels)
        assert torch.equal(output, net.extract(setting)(input_ids=ids(40)).logits)


def test_symbols_whose_embedding_is_private_are_refused():
    net = sorted_llama(tie_word_embeddings=False, private="lm_head.*")
    net.resize_token_embeddings(64, mean_resizing=False)
    assert net(input_ids=ids(64)).logits.shape == (2, 5, 64)
    with pytest.raises(BuildError, match=r"lm_head\.weight of .* is its own, of shape \(40, 16\), and the full"):
        net.at("num_hidden_layers=1,intermediate_size=16,num_attention_heads=2")(input_ids=ids(64))


def test_a_pretrained_model_with_an_added_layer_is_refused():
    net = sorted_llama()
    net.full.model.layers.append(copy.deepcopy(net.full.model.layers[0]))
    with pytest.raises(BuildError, match=r"model\.layers\.3\..* in it and missing in what the builder makes"):
        net(input_ids=ids(40))


def test_symbols_of_an_adapted_model_are_followed():
    adapted = sn.dylora(sorted_llama(), LoraConfig(r=4, target_modules=["q_proj"]))
    adapted.full.base_model.model.resize_token_embeddings(64, mean_resizing=False)
    setting = adapted.space.setting(r=2, num_hidden_layers=1)
    output = adapted.at(setting)(input_ids=ids(64)).logits
    assert output.shape == (2, 5, 64)
    assert torch.equal(output, adapted.extract(setting)(input_ids=ids(64)).logits)
