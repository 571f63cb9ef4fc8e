"""What each recipe trains, by hand, against its paper."""

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

import sortednet as sn
from sortednet.errors import BuildError, ConfigError
from sortednet.models import MLP, PreResNet, Transformer
from sortednet.training import recipes
from sortednet.training.layer_dropout import LayerDropout
from sortednet.training.objectives import Term, total
from sortednet.training.recipe_training import train_recipe
from sortednet.training.recipes import Line, Recipe, Stage
from sortednet.training.recipes.line import similarity
from sortednet.training.recipes.recipe import full_only, head_of, norms
from sortednet.training.trainer import TrainingConfig

SPACE = sn.Space(depth=[1, 2], width=[2, 4])
SMALL, WIDE = "depth=1,width=2", "depth=1,width=4"
DEEP, FULL = "depth=2,width=2", "depth=2,width=4"


def mlp(depth: int, width: int) -> nn.Module:
    return MLP(depth, width, inputs=3, classes=3)


def normed(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 3))


def classifier(depth: int, width: int = 4) -> nn.Module:
    return Transformer(
        depth, width, heads=2, hidden=8, head_size=4, vocabulary=12, positions=5, classes=3, causal=False
    )


def network(recipe: Recipe, build: Callable[..., nn.Module] = mlp) -> sn.SortedNet:
    torch.manual_seed(0)
    return recipe.network(build).double()


def batch(size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, dtype=torch.float64, generator=generator), torch.arange(size) % 3


def terms(recipe: Recipe, net: sn.SortedNet, stage: int = 0, teacher: nn.Module | None = None) -> list[Term]:
    objective = recipe.stages[stage].objective(net, 0, teacher)
    return objective.terms(net, batch(), functional.cross_entropy)


def by_setting(found: Sequence[Term]) -> dict[str, Tensor]:
    return {str(term.setting): term.loss for term in found}


def label_loss(net: sn.SortedNet, setting: str) -> Tensor:
    x, y = batch()
    return functional.cross_entropy(net.extract(setting)(x), y)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    p = teacher.softmax(-1)
    return (p * (p.log() - student.log_softmax(-1))).sum(-1).mean()


def followed(net: sn.SortedNet, setting: str, teacher: nn.Module) -> Tensor:
    x, _ = batch()
    return divergence(net.extract(setting)(x), teacher(x))


def assert_terms(found: Sequence[Term], expected: dict[str, Tensor]) -> None:
    assert sorted(by_setting(found)) == sorted(expected)
    for setting, loss in by_setting(found).items():
        torch.testing.assert_close(loss, expected[setting], msg=lambda text, one=setting: f"{one}: {text}")


def train(recipe: Recipe, net: sn.SortedNet, data: Any, output: Any, **options: Any) -> sn.SortedNet:
    config = TrainingConfig(**{"batch_size": 6, "checkpoint_every": 100, "max_norm": None, **options})
    return train_recipe(recipe, net, functional.cross_entropy, data, config, output, console=Console(quiet=True))


# --- sorted training ------------------------------------------------------------------------------------------------


def test_sortednet_algorithm_1_trains_one_uniformly_drawn_sub_model() -> None:
    recipe = recipes.sortednet(SPACE)
    objective = recipe.stages[0].objective(network(recipe), 0, None)
    drawn = [objective.choose(6) for _ in range(400)]
    assert all(len(settings) == 1 and sizes is None for settings, sizes in drawn)
    counts = [sum(settings == [one] for settings, _ in drawn) for one in SPACE]
    assert min(counts) > 70


# --- widths ---------------------------------------------------------------------------------------------------------


def test_slimmable_algorithm_1_sums_the_losses_of_all_sub_models() -> None:
    recipe = recipes.slimmable(SPACE)
    net = network(recipe)
    found = terms(recipe, net)
    assert_terms(found, {str(one): label_loss(net, str(one)) for one in SPACE})
    torch.testing.assert_close(total(found), torch.stack([label_loss(net, str(one)) for one in SPACE]).sum())


