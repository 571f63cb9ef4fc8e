"""Adapters on disk are PEFT's own: they open without this library, at every rank, and give the same outputs."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

import sortednet as sn
from sortednet.errors import BuildError, CheckpointError, ConfigError, SettingError
from sortednet.lora import baked

from ..contracts.adapter_cases import ADAPTERS, QUIET, ROWS, AdapterCase, bert, llama, plain, spread
from ..contracts.pretrained_cases import LEFT

pytestmark = QUIET

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
each_case = pytest.mark.parametrize("case", ADAPTERS, ids=[case.name for case in ADAPTERS])
_whole = [case for case in ADAPTERS if case.wrap is None and set(case.options) <= {"rank_pattern", "scaling"}]
each_whole = pytest.mark.parametrize("case", _whole, ids=[case.name for case in _whole])


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return plain()


def network(ranks=range(1, 9), **own) -> sn.SortedNet:
    config = LoraConfig(**{"r": 8, "lora_alpha": 6, "target_modules": ["0", "2", "4"], **own})
    return spread(sn.dylora(model(), config, ranks=ranks)).eval()


def saved_by_peft(path: Path, base: nn.Module, **own) -> nn.Module:
    """Train an adapter with PEFT alone, as it were, save it, and return its model."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ["0", "2", "4"], **own})
    theirs = get_peft_model(base, config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
        theirs.save_pretrained(path)
    return theirs


# --- the network, by plain PEFT -------------------------------------------------------------------------------------


def test_a_process_without_this_library_opens_every_rank_in_both_forms(tmp_path):
    net, x = network(), ROWS
    expected = {"net": net(x).detach()}
    net.save_pretrained(tmp_path / "net")
    for rank in range(1, 9):
        for form in ("plain", "baked"):
            sn.save_adapter(net, tmp_path / f"{form}{rank}", r=rank, form=form)
            expected[f"{form}{rank}"] = net.submodel(r=rank)(x)
    save_file({**expected, "x": x}, tmp_path / "expected.safetensors")
    save_file(model().state_dict(), tmp_path / "model.safetensors")
    script = """
import sys, warnings
sys.modules["sortednet"] = None  # any import of it fails
import torch
from torch import nn
from peft import PeftModel
from safetensors.torch import load_file
warnings.simplefilter("error")
folder = sys.argv[1]
expected = load_file(folder + "/expected.safetensors")
x = expected.pop("x")
for name, output in expected.items():
    base = nn.Sequential(nn.Linear(7, 12), nn.Tanh(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 3))
    base.load_state_dict(load_file(folder + "/model.safetensors"))
    opened = PeftModel.from_pretrained(base, folder + "/" + name).eval()
    torch.testing.assert_close(opened(x), output, rtol=0, atol=1e-6)
    rank = opened.peft_config["default"].r
    assert name == "net" or name.endswith(str(rank)), (name, rank)
print("opened", len(expected))
"""
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert found.stdout == "opened 17\n", found.stderr


@each_whole
@pytest.mark.parametrize("form", ["plain", "baked"])
def test_an_adapter_of_every_rank_opens_with_peft_and_gives_its_sub_models_output(case: AdapterCase, form, tmp_path):
    net = case.net().eval()
    for rank in case.ranks:
        sn.save_adapter(net, tmp_path / str(rank), r=rank, form=form)
        with torch.no_grad():
            ours, theirs = case.run(net.at(r=rank)), case.run(case.opened(tmp_path / str(rank)))
        # Multiplied into the weights, the scaling is rounded elsewhere.
        tolerance = 1e-6 if form == "plain" else 1e-5
        torch.testing.assert_close(theirs, ours, rtol=tolerance, atol=tolerance * max(1.0, float(ours.abs().max())))


@each_whole
def test_a_plain_adapter_is_bit_for_bit_the_sub_model(case: AdapterCase, tmp_path):
    net = case.net().eval()
    for rank in case.ranks:
        sn.save_adapter(net, tmp_path / str(rank), r=rank)
        assert torch.equal(case.run(case.opened(tmp_path / str(rank))), case.run(net.at(r=rank)))


@each_case
def test_the_saved_config_holds_no_key_that_peft_does_not_know(case: AdapterCase, tmp_path):
    net = case.net()
    net.save_pretrained(tmp_path / "net")
    sn.save_adapter(net, tmp_path / "plain", case.chosen()[0])
    sn.save_adapter(net, tmp_path / "baked", case.chosen()[0], form="baked")
    for folder in ("net", "plain", "baked"):
        held = json.loads((tmp_path / folder / CONFIG).read_text())
        assert held.keys() <= LoraConfig.__dataclass_fields__.keys()
        assert held["peft_type"] == "LORA"
        assert held["inference_mode"] is True


@each_whole
def test_the_saved_config_is_the_one_that_peft_saves(case: AdapterCase, tmp_path):
    """Serving stacks read the resolved layers, the alpha and the ranks."""
    net = case.net()
    net.save_pretrained(tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
        case.original().save_pretrained(tmp_path / "theirs")
    ours, theirs = (json.loads((tmp_path / one / CONFIG).read_text()) for one in ("ours", "theirs"))
    ignored = {"auto_mapping", "alpha_pattern"}  # a constant scaling is written layer by layer
    for name in theirs.keys() - ignored:
        alike = [set(one) if isinstance(one, list) else one for one in (ours[name], theirs[name])]
        assert alike[0] == alike[1], name


@each_whole
def test_the_saved_weights_are_those_that_peft_saves(case: AdapterCase, tmp_path):
    net = case.net()
    net.save_pretrained(tmp_path / "ours")
    net.full.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    ours, theirs = (load_file(tmp_path / one / WEIGHTS) for one in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(one, theirs[name]) for name, one in ours.items())


@each_case
def test_the_models_own_weights_are_not_saved(case: AdapterCase, tmp_path):
    net = case.net()
    net.save_pretrained(tmp_path)
    trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    assert sum(one.numel() for one in load_file(tmp_path / WEIGHTS).values()) == trained


def test_a_saved_adapter_of_a_small_rank_is_small(tmp_path):
    net = network()
    sn.save_adapter(net, tmp_path, r=2)
    for name, one in load_file(tmp_path / WEIGHTS).items():
        assert one.shape[0 if "lora_A" in name else 1] == 2


def test_a_baked_adapter_names_one_rank_and_no_pattern(tmp_path):
    case = next(case for case in ADAPTERS if case.name == "adapter_clip")
    sn.save_adapter(case.net(), tmp_path, r=4, form="baked")
    held = PeftConfig.from_pretrained(tmp_path)
    assert (held.r, held.lora_alpha, held.rank_pattern, held.alpha_pattern, held.use_rslora) == (4, 4, {}, {}, False)


def test_a_baked_adapter_has_the_same_rank_in_all_layers(tmp_path):
    case = next(case for case in ADAPTERS if case.name == "adapter_clip")  # own ranks 4, 2, 8
    sn.save_adapter(case.net(), tmp_path, r=8, form="baked")
    assert {one.shape[0] for name, one in load_file(tmp_path / WEIGHTS).items() if "lora_A" in name} == {8}


def test_baking_leaves_the_network_as_it_was():
    net = network()
    before = {name: one.clone() for name, one in net.state_dict().items()}
    baked(net.submodel(r=2), "default")
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())


def test_a_baked_adapter_of_bfloat16_keeps_its_type(tmp_path):
    net = network().bfloat16()
    sn.save_adapter(net, tmp_path, r=2, form="baked")
    assert {one.dtype for one in load_file(tmp_path / WEIGHTS).values()} == {torch.bfloat16}


def test_an_adapter_of_fewer_layers_opens_on_a_model_of_as_many(tmp_path):
    case = next(case for case in ADAPTERS if case.name == "adapter_depth")
    net = case.net().eval()
    sn.save_adapter(net, tmp_path, num_hidden_layers=1, r=2)
    smaller = sn.SortedNet.from_pretrained(case.model(), num_hidden_layers=[1, 2]).extract(num_hidden_layers=1)
    opened = PeftModel.from_pretrained(smaller, tmp_path).eval()
    assert torch.equal(case.run(opened), case.run(net.at(num_hidden_layers=1, r=2)))


def test_the_folder_of_the_pretrained_model_is_named_so_that_peft_opens_both(tmp_path):
    base = tmp_path / "base"
    llama().save_pretrained(base)
    net = spread(sn.dylora(str(base), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))).eval()
    sn.save_adapter(net, tmp_path / "adapter", r=2)
    opened = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(opened(**LEFT).logits, net.at(r=2)(**LEFT).logits)


