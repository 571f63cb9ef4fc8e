"""DyLoRA as a whole: making it, training every rank under each rule, merging one rank."""

import copy
import math
import warnings

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional

import sortednet as sn
from sortednet.errors import BuildError, SettingError, SpaceError, TrainingError
from sortednet.lora.ranks import builder_of_ranks
from sortednet.models import MLP

from ..contracts.adapter_cases import ADAPTERS, QUIET, ROWS, bert, gpt2, llama, plain, spread
from ..contracts.pretrained_cases import LEFT, TEXT

pytestmark = QUIET

LAYERS = ["0", "2", "4"]
BATCH = ROWS, torch.tensor([0, 1, 2, 0])
each_case = pytest.mark.parametrize("case", ADAPTERS, ids=[case.name for case in ADAPTERS])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def network(ranks=range(1, 5), **own) -> sn.SortedNet:
    config = LoraConfig(**{"r": max(ranks), "lora_alpha": 6, "target_modules": LAYERS, **own})
    return spread(sn.dylora(plain(), config, ranks=ranks))


# --- making ---------------------------------------------------------------------------------------------------------


def test_ranks_left_out_are_the_powers_of_two_and_the_largest():
    net = sn.dylora(plain(), LoraConfig(r=6, target_modules=LAYERS))
    assert net.space == sn.Space(r=[1, 2, 4, 6])


def test_the_largest_rank_of_a_clipped_pattern_is_that_of_the_space():
    net = sn.dylora(plain(), LoraConfig(r=4, target_modules=LAYERS, rank_pattern={"2": 8}))
    assert net.space == sn.Space(r=[1, 2, 4, 8])


def test_the_largest_rank_of_a_proportional_pattern_is_r():
    config = LoraConfig(r=4, target_modules=LAYERS, rank_pattern={"2": 8})
    assert sn.dylora(plain(), config, rank_pattern="proportional").space == sn.Space(r=[1, 2, 4])


def test_other_dimensions_are_sorted_together_with_the_rank():
    net = sn.dylora(llama(), LoraConfig(r=2, target_modules=["q_proj"]), num_hidden_layers=[1, 2])
    assert net.space == sn.Space(num_hidden_layers=[1, 2], r=[1, 2])


def test_a_space_that_is_a_list_is_taken_at_every_rank():
    base = sn.SortedNet(MLP, sn.Space([{"depth": 1, "width": 4}, {"depth": 2, "width": 8}]))
    net = spread(sn.dylora(base, LoraConfig(r=2, target_modules=r"hidden\.\d+|head"))).eval()
    assert len(net.space) == 4
    x = torch.randn(3, 64)
    for setting in net.space:
        assert torch.equal(net.at(setting)(x), net.extract(setting)(x))


def test_examples_of_a_list_of_settings_have_their_own_outputs():
    base = sn.SortedNet(MLP, sn.Space([{"depth": 1, "width": 4}, {"depth": 2, "width": 8}]))
    net = spread(sn.dylora(base, LoraConfig(r=2, target_modules=r"hidden\.\d+|head"))).eval()
    x = torch.randn(4, 64)
    for setting, output, part in zip(net.space, net(x, settings=list(net.space), split=True), x.split(1), strict=True):
        torch.testing.assert_close(output, net.at(setting)(part))


