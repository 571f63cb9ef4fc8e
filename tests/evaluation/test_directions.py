from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from sortednet.evaluation.directions import direction_of, is_better, name_of

LOSSES = [name for name in dir(nn) if name.endswith("Loss")]
FUNCTIONS = [name for name in dir(functional) if name[0] != "_" and name.endswith(("_loss", "entropy", "_logits"))] + [
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "huber_loss", "kl_div", "ctc_loss"
]  # fmt: skip
HIGHER = [
    "accuracy", "top-5 accuracy", "balanced_accuracy_score", "f1", "F1", "F1Score", "f1_macro", "BLEU", "rougeL",
    "r2_score", "mAP", "recall@10", "pass@1", "exact_match", "log_likelihood", "neg_mean_squared_error",
    "negative_mse", "AUROC", "mIoU", "explained_variance", "matthews_corrcoef", "cosine_similarity", "my_accuracy",
    "1 - error", "d2_log_loss_score", "psnr",
]  # fmt: skip
LOWER = [
    "loss", "val_loss", "mse", "RMSE", "mean_absolute_error", "word_error_rate", "WER", "perplexity", "ppl", "nll",
    "negative_log_likelihood", "bits_per_byte", "dice_loss", "accuracy_loss", "loss_fn", "kl_divergence",
    "hamming_distance", "brier_score", "brier_score_loss", "1 - accuracy", "neg_accuracy", "FID",
]  # fmt: skip
UNKNOWN = [
    "quality",
    "score",
    "my_metric",
    "drop in accuracy",
    "accuracy_drop",
    "lengths",
    "",
    "<lambda>",
    "chance",
    "42",
]


@pytest.mark.parametrize("name", LOSSES)
def test_less_of_every_loss_of_torch_is_better(name: str) -> None:
    assert is_better(name) is False


@pytest.mark.parametrize("name", FUNCTIONS)
def test_less_of_every_functional_loss_is_better(name: str) -> None:
    assert direction_of(getattr(functional, name)) is False


@pytest.mark.parametrize(
    ("names", "expected"), [(HIGHER, True), (LOWER, False), (UNKNOWN, None)], ids=["higher", "lower", "unknown"]
)
def test_the_noun_of_a_name_tells(names: list[str], expected: bool | None) -> None:
    assert {name: is_better(name) for name in names} == dict.fromkeys(names, expected)


def test_what_an_object_says_itself_counts_before_its_name() -> None:
    class Accuracy:
        higher_is_better = False

    assert direction_of(Accuracy()) is False


def test_modules_methods_and_partial_functions_are_known_by_what_they_are() -> None:
    assert [direction_of(one) for one in (nn.MSELoss(), nn.MSELoss().forward, partial(functional.l1_loss))] == [
        False
    ] * 3
    assert [name_of(one) for one in (nn.MSELoss(), nn.MSELoss().forward, partial(functional.l1_loss))] == [
        "MSELoss", "MSELoss", "l1_loss"
    ]  # fmt: skip


def test_a_name_given_tells_where_the_function_does_not() -> None:
    assert direction_of(lambda output, targets: 0, "accuracy") is True


def test_two_names_that_say_the_opposite_tell_nothing() -> None:
    assert direction_of(functional.mse_loss, "accuracy") is None


def test_a_function_of_torch_that_is_no_metric_tells_nothing() -> None:
    assert direction_of(torch.relu) is None
