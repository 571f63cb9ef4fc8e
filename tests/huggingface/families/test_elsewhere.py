"""What plain transformers makes of the files of a model is said when they are saved."""

import copy
import pickle
import warnings

import pytest
import torch
import transformers as hf

import sortednet as sn
from sortednet.huggingface.families import unopened

from ...contracts.pretrained_cases import PRETRAINED, TEXT

FAMILIES = {case.name: case for case in PRETRAINED}
MEAN = (
    r"Plain transformers opens what is saved here, but its outputs are others: it does not know the readout 'mean', .*"
    r"Save the network \(net\.save_pretrained\), and open this part of it by sortednet\.load\(folder, at=\.\.\.\), or"
)


def network(name="bert", **options):
    options = {"num_hidden_layers": [1, 2], "readout": "mean", **options}
    return sn.SortedNet.from_pretrained(FAMILIES[name].model(), **options).eval()


def test_a_readout_is_told_of_where_an_extracted_model_is_saved(tmp_path):
    model = network().extract(num_hidden_layers=1)
    with pytest.warns(UserWarning, match=MEAN) as said:
        model.save_pretrained(tmp_path)
    assert [one.filename for one in said] == [__file__]
    opened = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert not torch.allclose(opened(**TEXT).logits, model(**TEXT).logits)


def test_a_copy_tells_of_it_too(tmp_path):
    model = copy.deepcopy(network().extract(num_hidden_layers=1))
    with pytest.warns(UserWarning, match="the readout 'mean'"):
        model.save_pretrained(tmp_path)


def test_a_model_whose_readout_was_taken_off_is_saved_in_silence(tmp_path):
    model = network().extract(num_hidden_layers=2)
    sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2], readout="own")
    model.save_pretrained(tmp_path)


def test_a_copy_is_saved_with_its_own_weights(tmp_path):
    model = network(readout="own").extract(num_hidden_layers=1)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.classifier.bias.add_(1)
    other.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path).classifier.bias, other.classifier.bias)
    assert not torch.equal(model.classifier.bias, other.classifier.bias)


def test_shapes_that_the_config_does_not_tell_are_named(tmp_path):
    model = network(readout="own", num_attention_heads=[2, 4]).extract(num_hidden_layers=1, num_attention_heads=2)
    with pytest.warns(UserWarning, match=(
        r"Plain transformers does not open what is saved here: its config says that bert\.\S+ has the shape \(32, 32\)"
        r", and it has \(32, 16\)\. Save the network"
    )):  # fmt: skip
        model.save_pretrained(tmp_path)


def test_a_config_that_transformers_refuses_is_told_of(tmp_path, monkeypatch):
    model = network(readout="own").extract(num_hidden_layers=1)

    def refuse(*_, **__):
        raise ValueError("3 layers\nare too few")

    monkeypatch.setattr(type(model.config), "from_dict", refuse)
    with pytest.warns(
        UserWarning, match=r"does not open what is saved here: its config is refused: 3 layers are too few\."
    ):
        model.save_pretrained(tmp_path)


def test_saving_draws_nothing(tmp_path):
    model = network(readout="own").extract(num_hidden_layers=1)
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        model.save_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mark", [{"peft_config": {}}, {"is_quantized": True}], ids=["adapter", "quantised"])
def test_a_model_whose_files_hold_other_tensors_is_not_judged_by_its_shapes(mark):
    model = network(readout="own").extract(num_hidden_layers=1)
    model.classifier = torch.nn.Linear(32, 9)
    assert "classifier.bias has the shape (2,), and it has (9,)" in unopened(model)
    for name, value in mark.items():
        setattr(model, name, value)
    assert unopened(model) == ""


def test_an_extracted_model_is_pickled(tmp_path):
    model = network(readout="own").extract(num_hidden_layers=1)
    again = pickle.loads(pickle.dumps(model))
    again.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(**TEXT).logits, model(**TEXT).logits)
