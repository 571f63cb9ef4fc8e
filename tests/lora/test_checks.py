"""What cannot be cut to a rank is refused by its name, before anything is changed."""

import pytest
import torch
from peft import AdaLoraConfig, EvaConfig, IA3Config, LoftQConfig, LoraConfig, get_peft_model
from peft.tuners.lora.config import ArrowConfig, BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from torch import nn

import sortednet as sn
from sortednet.errors import BuildError, ConfigError, SpaceError
from sortednet.lora import check_config
from sortednet.lora.checks import _UNCUT
from sortednet.lora.rank_space import check_ranks, rank_at

from ..contracts.adapter_cases import QUIET, llama, plain

pytestmark = QUIET

VALUES = {
    "use_dora": True,
    "lora_bias": True,
    "target_parameters": ["0.weight"],
    "layer_replication": [(0, 1), (0, 1)],
    "alora_invocation_tokens": [1, 2],
    "use_qalora": True,
    "velora_config": VeloraConfig(),
    "monteclora_config": MontecloraConfig(),
    "use_bdlora": BdLoraConfig(),
    "arrow_config": ArrowConfig(),
    "kasa_config": KasaConfig(),
    "megatron_config": {"tensor_model_parallel_size": 1},
    "ensure_weight_tying": True,
    "trainable_token_indices": [1],
}


def config(**own) -> LoraConfig:
    """Return a config with an option set as PEFT reads it, whatever else PEFT would check."""
    held = LoraConfig(r=4, target_modules=["0", "2"])
    for name, value in own.items():
        setattr(held, name, value)
    return held


# --- options --------------------------------------------------------------------------------------------------------


def test_every_option_that_is_refused_has_a_case():
    assert VALUES.keys() == _UNCUT.keys()


@pytest.mark.parametrize("name", _UNCUT)
def test_an_option_that_cannot_be_cut_is_refused_by_its_name(name):
    with pytest.raises(ConfigError, match=rf"^{name}=.* cannot be cut to a rank: .* Leave it out, or train"):
        sn.dylora(plain(), config(**{name: VALUES[name]}))


@pytest.mark.parametrize("name", _UNCUT)
def test_a_refused_option_leaves_the_model_as_it_was(name):
    model = plain()
    before = {key: (id(one), one.requires_grad) for key, one in model.named_parameters()}
    with pytest.raises(ConfigError):
        sn.dylora(model, config(**{name: VALUES[name]}))
    assert {key: (id(one), one.requires_grad) for key, one in model.named_parameters()} == before


@pytest.mark.parametrize("name", _UNCUT)
def test_an_option_that_is_off_is_no_reason_to_refuse(name):
    check_config(config(**{name: False if isinstance(VALUES[name], bool) else None}))


def test_every_option_of_peft_is_known():
    """A field that a later PEFT adds must be looked at: it may not be one that can be cut."""
    cut = {
        "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
        "inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out",
        "bias", "use_rslora", "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern",
        "rank_pattern", "alpha_pattern", "megatron_core", "loftq_config", "eva_config", "corda_config",
        "lora_ga_config", "qalora_group_size", "runtime_config",
    }  # fmt: skip
    assert LoraConfig.__dataclass_fields__.keys() - cut == _UNCUT.keys()


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga", "mica"])
def test_initial_weights_that_change_the_model_are_refused(start):
    with pytest.raises(ConfigError, match=rf"init_lora_weights='{start}' cannot be cut to a rank: it changes"):
        sn.dylora(plain(), config(init_lora_weights=start, loftq_config=LoftQConfig()))


def test_eva_that_redistributes_ranks_is_refused():
    with pytest.raises(ConfigError, match="init_lora_weights='eva' cannot be cut to a rank"):
        check_config(config(init_lora_weights="eva", eva_config=EvaConfig(rho=2.0)))


def test_eva_that_keeps_ranks_is_taken():
    check_config(config(init_lora_weights="eva", eva_config=EvaConfig(rho=1.0)))


@pytest.mark.parametrize("other", [IA3Config(), AdaLoraConfig(total_step=10), {"r": 8}, 8, None])
def test_a_config_of_another_kind_is_refused(other):
    kind = type(other).__name__
    with pytest.raises(ConfigError, match=rf"The adapter's config is a {kind}\. Give a peft\.LoraConfig\(r=8"):
        sn.dylora(plain(), other)


@pytest.mark.parametrize("rank", [0, -1, 2.5, True, "8"])
def test_a_rank_that_is_none_is_refused(rank):
    with pytest.raises(SpaceError, match=rf"The rank r={rank!r} of the config is no rank"):
        sn.dylora(plain(), config(r=rank))


@pytest.mark.parametrize("rank", [0, -1, 2.5])
def test_a_rank_of_a_pattern_that_is_none_is_refused(rank):
    with pytest.raises(SpaceError, match=rf"The rank r={rank!r} of the config is no rank"):
        sn.dylora(plain(), config(rank_pattern={"0": rank}))


def test_an_unknown_rank_pattern_is_refused():
    with pytest.raises(ConfigError, match=r"rank_pattern='half' is unknown\. Choose one of clip, proportional"):
        sn.dylora(plain(), config(), rank_pattern="half")


