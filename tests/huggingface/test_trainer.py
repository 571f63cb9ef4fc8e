import json
import math
import sys

import pytest
import torch
from datasets import Dataset
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

import sortednet as sn
from sortednet.data.text import train_tokenizer
from sortednet.errors import CheckpointError, ConfigError, DataError, SettingError
from sortednet.huggingface.trainer import SortedTrainer, SortedTrainerMixin
from sortednet.imports.names import OBJECTIVES
from sortednet.training.names import DEFAULT_OBJECTIVE

DEPTHS = [1, 2, 3]
SMALL, MIDDLE, FULL = (f"num_hidden_layers={depth}" for depth in DEPTHS)
# transformers 5.23 gives these arguments a second name
checkpoints_activations = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")


def llama(seed: int = 0, **fields) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, "num_attention_heads": 2, "initializer_range": 0.2, **fields}))


def bert(**fields) -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3}
    return BertForSequenceClassification(
        BertConfig(**sizes, num_attention_heads=2, max_position_embeddings=16, num_labels=3, **fields)
    )


def language_net(private: str = (), **fields) -> sn.SortedNet:
    return sn.SortedNet.from_pretrained(llama(**fields), num_hidden_layers=DEPTHS, private=private)


def classifier_net(private: str = (), **fields) -> sn.SortedNet:
    return sn.SortedNet.from_pretrained(bert(**fields), num_hidden_layers=DEPTHS, private=private)


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def sentences(count: int = 24, tokens: int = 6, seed: int = 0) -> list[dict]:
    drawn = torch.randint(0, 20, (count, tokens), generator=torch.Generator().manual_seed(seed)).tolist()
    return [{"input_ids": one, "labels": one} for one in drawn]


def labelled(count: int = 24, seed: int = 0) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 20, (count, 6), generator=generator).tolist()
    return [{"input_ids": one, "label": one[0] % 3, "text": "not for the model"} for one in drawn]


def arguments(folder, **more) -> TrainingArguments:
    return TrainingArguments(
        str(folder),
        **{
            "max_steps": 4, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 5, "learning_rate": 1e-2,
            "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True,
            "dataloader_pin_memory": False, **more,
        },
    )  # fmt: skip


def history(trainer: Trainer, after: int = 0) -> list[dict[str, float]]:
    """What was logged of the training losses, by sub-model."""
    return [
        {name: value for name, value in one.items() if name.startswith("loss")}
        for one in trainer.state.log_history
        if "loss" in one and one["step"] > after
    ]


def weights(net: sn.SortedNet) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