def test_a_network_of_pefts_answers_as_its_model():
    net = sn.dylora(llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    assert net.config.num_hidden_layers == 2
    assert net.peft_config["default"].r == 2


def test_only_the_builder_of_ranks_is_one():
    with pytest.raises(BuildError, match=r"A Linear without adapters has no ranks\. Make it by sortednet\.dylora"):
        builder_of_ranks(nn.Linear(2, 2))


def test_a_rank_that_was_not_declared_is_refused():
    with pytest.raises(SettingError, match="r=3"):
        network(ranks=[1, 2, 4]).at(r=3)


def test_a_dimension_of_the_network_that_is_named_r_is_refused():
    net = sn.SortedNet(lambda r: nn.Sequential(nn.Linear(3, r)), sn.Space(r=[1, 2]))
    with pytest.raises(SpaceError, match=r"has a dimension r already\. Rename it"):
        sn.dylora(net, LoraConfig(r=2, target_modules=["0"]))


# --- training -------------------------------------------------------------------------------------------------------


def objectives(space: sn.Space) -> dict[str, sn.Objective]:
    return {
        "summation": sn.Summation(space),
        "per_example": sn.PerExample(sn.Stratified(space, seed=0)),
        "stochastic": sn.Stochastic(sn.Uniform(space, seed=0)),
        "geometric": sn.Stochastic(sn.Geometric(space, p=0.15, seed=0)),
        "split": sn.Stochastic(sn.Stratified(space, seed=0), draws=3),
        "sandwich": sn.Stochastic(sn.Sandwich(sn.Uniform(space, seed=0)), draws=3),
        "distilled": sn.PerExample(sn.Uniform(space, seed=0), sn.Distillation(0.5)),
    }


@pytest.mark.parametrize("name", objectives(sn.Space(r=[1, 2, 4])))
def test_every_objective_teaches_every_rank(name):
    net = network(ranks=[1, 2, 4])
    objective = objectives(net.space)[name]
    optimizer = torch.optim.AdamW(net.parameters(), 0.02)
    x = torch.randn(24, 7)
    y = x[:, :3].argmax(1)

    def losses() -> list[float]:
        return [functional.cross_entropy(net.at(setting)(x), y).item() for setting in net.space]

    before = losses()
    for _ in range(40):
        order = torch.randperm(24)
        sn.step(net, objective, optimizer, (x[order], y[order]), functional.cross_entropy)
    assert all(after < early for after, early in zip(losses(), before, strict=True))


@pytest.mark.parametrize("name", objectives(sn.Space(r=[1, 2, 4])))
def test_the_models_own_weights_are_bit_for_bit_the_same_after_training(name):
    net = network(ranks=[1, 2, 4])
    frozen = {key: one.clone() for key, one in net.full.named_parameters() if not one.requires_grad}
    assert len(frozen) == 6
    optimizer = torch.optim.AdamW(net.parameters(), 0.1, weight_decay=0.1)
    for _ in range(5):
        sn.step(net, objectives(net.space)[name], optimizer, BATCH, functional.cross_entropy)
    held = dict(net.full.named_parameters())
    assert all(torch.equal(held[key], one) for key, one in frozen.items())


@pytest.mark.parametrize("make", [bert, llama, gpt2], ids=["bert", "llama", "gpt2"])
def test_a_model_with_labels_is_trained_one_rank_an_example(make):
    targets = {"bert": ["query"], "llama": ["q_proj"], "gpt2": ["c_attn"]}[make.__name__]
    options = {"fan_in_fan_out": True} if make is gpt2 else {}
    net = spread(sn.dylora(make(), LoraConfig(r=4, target_modules=targets, **options)))
    batch = {**TEXT, "labels": torch.tensor([0, 1])} if make is bert else {**LEFT, "labels": LEFT["input_ids"]}
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    objective = sn.PerExample(sn.Stratified(net.space, seed=0))
    losses = [sn.step(net, objective, optimizer, batch, lambda output, _: output.loss).loss for _ in range(6)]
    assert all(map(math.isfinite, losses))


def test_a_resumed_run_is_the_uninterrupted_one():
    def run(net, objective, optimizer, steps):
        for _ in range(steps):
            sn.step(net, objective, optimizer, BATCH, functional.cross_entropy)

    one = network()
    first = sn.PerExample(sn.Stratified(one.space, seed=3))
    optimizer = torch.optim.AdamW(one.parameters(), 0.01)
    run(one, first, optimizer, 3)
    other = copy.deepcopy(one)
    second = sn.PerExample(sn.Stratified(other.space, seed=9))
    second.load_state_dict(first.state_dict())
    again = torch.optim.AdamW(other.parameters(), 0.01)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(one, first, optimizer, 3)
    run(other, second, again, 3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_per_example_gradients_are_the_mean_of_the_examples_own():
    net = network(ranks=[1, 2, 4]).double()
    x, y = BATCH[0].double(), BATCH[1]
    drawn = ["r=4", "r=1", "r=2", "r=1"]
    sn.PerExample(sn.Cycle(net.space, drawn))(net, (x, y), functional.cross_entropy).backward()
    found = {name: one.grad.clone() for name, one in net.full.named_parameters() if one.requires_grad}
    net.zero_grad()
    settings, sizes = sn.PerExample(sn.Cycle(net.space, drawn)).choose(4)
    ranks = [setting for setting, size in zip(settings, sizes, strict=True) for _ in range(size)]
    assert sorted(map(str, ranks)) == sorted(drawn)
    for setting, row, target in zip(ranks, x, y, strict=True):
        (functional.cross_entropy(net.at(setting)(row[None]), target[None]) / 4).backward()
    for name, one in net.full.named_parameters():
        if one.requires_grad:
            torch.testing.assert_close(found[name], one.grad)


# --- update rules ---------------------------------------------------------------------------------------------------

_optimizers = {
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.5),
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "amsgrad": lambda p: torch.optim.AdamW(p, 0.1, amsgrad=True),
}
each_optimizer = pytest.mark.parametrize("make", _optimizers.values(), ids=_optimizers)


def own_part(net: sn.SortedNet, name: str, one: Tensor, rank: int, below: int) -> Tensor:
    """Mark the rows of A or columns of B that a rank has and the one below has not."""
    mask = torch.zeros_like(one, dtype=torch.bool)
    if "lora_A" in name or "embedding_A" in name:
        mask[below:rank] = True
    elif "lora_B" in name or "embedding_B" in name:
        mask[:, below:rank] = True
    else:
        mask[:] = True
    return mask


def moments(optimizer, parameter) -> dict[str, Tensor]:
    return {
        name: value.clone()
        for name, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor) and value.shape == parameter.shape
    }


