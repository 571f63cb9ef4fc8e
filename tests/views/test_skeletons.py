"""Skeletons: what a builder may do, what is made without memory, and which tensors stay tied or frozen."""

import threading

import pytest
import torch
from torch import nn

from sortednet import SortedNet, Space
from sortednet.errors import BuildError
from sortednet.models import MLP
from sortednet.views.cuts import Cuts
from sortednet.views.outlines import outline
from sortednet.views.skeletons import build_skeleton

from ..contracts.cases import Tied

SPACE = Space(width=[2, 4])


def mlp(depth=2, width=4):
    return MLP(depth, width, inputs=3, classes=2)


class Scaled(nn.Module):
    """Holds non-persistent buffers that depend on the width."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(3, width)
        self.head = nn.Linear(width, 2)
        self.register_buffer("scale", torch.full((width,), width**-0.5), persistent=False)
        self.register_buffer("order", torch.arange(width), persistent=False)

    def forward(self, x):
        return self.head(self.first(x) * self.scale + self.order)


# --- builder errors -------------------------------------------------------------------------------------------------


def test_a_builder_that_raises_is_named_with_its_arguments_and_its_error():
    def build(width):
        if width < 4:
            raise RuntimeError("too narrow")
        return nn.Linear(3, width)

    with pytest.raises(
        BuildError, match=r"build\(width=2\) failed with RuntimeError: too narrow\. Every value"
    ) as found:
        SortedNet(build, SPACE)
    assert isinstance(found.value.__cause__, RuntimeError)


def test_a_builder_without_the_dimension_as_argument_is_refused():
    with pytest.raises(BuildError, match=r"build\(width=4\) failed with TypeError.*takes as a keyword argument"):
        SortedNet(lambda hidden: nn.Linear(3, hidden), SPACE)


@pytest.mark.parametrize(("value", "kind"), [(None, "NoneType"), ("net", "str"), (nn.Linear, "type")])
def test_a_builder_that_returns_no_module_is_refused(value, kind):
    with pytest.raises(BuildError, match=rf"build\(\.\.\.\) at width=4 returned {kind}\. Return a torch\.nn\.Module"):
        SortedNet(lambda width: value, SPACE)


def test_a_sub_model_with_a_parameter_that_the_full_one_lacks_is_refused():
    with pytest.raises(BuildError, match=r"At width=2: bias of the sub-model has no counterpart in the full model"):
        SortedNet(lambda width: nn.Linear(3, width, bias=width == 2), SPACE)


def test_a_sub_model_with_a_larger_parameter_is_refused():
    with pytest.raises(BuildError, match=r"At width=2: weight has shape \(6, 3\) in the sub-model and \(4, 3\) in the"):
        SortedNet(lambda width: nn.Linear(3, {2: 6, 4: 4}[width]), SPACE)


def test_a_sub_model_with_a_parameter_of_another_rank_is_refused():
    def build(width):
        return nn.Linear(3, 4) if width == 4 else nn.Conv1d(3, 2, 1)

    with pytest.raises(
        BuildError, match=r"weight has shape \(2, 3, 1\) .* must have as many axes and be nowhere larger"
    ):
        SortedNet(build, SPACE)


def test_lazy_modules_are_refused():
    with pytest.raises(
        BuildError, match=r"The builder makes lazy modules, whose sizes are not known\. Give every layer"
    ):
        SortedNet(lambda width: nn.LazyLinear(width), SPACE)


def test_a_sub_model_that_is_used_later_is_checked_later():
    net = SortedNet(lambda width: nn.Linear(3, {2: 2, 3: 9, 4: 4}[width]), Space(width=[2, 3, 4]))
    with pytest.raises(BuildError, match=r"At width=3: weight has shape \(9, 3\)"):
        net.at(width=3)(torch.ones(1, 3))


def test_a_failed_build_leaves_parameters_of_later_modules_real():
    def build(width):
        raise ValueError("no")

    with pytest.raises(BuildError, match="no"):
        outline(build, SPACE.full)
    assert not nn.Linear(2, 2).weight.is_meta


def test_a_builder_that_reuses_a_module_is_refused():
    backbone = nn.Linear(3, 4)

    def build(width):
        return nn.Sequential(backbone, nn.Linear(4, width))

    with pytest.raises(BuildError, match="new"):
        SortedNet(build, SPACE)(torch.ones(1, 3))


def test_a_given_model_larger_than_the_full_setting_is_refused():
    with pytest.raises(BuildError, match="full"):
        SortedNet(mlp, Space(depth=[1, 2], width=[2, 4]), model=mlp(depth=3, width=8))


def test_a_replaced_module_of_the_full_model_is_noticed():
    net = SortedNet(mlp, SPACE)
    net.full.head = nn.Linear(4, 2)
    x = torch.ones(1, 3)
    try:
        output = net(x)
    except BuildError:
        return
    assert torch.equal(output, net.full(x))


# --- without memory -------------------------------------------------------------------------------------------------


def test_the_parameters_of_an_outline_take_no_memory():
    module = outline(mlp, Space(depth=[1, 2], width=[2, 4]).full)
    assert all(parameter.is_meta for parameter in module.parameters())


def test_the_buffers_of_an_outline_are_real():
    module = outline(Scaled, SPACE.smallest)
    assert module.scale.tolist() == pytest.approx([2**-0.5] * 2)
    assert not module.order.is_meta


def test_a_bound_skeleton_holds_views_only():
    net = SortedNet(mlp, SPACE)
    skeleton = net.skeleton(SPACE.smallest)
    skeleton.bind(net.private)
    storages = {parameter.untyped_storage().data_ptr() for parameter in net.full.parameters()}
    bound = [slot.module._parameters[slot.name] for slot in skeleton.parameters]
    assert bound
    assert all(view.untyped_storage().data_ptr() in storages for view in bound)


def test_other_threads_build_real_parameters_while_a_skeleton_is_built():
    found = []

    def build(width):
        thread = threading.Thread(target=lambda: found.append(nn.Linear(2, 2).weight.is_meta))
        thread.start()
        thread.join()
        return nn.Linear(3, width)

    assert outline(build, SPACE.smallest).weight.is_meta
    assert found
    assert not any(found)


def test_building_twice_gives_the_same_slots():
    full = mlp()
    first, second = (build_skeleton(mlp, SPACE.smallest, full, Cuts(mlp, SPACE)) for _ in range(2))
    assert list(first.slots()) == list(second.slots())


# --- tied parameters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["extract", "submodel"])
@pytest.mark.parametrize("width", [2, 4])
def test_tied_parameters_stay_tied(make, width):
    module = getattr(SortedNet(Tied, SPACE), make)(width=width)
    assert module.embed.weight is module.head.weight
    assert module.embed.weight.shape == (7, width)


def test_gradients_of_tied_parameters_add_up():
    torch.manual_seed(0)
    net = SortedNet(Tied, SPACE).double()
    ids = torch.tensor([0, 3, 5])
    extracted = net.extract(width=2)
    net.at(width=2)(ids).square().sum().backward()
    extracted(ids).square().sum().backward()
    torch.testing.assert_close(net.full.embed.weight.grad[:, :2], extracted.embed.weight.grad)


def test_a_parameter_registered_twice_stays_tied():
    class Twice(nn.Module):
        def __init__(self, width):
            super().__init__()
            weight = nn.Parameter(torch.ones(width))
            self.one, self.other = weight, weight

    module = SortedNet(Twice, SPACE).extract(width=2)
    assert module.one is module.other


# --- frozen parameters and training flags ---------------------------------------------------------------------------


def test_a_frozen_parameter_of_the_full_model_gets_no_gradient():
    net = SortedNet(mlp, SPACE)
    net.full.hidden[0].weight.requires_grad_(False)
    for one in SPACE:
        net.at(one)(torch.ones(2, 3)).sum().backward()
    assert net.full.hidden[0].weight.grad is None
    assert net.full.head.weight.grad is not None


def test_a_parameter_frozen_after_use_and_thawed_again_is_followed():
    net = SortedNet(mlp, SPACE)
    net.at(width=2)(torch.ones(2, 3))
    net.full.requires_grad_(False)
    assert not net.at(width=2)(torch.ones(2, 3)).requires_grad
    net.full.requires_grad_(True)
    assert net.at(width=2)(torch.ones(2, 3)).requires_grad


def test_an_extracted_model_keeps_what_is_frozen():
    net = SortedNet(mlp, SPACE)
    net.full.head.weight.requires_grad_(False)
    extracted = net.extract(width=2)
    assert not extracted.head.weight.requires_grad
    assert extracted.head.bias.requires_grad


class Norms(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.first(x))))


def test_the_training_flags_of_single_modules_are_followed():
    net = SortedNet(Norms, SPACE)
    net.full.norm.eval()
    for _ in range(2):
        net.at(width=2)(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
        module = net.skeleton(SPACE.smallest).module
        assert (module.training, module.norm.training, module.drop.training) == (True, False, True)
        assert net.full.norm.num_batches_tracked == 0
    net.eval()
    net.at(width=2)(torch.ones(4, 3))
    assert not any(one.training for one in net.skeleton(SPACE.smallest).module.modules())
    extracted = net.train().extract(width=2)
    assert extracted.norm.training


# --- non-persistent buffers -----------------------------------------------------------------------------------------


def test_non_persistent_buffers_are_recomputed_at_the_sub_model_s_size():
    net = SortedNet(Scaled, SPACE)
    x = torch.ones(1, 3)
    for module in (net.extract(width=2), net.submodel(width=2)):
        assert module.scale.tolist() == pytest.approx([2**-0.5] * 2)
        torch.testing.assert_close(module(x), net.at(width=2)(x), check_stride=False)


def test_non_persistent_buffers_take_the_full_model_s_type_and_integers_keep_theirs():
    net = SortedNet(Scaled, SPACE)
    net.at(width=2)(torch.ones(1, 3))
    net.double()
    assert net.at(width=2)(torch.ones(1, 3, dtype=torch.float64)).dtype == torch.float64
    module = net.extract(width=2)
    assert module.scale.dtype == torch.float64
    assert module.order.dtype == torch.int64


def test_non_persistent_buffers_do_not_alias_the_full_model_s():
    net = SortedNet(Scaled, SPACE)
    assert net.extract(width=4).scale.data_ptr() != net.full.scale.data_ptr()


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("widths", [[4, 8], [8]])
def test_sparse_gradients_which_no_view_can_take_are_refused_in_words(kind, widths) -> None:
    def build(width: int) -> nn.Module:
        return nn.Sequential(kind(5, width, sparse=True), nn.Linear(width, 2))

    with pytest.raises(BuildError, match=r"0 makes sparse gradients.*sparse=False"):
        SortedNet(build, Space(width=widths))(torch.tensor([[1, 2]]))