class StopAt(TrainerCallback):
    """Ends the run as an interruption does, before the step is saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


# Training


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_every_objective_trains_every_sub_model(tmp_path, objective) -> None:
    data = sentences(8)
    trainer = SortedTrainer(
        language_net(), arguments(tmp_path, max_steps=30, logging_steps=30), train_dataset=data, eval_dataset=data,
        objective=objective,
    )  # fmt: skip
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    for setting in (SMALL, MIDDLE, FULL):
        assert after[f"eval_{setting}_loss"] < 0.9 * before[f"eval_{setting}_loss"]


def test_by_default_every_example_draws_its_own_of_all_sub_models_in_turn(tmp_path) -> None:
    trainer = SortedTrainer(language_net(), arguments(tmp_path, seed=7), train_dataset=sentences())
    assert DEFAULT_OBJECTIVE == "per_example"
    assert type(trainer.objective) is sn.PerExample
    assert type(trainer.objective.sampler) is sn.Stratified
    assert trainer.objective.sampler.seed == 7


def test_names_and_objects_give_the_same_run(tmp_path) -> None:
    found = []
    for given in (
        {"objective": "stochastic", "sampler": "uniform"},
        {"objective": "stochastic", "sampler": sn.Uniform(language_net().space, seed=42)},
        {"objective": sn.Stochastic(sn.Uniform(language_net().space, seed=42))},
    ):
        trainer = SortedTrainer(language_net(), arguments(tmp_path), train_dataset=sentences(), **given)
        trainer.train()
        found.append(history(trainer))
    assert found[0] == found[1] == found[2]


def test_the_gradient_of_accumulated_batches_is_that_of_their_mean(tmp_path) -> None:
    data = sentences(12)
    for place, one in enumerate(data):  # batches with different numbers of labels
        one["labels"] = [-100] * (place // 4) + one["labels"][place // 4 :]
    net = language_net()
    before = {name: parameter.detach().clone() for name, parameter in net.full.named_parameters()}
    losses = []
    for batch in (data[0:4], data[4:8], data[8:12]):
        held = {name: torch.tensor([one[name] for one in batch]) for name in ("input_ids", "labels")}
        losses.append(sn.Summation(net.space)(net, held, lambda output, _: output.loss))
    (sum(losses) / 3).backward()
    expected = {name: before[name] - parameter.grad for name, parameter in net.full.named_parameters()}
    net = language_net()
    args = arguments(
        tmp_path, max_steps=1, gradient_accumulation_steps=3, optim="sgd", learning_rate=1.0, max_grad_norm=0.0,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer = SortedTrainer(net, args, train_dataset=data, objective="summation")
    trainer.train()
    for name, parameter in net.full.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=0, atol=1e-6)
    assert history(trainer)[0]["loss"] == pytest.approx(float(sum(losses).detach()) / 3, abs=1e-6)


def test_the_gradient_is_clipped(tmp_path) -> None:
    net = language_net()
    before = weights(net)
    args = arguments(tmp_path, max_steps=1, optim="sgd", learning_rate=1.0, max_grad_norm=0.01)
    SortedTrainer(net, args, train_dataset=sentences(), objective="summation").train()
    change = sum(((net.state_dict()[name] - tensor) ** 2).sum() for name, tensor in before.items())
    assert math.sqrt(change) == pytest.approx(0.01, rel=1e-3)


@checkpoints_activations
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("objective", ["per_example", "summation"])
def test_activation_checkpointing_changes_no_loss(tmp_path, objective, use_reentrant) -> None:
    found = []
    for more in (
        {},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": use_reentrant}},
    ):
        trainer = SortedTrainer(
            language_net(attention_dropout=0.1), arguments(tmp_path, **more), train_dataset=sentences(),
            objective=objective,
        )  # fmt: skip
        trainer.train()
        found.append(history(trainer))
    for plain, checkpointed in zip(*found, strict=True):
        assert checkpointed == pytest.approx(plain, abs=1e-6)


def test_bfloat16_gives_the_same_losses_to_its_precision(tmp_path) -> None:
    found = []
    for bf16 in (False, True):
        trainer = SortedTrainer(
            language_net(), arguments(tmp_path, bf16=bf16), train_dataset=sentences(), eval_dataset=sentences(seed=1)
        )
        trainer.train()
        found.append([*history(trainer), trainer.evaluate()])
    for plain, rough in zip(*found, strict=True):
        names = [name for name in plain if "loss" in name]
        assert {name: rough[name] for name in names} == pytest.approx({name: plain[name] for name in names}, rel=0.02)
    assert found[0] != found[1]


def smoothed_by_hand(model: torch.nn.Module, batch: dict[str, torch.Tensor], smoothing: float) -> float:
    """Szegedy et al. (2016), arXiv:1512.00567, Sec. 7: (1 - s) of the labels' loss and s of the mean over all."""
    logits, labels = model.eval()(input_ids=batch["input_ids"]).logits.detach(), batch["labels"]
    if labels.dim() == 2:  # the token at t is predicted at t - 1
        logits, labels = logits[:, :-1], labels[:, 1:]
    logs = functional.log_softmax(logits.flatten(0, -2), -1)
    labels = labels.flatten()
    return float(-(1 - smoothing) * logs[range(len(labels)), labels].mean() - smoothing * logs.mean())


@pytest.mark.parametrize("causal", [True, False])
def test_label_smoothing_reaches_every_sub_model_in_training_and_evaluation(tmp_path, causal) -> None:
    net, data = (language_net(), sentences(4)) if causal else (classifier_net(**NO_DROPOUT), labelled(4))
    args = arguments(tmp_path, max_steps=1, label_smoothing_factor=0.2, learning_rate=0.0)
    trainer = SortedTrainer(net, args, train_dataset=data, eval_dataset=data, objective="summation")
    batch = trainer.data_collator([{k: v for k, v in one.items() if k != "text"} for one in data])
    expected = {str(one): smoothed_by_hand(net.extract(one), batch, 0.2) for one in net.space}
    found = trainer.evaluate()
    assert {one: found[f"eval_{one}_loss"] for one in expected} == pytest.approx(expected, abs=1e-5)
    trainer.train()
    assert {one: history(trainer)[0][f"loss_{one}"] for one in expected} == pytest.approx(expected, abs=1e-5)


