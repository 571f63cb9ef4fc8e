"""A trainer's own loss, of a user or of TRL, is that of every sub-model that the objective asks for."""

import copy

import pytest
import torch
from datasets import Dataset
from torch.nn import functional
from transformers import LlamaConfig, LlamaForSequenceClassification, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer

import sortednet as sn
from sortednet.data.text import train_tokenizer
from sortednet.errors import ConfigError, TrainingError
from sortednet.huggingface.own_losses import SubModule
from sortednet.huggingface.trainer import SortedTrainer, SortedTrainerMixin

from .test_trainer import NO_DROPOUT, TEXTS, arguments, classifier_net, labelled, language_net, trl_filters

WEIGHTS = torch.tensor([1.0, 2.0, 5.0])
SGD = {"optim": "sgd", "max_steps": 1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "learning_rate": 0.5}


SAME = (
    "output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "report_to", "disable_tqdm", "use_cpu",
    "save_strategy", "dataloader_pin_memory",
)  # fmt: skip


class Weighted(SortedTrainer):
    """Class weights, as transformers' own recipe has it."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = functional.cross_entropy(outputs.logits, labels, WEIGHTS)
        return (loss, outputs) if return_outputs else loss


class Plain(Trainer):
    compute_loss = Weighted.compute_loss


class Over(SortedTrainerMixin, Plain):
    """The same over a trainer that knows nothing of sub-models."""


class Extended(SortedTrainer):
    """Adds to what the trainer has."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        loss = loss + 0.1 * outputs.logits.square().mean()
        return (loss, outputs) if return_outputs else loss


class Stepping(SortedTrainer):
    """A training step of one's own, which calls the model itself."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        model.train()
        inputs = self._prepare_inputs(inputs)
        loss = functional.cross_entropy(model(**inputs).logits, inputs["labels"], WEIGHTS)
        self.accelerator.backward(loss / self.current_gradient_accumulation_steps)
        return loss.detach() / self.current_gradient_accumulation_steps


class Sequences(SortedTrainerMixin, Seq2SeqTrainer):
    compute_loss = Weighted.compute_loss


class Smoothed(SortedTrainer):
    """Label smoothing of the training arguments."""


class Given(SortedTrainer):
    """A loss given as `compute_loss_func`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, compute_loss_func=self.weighted, **kwargs)

    @staticmethod
    def weighted(outputs, labels, num_items_in_batch=None):
        return functional.cross_entropy(outputs.logits, labels, WEIGHTS)


def loss_of(kind, outputs, labels):
    if kind is Smoothed:
        return functional.cross_entropy(outputs.logits, labels, label_smoothing=0.2)
    if kind is Extended:
        return functional.cross_entropy(outputs.logits, labels) + 0.1 * outputs.logits.square().mean()
    return functional.cross_entropy(outputs.logits, labels, WEIGHTS)


def cycled(net, **more):
    settings = ["num_hidden_layers=1", "num_hidden_layers=3"]
    return sn.Stochastic(sn.Cycle(net.space, settings), **{"draws": 2, **more})


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("kind", [Weighted, Over, Extended, Stepping, Sequences, Smoothed, Given])
def test_every_sub_model_is_trained_as_by_hand(kind, split, accumulate, tmp_path):
    net = classifier_net(**NO_DROPOUT)
    other = copy.deepcopy(net)
    data = labelled(8)
    batch = {
        "input_ids": torch.tensor([one["input_ids"] for one in data]),
        "labels": torch.tensor([one["label"] for one in data]),
    }
    args = arguments(tmp_path, **SGD, per_device_train_batch_size=4, gradient_accumulation_steps=accumulate)
    if kind is Smoothed:
        args.label_smoothing_factor = 0.2
    if kind is Sequences:
        args = Seq2SeqTrainingArguments(**{name: getattr(args, name) for name in (*SGD, *SAME)}, logging_steps=1)
    objective = cycled(net, split=split)
    trainer = kind(net, args, train_dataset=data, objective=objective)
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(data)
    trainer.train()
    other.train()
    for step in range(accumulate):
        rows = slice(4 * step, 4 * step + 4)
        for place, setting in enumerate(["num_hidden_layers=1", "num_hidden_layers=3"]):
            part = slice(rows.start + 2 * place, rows.start + 2 * place + 2) if split else rows
            outputs = other.at(setting)(input_ids=batch["input_ids"][part])
            (loss_of(kind, outputs, batch["labels"][part]) / 2 / accumulate).backward()
    torch.optim.SGD(other.parameters(), 0.5).step()
    for (name, ours), theirs in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5, msg=name)
    assert any("loss_num_hidden_layers=1" in one for one in trainer.state.log_history)


