"""What a classifier reads at the end of the blocks."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import sortednet as sn
from sortednet.errors import BuildError, ConfigError, LayoutError
from sortednet.huggingface.readouts import READOUTS, MeanReadout, Readout, attach, attached, readout_of
from sortednet.views.hooks import take

from ..contracts.pretrained_cases import PRETRAINED, TEXT

FAMILIES = {case.name: case for case in PRETRAINED}
HIDDEN = torch.tensor([[[1.0], [3.0], [8.0]], [[2.0], [4.0], [6.0]]])  # (2, 3, 1)


class First(Readout):
    """Reads the first token twice."""

    name = "first"

    def read(self, hidden, mask):
        return hidden * 2


def network(**options):
    return sn.SortedNet.from_pretrained(FAMILIES["bert"].model(), num_hidden_layers=[1, 2], **options).eval()


def logits(model):
    with torch.no_grad():
        return model(**TEXT).logits


# --- the mean -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, [4.0, 4.0]),
        (torch.tensor([[1, 1, 0], [1, 0, 0]]), [2.0, 2.0]),
        (torch.tensor([[True, True, False], [True, False, False]]), [2.0, 2.0]),
        (torch.tensor([[[[True, True, False]]], [[[True, False, False]]]]), [2.0, 2.0]),
        (torch.tensor([[[[0.0, 0.0, -1e9]]], [[[0.0, -1e9, -1e9]]]]), [2.0, 2.0]),
        (torch.tensor([[[[1, 1, 0]]], [[[1, 0, 0]]]]), [2.0, 2.0]),
        (torch.tensor([[[[True, False, False], [True, True, False], [True, True, False]]]]), [2.0, 3.0]),
        (torch.zeros(2, 3), [0.0, 0.0]),
    ],
    ids=["none", "integers", "booleans", "4d booleans", "added", "4d integers", "one for all, by token", "nothing"],
)
def test_the_mean_is_over_the_tokens_that_count(mask, expected):
    block = nn.Identity()
    for args, kwargs in (((HIDDEN,), {"attention_mask": mask}), ((HIDDEN, mask), {})):
        read = MeanReadout()(block, args, kwargs, HIDDEN)
        assert read[:, 0, 0].tolist() == expected
        assert torch.equal(read[:, 1:], HIDDEN[:, 1:])


def test_what_a_block_returns_beside_the_hidden_states_stays():
    hidden, other = MeanReadout()(nn.Identity(), (HIDDEN,), {}, (HIDDEN, "weights"))
    assert hidden[:, 0, 0].tolist() == [4.0, 4.0]
    assert other == "weights"


@pytest.mark.parametrize("mask", [torch.ones(2, 4), torch.ones(3), torch.ones(3, 3), "flex"])
def test_a_mask_that_does_not_tell_which_tokens_count_is_refused(mask):
    given = "str" if mask == "flex" else rf"\({', '.join(map(str, mask.shape))}"
    with pytest.raises(
        ConfigError, match=rf"The mask that the last block gets \({given}.* 3 tokens count\. Give readout="
    ):
        MeanReadout()(nn.Identity(), (HIDDEN,), {"attention_mask": mask}, HIDDEN)


# --- choosing -------------------------------------------------------------------------------------------------------


def test_an_unknown_readout_is_refused():
    with pytest.raises(
        ConfigError, match=r"readout='median' is unknown\. Choose one of \['mean', 'own'\], or give a Readout"
    ):
        network(readout="median")


def test_readouts_go_by_name():
    assert readout_of("mean") is READOUTS["mean"]
    assert readout_of("own") is None
    assert readout_of(None) is None
    own = First()
    assert readout_of(own) is own


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert", "mean"),
        ("roberta", "mean"),
        ("distilbert", "mean"),
        ("bert_masked", None),
        ("vit", None),
        ("llama", None),
    ],
)
def test_classifiers_of_sequences_that_read_the_first_token_read_the_mean_by_default(name, expected):
    case = FAMILIES[name]
    net = sn.SortedNet.from_pretrained(case.model(), **{next(iter(case.supports)): [1, 2]})
    assert getattr(net.builder.readout, "name", None) == expected


def test_a_readout_of_ones_own_is_read_at_every_exit():
    net, plain = network(readout=First()), network(readout="own")
    outputs = net(**TEXT, settings=list(net.space))
    for setting, output in zip(net.space, outputs, strict=True):
        assert torch.equal(output.logits, net.at(setting)(**TEXT).logits)
        assert torch.equal(output.logits, net.extract(setting)(**TEXT).logits)
        assert not torch.allclose(output.logits, plain.at(setting)(**TEXT).logits)


# --- on a model -----------------------------------------------------------------------------------------------------


def test_a_model_made_many_in_one_twice_reads_the_mean_once():
    model = FAMILIES["bert"].model()
    first = logits(sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2]).eval())
    again = sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2]).eval()
    assert torch.equal(logits(again), first)
    assert torch.equal(logits(again.extract()), first)


def test_an_extracted_model_made_many_in_one_reads_what_it_did():
    extracted = network(readout=First()).extract()
    assert isinstance(sn.SortedNet.from_pretrained(extracted, num_hidden_layers=[1, 2]).builder.readout, First)


def test_reading_ones_own_takes_a_readout_off():
    plain = logits(FAMILIES["bert"].model().eval())
    model = network(readout="mean").full
    assert not torch.allclose(logits(model), plain)
    net = sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2], readout="own").eval()
    assert torch.equal(logits(net), plain)
    assert torch.equal(logits(net.extract()), plain)
    assert not any(name.startswith("readout") for name in net.full.state_dict())


@pytest.mark.parametrize("former", [None, "mean"])
def test_a_network_that_cannot_be_made_leaves_the_model_reading_as_it_did(former):
    model = FAMILIES["bert"].model().eval()
    if former is not None:
        model = sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2], readout=former).full.eval()
    before, names = logits(model), set(model.state_dict())
    with pytest.raises((BuildError, LayoutError)):
        sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2], readout=First(), private="nothing.*")
    assert torch.equal(logits(model), before)
    assert set(model.state_dict()) == names


def test_readouts_are_found_and_taken_off_a_block_and_what_stands_for_one():
    block = nn.Linear(1, 1)
    model = nn.ModuleList([block])
    attach(model, block, MeanReadout())
    attach(model, block, First())
    assert isinstance(attached(block), First)
    assert [type(one) for one in take(nn.Sequential(block))] == [First]
    assert attached(block) is None


# --- saved ----------------------------------------------------------------------------------------------------------


def test_plain_opening_of_a_network_that_reads_the_mean_tells_of_a_key_too_many(tmp_path):
    net = network(readout="mean")
    with pytest.warns(UserWarning, match="Plain transformers opens what is saved here, but its outputs are others: it "
                      "does not know the readout 'mean', .* Open it by sortednet.load") as said:  # fmt: skip
        net.save_pretrained(tmp_path)
    assert [one.filename for one in said] == [__file__]
    model, info = type(net.full).from_pretrained(tmp_path, output_loading_info=True)
    assert set(info.pop("unexpected_keys")) == {"readout_mean"}
    assert not any(info.values())
    # It reads its first token, with the network's weights.
    plain = copy.deepcopy(FAMILIES["bert"].model().eval())
    plain.load_state_dict({name: one for name, one in net.full.state_dict().items() if name != "readout_mean"})
    assert torch.equal(logits(model.eval()), logits(plain))
    assert not torch.allclose(logits(model), logits(net))
    # By the library it reads the mean, whole and in part.
    assert torch.equal(logits(sn.load(tmp_path).eval()), logits(net))
    for setting in net.space:
        assert torch.equal(logits(sn.load(tmp_path, at=setting).eval()), net.at(setting)(**TEXT).logits)


def test_a_network_that_reads_its_own_holds_no_other_key(tmp_path):
    network(readout="own").save_pretrained(tmp_path)
    assert not any(name.startswith("readout") for name in load_file(tmp_path / "model.safetensors"))


def test_a_saved_readout_of_ones_own_is_named_where_it_is_not_known(tmp_path, monkeypatch):
    net = network(readout=First())
    with pytest.warns(UserWarning, match="the readout 'first'"):
        net.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"readout='first' is unknown\. Choose one of \['mean', 'own'\]"):
        sn.load(tmp_path)
    monkeypatch.setitem(READOUTS, "first", First())
    assert torch.equal(logits(sn.load(tmp_path).eval()), logits(net))