def test_slimmable_gives_every_sub_model_norms_of_its_own_and_shares_the_rest() -> None:
    recipe = recipes.slimmable(sn.Space(width=[2, 4]))
    names = {name for _, name in network(recipe, normed).private.tensors()}
    assert names == {"1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_universally_slimmable_section_3_trains_the_largest_on_labels_and_lets_the_others_follow_it() -> None:
    recipe = recipes.universally_slimmable(SPACE, draws=12)
    net = network(recipe)
    found = terms(recipe, net)
    expected = {one: followed(net, one, net.extract()) for one in (SMALL, WIDE, DEEP)}
    assert_terms(found, {FULL: label_loss(net, FULL), **expected})
    assert [term.weight for term in found] == [1] * 4


def test_universally_slimmable_draws_the_largest_and_the_smallest_every_time() -> None:
    recipe = recipes.universally_slimmable(SPACE, draws=3)
    objective = recipe.stages[0].objective(network(recipe), 0, None)
    drawn = [[str(one) for one in objective.choose(6)[0]] for _ in range(20)]
    assert all(settings[:2] == [FULL, SMALL] for settings in drawn)
    assert {one for settings in drawn for one in settings[2:]} == {WIDE, DEEP}


def test_universally_slimmable_gives_the_largest_no_gradient_from_what_follows_it() -> None:
    recipe = recipes.universally_slimmable(SPACE, draws=3)
    net = network(recipe)
    torch.stack([term.loss for term in terms(recipe, net) if str(term.setting) == SMALL]).sum().backward()
    assert net.full.hidden[1].weight.grad is None or not net.full.hidden[1].weight.grad.any()
    assert not net.full.hidden[0].weight.grad[2:].any()
    assert net.full.hidden[0].weight.grad[:2].any()


def test_universally_slimmable_measures_its_statistics_anew() -> None:
    recipe = recipes.universally_slimmable(sn.Space(width=[2, 4]))
    net = network(recipe, normed)
    net.reestimate([batch()[0]])
    x = net.extract(width=2)[0](batch()[0])
    torch.testing.assert_close(net.extract(width=2)[1].running_mean, x.mean(0))


def test_lcs_p_section_3_sums_the_losses_of_the_largest_the_smallest_and_some_more() -> None:
    recipe = recipes.lcs_p(SPACE, draws=12)
    net = network(recipe)
    found = terms(recipe, net)
    assert [str(term.setting) for term in found[:2]] == [FULL, SMALL]
    assert_terms(found, {str(one): label_loss(net, str(one)) for one in SPACE})
    assert [term.weight for term in found] == [1] * 4


def test_matformer_eq_4_is_the_mean_over_all_sub_models() -> None:
    recipe = recipes.matformer(SPACE)
    net = network(recipe)
    found = terms(recipe, net)
    assert_terms(found, {str(one): label_loss(net, str(one)) for one in SPACE})
    torch.testing.assert_close(total(found), torch.stack([label_loss(net, str(one)) for one in SPACE]).mean())


# --- a line ---------------------------------------------------------------------------------------------------------


def line_network() -> sn.SortedNet:
    """Return a network of widths 2, 3 and 4 whose norms have the scale 1 at one end and 3 at the other."""
    net = network(recipes.lcs_l(sn.Space(width=[2, 3, 4])), normed)
    with torch.no_grad():
        net.full.model[1].weight.fill_(1)
        net.full.ends["1/weight"].fill_(3)
    return net


@pytest.mark.parametrize(("width", "scale"), [(2, 1.0), (3, 2.0), (4, 3.0)])
def test_lcs_l_section_3_reads_one_end_at_the_smallest_width_and_the_other_at_the_largest(width, scale) -> None:
    merged = line_network().extract(width=width).merged()
    assert torch.equal(merged[1].weight.detach(), torch.full((width,), scale, dtype=torch.float64))


def test_lcs_l_has_lines_of_the_norms_alone() -> None:
    assert sorted(line_network().full.other_ends()) == ["1.bias", "1.weight"]


def test_lcs_l_takes_the_lines_that_are_named() -> None:
    net = network(recipes.lcs_l(sn.Space(width=[2, 4]), lines=["0.*", "2.bias"]), normed)
    assert sorted(net.full.other_ends()) == ["0.bias", "0.weight", "2.bias"]


def test_lcs_l_draws_both_ends_by_the_models_own_builder() -> None:
    net = network(recipes.lcs_l(sn.Space(width=[2, 4]), lines=["0.weight"]), normed)
    assert not torch.equal(net.full.ends["0/weight"], net.full.model[0].weight)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("width", [2, 3, 4])
def test_a_merged_line_equals_the_line(width, training) -> None:
    line = line_network().extract(width=width).train(training)
    merged = line.merged()
    assert type(merged) is nn.Sequential
    assert torch.equal(merged(batch()[0]), line(batch()[0]))


def test_both_ends_of_a_line_get_their_share_of_the_gradient() -> None:
    net = line_network()
    net.at(width=3)(batch()[0]).square().sum().backward()
    one, other = net.full.model[1].weight.grad, net.full.ends["1/weight"].grad
    assert one[:3].abs().min() > 0
    torch.testing.assert_close(one, other)
    assert not one[3:].any()


def test_lcs_l_eq_3_penalises_the_squared_cosine_of_the_ends() -> None:
    line = Line(nn.Linear(1, 2), position=1.0, patterns=("weight", "bias"))
    with torch.no_grad():
        line.model.weight.copy_(torch.tensor([[1.0], [2.0]]))
        line.model.bias.copy_(torch.tensor([0.0, 2.0]))
        line.ends["weight"].copy_(torch.tensor([[2.0], [0.0]]))
        line.ends["bias"].copy_(torch.tensor([1.0, 2.0]))
    # (1 * 2 + 2 * 2)^2 / ((1 + 4 + 4) (4 + 1 + 4))
    assert similarity(line).item() == pytest.approx(36 / 81)


def test_lcs_l_adds_the_penalty_once_to_the_sum_of_the_losses() -> None:
    recipe = recipes.lcs_l(sn.Space(width=[2, 3, 4]), draws=12)
    net, (x, y) = line_network(), batch()
    expected = torch.stack([functional.cross_entropy(net.extract(one)(x), y) for one in net.space]).sum()
    torch.testing.assert_close(total(terms(recipe, net)), expected + similarity(net.full))


def test_ends_that_are_zero_are_not_similar() -> None:
    line = Line(nn.BatchNorm1d(2), position=1.0, patterns=("bias",))
    found = similarity(line)
    found.backward()
    assert found.item() == 0
    assert line.model.bias.grad.isfinite().all()


def test_lcs_l_of_several_dimensions_needs_one_that_chooses_the_point() -> None:
    with pytest.raises(ConfigError, match=r"has 2 dimensions of several values\. Say which of them chooses the point"):
        recipes.lcs_l(SPACE)


def test_lines_that_match_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"No parameter matches nope\.\*, so none.*first are \['0\.weight'.*patterns"):
        network(recipes.lcs_l(sn.Space(width=[2, 4]), lines=["nope.*"]), normed)