def test_evaluation_asks_the_same_loss_of_every_sub_model(tmp_path):
    net = classifier_net(**NO_DROPOUT)
    data = labelled(8)
    trainer = Weighted(net, arguments(tmp_path), train_dataset=data, eval_dataset=data)
    found = trainer.evaluate()
    ids, labels = (torch.tensor([one[name] for one in data]) for name in ("input_ids", "label"))
    net.eval()
    for depth in (1, 2, 3):
        with torch.no_grad():
            expected = [
                functional.cross_entropy(
                    net.at(num_hidden_layers=depth)(input_ids=ids[rows]).logits, labels[rows], WEIGHTS
                )
                for rows in (slice(0, 5), slice(5, 8))
            ]
        mean = float(expected[0] * 5 + expected[1] * 3) / 8
        assert found[f"eval_num_hidden_layers={depth}_loss"] == pytest.approx(mean, abs=1e-5)


def test_the_model_that_is_handed_over_is_the_sub_model(tmp_path):
    seen = []

    class Looking(Weighted):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            seen.append((model.setting, model.config.num_hidden_layers, len(list(model.parameters())), model.training))
            assert isinstance(model, torch.nn.Module)
            penalty = sum(one.square().sum() for one in model.parameters())
            return super().compute_loss(model, inputs) + 0 * penalty

    net = classifier_net(**NO_DROPOUT)
    Looking(net, arguments(tmp_path, max_steps=1), train_dataset=labelled(8), objective=cycled(net)).train()
    assert [str(setting) for setting, *_ in seen] == ["num_hidden_layers=1", "num_hidden_layers=3"]
    assert [depth for _, depth, *_ in seen] == [1, 3]
    assert seen[0][2] < seen[1][2]
    assert all(training for *_, training in seen)
    assert isinstance(SubModule(net, net, net.space.full).get_input_embeddings(), torch.nn.Embedding)