# --- slots of servers -----------------------------------------------------------------------------------------------


def test_a_rank_without_a_slot_of_the_server_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match=r"vllm holds an adapter of rank 4 in a slot of 8.*\(1, 8, 16, 32"):
        sn.save_adapter(network(), tmp_path, r=4, server="vllm")


def test_a_rank_beyond_all_slots_is_warned_of(tmp_path):
    net = sn.dylora(nn.Sequential(nn.Linear(4, 2)), LoraConfig(r=600, target_modules=["0"]), ranks=[600])
    with pytest.warns(UserWarning, match="vllm holds an adapter of rank 600 in none"):
        sn.save_adapter(net, tmp_path, server="vllm")


@pytest.mark.parametrize("rank", [1, 8])
def test_a_rank_with_a_slot_is_not_warned_of(tmp_path, rank):
    sn.save_adapter(network(), tmp_path, r=rank, server="vllm")


def test_an_unknown_server_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"server='tgi' is unknown\. Choose one of vllm, or leave it out"):
        sn.save_adapter(network(), tmp_path, server="tgi")


def test_an_unknown_form_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"form='raw' is unknown\. Choose 'plain' or 'baked'"):
        sn.save_adapter(network(), tmp_path, form="raw")


def test_a_rank_outside_of_the_space_is_refused(tmp_path):
    with pytest.raises(SettingError, match="r=3"):
        sn.save_adapter(network(ranks=[1, 8]), tmp_path, r=3)


