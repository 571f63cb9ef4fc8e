"""`SortedNet`: threads, copies, types, several settings in one call, and when sub-models are built."""

import copy
import pickle
import threading
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from sortednet import SortedNet, Space, SubModel
from sortednet.errors import BuildError, CheckpointError, SettingError
from sortednet.models import MLP
from sortednet.network.loading import load
from sortednet.views.batches import call_with
from sortednet.views.examples import split_inputs

SPACE = Space(depth=[1, 2], width=[2, 4])
build = partial(MLP, inputs=3, classes=2)


def network(**options):
    torch.manual_seed(0)
    return SortedNet(build, SPACE, **options).double()


def data(size=5, seed=1):
    return torch.randn(size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class TwoInputs(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Linear(3, width), nn.Linear(3, width)

    def forward(self, x, y, scale=1.0):
        return (self.first(x) + self.second(y)) * scale


# --- at, forward ----------------------------------------------------------------------------------------------------


def test_a_sub_model_keeps_its_setting():
    net = network()
    one = net.at(depth=1, width=2)
    net.at(depth=2)(data())
    assert isinstance(one, SubModel)
    assert one.setting == {"depth": 1, "width": 2}
    assert torch.equal(one(data()), net.extract("depth=1,width=2")(data()))


@pytest.mark.parametrize("method", ["at", "submodel", "extract"])
def test_a_setting_outside_the_space_is_refused_everywhere(method):
    with pytest.raises(SettingError, match=r"depth=3 is outside its support \[1, 2\]"):
        getattr(network(), method)(depth=3)


def test_the_forward_refuses_a_setting_outside():
    with pytest.raises(SettingError, match=r"depth=3 is outside its support \[1, 2\]"):
        network()(data(), setting="depth=3,width=2")


def test_a_setting_and_settings_are_not_taken_together():
    with pytest.raises(SettingError, match=r"not both"):
        network()(data(), setting=SPACE[0], settings=[SPACE[1]])


def test_an_unknown_buffer_policy_is_refused():
    with pytest.raises(BuildError, match=r"buffers='mine' is no policy\. Choose 'shared', 'private' or 'reestimated'"):
        network(buffers="mine")


def test_several_settings_each_get_the_whole_batch():
    net = network()
    outputs = net(data(), settings=list(SPACE))
    assert all(torch.equal(out, net.at(one)(data())) for one, out in zip(SPACE, outputs, strict=True))


def test_a_float_that_equals_a_value_names_the_same_sub_model():
    space = Space(classes=[2, 3], width=[2, 4])
    net = SortedNet(lambda classes, width: MLP(1, int(width), inputs=3, classes=int(classes)), space, private="head.*")
    with torch.no_grad():
        net.private.find(space.smallest, "head.bias").fill_(100)
    x = torch.ones(1, 3)
    assert torch.equal(net.extract("classes=2.0,width=2")(x), net.extract("classes=2,width=2")(x))


# --- split batches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 5, 7, 3])
def test_split_batches_give_each_setting_its_own_part_of_a_tensor(size):
    net, settings = network(), [SPACE[0], SPACE[3], SPACE[1]]
    outputs = net(data(size), settings=settings, split=True)
    parts = data(size).tensor_split(3)
    assert [len(out) for out in outputs] == [len(part) for part in parts]
    for one, part, out in zip(settings, parts, outputs, strict=True):
        assert torch.equal(out, net.at(one)(part))


def test_split_batches_cut_positional_and_keyword_inputs_alike():
    torch.manual_seed(0)
    net = SortedNet(TwoInputs, Space(width=[2, 4])).double()
    x, y = data(5, 1), data(5, 2)
    by_position = net(x, y, 2.0, settings=["width=2", "width=4"], split=True)
    by_name = net(x=x, y=y, scale=2.0, settings=["width=2", "width=4"], split=True)
    for width, part, one, other in zip((2, 4), (slice(3), slice(3, 5)), by_position, by_name, strict=True):
        expected = net.at(width=width)(x[part], y[part], 2.0)
        assert torch.equal(one, expected)
        assert torch.equal(other, expected)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5])
def test_split_parts_differ_by_one_at_most_and_lose_nothing(parts):
    split = [args[0] for args, _ in split_inputs(((torch.arange(5),), {}), parts)]
    sizes = [len(part) for part in split]
    assert max(sizes) - min(sizes) <= 1
    assert torch.cat(split).tolist() == list(range(5))


def test_call_with_takes_a_tensor_a_tuple_or_a_mapping():
    def add(x, y=1):
        return x + y

    assert call_with(add, torch.tensor(1)) == 2
    assert call_with(add, (1, 2)) == 3
    assert call_with(add, {"x": 1, "y": 4}) == 5