@pytest.mark.skipif(not hasattr(Trainer, "loss_is_scaled_for_ga"), reason="refused before transformers 5.19")
def test_a_loss_function_given_takes_the_place_of_the_models_own(tmp_path) -> None:
    def doubled(output, labels, num_items_in_batch=None):
        return 2 * functional.cross_entropy(output.logits, labels)

    data = labelled(4)
    common = {"args": arguments(tmp_path), "train_dataset": data, "eval_dataset": data}
    trainer = SortedTrainer(classifier_net(**NO_DROPOUT), **common, compute_loss_func=doubled)
    plain = SortedTrainer(classifier_net(**NO_DROPOUT), **common)
    assert trainer.evaluate()["eval_mean_loss"] == pytest.approx(2 * plain.evaluate()["eval_mean_loss"], abs=1e-5)
    trainer.train()
    plain.train()
    assert history(trainer)[0]["loss"] == pytest.approx(2 * history(plain)[0]["loss"], abs=1e-4)


def test_a_loss_function_is_refused_where_transformers_does_not_average_it(tmp_path, monkeypatch) -> None:
    monkeypatch.delattr(Trainer, "loss_is_scaled_for_ga", raising=False)
    with pytest.raises(ConfigError, match=r"compute_loss_func with this .* Update to 5\.19 or later"):
        SortedTrainer(
            classifier_net(), arguments(tmp_path), train_dataset=labelled(4), compute_loss_func=functional.cross_entropy
        )


def test_compute_loss_returns_each_sub_models_loss_with_the_outputs(tmp_path) -> None:
    net = language_net()
    trainer = SortedTrainer(net, arguments(tmp_path), train_dataset=sentences(), objective="summation")
    batch = trainer.data_collator(sentences(4))
    loss, outputs = trainer.compute_loss(net.train(), batch, return_outputs=True)
    assert list(outputs["losses"]) == [SMALL, MIDDLE, FULL]
    assert float(loss.detach()) == pytest.approx(sum(float(one) for one in outputs["losses"].values()) / 3, abs=1e-6)
    loss, outputs = trainer.compute_loss(net.eval(), {**batch, "setting": SMALL}, return_outputs=True)
    assert torch.equal(outputs.logits, net.extract(SMALL)(**batch).logits)


def test_logs_hold_the_mean_of_each_sub_models_losses_since_the_last(tmp_path) -> None:
    found = {}
    for steps in (1, 3):
        trainer = SortedTrainer(
            language_net(), arguments(tmp_path, max_steps=6, logging_steps=steps), train_dataset=sentences(),
            objective="stochastic",
        )  # fmt: skip
        trainer.train()
        found[steps] = history(trainer)
    for place, line in enumerate(found[3]):
        part = found[1][3 * place : 3 * place + 3]
        assert sorted(line) == ["loss", f"loss_{SMALL}", f"loss_{MIDDLE}", f"loss_{FULL}"]  # each drawn in its turn
        for name, value in line.items():
            values = [one[name] for one in part if name in one]
            assert value == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_a_padding_token_set_late_changes_no_sub_models_gradient(tmp_path) -> None:
    net = language_net()
    net.config.pad_token_id = 5  # as trainers do, after the smallest and the largest sub-model were built
    for setting in net.space:
        net.zero_grad()
        tokens = torch.full((1, 4), 5)
        net.at(setting)(input_ids=tokens, labels=tokens).loss.backward()
        assert net.full.model.embed_tokens.weight.grad[5].abs().sum() > 0, setting
    net.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] == 5


# Evaluation