def test_lcs_l_of_a_model_without_norms_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match=r"has no normalisation layers.*Give lines="):
        network(recipes.lcs_l(sn.Space(width=[2, 4])), partial(mlp, 1))


def test_norms_are_found_with_all_that_lies_in_them() -> None:
    assert norms(PreResNet(depth=1, width=2, stages=1)) == ["stages.0.0.norm1.*", "stages.0.0.norm2.*", "norm.*"]


def test_norms_that_are_not_torchs_own_are_found_by_their_name() -> None:
    class LlamaRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    assert norms(nn.Sequential(nn.Linear(2, 2), LlamaRMSNorm(), nn.LayerNorm(2, elementwise_affine=False))) == ["1.*"]


# --- depths ---------------------------------------------------------------------------------------------------------


def test_early_exit_trains_every_head_and_nothing_else(tmp_path) -> None:
    recipe = recipes.early_exit(SPACE, head="head.*")
    net = network(recipe).float()
    alive(net)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    train(recipe, net, _digits(), tmp_path, updates=1, weight_decay=0.0)
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    owners = [f"private.owners.{one}.head/" for one in (SMALL, WIDE, DEEP)]
    assert changed == {f"{one}{leaf}" for one in ("full.head.", *owners) for leaf in ("weight", "bias")}