# --- threads --------------------------------------------------------------------------------------------------------


def test_threads_at_two_settings_compute_each_correctly_and_gradients_add_up():
    net, settings = network(), [SPACE[0], SPACE[3]]
    expected = {one: net.extract(one)(data()) for one in settings}
    wrong, barrier = [], threading.Barrier(2)

    def work(one):
        barrier.wait()
        for _ in range(20):
            output = net.at(one)(data())
            if not torch.equal(output, expected[one]):
                wrong.append(one)
            output.square().sum().backward()

    threads = [threading.Thread(target=work, args=(one,)) for one in settings]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong
    together = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    net.zero_grad()
    for one in settings:
        (20 * net.at(one)(data()).square().sum()).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad)


def test_a_forward_elsewhere_between_forward_and_backward_changes_no_gradient():
    net = network()
    loss = net.at(width=2)(data()).square().sum()
    thread = threading.Thread(target=lambda: [net.at(one)(data(seed=9)) for one in SPACE])
    thread.start()
    thread.join()
    loss.backward()
    found = net.full.head.weight.grad.clone()
    net.zero_grad()
    net.at(width=2)(data()).square().sum().backward()
    assert torch.equal(found, net.full.head.weight.grad)


# --- copies and types -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_copy_of_a_used_network_is_equal_and_independent(again):
    net = network(private="head.*", buffers="reestimated")
    before = [net.at(one)(data()) for one in SPACE]
    other = again(net)
    with torch.no_grad():
        [parameter.add_(1) for parameter in net.parameters()]
    assert all(torch.equal(other.at(one)(data()), out) for one, out in zip(SPACE, before, strict=True))
    other(data()).sum().backward()
    assert net.full.head.weight.grad is None


def test_a_deepcopy_stays_compiled():
    net = network()
    net.compile(backend="eager")
    assert copy.deepcopy(net)._compilation == net._compilation


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_change_of_type_reaches_sub_models_that_were_used_before(dtype):
    net = network()
    [net.at(one)(data()) for one in SPACE]
    net.to(dtype)
    assert all(net.at(one)(data().to(dtype)).dtype == dtype for one in SPACE)
    assert net.submodel(width=2).head.weight.dtype == dtype


def test_the_state_dict_holds_the_full_model_only():
    net = network()
    [net.at(one)(data()) for one in SPACE]
    assert set(net.state_dict()) == {f"full.{name}" for name in net.full.state_dict()}
    assert len(list(net.parameters())) == len(list(net.full.parameters()))


def test_the_state_dict_of_a_reestimated_network_loads_into_a_new_one():
    def norms(width):
        return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))

    net, other = (SortedNet(norms, Space(width=[2, 4]), buffers="reestimated") for _ in range(2))
    net.reestimate([torch.randn(4, 3)])
    copied = copy.deepcopy(other)
    for one in (other, copied):
        one.load_state_dict(net.state_dict())
        assert one.private.tensors().keys() == net.private.tensors().keys()


# --- inference ------------------------------------------------------------------------------------------------------


def test_a_sub_model_for_inference_refuses_training():
    module = network().submodel(width=2)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    with pytest.raises(RuntimeError, match="does not require grad"):
        module(data()).sum().backward()


def test_a_sub_model_for_inference_leaves_the_gradients_of_the_network_alone():
    net = network()
    module = net.submodel(width=2)
    module.requires_grad_(True)
    module(data()).sum().backward()
    assert all(parameter.grad is None for parameter in net.parameters())


def test_changing_the_type_of_a_sub_model_leaves_the_network_as_it_is():
    net = network()
    before = net(data())
    net.submodel().float()
    assert torch.equal(net(data()), before)


# --- when sub-models are built --------------------------------------------------------------------------------------


def test_nothing_is_built_until_used_in_a_large_space():
    calls = []

    def counted(depth, width):
        calls.append((depth, width))
        return nn.Linear(depth, width)

    net = SortedNet(counted, Space(depth=range(1, 13), width=range(1, 769)))
    assert sorted(calls) == [(1, 1), (12, 768), (12, 768)]
    sub = net.at(depth=3, width=5)
    repr(net), len(net.space), net.state_dict()
    assert len(calls) == 3
    sub(torch.ones(1, 3))
    sub(torch.ones(1, 3))
    # On the first inputs those that stand for all run once, to tell where the tensors of every sub-model lie.
    assert calls[3:] == [(12, 768), (1, 1), (1, 768), (12, 1), (3, 5)]