def test_each_sub_models_metrics_are_those_of_the_extracted_model(tmp_path) -> None:
    net, data = classifier_net(), labelled(13)
    trainer = SortedTrainer(net, arguments(tmp_path), eval_dataset=data, compute_metrics=accuracy)
    found = trainer.evaluate()
    means = {"loss": [], "accuracy": []}
    for setting in net.space:
        alone = Trainer(net.extract(setting), arguments(tmp_path), eval_dataset=data, compute_metrics=accuracy)
        expected = alone.evaluate()
        for name, values in means.items():
            assert found[f"eval_{setting}_{name}"] == pytest.approx(expected[f"eval_{name}"], abs=1e-6)
            values.append(expected[f"eval_{name}"])
    for name, values in means.items():
        assert found[f"eval_{name}"] == found[f"eval_{FULL}_{name}"]
        assert found[f"eval_mean_{name}"] == pytest.approx(sum(values) / 3, abs=1e-6)
    assert trainer.state.log_history == [{**found, "step": 0}]


def test_several_data_sets_are_evaluated_under_their_names(tmp_path) -> None:
    sets = {"near": labelled(5), "far": labelled(5, seed=3)}
    found = SortedTrainer(classifier_net(), arguments(tmp_path), eval_dataset=sets).evaluate()
    for name in sets:
        assert {f"eval_{name}_loss", f"eval_{name}_{SMALL}_loss", f"eval_{name}_mean_loss"} <= set(found)


def test_only_the_settings_asked_for_are_evaluated_and_the_full_model(tmp_path) -> None:
    trainer = SortedTrainer(
        classifier_net(), arguments(tmp_path), eval_dataset=labelled(5), eval_settings=[{"num_hidden_layers": 1}]
    )
    found = [name for name in trainer.evaluate() if name.endswith("_loss")]
    assert found == ["eval_loss", f"eval_{SMALL}_loss", f"eval_{FULL}_loss", "eval_mean_loss"]


def test_evaluation_counts_the_examples_of_all_sub_models(tmp_path) -> None:
    found = SortedTrainer(classifier_net(), arguments(tmp_path), eval_dataset=labelled(5)).evaluate()
    rate = found["eval_samples_per_second"] * found["eval_runtime"]
    assert rate == pytest.approx(15, rel=0.2)


def test_one_sub_model_predicts(tmp_path) -> None:
    net, data = classifier_net(), labelled(7)
    trainer = SortedTrainer(net, arguments(tmp_path))
    batch = trainer.data_collator([{k: v for k, v in one.items() if k != "text"} for one in data])
    for setting in (SMALL, None):
        expected = net.extract(setting).eval()(**batch).logits.detach()
        found = trainer.predict(data, setting=setting)
        torch.testing.assert_close(torch.tensor(found.predictions), expected, rtol=0, atol=1e-6)
        assert sorted(found.metrics)[0] == "test_loss"


@pytest.mark.parametrize("metric", ["loss", "mean_loss", f"{SMALL}_loss"])
def test_the_best_model_by_any_sub_models_metric_is_put_back(tmp_path, metric) -> None:
    net = classifier_net(private="classifier.*")
    args = arguments(
        tmp_path, max_steps=4, learning_rate=3.0, lr_scheduler_type="constant", save_strategy="steps", save_steps=1,
        eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, metric_for_best_model=metric,
    )  # fmt: skip
    trainer = SortedTrainer(net, args, train_dataset=labelled(8), eval_dataset=labelled(8, seed=1))
    trainer.train()
    losses = {one["step"]: one[f"eval_{metric}"] for one in trainer.state.log_history if "eval_loss" in one}
    best = min(losses, key=losses.get)
    assert best != 4, losses
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert same(net.state_dict(), sn.load(tmp_path / f"checkpoint-{best}").state_dict())
    assert trainer.evaluate()[f"eval_{metric}"] == pytest.approx(losses[best], abs=1e-6)


def test_early_stopping_follows_a_sub_model(tmp_path) -> None:
    args = arguments(
        tmp_path, max_steps=20, learning_rate=5.0, lr_scheduler_type="constant", save_strategy="steps", save_steps=1,
        eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, metric_for_best_model=f"{MIDDLE}_loss",
    )  # fmt: skip
    trainer = SortedTrainer(
        classifier_net(), args, train_dataset=labelled(8), eval_dataset=labelled(8, seed=1),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )  # fmt: skip
    assert trainer.train().global_step < 20


# Data


