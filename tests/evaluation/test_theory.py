"""The papers' theory, held against problems whose answer is known."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from sortednet import SortedNet, Space
from sortednet.errors import BuildError, ConfigError
from sortednet.evaluation.theory import curvature, distance_bound, gradient_gap, loss_bound, parameter_distance


class Line(nn.Module):
    """A linear model of the first `width` features; its squared loss is a quadratic."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, dtype=torch.float64))

    def forward(self, x):
        return x[:, : len(self.weight)] @ self.weight


class Quadratic(nn.Module):
    """w' H w / 2 for a given H, so that the Hessian is H."""

    def __init__(self, hessian):
        super().__init__()
        self.register_buffer("hessian", torch.tensor(hessian, dtype=torch.float64))
        self.weight = nn.Parameter(torch.ones(len(hessian), dtype=torch.float64))

    def forward(self, _):
        return self.weight @ self.hessian @ self.weight / 2


def take(output, _):
    return output


def generator():
    return torch.Generator().manual_seed(0)


def squares(count=32):
    random = generator()
    x = torch.randn(count, 4, generator=random, dtype=torch.float64)
    return x, torch.randn(count, generator=random, dtype=torch.float64)


@pytest.fixture
def net():
    return SortedNet(Line, Space(width=[2, 4]))


def half_squares(output, targets):
    return functional.mse_loss(output, targets) / 2


def test_distance_to_an_extracted_copy_is_zero(net):
    assert parameter_distance(net, "width=2", net.extract(width=2)) == 0


def test_distance_is_the_l2_norm_of_the_difference(net):
    other = Line(2)
    other.weight.data = torch.tensor([3.0, -4.0], dtype=torch.float64)
    assert parameter_distance(net, "width=2", other) == 5


def test_relative_distance_is_divided_by_the_other_networks_norm(net):
    net.full.weight.data = torch.tensor([6.0, 0.0, 9.0, 9.0], dtype=torch.float64)
    other = Line(2)
    other.weight.data = torch.tensor([3.0, -4.0], dtype=torch.float64)
    assert parameter_distance(net, "width=2", other, relative=True) == 1


def test_relative_distance_to_zero_is_refused(net):
    with pytest.raises(ConfigError, match="All parameters of the other network are 0"):
        parameter_distance(net, "width=2", Line(2), relative=True)


def test_distance_leaves_out_what_the_sub_model_has_for_itself():
    net = SortedNet(lambda width: nn.Linear(3, width), Space(width=[2, 4]), private="bias")
    other = net.extract(width=2)
    nn.init.constant_(other.bias, 100.0)
    assert parameter_distance(net, "width=2", other) == 0


def test_distance_counts_a_tied_parameter_once():
    def build(width):
        model = nn.Sequential(nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False))
        model[1].weight = model[0].weight
        return model

    net = SortedNet(build, Space(width=[1, 2]))
    other = net.extract(width=1)
    other[0].weight.data += 3
    assert parameter_distance(net, "width=1", other) == pytest.approx(3)


def test_distance_to_a_network_of_another_size_is_refused(net):
    with pytest.raises(BuildError, match=r"\['weight'\] are missing or of another shape .*net\.extract"):
        parameter_distance(net, "width=2", Line(4))


def test_equation_b4_distance_bound_by_hand():
    assert distance_bound(2.0, learning_rate=0.1, curvature=5.0, gradient_gap=3.0) == pytest.approx(3.3)


def test_equation_b5_distance_bound_without_a_gradient_gap():
    assert distance_bound(2.0, learning_rate=0.1, curvature=5.0) == pytest.approx(3.0)