def train_one(net, optimizer, rank, update, **options):
    objective = sn.Stochastic(sn.Cycle(net.space, [{"r": rank}]))
    return sn.step(net, objective, optimizer, BATCH, functional.cross_entropy, update=update, **options)


@each_optimizer
@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("max_norm", [None, 0.1])
def test_eq_8_unique_changes_nothing_but_row_and_column_b(make, rank, max_norm):
    """Valipour et al. (2022), arXiv:2210.07558v2: only the b-th row and column are updated."""
    net = network()
    optimizer = make(net.parameters())
    for one in (4, 3, 1, 2):  # so that every row has momentum
        train_one(net, optimizer, one, "standard")
    weights = {name: one.clone() for name, one in net.full.named_parameters()}
    states = {name: moments(optimizer, one) for name, one in net.full.named_parameters()}
    train_one(net, optimizer, rank, "unique", max_norm=max_norm)
    for name, one in net.full.named_parameters():
        if not one.requires_grad:
            continue
        mask = own_part(net, name, one, rank, rank - 1)
        assert (one - weights[name])[~mask].abs().max() == 0
        assert (one - weights[name])[mask].abs().max() > 0
        for key, now in moments(optimizer, one).items():
            assert torch.equal(now[~mask], states[name][key][~mask]), key


@each_optimizer
def test_unique_from_the_first_step_leaves_the_rest_untouched(make):
    net = network()
    optimizer = make(net.parameters())
    weights = {name: one.clone() for name, one in net.full.named_parameters()}
    for _ in range(3):
        train_one(net, optimizer, 3, "unique")
    for name, one in net.full.named_parameters():
        if one.requires_grad:
            mask = own_part(net, name, one, 3, 2)
            assert torch.equal(one[~mask], weights[name][~mask])
            assert all(not state[~mask].any() for state in moments(optimizer, one).values())


def test_unique_over_powers_of_two_changes_the_rows_beyond_the_next_smaller_rank():
    net = network(ranks=[1, 2, 4])
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    weights = {name: one.clone() for name, one in net.full.named_parameters()}
    train_one(net, optimizer, 4, "unique")
    for name, one in net.full.named_parameters():
        if one.requires_grad:
            mask = own_part(net, name, one, 4, 2)
            assert torch.equal(one[~mask], weights[name][~mask])
            assert ((one - weights[name])[mask] != 0).any()


@each_optimizer
def test_unique_goes_on_training_a_classifier_that_all_ranks_share(make):
    net = network(target_modules=["0", "2"], modules_to_save=["4"])
    optimizer = make(net.parameters())
    weight = net.full.base_model.model[4].modules_to_save["default"].weight
    before = weight.clone()
    train_one(net, optimizer, 3, "unique")
    assert (weight != before).all()


