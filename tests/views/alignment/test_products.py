"""Products that are the same operations at every size: the numbers are torch's."""

import pytest
import torch

from sortednet.views.alignment.products import SteadyProducts, einsum


def drawn(*sizes: int) -> torch.Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(len(sizes)), dtype=torch.float64)


@pytest.mark.parametrize(
    ("equation", "sizes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bhtd,bhsd->bhts", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("bd,bn->bdn", [(2, 3), (2, 4)]),
        ("bi,hik->bhk", [(2, 3), (4, 3, 5)]),
        ("...ij,...jk", [(5, 2, 3), (5, 3, 4)]),
        ("b...d, de -> b...e", [(2, 3, 4), (4, 5)]),
        ("nw,wvo,nv->no", [(2, 3), (3, 4, 5), (2, 4)]),
        ("ijk,jl->il", [(2, 3, 4), (3, 5)]),
        ("ij,jk", [(2, 1), (1, 4)]),
    ],
)
def test_einsum_is_that_of_torch(equation: str, sizes: list[tuple[int, ...]]) -> None:
    tensors = [drawn(*one) for one in sizes]
    found = einsum(equation, *tensors)
    assert found is not None
    assert torch.allclose(found, torch.einsum(equation, *tensors))


@pytest.mark.parametrize(("one", "other"), [((2, 3, 4), (4, 5)), ((2, 3, 4), (4,)), ((3, 4), (2, 4, 5)),
                                            ((5, 1, 3, 4), (2, 4, 6)), ((4,), (2, 4, 5))])  # fmt: skip
def test_matrix_products_are_those_of_torch(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    a, b = drawn(*one), drawn(*other)
    with SteadyProducts():
        found = a @ b
    assert torch.allclose(found, a @ b)


def test_other_products_are_those_of_torch() -> None:
    a, b, layer = drawn(2, 3, 4), drawn(3, 4, 5), torch.nn.Linear(4, 6).double()
    functions = [
        lambda: torch.tensordot(a, b, 2),
        lambda: torch.tensordot(a, b, dims=([-1, 1], [1, 0])),
        lambda: torch.inner(a, b.mT),
        lambda: layer(a),
        lambda: layer(a[0, 0]),
        lambda: torch.einsum("ii->i", b[:, :3, 0]),
        lambda: torch.einsum("ij,jk->ik", a[:, 0, :1], b[0, :, :3]),  # an axis of size 1 that grows
    ]
    with SteadyProducts():
        found = [one() for one in functions]
    assert all(torch.allclose(x, one()) for x, one in zip(found, functions, strict=True))