def test_a_network_without_adapter_has_none_to_save(tmp_path):
    with pytest.raises(BuildError, match=r"has no ranks\. Make it by sortednet\.dylora"):
        sn.save_adapter(sn.SortedNet(nn.Linear, sn.Space(in_features=[2], out_features=[1, 2])), tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        sn.save_adapter(network(), tmp_path / "file" / "adapter", r=2)


# --- sn.load --------------------------------------------------------------------------------------------------------


@each_case
def test_a_loaded_network_trains_on(case: AdapterCase, tmp_path):
    net = case.net()
    net.save_pretrained(tmp_path)
    again = sn.load(tmp_path, model=case.base())
    assert {n: p.requires_grad for n, p in again.full.named_parameters()} == {
        n: p.requires_grad for n, p in net.full.named_parameters()
    }
    assert (again.builder.scaling, again.builder.pattern) == (net.builder.scaling, net.builder.pattern)


def test_a_loaded_network_gives_every_ranks_output(tmp_path):
    net = network()
    net.save_pretrained(tmp_path)
    again = sn.load(tmp_path, model=model()).eval()
    assert all(torch.equal(again.at(one)(ROWS), net.at(one)(ROWS)) for one in net.space)


def test_saving_over_an_older_adapter_replaces_it(tmp_path):
    network().save_pretrained(tmp_path)
    net = network(lora_alpha=12)
    net.save_pretrained(tmp_path)
    assert torch.equal(sn.load(tmp_path, model=model()).eval()(ROWS), net(ROWS))


def test_an_adapter_beside_a_model_is_loaded(tmp_path):
    base = bert()
    base.save_pretrained(tmp_path)
    net = spread(sn.dylora(str(tmp_path), LoraConfig(r=2, target_modules=["query"]))).eval()
    net.save_pretrained(tmp_path)
    again = sn.load(tmp_path, model=base).eval()
    ids = torch.tensor([[1, 5, 7]])
    assert torch.equal(again.at(r=1)(ids).logits, net.at(r=1)(ids).logits)


def test_the_model_that_the_config_names_is_opened(tmp_path):
    bert().save_pretrained(tmp_path / "base")
    net = spread(sn.dylora(str(tmp_path / "base"), LoraConfig(r=2, target_modules=["query"]))).eval()
    net.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[1, 5, 7]])
    assert torch.equal(sn.load(tmp_path / "adapter").eval().at(r=1)(ids).logits, net.at(r=1)(ids).logits)


