"""The invariants of a sub-model, over every family."""

import copy

import pytest
import torch
from torch import Tensor, nn

from sortednet import Setting, SortedNet
from sortednet.huggingface.families import FAMILIES

from .adapter_cases import ADAPTERS, QUIET, AdapterCase
from .cases import CASES, Case
from .pretrained_cases import PRETRAINED, PretrainedCase

pytestmark = QUIET

AnyCase = Case | PretrainedCase | AdapterCase
ALL: list[AnyCase] = [*CASES, *PRETRAINED, *ADAPTERS]
each_case = pytest.mark.parametrize("case", ALL, ids=[case.name for case in ALL])


def outputs_equal(one: Tensor, other: Tensor, tolerance: float) -> bool:
    tolerance = max(tolerance, 0 if one.device.type == "cpu" else 1e-5)
    return torch.equal(one, other) if tolerance == 0 else torch.allclose(one, other, rtol=0, atol=tolerance)


def corner_mask(net: SortedNet, setting: Setting) -> dict[str, Tensor]:
    """Mark, in every parameter of the full model, what a sub-model covers."""
    held = dict(net.full.named_parameters(remove_duplicate=False))
    masks = {id(parameter): torch.zeros_like(parameter, dtype=torch.bool) for parameter in held.values()}
    for name, cut in net.skeleton(setting).slots():
        cut.mark(masks[id(held[name])], True)
    return {name: masks[id(parameter)] for name, parameter in net.full.named_parameters()}


@each_case
def test_invariant_1_full_setting_is_the_original_model(case: AnyCase) -> None:
    net = case.net().eval()
    original = case.original()
    original.load_state_dict(net.full.state_dict())
    assert torch.equal(case.run(net), case.run(original))


@each_case
def test_invariant_2_sub_model_equals_extracted_model(case: AnyCase) -> None:
    net = case.net().eval()
    for setting in case.chosen():
        extracted = net.extract(setting)
        assert outputs_equal(case.run(net.at(setting)), case.run(extracted), case.tolerance)


@each_case
def test_invariant_2_in_bfloat16_to_its_rounding(case: AnyCase) -> None:
    net = case.net().float().eval()
    with torch.autocast("cpu", torch.bfloat16):
        for setting in case.chosen():
            ours, theirs = case.run(net.at(setting)).float(), case.run(net.extract(setting)).float()
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2**-6 * float(theirs.detach().abs().max() + 1))


@each_case
def test_invariant_2_in_training_mode_statistics_included(case: AnyCase) -> None:
    net = case.net()
    for setting in case.chosen():
        extracted = net.extract(setting)
        torch.manual_seed(3)  # for dropout
        output = case.run(net.at(setting))
        torch.manual_seed(3)
        assert outputs_equal(output, case.run(extracted), case.tolerance)
        theirs = dict(net.skeleton(setting).module.named_buffers())
        assert all(torch.equal(theirs[name], buffer) for name, buffer in extracted.named_buffers())


@each_case
def test_invariant_2_extracted_model_is_independent(case: AnyCase) -> None:
    net = case.net().eval()
    setting = case.chosen()[0]
    before = case.run(net.at(setting))
    extracted = net.extract(setting)
    with torch.no_grad():
        for parameter in extracted.parameters():
            parameter.add_(1)
    assert torch.equal(case.run(net.at(setting)), before)


@each_case
def test_invariant_3_sub_model_equals_full_model_with_dropped_units_zeroed(case: AnyCase) -> None:
    net = case.net().eval()
    if not case.zeroed():
        pytest.skip("a norm over the dropped units makes zeroing another function")
    for setting in case.zeroed():
        zeroed = copy.deepcopy(net.full)
        masks = corner_mask(net, setting)
        with torch.no_grad():
            for name, parameter in zeroed.named_parameters():
                parameter.mul_(masks[name])
        torch.testing.assert_close(case.run(net.at(setting)), case.run(zeroed), rtol=0, atol=1e-5)


@each_case
def test_invariant_4_gradient_is_zero_outside_the_corner_and_the_extracted_models_inside(
    case: AnyCase,
) -> None:
    net = case.net().eval()
    for setting in case.chosen():
        net.zero_grad()
        extracted = net.extract(setting)
        case.run(net.at(setting)).square().sum().backward()
        case.run(extracted).square().sum().backward()
        masks = corner_mask(net, setting)
        inside = dict(extracted.named_parameters())
        cuts = dict(net.skeleton(setting).slots())
        for name, parameter in net.full.named_parameters():
            if name not in inside or not parameter.requires_grad:  # of a model with an adapter most are frozen
                assert parameter.grad is None
                continue
            assert parameter.grad is not None
            assert not parameter.grad[~masks[name]].any()
            expected = inside[name].grad
            rounding = 1e-5 * max(1.0, float(expected.abs().max()))  # sums of large terms may leave a small gradient
            torch.testing.assert_close(cuts[name].of(parameter.grad), expected, rtol=1e-4, atol=rounding)