@pytest.mark.parametrize("kind", [list, Dataset.from_list])
def test_columns_that_the_model_does_not_take_are_removed(tmp_path, kind) -> None:
    data = kind([{**one, "setting": "a column of the data", "weights": 1.0} for one in labelled(8)])
    trainer = SortedTrainer(classifier_net(), arguments(tmp_path, max_steps=1), train_dataset=data, eval_dataset=data)
    trainer.train()
    assert trainer.label_names == ["labels"]
    assert "eval_loss" in trainer.evaluate()


# Checkpoints


def test_a_checkpoint_opens_without_this_library_and_with_it(tmp_path) -> None:
    net = language_net(tie_word_embeddings=True)
    tokenizer = train_tokenizer(["a text"], vocab_size=260)
    args = arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    trainer = SortedTrainer(net, args, default_data_collator, sentences(), processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    batch = {"input_ids": torch.tensor([one["input_ids"] for one in sentences(2)])}
    for folder in (tmp_path / "checkpoint-2", tmp_path / "saved"):
        plain = AutoModelForCausalLM.from_pretrained(folder)
        assert torch.equal(plain(**batch).logits, net.full.eval()(**batch).logits)
        loaded = sn.load(folder)
        assert loaded.space == net.space
        assert torch.equal(loaded.extract(SMALL)(**batch).logits, net.eval().extract(SMALL)(**batch).logits)
        assert AutoTokenizer.from_pretrained(folder).decode(tokenizer("a text")["input_ids"]) == "<|bos|>a text"
        assert torch.load(folder / "training_args.bin", weights_only=False).learning_rate == 1e-2


def test_private_tensors_are_saved_with_a_checkpoint(tmp_path) -> None:
    net = classifier_net(private="classifier.*")
    args = arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    SortedTrainer(net, args, train_dataset=labelled(), objective="summation").train()
    loaded = sn.load(tmp_path / "checkpoint-2")
    assert same(loaded.state_dict(), net.state_dict())
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-2").num_labels == 3


@pytest.mark.parametrize(("make", "data"), [(language_net, sentences), (classifier_net, labelled)])
@pytest.mark.parametrize("objective", ["per_example", "stochastic"])
def test_a_run_interrupted_in_the_middle_of_an_epoch_goes_on_as_if_it_was_not(tmp_path, objective, make, data) -> None:
    def trainer(folder, *callbacks) -> SortedTrainer:
        net = make(**({"attention_dropout": 0.2} if make is language_net else {"private": "classifier.*"}))
        # three updates in an epoch, the last of half as many batches
        args = arguments(
            tmp_path / folder, max_steps=8, gradient_accumulation_steps=2, save_strategy="steps", save_steps=2
        )
        return SortedTrainer(net, args, train_dataset=data(20), objective=objective, callbacks=list(callbacks))

    whole = trainer("whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer("cut", StopAt(5)).train()
    resumed = trainer("cut")
    resumed.train(resume_from_checkpoint=True)
    for one, other in zip(history(whole, after=4), history(resumed, after=4), strict=True):
        assert other == pytest.approx(one, abs=1e-6)  # their names are the settings drawn
    for name, tensor in weights(whole.net).items():
        torch.testing.assert_close(resumed.net.state_dict()[name], tensor, rtol=0, atol=1e-6)


def test_a_checkpoint_that_was_not_finished_is_left_out(tmp_path) -> None:
    args = arguments(tmp_path, save_strategy="steps", save_steps=2)
    SortedTrainer(language_net(), args, train_dataset=sentences()).train()
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text('{"epoch": ')
    trainer = SortedTrainer(language_net(), args, train_dataset=sentences())
    with pytest.warns(UserWarning, match="checkpoint-4 was not finished when its run was killed; an earlier one"):
        trainer.train(resume_from_checkpoint=True)
    assert [one["step"] for one in trainer.state.log_history if "loss" in one] == [1, 2, 3, 4]


def test_resuming_without_a_checkpoint_is_refused(tmp_path) -> None:
    trainer = SortedTrainer(language_net(), arguments(tmp_path), train_dataset=sentences())
    with pytest.raises(
        CheckpointError, match=r"There is no checkpoint in .*\. Give the folder of one, or start without"
    ):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match="is no checkpoint of a sorted trainer: it has no sortednet_objective"):
        trainer.train(resume_from_checkpoint=str(tmp_path))
    (tmp_path / "sortednet_objective.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"is damaged .*\. Take an earlier checkpoint"):
        trainer.train(resume_from_checkpoint=str(tmp_path))


def test_resuming_another_run_is_refused(tmp_path) -> None:
    args = arguments(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    SortedTrainer(language_net(), args, train_dataset=sentences()).train()
    other = sn.SortedNet.from_pretrained(llama(), num_hidden_layers=[1, 3])
    with pytest.raises(CheckpointError, match=r"belongs to another run: space\..* was \[1, 2, 3\] and is \[1, 3\]"):
        SortedTrainer(other, args, train_dataset=sentences()).train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match="objective was 'PerExample' and is 'Summation'"):
        SortedTrainer(language_net(), args, train_dataset=sentences(), objective="summation").train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-1")
        )
    with pytest.raises(SettingError, match="The state is that of 'Stratified', this sampler is Uniform"):
        SortedTrainer(language_net(), args, train_dataset=sentences(), sampler="uniform").train(
            resume_from_checkpoint=True
        )


# Errors


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"model": llama()}, ConfigError, "model is a LlamaForCausalLM, which has no sub-models. Make it a SortedNet"),
        ({"model": "some/name"}, ConfigError, "The model is 'some/name', which has no sub-models"),
        ({"model": None, "model_init": lambda: llama()}, ConfigError, "The model is a LlamaForCausalLM, which has no"),
        ({"objective": "sum"}, ConfigError, r"objective='sum' is unknown.*per_example.*; or give an Objective"),
        ({"objective": 3}, ConfigError, "objective=3 is unknown"),
        ({"sampler": "even"}, ConfigError, r"sampler='even' is unknown.*stratified.*; or give a Sampler"),
        ({"sampler": 3}, ConfigError, "sampler=3 is no sampler. Give a Sampler"),
        ({"sampler": sn.Uniform(sn.Space(depth=[1, 2]))}, ConfigError, r"sampler is of Space\(depth=.*Make it of net"),
        ({"objective": sn.Summation(sn.Space(depth=[1]))}, ConfigError, r"The objective is of Space\(depth="),
        (
            {"objective": sn.PerExample(sn.Uniform(sn.Space(depth=[1])))},
            ConfigError,
            r"The objective is of Space\(depth=",
        ),
        (
            {"objective": sn.Summation(language_net().space), "sampler": "uniform"},
            ConfigError,
            "sampler='uniform' has no use: the objective has its own. Leave one of them out",
        ),
        ({"eval_settings": [{"num_hidden_layers": 5}]}, SettingError, "num_hidden_layers=5"),
        ({"train_dataset": []}, DataError, "The training data are empty. Give at least one example"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_training(tmp_path, given, error, text) -> None:
    with pytest.raises(error, match=text):
        SortedTrainer(**{"model": language_net(), "args": arguments(tmp_path), "train_dataset": sentences(), **given})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha cannot be used with sub-models. It would reach the full"),
        ({"use_liger_kernel": True}, "use_liger_kernel cannot be used with sub-models"),
    ],
)
def test_arguments_that_reach_the_full_model_alone_are_refused(tmp_path, given, text) -> None:
    args = arguments(tmp_path)
    for name, value in given.items():
        setattr(args, name, value)
    with pytest.raises(ConfigError, match=text):
        SortedTrainer(language_net(), args, train_dataset=sentences())