def test_unique_with_one_rank_an_example_changes_each_drawn_ranks_own_part():
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    weights = {name: one.clone() for name, one in net.full.named_parameters()}
    objective = sn.PerExample(sn.Cycle(net.space, ["r=1", "r=3"]))
    sn.step(net, objective, optimizer, BATCH, functional.cross_entropy, update="unique")
    for name, one in net.full.named_parameters():
        if one.requires_grad:
            mask = own_part(net, name, one, 1, 0) | own_part(net, name, one, 3, 2)
            assert torch.equal(one[~mask], weights[name][~mask])


@each_optimizer
@pytest.mark.parametrize("rank", [1, 2])
def test_touched_changes_nothing_above_the_rank(make, rank):
    net = network()
    optimizer = make(net.parameters())
    for one in (4, 3):
        train_one(net, optimizer, one, "standard")
    weights = {name: one.clone() for name, one in net.full.named_parameters()}
    states = {name: moments(optimizer, one) for name, one in net.full.named_parameters()}
    train_one(net, optimizer, rank, "touched")
    for name, one in net.full.named_parameters():
        if one.requires_grad:
            mask = own_part(net, name, one, rank, 0)
            assert torch.equal(one[~mask], weights[name][~mask])
            assert ((one - weights[name])[mask] != 0).any()
            assert all(torch.equal(now[~mask], states[name][key][~mask])
                       for key, now in moments(optimizer, one).items())  # fmt: skip


def test_reference_has_no_gradient_outside_but_momentum_and_decay_move_weights():
    """As the first published code does it: AdamW goes on moving the rows that were not drawn."""
    net, seen = network(), {}

    class Watched(torch.optim.AdamW):
        def step(self, closure=None):
            seen.update({name: one.grad.clone() for name, one in net.full.named_parameters() if one.grad is not None})
            return super().step(closure)

    optimizer = Watched(net.parameters(), 0.1, weight_decay=0.5)
    train_one(net, optimizer, 4, "standard")
    weights = {name: one.clone() for name, one in net.full.named_parameters()}
    train_one(net, optimizer, 2, "reference")
    for name, one in net.full.named_parameters():
        if one.requires_grad:
            mask = own_part(net, name, one, 2, 1)
            assert not seen[name][~mask].any()
            assert seen[name][mask].any()
            assert (one != weights[name])[~mask].all()


def test_reference_goes_on_training_a_shared_classifier():
    net = network(target_modules=["0", "2"], modules_to_save=["4"])
    weight = net.full.base_model.model[4].modules_to_save["default"].weight
    before = weight.clone()
    train_one(net, torch.optim.SGD(net.parameters(), 0.1), 3, "reference")
    assert (weight != before).all()


def test_without_momentum_and_decay_reference_is_unique():
    nets = [network(), network()]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, update in zip(nets, ("unique", "reference"), strict=True):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for rank in (1, 4, 2, 3):
            train_one(net, optimizer, rank, update)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_clipping_under_unique_counts_the_changed_part_alone():
    nets = [network(), network()]
    nets[1].load_state_dict(nets[0].state_dict())
    norms = []
    for net, max_norm in zip(nets, (None, 1e-3), strict=True):
        before = [one.clone() for one in net.parameters()]
        train_one(net, torch.optim.SGD(net.parameters(), 1.0), 2, "unique", max_norm=max_norm)
        change = [one - old for one, old in zip(net.parameters(), before, strict=True)]
        norms.append(float(torch.sqrt(sum(one.double().square().sum() for one in change)).detach()))
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-2)


def test_unique_over_a_pattern_changes_nothing_of_a_layer_that_has_no_more_ranks():
    net = network(rank_pattern={"2": 2})
    weights = {name: one.clone() for name, one in net.full.named_parameters()}
    train_one(net, torch.optim.AdamW(net.parameters(), 0.1), 4, "unique")
    for name, one in net.full.named_parameters():
        if ".2.lora_" in name:
            assert torch.equal(one, weights[name])


