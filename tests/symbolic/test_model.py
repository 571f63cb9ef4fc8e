"""The model: order and padding of points change nothing, every way of telling the decoder trains and writes."""

from typing import Any

import pytest
import torch

from sortednet.errors import ConfigError, DataError
from sortednet.symbolic import ModelConfig, ProblemData, SymbolicGPT, TNet, Tokenizer, token_loss
from sortednet.symbolic.expressions import END, PAD, START

from .cases import SIMPLE, TINY, fresh, pool, tiny, train

EMBEDDINGS = ("add", "prefix", "node")
every_embedding = pytest.mark.parametrize("embedding", EMBEDDINGS)


def points(seed: int = 0, count: int = 12, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    held = torch.randn(batch, count, 4, generator=generator, dtype=torch.float64)
    return held, torch.ones(batch, count, dtype=torch.float64)


def trained(embedding: str) -> SymbolicGPT:
    model = fresh(0, embedding=embedding).double()
    with torch.no_grad():
        for parameter in model.decoder.controls.parameters():
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    return model.eval()


TOKENS = torch.tensor([[START, 5, 9], [START, 6, 7], [START, 4, 4]])


@every_embedding
def test_order_of_points_changes_nothing(embedding: str) -> None:
    model, (held, mask) = trained(embedding), points()
    order = torch.randperm(held.shape[1], generator=torch.Generator().manual_seed(3))
    assert torch.allclose(model(held[:, order], mask, TOKENS), model(held, mask, TOKENS), rtol=0, atol=1e-10)


@every_embedding
@pytest.mark.parametrize("filler", [0.0, 7.0, 1e6])
def test_padding_changes_nothing_whatever_is_in_it(embedding: str, filler: float) -> None:
    model, (held, mask) = trained(embedding), points()
    padded = torch.cat([held, torch.full((3, 5, 4), filler, dtype=torch.float64)], 1)
    longer = torch.cat([mask, torch.zeros(3, 5, dtype=torch.float64)], 1)
    assert torch.allclose(model(padded, longer, TOKENS), model(held, mask, TOKENS), rtol=0, atol=1e-10)


def test_padding_that_is_no_number_changes_nothing() -> None:
    model, (held, mask) = trained("add"), points()
    padded = torch.cat([held, torch.full((3, 5, 4), torch.nan, dtype=torch.float64)], 1)
    longer = torch.cat([mask, torch.zeros(3, 5, dtype=torch.float64)], 1)
    assert torch.allclose(model(padded, longer, TOKENS), model(held, mask, TOKENS), rtol=0, atol=1e-10)


@every_embedding
def test_points_change_what_is_written(embedding: str) -> None:
    model = trained(embedding)
    assert not torch.allclose(model(*points(0), TOKENS), model(*points(1), TOKENS), atol=1e-6)


@every_embedding
def test_each_example_has_its_own_points(embedding: str) -> None:
    model, (held, mask) = trained(embedding), points()
    together = model(held, mask, TOKENS)
    alone = torch.cat([model(held[row : row + 1], mask[row : row + 1], TOKENS[row : row + 1]) for row in range(3)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-10)


@every_embedding
def test_later_tokens_change_nothing_before(embedding: str) -> None:
    model, (held, mask) = trained(embedding), points()
    other = TOKENS.clone()
    other[:, 2] = 11
    assert torch.allclose(model(held, mask, other)[:, :2], model(held, mask, TOKENS)[:, :2], rtol=0, atol=1e-10)


@every_embedding
def test_every_parameter_of_the_embedding_gets_a_gradient(embedding: str) -> None:
    model = trained(embedding).train()
    held, mask = points()
    token_loss(model(held, mask, TOKENS), TOKENS).backward()
    for name, parameter in model.data.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@every_embedding
def test_a_few_steps_lower_the_loss(embedding: str) -> None:
    losses = train(fresh(0, embedding=embedding), 12)
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


@every_embedding
def test_what_a_model_writes_are_tokens_of_its_own(embedding: str) -> None:
    model = fresh(0, embedding=embedding)
    train(model, 2)
    held, mask = (one.float() for one in points())
    network: Any = model.decoder.network
    start = torch.full((3, 1), START)
    with torch.no_grad(), model.given(held, mask):
        written = network.generate(start, attention_mask=torch.ones_like(start), max_length=20, pad_token_id=PAD)
    assert written.shape[0] == 3
    assert written.min() >= 0 and written.max() < len(Tokenizer().vocabulary)  # noqa: PT018


def test_the_trained_model_writes_skeletons_it_was_trained_on() -> None:
    model = tiny().model
    held, mask, *_ = ProblemData(pool(), SIMPLE, TINY, 40, seed=5).__getitems__(range(40))
    network: Any = model.decoder.network
    start = torch.full((40, 1), START)
    with torch.no_grad(), model.given(held, mask):
        written = network.generate(
            start, attention_mask=torch.ones_like(start), max_length=64, pad_token_id=PAD, eos_token_id=END
        )
    known = {text for texts, _ in pool().skeletons.values() for text in texts}
    texts = [Tokenizer().decode(row) for row in written.tolist()]
    assert sum(text in known for text in texts) >= 30


def test_embeddings_of_different_data_stay_apart_in_training() -> None:
    held, mask, *_ = ProblemData(pool(), SIMPLE, TINY, 100, seed=5).__getitems__(range(100))
    with torch.no_grad():
        assert (tiny().model.data(held, mask).std(0) > 1e-3).float().mean() > 0.5


def test_loss_does_not_count_padding() -> None:
    logits = torch.randn(2, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 2, -100], [3, -100, -100]])
    other = logits.clone()
    other[targets == -100] += 5
    assert torch.equal(token_loss(other, targets), token_loss(logits, targets))


