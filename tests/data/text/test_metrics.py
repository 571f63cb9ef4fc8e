import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score
from transformers import EvalPrediction

from sortednet.data.text import METRICS, compute_metrics
from sortednet.errors import ConfigError, DataError, TrainingError


def measure(metric, predictions, labels):
    return compute_metrics(metric)(EvalPrediction(predictions=predictions, label_ids=labels))


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_accuracy_and_f1_equal_scikit_learns(random):
    logits, labels = random.normal(size=(50, 2)).astype("float32"), random.integers(0, 2, 50)
    called = logits.argmax(1)
    expected = {"accuracy": 100 * accuracy_score(labels, called), "f1": 100 * f1_score(labels, called)}
    assert measure("f1", logits, labels) == pytest.approx(expected)
    assert measure("accuracy", logits, labels) == pytest.approx({"accuracy": expected["accuracy"]})


def test_accuracy_takes_any_number_of_classes():
    assert measure("accuracy", np.eye(4), np.array([0, 1, 2, 0])) == {"accuracy": 75.0}


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_correlations_equal_scipys_with_ties(random, metric):
    values, labels = random.integers(0, 6, 40) / 2, random.integers(0, 6, 40) / 2
    expected = {"pearson": 100 * pearsonr(values, labels)[0], "spearman": 100 * spearmanr(values, labels)[0]}
    assert measure(metric, values[:, None], labels) == pytest.approx(expected)
    assert measure(metric, values, labels) == pytest.approx(expected)


@pytest.mark.parametrize(("values", "labels"), [([1.5] * 3, [1, 2, 3]), ([1, 2, 3], [0.1] * 3)])
def test_constant_predictions_or_labels_correlate_by_0(values, labels):
    assert measure("pearson", np.array(values), np.array(labels)) == {"pearson": 0.0, "spearman": 0.0}


def test_f1_is_0_where_class_1_is_nowhere():
    assert measure("f1", np.array([[1.0, 0.0]]), np.array([0])) == {"accuracy": 100.0, "f1": 0.0}


def test_the_first_of_several_outputs_counts():
    assert measure("accuracy", (np.eye(2), np.zeros((2, 9))), torch.tensor([0, 1])) == {"accuracy": 100.0}


@pytest.mark.parametrize(
    ("metric", "predictions", "labels", "match"),
    [
        ("accuracy", np.zeros(3), np.zeros(3), r"predictions have shape \(3,\).*shape \(N, classes\)"),
        ("accuracy", np.zeros((3, 2)), np.zeros(2), r"shape \(3, 2\) and the labels \(2,\)"),
        ("accuracy", np.zeros((0, 2)), np.zeros(0), r"N at least 1"),
        ("pearson", np.zeros((3, 2)), np.zeros(3), r"predictions of shape \(N,\) or \(N, 1\)"),
        ("f1", np.eye(3), np.zeros(3), r"f1 is for two classes, and the logits have 3. Choose the metric 'accuracy'"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(metric, predictions, labels, match):
    with pytest.raises(DataError, match=match):
        measure(metric, predictions, labels)


@pytest.mark.parametrize("metric", ["accuracy", "pearson"])
def test_predictions_that_are_not_finite_are_refused(metric):
    with pytest.raises(TrainingError, match=r"1 of 2 predictions are not finite.*lower learning rate"):
        measure(metric, np.array([[np.nan, 1.0]]), np.zeros(1))


def test_metrics_that_are_none_of_predictions_are_refused():
    for metric in METRICS["causal"]:
        with pytest.raises(
            ConfigError, match=rf"metric='{metric}' is none of predictions. For 'loss', give the Trainer no"
        ):
            compute_metrics(metric)
    with pytest.raises(ConfigError, match=r"metric='mcc' is unknown. Choose one of \['accuracy', 'f1', 'pearson'"):
        compute_metrics("mcc")