def alive(net: sn.SortedNet) -> None:
    """Let no hidden unit be dead, so that every head has a gradient."""
    with torch.no_grad():
        for layer in net.full.hidden:
            layer.bias.fill_(3)


def test_sft_ict_section_5_3_fine_tunes_the_full_model_first_then_the_heads_alone(tmp_path) -> None:
    recipe = recipes.sft_ict(SPACE, head="head.*")
    first, second = recipe.stages
    net = network(recipe)
    assert_terms(terms(recipe, net, 0), {FULL: label_loss(net, FULL)})
    assert_terms(terms(recipe, net, 1), {str(one): label_loss(net, str(one)) for one in SPACE})
    assert first.trained is None
    assert second.trained(net.full) == ("head.*",)
    assert recipe.updates(9) == [6, 3]


def test_a_stage_freezes_what_it_does_not_train_and_gives_it_back() -> None:
    recipe = recipes.early_exit(SPACE, head="head.*")
    net = network(recipe)
    net.full.hidden[0].bias.requires_grad_(False)
    with recipe.stages[0].applied(net):
        trained = [name for name, parameter in net.full.named_parameters() if parameter.requires_grad]
    assert trained == ["head.weight", "head.bias"]
    assert [name for name, one in net.full.named_parameters() if not one.requires_grad] == ["hidden.0.bias"]


def test_extracted_networks_are_those_trained_separately(tmp_path) -> None:
    recipe = recipes.extracted(sn.Space(width=[2, 4]))
    net, data = recipe.network(partial(mlp, 1)), _digits()
    alone = {setting: net.extract(setting) for setting in net.space}
    how = {"updates": 5, "optimizer": "sgd", "learning_rate": 0.1}
    train(recipe, net, data, tmp_path / "together", **how)
    for setting, model in alone.items():
        space = sn.Space(width=[setting["width"]])
        one = sn.SortedNet(partial(mlp, 1), space, model=model)
        only = Recipe("full", space, (Stage(lambda net, seed, teacher: sn.Summation(net.space)),))
        train(only, one, data, tmp_path / str(setting), **how)
        for name, parameter in net.extract(setting).named_parameters():
            torch.testing.assert_close(parameter, one.full.get_parameter(name), rtol=0, atol=1e-6)


def test_layer_drop_section_3_trains_the_full_model_alone_with_every_block_dropped_alike() -> None:
    recipe = recipes.layer_drop(SPACE, rate=0.3)
    net = recipe.network(classifier)
    assert recipe.stages[0].objective(net, 0, None).choose(6) == ([SPACE.full], None)
    with recipe.stages[0].applied(net):
        assert dropouts(net) == [LayerDropout(0.3, "batch")] * 2


def test_layer_skip_section_4_1_drops_deeper_blocks_more_often_for_each_example() -> None:
    recipe = recipes.layer_skip(sn.Space(depth=[1, 3]), rate=0.2)
    net = recipe.network(classifier)
    with recipe.stages[0].applied(net):
        rates = [one and (round(one.rate, 3), one.unit) for one in dropouts(net)]
    assert rates == [None, (0.083, "example"), (0.2, "example")]


@pytest.mark.parametrize("make", [recipes.layer_drop, recipes.layer_skip])
def test_layer_dropout_is_gone_after_training(make) -> None:
    recipe = make(SPACE)
    net = recipe.network(classifier)
    with recipe.stages[0].applied(net):
        pass
    assert dropouts(net) == [None, None]


def dropouts(net: sn.SortedNet) -> list[LayerDropout | None]:
    return [next(iter(block._forward_hooks.values()), None) for block in net.full.blocks]


@pytest.mark.parametrize(
    ("scale", "expected"),
    # Eq. for e(l) with four layers: e_scale (0 + .. + l) = 0, 1, 3 and 3 + e_scale (0 + 1 + 2) for the last.
    [(1.0, [0, 1, 3, 6]), (0.2, [0, 0.2, 0.6, 3.6]), (0.0, [0, 0, 0, 3])],
)
def test_layer_skip_section_4_1_weighs_deeper_exits_more(scale, expected) -> None:
    space = sn.Space(depth=[1, 2, 3, 4])
    recipe = recipes.layer_skip(space, loss_scale=scale, exits=3)
    net = network(recipe, partial(mlp, width=4))
    weights = {term.setting["depth"]: term.weight for term in terms(recipe, net)}
    assert [weights[depth] for depth in (1, 2, 3, 4)] == pytest.approx([one / sum(expected) for one in expected])


