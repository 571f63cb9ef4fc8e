"""A sub-model of rank b is what PEFT builds with r = b."""

import copy
import math
import threading
import warnings
from functools import partial

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

import sortednet as sn
from sortednet.errors import ConfigError, SettingError
from sortednet.lora import AdapterBuilder, Outline
from sortednet.views.skeletons import build_skeleton

from ..contracts.adapter_cases import ADAPTERS, QUIET, AdapterCase, Pictures, Words, bert, llama, plain, spread
from ..contracts.pretrained_cases import TEXT

pytestmark = QUIET


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


_uniform = [
    case for case in ADAPTERS if case.wrap is None and not case.options and not case.config().rank_pattern
]  # of one rank in all layers, and of no other dimension
each_uniform = pytest.mark.parametrize("case", _uniform, ids=[case.name for case in _uniform])
each_case = pytest.mark.parametrize("case", ADAPTERS, ids=[case.name for case in ADAPTERS])


def single(layer: nn.Module, rank: int = 4, alpha: float = 6, **options) -> sn.SortedNet:
    """Return a network whose model is one adapted layer, of every rank."""
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"], **options.pop("config", {}))
    return spread(sn.dylora(nn.Sequential(layer), config, ranks=range(1, rank + 1), **options)).double().eval()


def factors(net: sn.SortedNet) -> tuple[Tensor, Tensor, nn.Module]:
    layer = net.full.base_model.model[0]
    if "default" in layer.lora_A:
        return layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.get_base_layer()
    return layer.lora_embedding_A["default"], layer.lora_embedding_B["default"], layer.get_base_layer()


def peft_of_rank(case: AdapterCase, net: sn.SortedNet, rank: int) -> nn.Module:
    """Build the model of a rank with PEFT alone, and copy the network's weights by hand."""
    config = case.config()
    config.r = rank
    model = get_peft_model(case.model(), config).eval()
    full = net.full.state_dict()
    for name, tensor in model.state_dict().items():
        held = full[name]
        if "lora_A" in name or "lora_embedding_A" in name:
            held = held[:rank]
        elif "lora_B" in name or "lora_embedding_B" in name:
            held = held[:, :rank]
        tensor.copy_(held)
    return model


def poison(net: sn.SortedNet, rank: int, value: float) -> None:
    """Write a value into all rows of A and columns of B above a rank."""
    with torch.no_grad():
        for name, parameter in net.full.named_parameters():
            if "lora_A" in name or "lora_embedding_A" in name:
                parameter[rank:] = value
            elif "lora_B" in name or "lora_embedding_B" in name:
                parameter[:, rank:] = value


