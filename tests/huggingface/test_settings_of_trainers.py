"""What trainers set on a model before the first step has the same effect on a network's sub-models."""

import pytest
import torch
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from sortednet.data.text import train_tokenizer
from sortednet.huggingface.trainer import SortedTrainer

from ..contracts.arriving_cases import net_of

TEXTS = [("a b c", 0), ("a b", 1), ("c", 2), ("b c b c b", 0)]


def arguments(folder, **more):
    return TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=4, report_to="none", disable_tqdm=True, use_cpu=True,
        save_strategy="no", dataloader_pin_memory=False, logging_steps=1, **more,
    )  # fmt: skip


def data(tokenizer):
    return [{**tokenizer(text), "labels": label} for text, label in TEXTS]


@pytest.mark.parametrize("name", ["gpt2_classifier", "llama_classifier"])
def test_a_classifier_without_a_padding_id_trains_as_with_the_plain_trainer(tmp_path, name):
    tokenizer = train_tokenizer(["a text"], vocab_size=260)
    losses = []
    for trainer_class in (Trainer, SortedTrainer):
        net = net_of(name)
        net.resize_token_embeddings(260, mean_resizing=False)
        with torch.no_grad():
            net.get_input_embeddings().weight[40:] = 0.1 * torch.arange(220)[:, None] / 220
        for module in net.full.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        assert net.config.pad_token_id is None
        own = {"objective": "stochastic", "sampler": "uniform"} if trainer_class is SortedTrainer else {}
        model = net if own else net.full
        trainer = trainer_class(
            model, arguments(tmp_path), train_dataset=data(tokenizer), processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer), **own,
        )  # fmt: skip
        trainer.train()
        assert net.config.pad_token_id == tokenizer.pad_token_id
        losses.append([one["loss"] for one in trainer.state.log_history if "loss" in one])
        inputs = DataCollatorWithPadding(tokenizer)([tokenizer(text) for text, _ in TEXTS])
        net.eval()
        assert torch.equal(net(**inputs).logits, net.full(**inputs).logits)
        setting = net.space.smallest
        assert torch.equal(net.at(setting)(**inputs).logits, net.extract(setting)(**inputs).logits)
        assert net.extract(setting).config.pad_token_id == tokenizer.pad_token_id
    assert all(len(one) == 2 for one in losses)