def test_an_unknown_scaling_is_refused():
    with pytest.raises(ConfigError, match=r"scaling='loud' is unknown\. Choose one of rank, constant"):
        sn.dylora(plain(), config(), scaling="loud")


# --- layers ---------------------------------------------------------------------------------------------------------


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")
def test_a_grouped_convolution_is_refused_by_its_name():
    with pytest.raises(BuildError, match=r"\.0 is a convolution of 2 groups.*by exclude_modules"):
        sn.dylora(grouped(), LoraConfig(r=2, target_modules=["0", "2"]))


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")
def test_a_refused_layer_leaves_the_model_fit_for_another_try():
    model = grouped()
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(BuildError):
        sn.dylora(model, LoraConfig(r=2, target_modules=["0", "2"]))
    assert [name for name, _ in model.named_parameters()] == names
    assert sn.dylora(model, LoraConfig(r=2, target_modules=["2"])).at(r=1)(torch.ones(1, 4, 1, 1)).shape == (1, 2)


def test_targets_that_name_no_layer_are_refused():
    with pytest.raises(BuildError, match="zzz"):
        sn.dylora(plain(), LoraConfig(r=2, target_modules=["zzz"]))


def test_a_layer_that_peft_cannot_adapt_is_refused():
    with pytest.raises(BuildError, match="PEFT cannot put this adapter into Sequential"):
        sn.dylora(plain(), LoraConfig(r=2, target_modules=["1"]))


def test_a_model_that_holds_an_adapter_is_refused():
    adapted = get_peft_model(plain(), LoraConfig(r=2, target_modules=["0"]))
    with pytest.raises(BuildError, match=r"holds an adapter already.*load_adapter\(model, folder\)"):
        sn.dylora(adapted, LoraConfig(r=2, target_modules=["0"]))


def test_the_model_inside_of_an_adapted_one_is_refused():
    inner = get_peft_model(plain(), LoraConfig(r=2, target_modules=["0"])).get_base_model()
    with pytest.raises(BuildError, match="holds an adapter already"):
        sn.dylora(inner, LoraConfig(r=2, target_modules=["0"]))


@pytest.mark.parametrize("model", [8, None, torch.ones(2)])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(BuildError, match="Give a module, or the folder or name of a pretrained model"):
        sn.dylora(model, LoraConfig(r=2, target_modules=["0"]))


def test_a_network_whose_rank_is_sorted_is_refused():
    net = sn.dylora(plain(), LoraConfig(r=2, target_modules=["0"]))
    with pytest.raises((BuildError, SpaceError), match=r"holds an adapter already|has a dimension r already"):
        sn.dylora(net, LoraConfig(r=2, target_modules=["0"]))


def test_a_network_with_private_tensors_is_refused():
    net = sn.SortedNet.from_pretrained(llama(), num_hidden_layers=[1, 2], private="lm_head.*")
    with pytest.raises(BuildError, match=r"private=.*lm_head.* do not go with an adapter"):
        sn.dylora(net, LoraConfig(r=2, target_modules=["q_proj"]))


# --- ranks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "found"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])]
)
def test_ranks_left_out_are_the_powers_of_two_and_the_largest(largest, found):
    assert check_ranks(None, largest) == found


@pytest.mark.parametrize("given", [range(1, 5), [4, 2, 1, 3], (1, 2, 3, 4, 4)])
def test_ranks_are_taken_in_order_and_once(given):
    assert check_ranks(given, 4) == [1, 2, 3, 4]


@pytest.mark.parametrize("rank", [0, -1, 5, 1.5, True, "2"])
def test_a_rank_outside_is_refused_with_what_is_allowed(rank):
    with pytest.raises(SpaceError, match=rf"holds {rank!r}; the ranks of this adapter are whole numbers from 1 to 4"):
        check_ranks([rank, 4], 4)


def test_ranks_without_the_largest_are_refused():
    with pytest.raises(SpaceError, match=r"ranks=\[1, 2\] does not hold the largest rank 4 of the LoraConfig"):
        check_ranks([1, 2], 4)


@pytest.mark.parametrize("given", [4, 2.5])
def test_ranks_that_are_no_list_are_refused(given):
    with pytest.raises(SpaceError, match=rf"ranks={given} is no list of ranks\. Give such as \[1, 2, 4, 8\]"):
        check_ranks(given, 4)


def test_no_rank_at_all_is_refused():
    with pytest.raises(SpaceError, match="does not hold the largest rank 4"):
        check_ranks([], 4)


def test_a_clipped_layer_has_the_smaller_of_both_ranks():
    assert [rank_at(rank, 3, 8, "clip") for rank in (1, 2, 3, 4, 8)] == [1, 2, 3, 3, 3]


def test_a_proportional_layer_has_its_share_rounded_up():
    assert [rank_at(rank, 3, 8, "proportional") for rank in (1, 2, 3, 4, 8)] == [1, 1, 2, 2, 3]
    assert [rank_at(rank, 16, 8, "proportional") for rank in (1, 3, 8)] == [2, 6, 16]