def test_without_a_model_the_remedy_is_told(tmp_path):
    network().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"does not say which model it was trained on\. Give it: sn\.load"):
        sn.load(tmp_path)


def test_a_model_of_other_weights_is_refused(tmp_path):
    network().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"is not the one that .* begins with \[.*\] and not with"):
        sn.load(tmp_path, model=model(seed=1))


def test_a_model_of_other_shapes_is_refused(tmp_path):
    network().save_pretrained(tmp_path)
    other = nn.Sequential(nn.Linear(7, 12), nn.Tanh(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 5))
    with pytest.raises(CheckpointError, match=r"other names or shapes|does not fit the model"):
        sn.load(tmp_path, model=other)


def test_a_model_in_half_precision_is_taken(tmp_path):
    network().save_pretrained(tmp_path)
    assert sn.load(tmp_path, model=model().bfloat16()).space.size == 8


def test_a_builder_is_refused(tmp_path):
    network().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds an adapter\. Give the model that it was trained on, as model="):
        sn.load(tmp_path, plain)


def test_a_model_for_a_whole_network_is_refused(tmp_path):
    space = sn.Space(out_features=[1, 2])
    sn.SortedNet(lambda out_features: nn.Linear(3, out_features), space).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds a whole network and no adapter\. Leave model= out"):
        sn.load(tmp_path, lambda out_features: nn.Linear(3, out_features), model=nn.Linear(3, 2))


def test_another_space_is_refused(tmp_path):
    network().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="Load it with its own space"):
        sn.load(tmp_path, model=model(), space=sn.Space(r=[1, 8]))


def test_an_adapter_of_a_builder_needs_its_network(tmp_path):
    case = next(case for case in ADAPTERS if case.name == "adapter_builder")
    case.net().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"has the dimensions depth of a builder\. Give model= as the SortedNet"):
        sn.load(tmp_path, model=case.model())


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(tmp_path, name):
    network().save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        sn.load(tmp_path, model=model())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"peft_type": "LORA", "r": "many"}', '{"peft_type": "NONE"}'])
def test_a_damaged_config_is_refused(tmp_path, text):
    network().save_pretrained(tmp_path)
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(sn.SortedNetError):
        sn.load(tmp_path, model=model())


def test_weights_that_are_cut_short_are_refused(tmp_path):
    network().save_pretrained(tmp_path)
    data = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(data[:-8])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        sn.load(tmp_path, model=model())


@pytest.mark.parametrize("gone", ["pattern", "scaling", "identity"])
def test_a_damaged_description_is_refused(tmp_path, gone):
    network().save_pretrained(tmp_path)
    described = json.loads((tmp_path / "sortednet.json").read_text())
    del described["adapter"][gone]
    save_file(load_file(tmp_path / WEIGHTS), tmp_path / WEIGHTS, {"sortednet": json.dumps(described), "format": "pt"})
    with pytest.raises(CheckpointError):
        sn.load(tmp_path, model=model())


def test_weights_without_a_layer_are_refused(tmp_path):
    net = network()
    net.save_pretrained(tmp_path)
    weights, metadata = load_file(tmp_path / WEIGHTS), {"sortednet": (tmp_path / "sortednet.json").read_text()}
    name = next(iter(weights))
    del weights[name]
    save_file(weights, tmp_path / WEIGHTS, metadata)
    with pytest.raises(CheckpointError, match=f"{name} is missing in it"):
        sn.load(tmp_path, model=model())