def test_layer_skip_section_4_1_exits_rotate_beside_the_last() -> None:
    recipe = recipes.layer_skip(sn.Space(depth=[1, 2, 3, 4]), exits=2)
    objective = recipe.stages[0].objective(network(recipe, partial(mlp, width=4)), 0, None)
    drawn = [[one["depth"] for one in objective.choose(6)[0]] for _ in range(4)]
    assert drawn == [[4, 1, 2], [4, 3, 1], [4, 2, 3], [4, 1, 2]]


def test_layer_skip_trains_every_exit_on_the_labels_of_the_whole_batch() -> None:
    recipe = recipes.layer_skip(sn.Space(depth=[1, 2, 3]), exits=2)
    net = network(recipe, partial(mlp, width=4))
    assert_terms(terms(recipe, net), {f"depth={one}": label_loss(net, f"depth={one}") for one in (1, 2, 3)})


@pytest.mark.parametrize("make", [recipes.layer_drop, recipes.layer_skip])
def test_layer_dropout_refuses_a_model_of_several_lists_of_blocks(make) -> None:
    recipe = make(SPACE)
    net = recipe.network(partial(PreResNet, stages=2))
    with pytest.raises(BuildError, match=r"needs one list of blocks.*has none\. Sort the depth of a model whose"):  # noqa: SIM117
        with recipe.stages[0].applied(net):
            pass


# --- distilled ------------------------------------------------------------------------------------------------------


def teacher() -> nn.Module:
    torch.manual_seed(5)
    return mlp(2, 4).double()


def test_once_for_all_section_3_3_starts_with_the_full_model_alone() -> None:
    recipe = recipes.once_for_all(SPACE)
    net = network(recipe)
    assert_terms(terms(recipe, net), {FULL: label_loss(net, FULL)})


@pytest.mark.parametrize(("stage", "draws", "drawn"), [(1, 2, {WIDE, FULL}), (2, 4, {SMALL, WIDE, DEEP, FULL})])
def test_once_for_all_section_3_3_shrinks_the_depth_first_and_then_the_width_too(stage, draws, drawn) -> None:
    recipe = recipes.once_for_all(SPACE)
    objective = recipe.stages[stage].objective(network(recipe), 0, teacher())
    chosen = [objective.choose(6) for _ in range(60)]
    assert {str(one) for settings, _ in chosen for one in settings} == drawn
    assert max(len(settings) for settings, _ in chosen) == draws
    assert all(sizes is None for _, sizes in chosen)


@pytest.mark.parametrize("stage", [1, 2])
def test_once_for_all_section_3_3_learns_from_the_labels_and_from_the_first_full_model(stage) -> None:
    recipe = recipes.once_for_all(SPACE)
    net = network(recipe)
    found = terms(recipe, net, stage, teacher())
    for setting, loss in by_setting(found).items():
        torch.testing.assert_close(loss, label_loss(net, setting) + followed(net, setting, teacher()))
    assert [term.weight for term in found] == [1] * len(found)


def test_once_for_all_orders_units_before_the_widths_shrink() -> None:
    prepared = [stage.prepare is not None for stage in recipes.once_for_all(SPACE).stages]
    assert prepared == [False, False, True]
    assert not any(stage.prepare for stage in recipes.once_for_all(SPACE, order=False).stages)


@pytest.mark.parametrize(
    ("stage", "settings", "labels"),
    [(0, [FULL], True), (1, [DEEP, FULL], False), (2, [SMALL, WIDE, DEEP, FULL], False), (3, list(SPACE), True)],
)
def test_dynabert_algorithm_1_stage_by_stage(stage, settings, labels) -> None:
    recipe = recipes.dynabert(SPACE, hidden=0)
    net = network(recipe)
    found = terms(recipe, net, stage, teacher())
    loss = label_loss if labels else partial(followed, teacher=teacher())
    assert_terms(found, {str(one): loss(net, str(one)) for one in settings})
    assert [term.weight for term in found] == [1] * len(found)