@pytest.mark.parametrize("same_data", [True, False])
def test_equation_b4_bound_holds_along_gradient_descent(net, same_data):
    x, y = squares()
    ours, theirs = ((x, y), (x, y)) if same_data else ((x[:16], y[:16]), (x[16:], y[16:]))
    other, learning_rate = Line(2), 0.1
    nn.init.ones_(other.weight)
    lipschitz = max(
        curvature(other, batch, half_squares, iterations=500, tolerance=1e-9, generator=generator())
        for batch in (ours, theirs)
    )
    for _ in range(50):
        before = parameter_distance(net, "width=2", other)
        half_squares(net.at(width=2)(ours[0]), ours[1]).backward()
        half_squares(other(theirs[0]), theirs[1]).backward()
        # C: the gradients of both losses at the same parameters.
        at_ours = [net.full.weight.detach()[:2].clone().requires_grad_() for _ in range(2)]
        slopes = [
            torch.autograd.grad(half_squares(data[0][:, :2] @ w, data[1]), w)[0]
            for w, data in zip(at_ours, (ours, theirs), strict=True)
        ]
        gap = float(torch.linalg.vector_norm(slopes[0] - slopes[1]))
        for weight in (net.full.weight, other.weight):
            weight.data -= learning_rate * weight.grad
            weight.grad = None
        after = parameter_distance(net, "width=2", other)
        assert after <= distance_bound(before, learning_rate, lipschitz, gap) * (1 + 1e-9)


def test_equation_b4_step_moves_the_distance_by_no_more_than_eta_times_the_gradient_gap(net):
    x, y = squares()
    other, learning_rate = Line(2), 0.1
    nn.init.ones_(other.weight)
    for _ in range(50):
        before = parameter_distance(net, "width=2", other)
        gap = gradient_gap(net, "width=2", other, (x, y), half_squares)
        half_squares(net.at(width=2)(x), y).backward()
        half_squares(other(x), y).backward()
        for weight in (net.full.weight, other.weight):
            weight.data -= learning_rate * weight.grad
            weight.grad = None
        assert parameter_distance(net, "width=2", other) <= before + learning_rate * gap + 1e-12


@pytest.mark.parametrize("name", ["previous", "learning_rate", "curvature", "gradient_gap"])
def test_distance_bound_refuses_negative_values(name):
    values = {"previous": 1.0, "learning_rate": 1.0, "curvature": 1.0, "gradient_gap": 1.0, name: -1.0}
    with pytest.raises(ConfigError, match=rf"{name}=-1\.0 is not at least 0"):
        distance_bound(**values)


def test_gradient_gap_of_an_extracted_copy_is_zero(net):
    assert gradient_gap(net, "width=2", net.extract(width=2), squares(), half_squares) == 0


def test_gradient_gap_of_a_quadratic_is_the_hessian_times_the_difference(net):
    x, y = squares()
    other = Line(2)
    other.weight.data = torch.tensor([3.0, -4.0], dtype=torch.float64)
    expected = (x[:, :2].T @ x[:, :2] / len(x)) @ other.weight.detach()
    gap = gradient_gap(net, "width=2", other, (x, y), half_squares)
    assert gap == pytest.approx(float(torch.linalg.vector_norm(expected)))


def test_gradient_gap_drops_the_same_units_in_both():
    torch.manual_seed(0)
    net = SortedNet(lambda width: nn.Sequential(nn.Linear(3, width), nn.Dropout()), Space(width=[2, 4]))
    batch = torch.ones(64, 3), torch.zeros(64, 2)
    assert gradient_gap(net, "width=2", net.extract(width=2), batch, functional.mse_loss) == 0


def test_gradient_gap_changes_no_gradient_statistic_or_random_state():
    torch.manual_seed(0)

    def build(width):
        return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout())

    net = SortedNet(build, Space(width=[2, 4]))
    other, random = net.extract(width=2), torch.get_rng_state()
    gradient_gap(net, "width=2", other, (torch.randn(8, 3, generator=generator()), torch.zeros(8, 2)), nn.MSELoss())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(one.grad is None for one in (*net.parameters(), *other.parameters()))
    assert other[1].num_batches_tracked == net.full[1].num_batches_tracked == 0


def test_curvature_of_a_quadratic_is_its_largest_eigenvalue():
    hessian = [[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 1.5]]  # eigenvalues 3, 1.5, 1
    found = curvature(Quadratic(hessian), (0, 0), take, iterations=200, tolerance=1e-12, generator=generator())
    assert found == pytest.approx(3.0, abs=1e-9)