def test_a_given_model_is_not_built_again():
    calls = []

    def counted(width):
        calls.append(width)
        return nn.Linear(3, width)

    model = nn.Linear(3, 4)
    net = SortedNet(counted, Space(width=[2, 4]), model=model)
    assert net.full is model
    assert sorted(calls) == [2, 4]  # two skeletons


# --- compilation ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


quiet = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(3, width), nn.Linear(width, 3)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Blocks(nn.Module):
    def __init__(self, depth, width):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def compiled(build):
    """Return a network, the graphs it has traced so far, and its plain outputs and gradient."""
    from torch._dynamo.testing import CompileCounter

    torch.manual_seed(0)
    net = SortedNet(build, Space(depth=[1, 2, 3], width=[4, 6, 8, 10, 12, 14])).double()
    plain = [net.at(one)(data()) for one in net.space]
    torch.stack([out.square().sum() for out in plain]).sum().backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    net.zero_grad()
    counter = CompileCounter()
    net.compile(backend=counter)
    return net, counter, plain, gradients


@quiet
@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_sub_models_give_equal_outputs_at_all_settings():
    net, counter, plain, _ = compiled(Blocks)
    assert all(torch.equal(net.at(one)(data()), out) for one, out in zip(net.space, plain, strict=True))
    assert counter.frame_count > 0


@quiet
@pytest.mark.usefixtures("fresh_dynamo")
def test_compilation_takes_few_graphs_for_many_settings():
    net, counter, _, _ = compiled(Blocks)
    for one in net.space:
        net.at(one)(data())
    assert 1 <= counter.frame_count <= 4


@quiet
@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_gradients_equal_plain_ones():
    net, _, _, gradients = compiled(Blocks)
    torch.stack([net.at(one)(data()).square().sum() for one in net.space]).sum().backward()
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_training_warns_of_nothing():
    net, _, _, _ = compiled(Blocks)
    net(data())


@pytest.mark.usefixtures("fresh_dynamo")
def test_a_frozen_sub_model_is_not_compiled():
    net, counter, _, _ = compiled(Blocks)
    net.submodel(depth=1)(data())
    net.extract(depth=1)(data())
    assert counter.frame_count == 0


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("build", [build, lambda depth, width: nn.Sequential(nn.Linear(3, width), nn.ReLU())])
def test_blocks_that_are_torchs_own_layers_are_compiled_too(build):
    net, counter, _, _ = compiled(build)
    net(data())
    assert counter.frame_count > 0


# --- buffers that a module assigns ----------------------------------------------------------------------------------


def test_a_persistent_buffer_that_is_assigned_reaches_the_full_model():
    class Averaged(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.linear = nn.Linear(3, width)
            self.register_buffer("mean", torch.zeros(width))

        def forward(self, x: Tensor) -> Tensor:
            output = self.linear(x)
            self.mean = 0.9 * self.mean + 0.1 * output.detach().mean(0)
            return output

    net = SortedNet(Averaged, Space(width=[2, 4]))
    net(torch.ones(4, 3))
    assert net.full.mean.any()


def test_loading_without_a_builder_is_refused(tmp_path):
    network().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"needs its builder: sn\.load\(path, build=build\)"):
        load(tmp_path)


# --- large spaces -----------------------------------------------------------------------------------------------------


def test_no_more_skeletons_are_held_than_fit(monkeypatch):
    net = SortedNet(lambda width: nn.Linear(3, width), Space(width=range(1, 21)))
    monkeypatch.setattr(type(net._skeletons), "most", 4)
    outputs = {setting: net.at(setting)(torch.ones(2, 3)) for setting in net.space}
    assert len(net._skeletons) == 4
    assert all(torch.equal(net.at(setting)(torch.ones(2, 3)), output) for setting, output in outputs.items())


def test_gradients_reach_sub_models_whose_skeletons_are_gone(monkeypatch):
    net = SortedNet(lambda width: nn.Linear(3, width), Space(width=range(1, 9)))
    monkeypatch.setattr(type(net._skeletons), "most", 2)
    torch.stack([net.at(setting)(torch.ones(1, 3)).sum() for setting in net.space]).sum().backward()
    assert net.full.bias.grad.tolist() == [8, 7, 6, 5, 4, 3, 2, 1]


def test_threads_that_build_slowly_do_not_disturb_each_other():
    class Slow(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    net = SortedNet(Slow, Space(depth=range(1, 41)))
    failures = []

    def work(first):
        try:
            for depth in range(first, 41, 4):
                net.extract(depth=depth)
                net.submodel(depth=depth)
                nn.Linear(2, 2)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