def test_data_without_labels_are_refused_before_the_first_update(tmp_path) -> None:
    data = [{"input_ids": one["input_ids"]} for one in sentences()]
    net = language_net()
    before = weights(net)
    with pytest.raises(DataError, match="no labels: it holds input_ids, and LlamaForCausalLM takes labels"):
        SortedTrainer(net, arguments(tmp_path), train_dataset=data).train()
    assert same(weights(net), before)


def test_a_model_that_returns_no_loss_is_named(tmp_path) -> None:
    trainer = SortedTrainer(language_net(), arguments(tmp_path, label_names=["input_ids"]), train_dataset=sentences())
    trainer.train_dataset = [{"input_ids": one["input_ids"]} for one in sentences()]
    with pytest.raises(DataError, match="LlamaForCausalLM returned no loss for a batch that holds input_ids"):
        trainer.train()


# TRL


TEXTS = [f"the {one} sees the {other}" for one in ("cat", "dog", "cow", "hen") for other in ("bird", "fish", "goat")]


def sft_trainer(tmp_path, net: sn.SortedNet | None = None, **more):
    trl = pytest.importorskip("trl")

    class SortedSFTTrainer(SortedTrainerMixin, trl.SFTTrainer):
        pass

    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    args = trl.SFTConfig(
        str(tmp_path),
        **{
            "max_steps": 2, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 12, "learning_rate": 1e-2,
            "logging_steps": 1,
            "report_to": "none", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False, "bf16": False,
            "save_strategy": "no", **more,
        },
    )  # fmt: skip
    if net is None:
        net = language_net(vocab_size=len(tokenizer))
    data = Dataset.from_dict({"text": TEXTS})
    return SortedSFTTrainer(net, args, train_dataset=data, eval_dataset=data, processing_class=tokenizer)