def test_curvature_of_a_saddle_is_the_largest_absolute_eigenvalue():
    found = curvature(Quadratic([[1.0, 0.0], [0.0, -4.0]]), (0, 0), take, tolerance=1e-12, generator=generator())
    assert found == pytest.approx(4.0, abs=1e-9)


def test_curvature_is_found_between_opposite_eigenvalues():
    found = curvature(Quadratic([[2.0, 0.0], [0.0, -2.0]]), (0, 0), take, generator=generator())
    assert found == pytest.approx(2.0)


def test_curvature_of_a_line_is_zero():
    def linear(output, _):
        return output.sum()

    assert curvature(Line(2), squares(), linear, generator=generator()) == 0


def test_curvature_runs_over_all_parameters_together():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x, y = squares()
    batch = x[:, :2], y[:, None]
    names = list(dict(module.named_parameters()))

    def loss(*values):
        return functional.mse_loss(
            torch.func.functional_call(module, dict(zip(names, values, strict=True)), (batch[0],)), batch[1]
        )

    values = tuple(module.parameters())
    blocks = torch.autograd.functional.hessian(loss, values)
    rows = [
        torch.cat([block.reshape(value.numel(), -1) for block in row], 1)
        for row, value in zip(blocks, values, strict=True)
    ]
    expected = float(torch.linalg.eigvalsh(torch.cat(rows)).abs().max())
    found = curvature(module, batch, functional.mse_loss, iterations=500, tolerance=1e-12, generator=generator())
    assert found == pytest.approx(expected, rel=1e-6)


def test_curvature_of_attention_is_found():
    class Attention(nn.Linear):
        def forward(self, x):
            return functional.scaled_dot_product_attention(super().forward(x), x, x)

    torch.manual_seed(0)
    batch = torch.randn(2, 3, 4, generator=generator()), torch.zeros(2, 3, 4)
    assert curvature(Attention(4, 4), batch, functional.mse_loss, generator=generator()) > 0


def test_curvature_repeats_with_its_generators_seed():
    first, second = (curvature(Line(4), squares(), half_squares, generator=generator()) for _ in range(2))
    assert first == second


def test_curvature_leaves_the_module_as_it_was():
    module = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)).double()
    x, _ = squares()
    curvature(module, (x, torch.zeros(len(x), 2).double()), functional.l1_loss, tolerance=1, generator=generator())
    assert module[1].num_batches_tracked == 0
    assert all(one.grad is None for one in module.parameters())


def test_curvature_warns_where_the_iterations_run_out():
    with pytest.warns(RuntimeWarning, match="still grew by more than 0 of itself after 2 iterations"):
        curvature(Quadratic([[1.0, 0.0], [0.0, 0.9]]), (0, 0), take, iterations=2, tolerance=0, generator=generator())


def test_curvature_of_a_frozen_module_is_refused(net):
    with pytest.raises(ConfigError, match=r"No parameter .* takes a gradient.*net\.extract"):
        curvature(net.submodel(width=2), squares(), half_squares, generator=generator())


def test_curvature_refuses_fewer_iterations_than_one():
    with pytest.raises(ConfigError, match="iterations=0 is below 1"):
        curvature(Line(2), squares(), half_squares, iterations=0, generator=generator())


def test_equation_4_3_loss_bound_by_hand():
    assert loss_bound(curvature=3.0, distance=2.0) == 6


def test_equation_4_3_bound_holds_around_the_minimum_of_a_quadratic():
    module = Quadratic([[2.0, 1.0], [1.0, 2.0]])
    nn.init.zeros_(module.weight)
    lipschitz = 3.0
    for angle in range(0, 360, 15):
        step = 0.7 * torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))], dtype=torch.float64)
        module.weight.data = step
        assert module(0).item() <= loss_bound(lipschitz, 0.7) + 1e-12


def test_equation_4_3_bound_is_reached_along_the_steepest_direction():
    module = Quadratic([[2.0, 1.0], [1.0, 2.0]])
    module.weight.data = torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert module(0).item() == pytest.approx(loss_bound(3.0, math.sqrt(2)))


def test_loss_bound_refuses_negative_values():
    with pytest.raises(ConfigError, match=r"distance=-1\.0 is not at least 0"):
        loss_bound(1.0, -1.0)