# --- adapters that PEFT has saved -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["singular_values", "given"])
@each_whole
def test_an_adapter_of_plain_peft_is_itself_at_its_full_rank(case: AdapterCase, order, tmp_path):
    own = case.config()
    theirs = case.original()
    with torch.no_grad():
        for name, one in theirs.named_parameters():
            if one.requires_grad:
                one.add_(0.2 * torch.randn(one.shape, generator=torch.Generator().manual_seed(len(name))))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
        theirs.save_pretrained(tmp_path)
    net = sn.load_adapter(case.model(), tmp_path, order=order).eval()
    assert net.builder.largest == max(own.r, *own.rank_pattern.values(), 0)
    ours, expected = case.run(net).detach(), case.run(theirs).detach()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))


def test_an_adapter_in_the_given_order_is_bit_for_bit_itself(tmp_path):
    theirs = saved_by_peft(tmp_path, model())
    assert torch.equal(sn.load_adapter(model(), tmp_path, order="given").eval()(ROWS), theirs(ROWS))


def test_ranks_in_the_given_order_have_their_own_scaling(tmp_path):
    saved_by_peft(tmp_path, model())
    net = sn.load_adapter(model(), tmp_path, order="given")
    assert [layer.scaling["default"] for layer in net.builder.layers(net.submodel(r=2)).values()] == [3.0] * 3


def test_a_loaded_adapter_can_be_trained(tmp_path):
    saved_by_peft(tmp_path, model())
    net = sn.load_adapter(model(), tmp_path)
    net.at(r=2)(ROWS).sum().backward()
    assert all((one.grad is not None) == ("lora_" in name) for name, one in net.full.named_parameters())


def test_an_adapter_beside_its_model_in_one_folder_is_opened(tmp_path):
    base = bert()
    theirs = saved_by_peft(tmp_path, base, target_modules=["query"])
    theirs.get_base_model().config.save_pretrained(tmp_path)
    fresh = bert()
    fresh.load_state_dict(theirs.unload().state_dict())
    fresh.save_pretrained(tmp_path)  # model.safetensors, beside adapter_model.safetensors
    ids = torch.tensor([[1, 5, 7]])
    expected = PeftModel.from_pretrained(base, tmp_path).eval()(ids).logits
    found = sn.load_adapter(fresh, tmp_path, order="given").eval()(ids).logits
    torch.testing.assert_close(found, expected)


def test_a_folder_without_adapter_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=rf"There is no adapter at .*{CONFIG} is missing"):
        sn.load_adapter(model(), tmp_path)


def test_an_adapter_without_weights_is_refused_by_their_name(tmp_path):
    saved_by_peft(tmp_path, model())
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=WEIGHTS):
        sn.load_adapter(model(), tmp_path)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    saved_by_peft(tmp_path, model())
    other = nn.Sequential(nn.Linear(7, 12), nn.Tanh(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 5))
    with pytest.raises(
        CheckpointError, match=r"does not fit the model: .* is \(3, 4\) in it and \(5, 4\) in the model"
    ):
        sn.load_adapter(other, tmp_path)


def test_an_adapter_of_another_kind_is_refused(tmp_path):
    get_peft_model(model(), IA3Config(target_modules=["0"], feedforward_modules=[])).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="The adapter's config is a IA3Config"):
        sn.load_adapter(model(), tmp_path)


def test_an_adapter_of_dora_is_refused(tmp_path):
    saved_by_peft(tmp_path, model(), use_dora=True)
    with pytest.raises(ConfigError, match="use_dora=True cannot be cut to a rank"):
        sn.load_adapter(model(), tmp_path)


def test_an_adapter_that_began_from_pissa_is_told_why_it_is_refused(tmp_path):
    saved_by_peft(tmp_path, model(), init_lora_weights="pissa")
    with pytest.raises(ConfigError, match="init_lora_weights='pissa' cannot be cut to a rank"):
        sn.load_adapter(model(), tmp_path)


def test_an_unknown_order_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"order='random' is unknown\. Choose 'singular_values' or 'given'"):
        sn.load_adapter(model(), tmp_path, order="random")