@each_case
def test_invariant_7_saved_weights_load_into_the_plain_model(case: AnyCase, tmp_path) -> None:
    net = case.net().eval()
    net.save_pretrained(tmp_path)
    assert outputs_equal(case.run(case.opened(tmp_path)), case.run(net), case.opened_tolerance)


@each_case
def test_invariant_8_a_sub_model_in_inference_shares_the_full_models_storage(case: AnyCase) -> None:
    net = case.net().eval()
    storages = {p.untyped_storage().data_ptr() for p in net.full.parameters()}
    for setting in case.chosen():
        module = net.submodel(setting)
        assert all(p.untyped_storage().data_ptr() in storages for p in module.parameters())
        with torch.inference_mode():  # torch's own layers take another kernel where no gradient is asked for
            assert outputs_equal(case.run(module), case.run(net.extract(setting)), case.tolerance)
        assert all(p.untyped_storage().data_ptr() in storages for p in module.parameters())


@each_case
def test_invariant_8_an_inference_sub_model_follows_further_training(case: AnyCase) -> None:
    net = case.net().eval()
    module = net.submodel(case.chosen()[0])
    with torch.no_grad():
        for parameter in net.full.parameters():
            parameter.mul_(0.5)
    with torch.inference_mode():
        assert outputs_equal(case.run(module), case.run(net.extract(case.chosen()[0])), case.tolerance)


@each_case
def test_invariant_9_using_sub_models_in_any_order_changes_none(case: AnyCase) -> None:
    net = case.net().eval()
    first = {setting: case.run(net.at(setting)) for setting in case.chosen()}
    losses = [case.run(net.at(setting)).sum() for setting in reversed(case.chosen())]
    torch.stack(losses).sum().backward()
    net.submodel(case.chosen()[0])
    assert all(torch.equal(case.run(net.at(setting)), output) for setting, output in first.items())


@each_case
def test_invariant_9_building_and_running_leaves_the_callers_random_numbers_alone(case: AnyCase) -> None:
    net = case.net().eval()
    state = torch.get_rng_state()
    for setting in case.chosen():
        case.run(net.at(setting))
        net.submodel(setting)
        net.extract(setting)
    assert torch.equal(torch.get_rng_state(), state)


@each_case
def test_a_saved_network_loads_whole_and_in_part(case: AnyCase, tmp_path) -> None:
    net = case.net().eval()
    net.save_pretrained(tmp_path)
    again = case.loaded(tmp_path)
    assert again.space == net.space
    for setting in case.chosen():
        corner = case.loaded(tmp_path, setting)
        assert torch.equal(case.run(corner), case.run(net.extract(setting)))
        assert torch.equal(case.run(again.at(setting)), case.run(net.at(setting)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_invariant_9_activation_checkpointing_recomputes_the_same_sub_model(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self, depth: int, width: int) -> None:
            super().__init__()
            self.first = nn.Linear(4, 6)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 6)) for _ in range(depth)
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            for block in self.blocks:
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant)
            return x

    from sortednet import Space

    torch.manual_seed(0)
    net = SortedNet(Checkpointed, Space(depth=[1, 2], width=[3, 5])).double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    extracted = {setting: net.extract(setting) for setting in net.space}
    loss = torch.stack([net.at(setting)(x).square().sum() for setting in net.space]).sum()
    net.submodel(depth=1)(x)
    loss.backward()
    for model in extracted.values():
        model(x).square().sum().backward()
    expected = torch.zeros_like(net.full.blocks[0][0].weight)
    for setting, model in extracted.items():
        expected[: setting["width"]] += model.blocks[0][0].weight.grad
    torch.testing.assert_close(net.full.blocks[0][0].weight.grad, expected)


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({case.name for case in ALL}) == len(ALL)


def test_every_pretrained_case_belongs_to_a_family_and_every_family_has_one() -> None:
    alone = {"deberta-v2"}  # of its pooler and what its classifier reads alone: test_families.py
    assert {case.make_config().model_type for case in PRETRAINED} == set(FAMILIES) - alone
    assert all(case.name == case.family or case.name.startswith(f"{case.family}_") for case in PRETRAINED)