def test_dynabert_orders_units_by_importance_before_the_widths_shrink() -> None:
    recipe = recipes.dynabert(SPACE, hidden=0)
    assert [stage.prepare is not None for stage in recipe.stages] == [False, True, False, False]
    net, (x, y) = network(recipe), batch()
    before = net.full(x)
    recipe.stages[1].prepare(net, [(x, y)], functional.cross_entropy)
    found = sn.importance.score(net, [(x, y)], functional.cross_entropy)
    assert all(torch.equal(one.order, torch.arange(4)) for one in found)
    torch.testing.assert_close(net.full(x), before)


def test_dynabert_weighs_the_hidden_states_by_0_1_and_then_by_1() -> None:
    recipe, net = recipes.dynabert(SPACE), SimpleNamespace(full=SimpleNamespace(config=None))
    objectives = [stage.objective(net, 0, teacher()) for stage in recipe.stages[1:3]]
    assert [one.distillation.hidden for one in objectives] == [0.1, 1.0]
    assert [one.distillation.labels for one in objectives] == [0.0, 0.0]


def test_dynabert_of_a_model_without_hidden_states_is_refused_before_it_is_trained() -> None:
    recipe, net = recipes.dynabert(SPACE), SimpleNamespace(full=nn.Identity())
    with pytest.raises(ConfigError, match=r"hidden=0\.1 follows hidden states, which Identity does not return"):
        recipe.stages[1].objective(net, 0, None)


def test_dynabert_of_depths_alone_has_no_widths_to_shrink() -> None:
    with pytest.raises(ConfigError, match="sorts depth alone, and DynaBERT shrinks widths first"):
        recipes.dynabert(sn.Space(depth=[1, 2], width=[4]))


def test_once_for_all_of_depths_alone_has_no_units_to_order() -> None:
    with pytest.raises(ConfigError, match=r"sorts depth alone, whose blocks have no units to order\. Give order=False"):
        recipes.once_for_all(sn.Space(depth=[1, 2], width=[4]))
    assert len(recipes.once_for_all(sn.Space(depth=[1, 2]), order=False).stages) == 3


@pytest.mark.parametrize("make", [recipes.dynabert, recipes.once_for_all])
def test_one_sub_model_has_nothing_to_shrink(make) -> None:
    with pytest.raises(ConfigError, match="has one sub-model, and there is nothing to shrink"):
        make(sn.Space(depth=[2], width=[4]))


def test_sft_ict_starts_the_heads_from_the_tuned_one() -> None:
    recipe = recipes.sft_ict(sn.Space(depth=[1, 2]))
    net = recipe.network(partial(MLP, width=4, inputs=3, classes=2))
    with torch.no_grad():
        net.full.head.weight.fill_(7.0)
    prepare = recipe.stages[1].prepare
    assert prepare is not None
    prepare(net, [], functional.cross_entropy)
    assert torch.equal(net.extract(depth=1).head.weight, net.full.head.weight)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sorted", {"draws": "four"}, r"recipe_options\.draws='four' is of the wrong kind for sorted\. Give int"),
        ("sorted", {"draws": True}, r"draws=True is of the wrong kind"),
        ("sorted", {"largest": "yes"}, r"largest='yes' is of the wrong kind for sorted\. Give bool \| None"),
        ("sorted", {"accumulation": "avg"}, r"accumulation='avg' is of the wrong kind"),
        ("once_for_all", {"order": "no"}, r"order='no' is of the wrong kind for once_for_all\. Give bool"),
        ("lcs_l", {"lines": "norm.*"}, r"lines='norm\.\*' is of the wrong kind"),
        ("layer_drop", {"rate": "a"}, r"rate='a' is of the wrong kind for layer_drop\. Give float"),
    ],
)
def test_an_option_of_another_kind_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipes.recipe_of(name, SPACE, options)