def test_unique_of_an_embedding_and_a_convolution_is_exact_too():
    for name in ("adapter_words", "adapter_pictures"):
        case = next(case for case in ADAPTERS if case.name == name)
        net = case.net().eval()
        optimizer = torch.optim.AdamW(net.parameters(), 0.1, weight_decay=0.5)
        weights = {key: one.clone() for key, one in net.full.named_parameters()}
        case.run(net.at(r=2)).square().sum().backward()
        sn.training.apply_update(net, optimizer, [net.space.setting(r=2)], "unique")
        for key, one in net.full.named_parameters():
            if one.requires_grad:
                mask = own_part(net, key, one, 2, 1)
                assert torch.equal(one[~mask], weights[key][~mask])
                assert (one != weights[key])[mask].any()


def test_an_unknown_rule_is_refused():
    with pytest.raises(TrainingError, match="update='frozen' is no update rule"):
        train_one(network(), torch.optim.SGD([torch.zeros(1)], 0.1), 1, "frozen")


# --- merging --------------------------------------------------------------------------------------------------------

_mergeable = [case for case in ADAPTERS if case.name not in ("adapter_fused", "adapter_width")]


@pytest.mark.parametrize("case", _mergeable, ids=[case.name for case in _mergeable])
def test_a_merged_rank_gives_its_sub_models_output(case):
    net = case.net().eval()
    for setting in case.chosen():
        before = case.run(net.at(setting)).detach()
        merged = case.run(sn.merge(net, setting)).detach()
        sn.unmerge(net)
        torch.testing.assert_close(merged, before, rtol=1e-3, atol=1e-4 * max(1.0, float(before.abs().max())))


@pytest.mark.parametrize("case", _mergeable, ids=[case.name for case in _mergeable])
def test_after_unmerging_every_rank_is_what_it_was(case):
    net = case.net().eval()
    before = {name: one.clone() for name, one in net.state_dict().items()}
    for setting in case.chosen():
        sn.merge(net, setting)
        sn.unmerge(net)
    for name, one in net.state_dict().items():
        torch.testing.assert_close(one, before[name], rtol=1e-4, atol=1e-5)


def test_a_merged_rank_is_recorded():
    net = network()
    sn.merge(net, r=2)
    assert net.merged == net.space.setting(r=2)
    sn.unmerge(net)
    assert net.merged is None


_uses = {
    "forward": lambda net, path: net(ROWS),
    "at": lambda net, path: net.at(r=1)(ROWS),
    "several": lambda net, path: net(ROWS, settings=[{"r": 1}, {"r": 4}]),
    "split": lambda net, path: net(ROWS, settings=[{"r": 1}, {"r": 4}], split=True),
    "submodel": lambda net, path: net.submodel(r=1),
    "extract": lambda net, path: net.extract(r=1),
    "save": lambda net, path: net.save_pretrained(path),
    "save_adapter": lambda net, path: sn.save_adapter(net, path, r=1),
    "merge": lambda net, path: sn.merge(net, r=1),
    "step": lambda net, path: train_one(net, torch.optim.SGD(net.parameters(), 0.1), 1, "standard"),
    "order": lambda net, path: sn.order_ranks(net),
}
each_use = pytest.mark.parametrize("use", _uses.values(), ids=_uses)


@each_use
@pytest.mark.parametrize("used", [False, True])
def test_while_merged_any_other_use_is_refused(use, used, tmp_path):
    net = network()
    if used:  # what was built before must be refused too
        net(ROWS, settings=[{"r": 1}, {"r": 4}], split=True)
        [net.at(setting)(ROWS) for setting in net.space]
    sn.merge(net, r=2)
    with pytest.raises(SettingError, match=r"merged into the weights at r=2.*call sortednet\.unmerge\(net\) first"):
        use(net, tmp_path)


@each_use
@pytest.mark.parametrize("used", [False, True])
def test_while_peft_has_merged_the_full_model_any_use_is_refused(use, used, tmp_path):
    net = network()
    if used:
        net(ROWS, settings=[{"r": 1}, {"r": 4}], split=True)
        [net.at(setting)(ROWS) for setting in net.space]
    net.full.merge_adapter()
    with pytest.raises(SettingError, match=r"merged into the weights.*net\.full\.unmerge_adapter\(\) first"):
        use(net, tmp_path)


def test_a_refused_use_leaves_the_network_to_be_unmerged():
    net = network()
    before = net.at(r=4)(ROWS)
    sn.merge(net, r=2)
    for _ in range(2):
        with pytest.raises(SettingError):
            net(ROWS)
    sn.unmerge(net)
    torch.testing.assert_close(net.at(r=4)(ROWS), before)