def test_loss_is_the_mean_cross_entropy_of_the_tokens() -> None:
    logits = torch.randn(1, 3, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 2, -100]])
    expected = -(logits[0, 0].log_softmax(0)[1] + logits[0, 1].log_softmax(0)[2]) / 2
    assert token_loss(logits, targets) == pytest.approx(expected.item(), rel=1e-6)


def test_one_set_of_points_is_for_any_number_of_texts() -> None:
    model, (held, mask) = trained("add"), points(batch=1)
    with torch.no_grad(), model.given(held, mask):
        found = model.decoder.network(TOKENS).logits
    expected = model(held.expand(3, -1, -1), mask.expand(3, -1), TOKENS)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)


def test_points_of_another_number_of_variables_are_an_error() -> None:
    with pytest.raises(DataError, match=r"The points have 1 variables, and the model 3\. Fill up with zeros, or train"):
        fresh().given(torch.zeros(1, 5, 2), torch.ones(1, 5))


def test_the_embedding_has_the_width_of_the_model() -> None:
    assert TNet(2, 24)(torch.zeros(5, 7, 3), torch.ones(5, 7)).shape == (5, 24)


def test_the_decoder_is_a_model_of_transformers() -> None:
    from transformers import GPT2LMHeadModel

    assert isinstance(fresh().decoder.network, GPT2LMHeadModel)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"embedding": "sum"}, r"embedding='sum' is unknown\. Choose one of add, prefix, node\."),
        ({"tokenizer": "words"}, r"tokenizer='words' is unknown\. Choose one of operators, characters\."),
        ({"variables": 0}, r"variables=0 is below 1"),
        ({"variables": 10}, r"variables=10 is above 9, the most that have a token"),
        ({"width": 0}, r"width=0 is below 1"),
        ({"layers": 0}, r"layers=0 is below 1"),
        ({"heads": 0}, r"heads=0 is below 1"),
        ({"positions": 0}, r"positions=0 is below 1"),
        ({"width": 10, "heads": 4}, r"width=10 is no multiple of heads=4"),
        ({"dropout": 1.0}, r"dropout=1\.0 must be in \[0, 1\)"),
    ],
)
def test_sizes_out_of_range_are_refused(own: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**own)