def test_a_loss_that_ignores_the_model_it_is_given_is_refused(tmp_path):
    class Ignoring(SortedTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return self.model(**inputs).loss

    trainer = Ignoring(classifier_net(), arguments(tmp_path), train_dataset=labelled(8))
    with pytest.raises(TrainingError, match="Ignoring did not call the model that it was given"):
        trainer.train()


def test_a_step_that_goes_around_the_accelerator_is_refused(tmp_path):
    class Around(SortedTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = model(**self._prepare_inputs(inputs)).loss
            loss.backward()
            return loss.detach()

    net = classifier_net()
    trainer = Around(net, arguments(tmp_path), train_dataset=labelled(8), objective=cycled(net))
    with pytest.raises(TrainingError, match=r"training_step does not call self\.accelerator\.backward"):
        trainer.train()
    assert "backward" not in vars(trainer.accelerator)


def test_what_an_own_loss_does_not_show_is_refused(tmp_path):
    net = classifier_net()
    objective = cycled(net, distillation=sn.Distillation())
    with pytest.raises(ConfigError, match="Distillation follows the outputs"):
        Weighted(net, arguments(tmp_path), train_dataset=labelled(8), objective=objective)
    penalised = sn.training.Penalised(cycled(net), lambda full: full.classifier.weight.square().sum())
    with pytest.raises(ConfigError, match="Penalised changes the loss"):
        Weighted(net, arguments(tmp_path), train_dataset=labelled(8), objective=penalised)


# --- TRL ------------------------------------------------------------------------------------------------------------


def preferences():
    return Dataset.from_dict(
        {"prompt": TEXTS, "chosen": [" it runs"] * len(TEXTS), "rejected": [" no cat"] * len(TEXTS)}
    )


def labelled_answers():
    return Dataset.from_dict(
        {"prompt": TEXTS, "completion": [" it runs"] * len(TEXTS), "label": [one % 2 == 0 for one in range(len(TEXTS))]}
    )


def trl_arguments(kind, folder, **more):
    return kind(
        str(folder),
        **{
            "max_steps": 2, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "learning_rate": 1e-2,
            "logging_steps": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no",
            "dataloader_pin_memory": False, "bf16": False, **more,
        },
    )  # fmt: skip


def with_trl(test):
    for mark in (*trl_filters, pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning")):
        test = mark(test)
    return test


def scorer(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_labels=1, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return sn.SortedNet.from_pretrained(LlamaForSequenceClassification(config), num_hidden_layers=[1, 2, 3])


def writer(tokenizer):
    return language_net(vocab_size=len(tokenizer), initializer_range=0.2)


def in_order(trainer):
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(trainer.train_dataset)
    return trainer


KINDS = {
    "SFTTrainer": ("SFTConfig", writer, lambda: Dataset.from_dict({"text": TEXTS}), False),
    "DPOTrainer": ("DPOConfig", writer, preferences, True),
    "KTOTrainer": ("KTOConfig", writer, labelled_answers, True),
    "RewardTrainer": ("RewardConfig", scorer, lambda: preferences().remove_columns("prompt"), False),
}


@with_trl
@pytest.mark.parametrize("name", KINDS)
def test_trainers_of_trl_train_every_sub_model_as_they_train_it_alone(name, tmp_path):
    trl = pytest.importorskip("trl")
    trainer, config = getattr(trl, name), getattr(trl, KINDS[name][0])
    _, make, data, against = KINDS[name]
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    net = make(tokenizer)
    reference = [copy.deepcopy(net.full)] if against else []
    args = trl_arguments(config, tmp_path, **SGD)
    before = {name: one.detach().clone() for name, one in net.full.named_parameters()}
    expected = {name: torch.zeros_like(one) for name, one in before.items()}
    for setting in ("num_hidden_layers=1", "num_hidden_layers=3"):
        alone = net.extract(setting)
        in_order(
            trainer(alone, *copy.deepcopy(reference), args=args, train_dataset=data(), processing_class=tokenizer)
        ).train()
        for one, parameter in alone.named_parameters():
            expected[one] += (parameter.detach() - before[one]) / 2
    sorted_trainer = type("Sorted", (SortedTrainerMixin, trainer), {})
    found = in_order(
        sorted_trainer(
            net, *copy.deepcopy(reference), args=args, train_dataset=data(), eval_dataset=data(),
            processing_class=tokenizer, objective=cycled(net, split=False),
        )
    )  # fmt: skip
    found.train()
    for one, parameter in net.full.named_parameters():
        torch.testing.assert_close(parameter - before[one], expected[one], rtol=0, atol=1e-5, msg=one)
    assert any(bool(one.any()) for one in expected.values())
    assert {f"eval_num_hidden_layers={depth}_loss" for depth in (1, 2, 3)} <= found.evaluate().keys()


@with_trl
@pytest.mark.parametrize("name", ["DPOTrainer", "KTOTrainer"])
def test_trainers_of_trl_train_adapters_of_every_rank_as_they_train_them_alone(name, tmp_path):
    trl, peft = pytest.importorskip("trl"), pytest.importorskip("peft")
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    reference, data = writer(tokenizer).full, KINDS[name][2]
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_dropout=0.0)
    net = sn.dylora(copy.deepcopy(reference), config)
    args = trl_arguments(getattr(trl, KINDS[name][0]), tmp_path, **SGD, beta=5.0)
    alone = net.extract("r=4")
    before = {name: one.detach().clone() for name, one in alone.named_parameters() if one.requires_grad}
    trainer, more = getattr(trl, name), {"args": args, "processing_class": tokenizer, "train_dataset": data()}
    in_order(trainer(alone, copy.deepcopy(reference), **more)).train()
    assert any(not torch.equal(one, before[name]) for name, one in alone.named_parameters() if one.requires_grad)
    whole = sn.Stochastic(sn.Cycle(net.space, ["r=4"]), split=False)
    sorted_trainer = type("Sorted", (SortedTrainerMixin, trainer), {})
    in_order(sorted_trainer(net, copy.deepcopy(reference), objective=whole, **more)).train()
    ours = dict(net.extract("r=4").named_parameters())
    for one, parameter in alone.named_parameters():
        torch.testing.assert_close(ours[one], parameter, rtol=0, atol=1e-5, msg=one)


@with_trl
def test_a_loss_of_trls_own_is_asked_of_every_sub_model(tmp_path):
    trl = pytest.importorskip("trl")
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    net = writer(tokenizer)
    data = Dataset.from_dict({"text": TEXTS})
    args = trl_arguments(trl.SFTConfig, tmp_path, **SGD, loss_type="dft")
    before = {name: one.detach().clone() for name, one in net.full.named_parameters()}
    expected = {name: torch.zeros_like(one) for name, one in before.items()}
    for setting in ("num_hidden_layers=1", "num_hidden_layers=3"):
        alone = net.extract(setting)
        in_order(trl.SFTTrainer(alone, args=args, train_dataset=data, processing_class=tokenizer)).train()
        for one, parameter in alone.named_parameters():
            expected[one] += (parameter.detach() - before[one]) / 2
    sorted_trainer = type("Sorted", (SortedTrainerMixin, trl.SFTTrainer), {})
    more = {"processing_class": tokenizer, "objective": cycled(net, split=False)}
    in_order(sorted_trainer(net, args=args, train_dataset=data, **more)).train()
    for one, parameter in net.full.named_parameters():
        torch.testing.assert_close(parameter - before[one], expected[one], rtol=0, atol=1e-5, msg=one)


@with_trl
def test_a_trainer_that_generates_as_it_trains_is_refused_by_name(tmp_path):
    trl = pytest.importorskip("trl")

    class SortedGRPOTrainer(SortedTrainerMixin, trl.GRPOTrainer):
        pass

    with pytest.raises(ConfigError, match="Sub-models cannot be trained by GRPOTrainer: it generates"):
        SortedGRPOTrainer(language_net(), reward_funcs=lambda completions, **_: [0.0] * len(completions))