def test_merging_by_depth_leaves_the_rest_of_the_blocks_alone():
    case = next(case for case in ADAPTERS if case.name == "adapter_depth")
    net = case.net().eval()
    deep = {name: one.clone() for name, one in net.full.named_parameters() if ".layers.1." in name}
    sn.merge(net, num_hidden_layers=1, r=2)
    assert all(torch.equal(one, deep[name]) for name, one in net.full.named_parameters() if name in deep)


def test_while_merged_examples_of_several_depths_are_refused_too():
    case = next(case for case in ADAPTERS if case.name == "adapter_depth")
    net = case.net().eval()
    chosen = [net.space.setting(num_hidden_layers=depth, r=4) for depth in (1, 2)]
    net(**LEFT, settings=chosen, split=True)
    sn.merge(net, r=2)
    with pytest.raises(SettingError, match="merged into the weights"):
        net(**LEFT, settings=chosen, split=True)


def test_nothing_merged_cannot_be_unmerged():
    with pytest.raises(SettingError, match=r"No adapter is merged.*Call merge\(net, r=\.\.\.\) first"):
        sn.unmerge(network())


def test_a_copy_of_a_merged_network_is_unmerged_by_itself():
    net = network().eval()
    before = net.at(r=4)(ROWS)
    sn.merge(net, r=2)
    other = copy.deepcopy(net)
    sn.unmerge(other)
    torch.testing.assert_close(other.at(r=4)(ROWS), before)
    sn.unmerge(net)
    torch.testing.assert_close(net.at(r=4)(ROWS), before)


def test_a_merged_network_that_is_moved_to_another_type_is_unmerged_there():
    net = network().eval()
    before = net.at(r=4)(ROWS)
    sn.merge(net, r=2)
    net.double()
    sn.unmerge(net)
    torch.testing.assert_close(net.at(r=4)(ROWS.double()), before.double(), rtol=1e-4, atol=1e-4)


def test_a_merged_module_adds_no_memory():
    net = network()
    merged = sn.merge(net, r=2)
    full = {one.untyped_storage().data_ptr() for one in net.full.parameters()}
    assert all(one.untyped_storage().data_ptr() in full for one in merged.parameters())


def test_fused_weights_that_are_cut_in_pieces_are_not_merged():
    case = next(case for case in ADAPTERS if case.name == "adapter_fused")
    net = case.net().eval()
    with pytest.raises(BuildError, match="cut in several pieces, into which nothing can be added"):
        sn.merge(net, case.chosen()[0])
    assert net.merged is None


def test_an_adapter_on_tied_embeddings_is_merged_rightly_or_refused():
    """The same matrix is the head's, to which the adapter of the embedding does not belong."""
    model = llama(tie_word_embeddings=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = spread(sn.dylora(model, LoraConfig(r=4, target_modules=["embed_tokens"]))).eval()
        before = net.at(r=2)(**LEFT).logits.detach()
        try:
            merged = sn.merge(net, r=2)
        except BuildError:
            assert net.merged is None
            return
        torch.testing.assert_close(merged(**LEFT).logits, before, rtol=1e-3, atol=1e-3)


def test_a_network_without_adapters_is_not_merged():
    with pytest.raises(BuildError, match="without adapters has no ranks"):
        sn.merge(sn.SortedNet(lambda width: nn.Linear(3, width), sn.Space(width=[1, 2])), width=1)


# --- memory ---------------------------------------------------------------------------------------------------------


def test_all_ranks_together_hold_what_the_largest_holds():
    net = network()
    count = sum(one.numel() for one in net.parameters())
    for setting in net.space:
        net.at(setting)(ROWS)
        net.submodel(setting)
    net(ROWS, settings=list(net.space), split=True)
    assert sum(one.numel() for one in net.parameters()) == count
    assert {name for name, _ in net.named_parameters()} == {f"full.{name}" for name, _ in net.full.named_parameters()}


def test_optimisers_hold_nothing_of_the_models_own_weights():
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    train_one(net, optimizer, 4, "standard")
    assert sum(one.numel() for one in optimizer.state) == sum(p.numel() for p in net.parameters() if p.requires_grad)