def test_a_recipe_of_no_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="Give a Space, such as"):
        recipes.recipe_of("sorted", {"depth": [1, 2]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (recipes.sorted_(sn.Space(depth=[1, 2])), r"recipe sorted of Space\(depth=\[1, 2\]\)\. Make it by the recipe"),
        (recipes.extracted(SPACE), r"recipe extracted needs 'private' and \['\*'\]\. Make it by the recipe"),
        (recipes.lcs_l(SPACE, dimension="width", lines=["*.weight"]), r"holds MLP, recipe lcs_l a Line"),
    ],
    ids=["space", "private", "line"],
)
def test_a_network_of_another_recipe_is_refused(recipe: Recipe, message: str) -> None:
    net = sn.SortedNet(partial(MLP, inputs=3, classes=2), SPACE, buffers="shared")
    with pytest.raises(ConfigError, match=message):
        next(iter(recipe.parts(net, "unused")))


# --- the parts of a recipe ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total_updates", "expected"), [(4, [1, 1, 1, 1]), (7, [1, 1, 1, 4]), (100, [25, 25, 25, 25])])
def test_every_stage_has_its_share_of_the_updates_and_at_least_one(total_updates, expected) -> None:
    assert recipes.dynabert(SPACE).updates(total_updates) == expected


def test_a_short_stage_takes_its_update_from_the_longest() -> None:
    stages = [Stage(full_only(SPACE), share) for share in (0.9, 0.05, 0.05)]
    assert Recipe("three", SPACE, tuple(stages)).updates(3) == [1, 1, 1]


def test_fewer_updates_than_stages_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 updates are too few for the 4 stages of recipe dynabert\. Give more\."):
        recipes.dynabert(SPACE).updates(3)


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["body", "head"], "head.*"), (["head", "classifier"], "classifier.*"), (["fc", "lm_head"], "lm_head.*")],
)
def test_a_head_is_found_by_the_usual_names(names, expected) -> None:
    assert head_of(nn.ModuleDict({name: nn.Linear(1, 1) for name in names}), None) == expected


@pytest.mark.parametrize("head", [None, "nope.*"])
@pytest.mark.parametrize("make", [recipes.early_exit, recipes.sft_ict])
def test_a_head_that_is_not_there_is_refused(make, head) -> None:
    message = rf"head={head!r} matches no parameter\. The last of the model are \['1\.bias', .*such as head='classifier"
    with pytest.raises(ConfigError, match=message):
        make(sn.Space(width=[2, 4]), head=head).network(normed)


@pytest.mark.parametrize("make", [recipes.once_for_all, recipes.dynabert, recipes.layer_skip])
def test_a_space_without_a_depth_is_refused(make) -> None:
    with pytest.raises(ConfigError, match=r"depth=None is not the dimension.*the space has width\. Give depth='NAME'"):
        make(sn.Space(width=[2, 4]))


@pytest.mark.parametrize("make", [recipes.once_for_all, recipes.dynabert, recipes.layer_skip])
def test_a_depth_of_another_name_can_be_given(make) -> None:
    assert make(sn.Space(blocks=[1, 2], width=[2, 4]), depth="blocks").space.full["blocks"] == 2


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_of_the_heads_outside_its_range_is_refused(share) -> None:
    with pytest.raises(ConfigError, match=rf"heads_share={share} is outside \(0, 1\)\. Give a share"):
        recipes.sft_ict(SPACE, heads_share=share)


@pytest.mark.parametrize("options", [{"exits": 0}, {"exits": 4}, {"loss_scale": -1.0}])
def test_exits_or_a_scale_outside_their_range_are_refused(options) -> None:
    with pytest.raises(ConfigError, match=r"exits=\d must be from 1 to the 3 smaller sub-models, and loss_scale=.*0\."):
        recipes.layer_skip(SPACE, **options)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"recipe='slimable' is unknown\. Did you mean slimmable\? .*once_for_all\.",
    ):
        recipes.recipe_of("slimable", SPACE)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Recipe layer_drop takes no option rates, foo\. It takes rate\."):
        recipes.recipe_of("layer_drop", SPACE, {"rates": 1, "foo": 2})


def test_an_option_of_a_recipe_without_any_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Recipe slimmable takes no option space\. It takes none\."):
        recipes.recipe_of("slimmable", SPACE, {"space": SPACE})


def _digits() -> tuple[Tensor, Tensor]:
    x, y = batch(12)
    return x.float(), y
