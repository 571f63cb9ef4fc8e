"""Evaluation that generates: what `predict_with_generate` of a `Seq2SeqTrainer` does for each sub-model."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Seq2SeqTrainer, Seq2SeqTrainingArguments, T5Config
from transformers import T5ForConditionalGeneration as T5

import sortednet as sn
from sortednet.huggingface import SortedTrainerMixin

LENGTH, EXAMPLES = 6, 4


class Generating(SortedTrainerMixin, Seq2SeqTrainer):
    pass


def t5() -> tuple[sn.SortedNet, str]:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=24, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_decoder_layers=2, num_heads=2,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return sn.SortedNet.from_pretrained(T5(config), d_ff=[4, 8, 16]), "d_ff"


def llama() -> tuple[sn.SortedNet, str]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=24, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return sn.SortedNet.from_pretrained(LlamaForCausalLM(config), num_hidden_layers=[1, 2, 3]), "num_hidden_layers"


def trainer_of(net: sn.SortedNet, folder, heard: list | None = None) -> Generating:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 24, (EXAMPLES, 5), generator=generator).tolist()
    data = [{"input_ids": row, "labels": row} for row in ids]
    args = Seq2SeqTrainingArguments(
        str(folder), per_device_eval_batch_size=2, predict_with_generate=True, generation_max_length=LENGTH + 5,
        report_to="none", use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True, max_steps=1, save_strategy="no",
    )  # fmt: skip

    def metrics(prediction):
        if heard is not None:
            heard.append(prediction.predictions)
        return {"ones": float((prediction.predictions == 3).mean())}

    return Generating(net, args, train_dataset=data, eval_dataset=data, compute_metrics=metrics)


@pytest.mark.parametrize("make", [t5, llama])
def test_each_sub_model_generates_what_it_generates_alone(make, tmp_path) -> None:
    net, name = make()
    heard: list[np.ndarray] = []
    trainer = trainer_of(net, tmp_path, heard)
    found = trainer.evaluate()
    ids = torch.tensor([one["input_ids"] for one in trainer.eval_dataset])
    texts = []
    for setting, predicted in zip(net.space, heard, strict=True):
        alone = net.extract(setting).eval().generate(ids, max_length=LENGTH + 5).numpy()
        texts.append(alone)
        assert np.array_equal(predicted[:, : alone.shape[1]], alone)
        assert f"eval_{setting}_ones" in found
    assert any(not np.array_equal(one, texts[-1]) for one in texts[:-1])
    assert {f"eval_{name}={value}_loss" for value in net.space.supports[name].values} <= found.keys()


def test_a_sub_model_predicts_by_generating(tmp_path) -> None:
    net, name = llama()
    trainer = trainer_of(net, tmp_path)
    ids = torch.tensor([one["input_ids"] for one in trainer.eval_dataset])
    found = trainer.predict(trainer.eval_dataset, setting=f"{name}=1").predictions
    alone = net.extract({name: 1}).eval().generate(ids, max_length=LENGTH + 5).numpy()
    assert np.array_equal(found[:, : alone.shape[1]], alone)


def test_training_goes_on_as_before(tmp_path) -> None:
    net, _ = llama()
    trainer = trainer_of(net, tmp_path)
    before = net.full.lm_head.weight.detach().clone()
    trainer.train()
    assert not torch.equal(net.full.lm_head.weight, before)
