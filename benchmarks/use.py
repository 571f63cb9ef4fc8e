"""As people use it: forms of batches, trainers with losses of their own, settings, exports, metrics; checked by hand.

    python benchmarks/use.py --out benchmarks/results/use.json

Every case is one of the tests' tables (`tests/contracts/batch_cases.py`, `arriving_cases.py`,
`tests/export/onnx_cases.py`, `tests/evaluation/kinds.py`, `tests/huggingface/test_own_losses.py`), which run some only
where they take long.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import context, output, write
from tests.contracts import batch_cases
from tests.contracts.arriving_cases import ARRIVING, WAYS, arrives
from tests.evaluation.kinds import evaluation_kinds, faults
from tests.export.onnx_cases import ONNX
from tests.huggingface import test_own_losses as own

from sortednet.errors import ConfigError, DataError
from sortednet.views.batches import inputs_and_targets
from sortednet.views.examples import split_inputs, split_targets

TOLERANCE = 1e-4
SIZES = [1, 3]


def batches() -> tuple[dict[str, float], dict[str, str]]:
    """Part every form of a batch, and give what cannot be parted."""
    right, wrong = 0, {}
    examples = [[0], [1, 2, 3]]
    for name, make, where in batch_cases.forms():
        inputs, targets = inputs_and_targets(batch_cases.batch_of(make, where, range(batch_cases.COUNT)))
        try:
            if inputs is targets:
                found: list[Any] = [kwargs for _, kwargs in split_inputs(((), inputs), SIZES)]
            else:
                rows, labels = split_inputs((inputs, {}), SIZES), split_targets(targets, SIZES)
                found = [(*args, label) for (args, _), label in zip(rows, labels, strict=True)]
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"
            continue
        if all(
            batch_cases.same(part, batch_cases.batch_of(make, where, of))
            for part, of in zip(found, examples, strict=True)
        ):
            right += 1
        else:
            wrong[name] = "other examples"
    for name, batch in batch_cases.REFUSED.items():
        inputs, targets = inputs_and_targets(batch)
        try:
            split_inputs((inputs, {}), SIZES)
            split_targets(targets, SIZES)
            wrong[name] = "accepted"
        except DataError as error:
            if "batch_axis=" not in str(error):
                wrong[name] = f"no remedy: {error}"
    return {"batch_kinds": right, "batches_wrong": len(wrong)}, wrong


def _raises(folder: Path) -> None:
    import trl

    kind = type("Sorted", (own.SortedTrainerMixin, trl.GRPOTrainer), {})
    kind(own.language_net(), reward_funcs=lambda completions, **_: [0.0] * len(completions))


def _by_hand(kind: type) -> Callable[[Path], Any]:
    return lambda folder: own.test_every_sub_model_is_trained_as_by_hand(kind, True, 2, folder)


def _alone(name: str) -> Callable[[Path], Any]:
    return lambda folder: own.test_trainers_of_trl_train_every_sub_model_as_they_train_it_alone(name, folder)


TRAINERS: dict[str, Callable[[Path], Any]] = {
    "SortedTrainer, own compute_loss": _by_hand(own.Weighted),
    "SortedTrainer, own compute_loss over the trainer's": _by_hand(own.Extended),
    "SortedTrainer, own training_step": _by_hand(own.Stepping),
    "SortedTrainer, compute_loss_func": _by_hand(own.Given),
    "SortedTrainer, label smoothing": _by_hand(own.Smoothed),
    "mixin over a Trainer with its own compute_loss": _by_hand(own.Over),
    "mixin over Seq2SeqTrainer, own compute_loss": _by_hand(own.Sequences),
    **{f"TRL's {name}": _alone(name) for name in own.KINDS},
    "TRL's GRPOTrainer": _raises,
}
"""Trainers and losses. After a step the weights are within 1e-5 of those by hand: of a loop over the sub-models, or of
TRL's own trainer on each of them alone."""


def trainers() -> tuple[dict[str, float], dict[str, str]]:
    """Train a step with each; those that are refused by name are told apart."""
    found = {}
    for name, run in TRAINERS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                run(Path(folder))
                found[name] = "works"
            except ConfigError as error:
                found[name] = f"refused: {error}"
            except Exception as error:
                found[name] = f"fails: {type(error).__name__}: {str(error)[:300]}"
        print(name, found[name][:150], flush=True)
    return {"trainers_working": sum(one == "works" for one in found.values())}, found


def settings() -> tuple[dict[str, float], dict[str, str]]:
    """Set each thing after sub-models were used."""
    wrong = {}
    for case in ARRIVING:
        try:
            arrives(case, WAYS, WAYS)
        except Exception as error:
            wrong[case.name] = f"{type(error).__name__}: {str(error)[:300]}"
    return {"settings_arriving": len(ARRIVING) - len(wrong)}, {"of": str(len(ARRIVING)), **wrong}


def exports() -> tuple[dict[str, float], dict[str, str]]:
    """Export each model, and compare it in onnxruntime at three shapes."""
    found = {}
    for case in ONNX:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[case.name] = f"{case.difference(Path(folder) / 'model.onnx'):.1e}"
            except Exception as error:
                found[case.name] = f"{type(error).__name__}: {str(error)[:300]}"
        print(case.name, found[case.name], flush=True)
    right = sum(one[0].isdigit() and float(one) <= TOLERANCE for one in found.values())
    return {"onnx_models": right}, found


def kinds() -> tuple[dict[str, float], dict[str, str]]:
    """Evaluate each kind of metric and model."""
    wrong = {name: str(found) for name, kind in evaluation_kinds().items() if (found := faults(kind))}
    count = len(evaluation_kinds())
    return {"evaluation_kinds": count - len(wrong)}, {"of": str(count), **wrong}


def main() -> None:
    path = output(__doc__)
    metrics: dict[str, float] = {}
    parts: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in (batches, kinds, settings, trainers, exports):
            figures, described = part()
            metrics |= figures
            parts[part.__name__] = described
    write(path, metrics, context(parts=parts))


if __name__ == "__main__":
    main()