trl_filters = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`return_outputs=True`:FutureWarning"),
]


def with_trl(test):
    for mark in trl_filters:
        test = mark(test)
    return test


@with_trl
def test_trl_trains_evaluates_and_saves_every_sub_model(tmp_path) -> None:
    trainer = sft_trainer(tmp_path, save_strategy="steps", save_steps=2, max_steps=12)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    batch = trainer.data_collator(list(trainer.eval_dataset))
    for setting in trainer.net.space:
        model = trainer.net.extract(setting).eval()
        output = model(**batch)
        assert after[f"eval_{setting}_loss"] == pytest.approx(float(output.loss.detach()), abs=1e-4)
        assert after[f"eval_{setting}_loss"] < before[f"eval_{setting}_loss"]
        right = (output.logits[:, :-1].argmax(-1) == batch["labels"][:, 1:])[batch["labels"][:, 1:] != -100]
        assert after[f"eval_{setting}_mean_token_accuracy"] == pytest.approx(float(right.float().mean()), abs=1e-3)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-12").config.num_hidden_layers == 3
    assert sn.load(tmp_path / "checkpoint-12").space == trainer.net.space


@with_trl
def test_trl_gives_the_losses_of_the_plain_trainer(tmp_path) -> None:
    one = sft_trainer(tmp_path / "trl")
    tokenizer = one.processing_class
    other = SortedTrainer(
        language_net(vocab_size=len(tokenizer)), arguments(tmp_path / "plain", max_steps=2),
        train_dataset=one.train_dataset, data_collator=one.data_collator, processing_class=tokenizer,
    )  # fmt: skip
    one.train()
    other.train()
    assert history(one) == [pytest.approx(line, abs=1e-6) for line in history(other)]


@with_trl
def test_trl_predicts_with_the_sub_models_own_logits(tmp_path) -> None:
    trainer = sft_trainer(tmp_path)
    batch = trainer.data_collator(list(trainer.eval_dataset))
    found = trainer.predict(trainer.eval_dataset, setting=SMALL)
    expected = trainer.net.extract(SMALL).eval()(**batch).logits.detach()
    assert found.predictions.shape[0] == len(TEXTS)
    width = min(found.predictions.shape[1], expected.shape[1])
    torch.testing.assert_close(torch.tensor(found.predictions)[:2, :width], expected[:2, :width], rtol=0, atol=1e-4)


@with_trl
def test_a_network_can_be_trained_by_one_trainer_after_another(tmp_path) -> None:
    first = sft_trainer(tmp_path / "first", bf16=True)
    first.train()
    data, collator = first.train_dataset, first.data_collator
    plain = SortedTrainer(
        first.net, arguments(tmp_path / "then"), train_dataset=data, eval_dataset=data, data_collator=collator
    )
    plain.train()
    again = sft_trainer(tmp_path / "again", net=first.net)
    again.train()
    assert again.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], abs=1e-3)


def test_the_library_is_imported_without_transformers() -> None:
    assert "sortednet.huggingface.trainer" in sys.modules
    assert not hasattr(sn, "fine_tuning") or "fine_tuning" not in sn.__all__