# --- what a rank is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_eq_5_to_7_of_a_linear_layer(rank):
    """Valipour et al. (2022), arXiv:2210.07558v2: h = W0 x + alpha / b W_up[:, 1:b] W_down[1:b] x."""
    net = single(nn.Linear(5, 3))
    first, second, base = factors(net)
    x = torch.randn(7, 5, dtype=torch.float64)
    expected = x @ base.weight.T + base.bias + 6 / rank * (x @ first[:rank].T @ second[:, :rank].T)
    torch.testing.assert_close(net.at(r=rank)(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_eq_5_to_7_of_an_embedding(rank):
    net = single(nn.Embedding(9, 3))
    first, second, base = factors(net)
    ids = torch.tensor([[0, 8], [3, 3]])
    expected = base.weight[ids] + 6 / rank * (first[:rank].T[ids] @ second[:, :rank].T)
    torch.testing.assert_close(net.at(r=rank)(ids), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_eq_5_to_7_of_a_convolution(rank):
    net = single(nn.Conv2d(2, 3, 3, stride=2, padding=1))
    first, second, base = factors(net)
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    change = torch.einsum("or,rikl->oikl", second[:, :rank, 0, 0], first[:rank])
    expected = functional.conv2d(x, base.weight + 6 / rank * change, base.bias, stride=2, padding=1)
    torch.testing.assert_close(net.at(r=rank)(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_rank_stabilised_scaling_divides_by_the_root_of_the_rank(rank):
    net = single(nn.Linear(5, 3), config={"use_rslora": True})
    first, second, base = factors(net)
    x = torch.randn(7, 5, dtype=torch.float64)
    expected = base(x) + 6 / math.sqrt(rank) * (x @ first[:rank].T @ second[:, :rank].T)
    torch.testing.assert_close(net.at(r=rank)(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_constant_scaling_makes_smaller_ranks_partial_sums_of_the_largest(rank, stabilised):
    net = single(nn.Linear(5, 3), config={"use_rslora": stabilised}, scaling="constant")
    first, second, base = factors(net)
    x = torch.randn(7, 5, dtype=torch.float64)
    scaling = 6 / math.sqrt(4) if stabilised else 6 / 4
    expected = base(x) + scaling * (x @ first[:rank].T @ second[:, :rank].T)
    torch.testing.assert_close(net.at(r=rank)(x), expected, rtol=0, atol=1e-12)


@each_uniform
def test_a_sub_model_is_bit_for_bit_the_model_that_peft_builds_with_that_rank(case):
    net = case.net().eval()
    for rank in case.ranks:
        assert torch.equal(case.run(net.at(r=rank)), case.run(peft_of_rank(case, net, rank)))


@each_uniform
def test_every_layer_has_the_rank_and_the_scaling_that_peft_gives_it(case):
    net = case.net()
    for rank in case.ranks:
        ours = net.builder.layers(net.submodel(r=rank))
        theirs = net.builder.layers(peft_of_rank(case, net, rank))
        assert ours.keys() == theirs.keys()
        for name, layer in ours.items():
            assert (layer.r, layer.scaling, layer.lora_alpha) == (
                theirs[name].r, theirs[name].scaling, theirs[name].lora_alpha)  # fmt: skip


def test_clipped_patterns_give_each_layer_the_smaller_of_the_rank_and_its_own():
    case = next(case for case in ADAPTERS if case.name == "adapter_clip")  # own ranks 4, 2, 8
    net = case.net()
    found = {rank: [layer.r["default"] for layer in net.builder.layers(net.submodel(r=rank)).values()]
             for rank in (1, 2, 4, 8)}  # fmt: skip
    assert found == {1: [1, 1, 1], 2: [2, 2, 2], 4: [4, 2, 4], 8: [4, 2, 8]}


def test_proportional_patterns_round_each_layers_share_of_its_own_rank_up():
    case = next(case for case in ADAPTERS if case.name == "adapter_proportional")  # own ranks 4, 2, 8
    net = case.net()
    found = {rank: [layer.r["default"] for layer in net.builder.layers(net.submodel(r=rank)).values()]
             for rank in (1, 2, 4)}  # fmt: skip
    assert found == {1: [1, 1, 2], 2: [2, 1, 4], 4: [4, 2, 8]}


def test_a_clipped_layer_is_scaled_by_its_own_rank():
    case = next(case for case in ADAPTERS if case.name == "adapter_clip")
    net = case.net()
    found = [layer.scaling["default"] for layer in net.builder.layers(net.submodel(r=4)).values()]
    assert found == [6 / 4, 6 / 2, 6 / 4]


def test_constant_scaling_keeps_the_scalings_of_patterns_at_every_rank():
    case = next(case for case in ADAPTERS if case.name == "adapter_constant_patterns")
    net = case.net()
    for rank in case.ranks:
        found = [layer.scaling["default"] for layer in net.builder.layers(net.submodel(r=rank)).values()]
        assert found == pytest.approx([6 / math.sqrt(4), 3 / math.sqrt(2), 6 / math.sqrt(4)])


def test_constant_scaling_with_a_pattern_of_alphas_alone_keeps_them():
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["0", "2", "4"], alpha_pattern={"2": 3})
    net = sn.dylora(plain(), config, scaling="constant")
    for rank in (1, 2, 4):
        found = [layer.scaling["default"] for layer in net.builder.layers(net.submodel(r=rank)).values()]
        assert found == pytest.approx([6 / 4, 3 / 4, 6 / 4])


# --- what is above the rank -----------------------------------------------------------------------------------------


@each_case
def test_ranks_above_are_not_read_in_training(case):
    net = case.net().eval()
    setting = case.chosen()[0]
    before = case.run(net.at(setting))
    poison(net, 4 if setting["r"] == 4 else 2, math.nan)  # proportional layers have more than the rank
    net.zero_grad()
    after = case.run(net.at(setting))
    after.sum().backward()
    assert torch.equal(after, before)


@pytest.mark.parametrize("way", ["at", "submodel", "extract"])
@each_uniform
def test_ranks_above_are_not_read(case, way):
    net = case.net().eval()
    before = case.run(getattr(net, way)(r=2))
    poison(net, 2, math.nan)
    assert torch.equal(case.run(getattr(net, way)(r=2)), before)


@each_uniform
def test_gradients_of_ranks_below_do_not_depend_on_those_above(case):
    net = case.net().eval()
    poison(net, 2, math.nan)
    case.run(net.at(r=2)).square().sum().backward()
    for name, parameter in net.full.named_parameters():
        if "lora_" in name:
            assert torch.isfinite(parameter.grad).all()


# --- nothing is drawn, nothing is stored ----------------------------------------------------------------------------


@each_case
def test_evaluation_is_deterministic_and_draws_nothing(case):
    net = case.net().eval()
    state = torch.get_rng_state()
    outputs = [case.run(net) for _ in range(3)]
    assert all(torch.equal(one, outputs[0]) for one in outputs)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_mode_draws_dropout_only():
    net = spread(sn.dylora(plain(), LoraConfig(r=4, target_modules=["0", "2"]))).train()
    state = torch.get_rng_state()
    net.at(r=2)(torch.ones(3, 7))
    assert torch.equal(torch.get_rng_state(), state)


def test_one_forward_has_the_same_rank_in_all_layers():
    net = spread(sn.dylora(plain(), LoraConfig(r=4, target_modules=["0", "2", "4"])))
    skeleton, seen = net.skeleton({"r": 2}), []
    for layer in net.builder.layers(skeleton.module).values():
        layer.lora_A["default"].register_forward_hook(lambda module, args, output: seen.append(output.shape[-1]))
    net._skeletons.keep(skeleton.setting, skeleton, skeleton)
    net.train().at(r=2)(torch.ones(3, 7))
    assert seen == [2, 2, 2]


def test_the_callers_config_is_neither_changed_nor_read_again():
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["0", "2"])
    before = config.to_dict()
    net = spread(sn.dylora(plain(), config))
    assert config.to_dict() == before
    expected = net.extract(r=2)(torch.ones(3, 7))
    config.lora_alpha = 600
    assert torch.equal(net.at(r=2)(torch.ones(3, 7)), expected)


def test_an_extracted_model_names_its_own_rank():
    net = sn.dylora(plain(), LoraConfig(r=4, target_modules=["0"]))
    assert [net.extract(r=rank).peft_config["default"].r for rank in (1, 2, 4)] == [1, 2, 4]


def test_at_rank_0_the_model_is_the_one_without_adapter():
    net = spread(sn.dylora(plain_seeded(), LoraConfig(r=4, target_modules=["0", "2"])))
    skeleton = build_skeleton(net.builder, sn.Setting({"r": 0}), net.full, net.cuts)
    skeleton.bind(net.private)
    assert torch.equal(skeleton.module(torch.ones(3, 7)), plain_seeded()(torch.ones(3, 7)))


@pytest.mark.parametrize("rank", [-1, 5])
def test_a_rank_outside_is_refused(rank):
    builder = AdapterBuilder(plain, LoraConfig(r=4, target_modules=["0"]))
    with pytest.raises(SettingError, match=rf"r={rank} is no rank of this adapter. Choose one from 0 to 4"):
        builder(r=rank)


def test_an_unknown_scaling_is_refused():
    with pytest.raises(ConfigError, match=r"scaling='loud' is unknown\. Choose one of rank, constant"):
        AdapterBuilder(plain, LoraConfig(r=4), scaling="loud")


def test_constant_scaling_refuses_patterns_of_different_layers():
    config = LoraConfig(r=4, rank_pattern={"0": 2}, alpha_pattern={"2": 3})
    with pytest.raises(ConfigError, match=r"rank_pattern of \['0'\] and alpha_pattern of \['2'\]"):
        AdapterBuilder(plain, config, scaling="constant")


# --- the model's own weights ----------------------------------------------------------------------------------------


@each_case
def test_the_models_own_weights_are_frozen_and_the_adapters_are_not(case):
    net = case.net()
    theirs = {name: one.requires_grad for name, one in case.original().named_parameters()}
    if case.options.keys() & {"num_hidden_layers", "n_head", "num_attention_heads"} or case.wrap is not None:
        theirs = {name: theirs[name] for name, _ in net.full.named_parameters()}
    assert {name: one.requires_grad for name, one in net.full.named_parameters()} == theirs


@pytest.mark.parametrize(
    "case", [case for case in ADAPTERS if case.name != "adapter_fused"], ids=lambda case: case.name
)
def test_the_models_own_weights_exist_once(case):  # but for fused ones that are cut in pieces
    net = case.net().eval()
    [case.run(net.at(setting)) for setting in case.chosen()]
    full = {p.untyped_storage().data_ptr() for p in net.full.parameters()}
    for setting in case.chosen():
        module = net.skeleton(setting).module
        held = [one for inner in module.modules() for one in inner._parameters.values() if one is not None]
        assert all(one.untyped_storage().data_ptr() in full for one in held)


@each_case
def test_there_are_no_more_parameters_than_in_pefts_model(case):
    net = case.net()
    count = sum(p.numel() for p in case.original().parameters())
    assert sum(p.numel() for p in net.parameters()) == count


def test_the_outline_of_a_model_holds_no_memory_and_shares_buffers():
    model = Pictures()
    built = Outline(model)()
    assert all(parameter.is_meta for parameter in built.parameters())
    assert all(ours is theirs for ours, theirs in zip(built.buffers(), model.buffers(), strict=True))


def test_the_outline_keeps_tied_parameters_tied():
    built = Outline(llama(tie_word_embeddings=True))()
    assert built.lm_head.weight is built.model.embed_tokens.weight


def test_the_outline_shares_parameters_of_other_kinds_such_as_quantised_ones():
    class Packed(nn.Parameter):
        pass

    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    model[0].weight = Packed(model[0].weight.detach(), requires_grad=False)
    assert Outline(model)()[0].weight is model[0].weight


def test_an_extracted_model_shares_no_buffer_with_the_network():
    net = sn.dylora(llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    theirs = {buffer.untyped_storage().data_ptr() for buffer in net.full.buffers()}
    assert all(buffer.untyped_storage().data_ptr() not in theirs for buffer in net.extract(r=1).buffers())


def test_a_tied_model_stays_tied_at_every_rank():
    net = spread(sn.dylora(llama(tie_word_embeddings=True), LoraConfig(r=2, target_modules=["q_proj"])))
    model = net.extract(r=1).get_base_model()
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal"])
def test_initial_weights_are_those_that_the_config_asks_for(start):
    config = LoraConfig(r=4, target_modules=["0", "2"], init_lora_weights=start)
    torch.manual_seed(1)
    net = sn.dylora(plain_seeded(), config)
    torch.manual_seed(1)
    theirs = get_peft_model(plain_seeded(), copy.deepcopy(config)).state_dict()
    assert all(torch.equal(one, theirs[name]) for name, one in net.full.state_dict().items())


def plain_seeded() -> nn.Module:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = plain()
    torch.set_rng_state(state)
    return model


def test_before_training_every_rank_is_the_original_model():
    original = plain_seeded()
    net = sn.dylora(plain_seeded(), LoraConfig(r=4, target_modules=["0", "2"]))
    x = torch.ones(3, 7)
    assert all(torch.equal(net.at(setting)(x), original(x)) for setting in net.space)


# --- precision, copies, threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_type_equals_pefts(dtype):
    base = llama().to(dtype)
    net = spread(sn.dylora(copy.deepcopy(base), LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))).eval()
    ids = torch.tensor([[1, 5, 7]])
    for rank in (1, 2, 4):
        theirs = get_peft_model(copy.deepcopy(base), LoraConfig(r=rank, target_modules=["q_proj", "down_proj"])).eval()
        full = net.full.state_dict()
        for name, tensor in theirs.state_dict().items():
            assert tensor.dtype == full[name].dtype
            tensor.copy_(full[name][tuple(slice(0, size) for size in tensor.shape)])
        assert torch.equal(net.at(r=rank)(ids).logits, theirs(ids).logits)


def test_under_autocast_a_sub_model_equals_the_extracted_one():
    net = spread(sn.dylora(bert(), LoraConfig(r=4, target_modules=["query", "value"]))).eval()
    with torch.autocast("cpu", torch.bfloat16):
        for rank in (1, 2, 4):
            assert torch.equal(net.at(r=rank)(**TEXT).logits, net.extract(r=rank)(**TEXT).logits)


def test_a_deepcopy_is_independent():
    net = spread(sn.dylora(plain(), LoraConfig(r=4, target_modules=["0", "2"])))
    x = torch.ones(3, 7)
    before = net.at(r=2)(x)
    other = copy.deepcopy(net)
    with torch.no_grad():
        [parameter.add_(1) for parameter in other.parameters()]
    assert torch.equal(net.at(r=2)(x), before)
    assert torch.equal(other.at(r=2)(x), other.extract(r=2)(x))


def test_threads_run_ranks_of_their_own():
    net = spread(sn.dylora(plain(), LoraConfig(r=4, target_modules=["0", "2", "4"]))).eval()
    x, wrong = torch.randn(5, 7), []
    expected = {rank: net.extract(r=rank)(x) for rank in (1, 2, 4)}

    def work(rank: int) -> None:
        for _ in range(20):
            if not torch.equal(net.at(r=rank)(x), expected[rank]):
                wrong.append(rank)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (1, 2, 4, 1, 2, 4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def checkpoint_activations(net: sn.SortedNet, reentrant: bool) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`gradient_checkpointing_enable` is deprecated")
        net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    "make",
    [partial(bert, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), llama],
    ids=["bert", "llama"],
)
def test_activation_checkpointing_gives_the_gradients_without_it(make, reentrant):
    torch.manual_seed(0)
    net = spread(sn.dylora(make(), LoraConfig(r=4, target_modules=r".*\.(query|value|q_proj|v_proj)"))).train()
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            net.enable_input_require_grads()
            checkpoint_activations(net, reentrant)
        net.zero_grad()
        outputs = [net.at(r=rank)(**TEXT).logits for rank in (1, 4)]  # both before the backward of the first
        torch.stack([output.square().mean() for output in outputs]).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in net.full.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_a_model_of_words_is_adapted_in_place():
    model = Words()
    net = sn.dylora(model, LoraConfig(r=2, target_modules=["embed"]))
    assert net.full.get_base_model() is model


def test_a_folder_is_opened(tmp_path):
    model = bert()
    model.save_pretrained(tmp_path)
    net = sn.dylora(str(tmp_path), LoraConfig(r=2, target_modules=["query"]))
    assert isinstance(net.full.get_base_model(), hf.BertForSequenceClassification)
