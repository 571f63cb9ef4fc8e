import json
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import sortednet as sn
from sortednet.cli import main
from sortednet.data.text import train_tokenizer
from sortednet.evaluation.table import Table
from sortednet.training.objectives import PerExample, Summation

WORDS = ["good fine film", "bad dull film", "a nice story", "a poor story", "so good", "so bad"]
SENTENCES = [(f"{text} {i}", i % 2) for i, text in enumerate(WORDS * 5)]
SUMS = [{"question": f"{i} + {i}?", "answer": f"it is {2 * i}"} for i in range(24)]

ENCODER = """
output: {folder}/run
pretrained: {{path: {folder}/encoder}}
space: {{num_hidden_layers: [1, 2]}}
text: {{name: sst2, source: {folder}, max_length: 16}}
objective: {{name: per_example}}
head_learning_rate: 1.0e-2
training: {{max_steps: 8, per_device_train_batch_size: 8, learning_rate: 1.0e-3, save_steps: 4, logging_steps: 2}}
"""
CAUSAL = """
output: {folder}/run
pretrained: {{path: {folder}/decoder, task: causal_lm}}
space: {{num_hidden_layers: [1, 2], intermediate_size: [8, 16]}}
text: {{name: gsm8k, source: {folder}, max_length: 48}}
importance: {{kind: taylor, batches: 2}}
objective: {{name: summation, full_weight: 10}}
training: {{max_steps: 6, per_device_train_batch_size: 8, learning_rate: 1.0e-3, save_steps: 3, logging_steps: 2}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models and texts."""
    made = tmp_path_factory.mktemp("fine_tuning")
    for part in ("train", "dev"):
        lines = "".join(f"{text}\t{label}\n" for text, label in SENTENCES)
        (made / f"glue_sst2_{part}.tsv").write_text("sentence\tlabel\n" + lines)
    for name in ("gsm8k_train", "gsm8k_test_a"):
        (made / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    tokenizer = train_tokenizer([text for text, _ in SENTENCES], vocab_size=300)
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    models = {"encoder": BertModel(BertConfig(**shape)), "decoder": LlamaForCausalLM(LlamaConfig(**shape, **tokens))}
    models["three"] = BertForSequenceClassification(BertConfig(**shape, num_labels=3))
    for name, model in models.items():
        model.save_pretrained(made / name)
        tokenizer.save_pretrained(made / name)
    return made


@pytest.fixture
def encoder(folder: Path, tmp_path: Path) -> Path:
    return written(ENCODER, folder, tmp_path)


@pytest.fixture
def causal(folder: Path, tmp_path: Path) -> Path:
    return written(CAUSAL, folder, tmp_path)


def written(text: str, folder: Path, output: Path) -> Path:
    file = output / "config.yaml"
    file.write_text(text.format(folder=folder).replace(f"{folder}/run", f"{output}/run"))
    return file


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail, and return its message."""
    capsys.readouterr()
    assert main(list(words)) == 2
    message = capsys.readouterr().err
    assert "error: " in message
    assert "Traceback" not in message
    return " ".join(message.split())


def interrupted_at(monkeypatch: pytest.MonkeyPatch, objective: type, update: int) -> None:
    """Send the process Ctrl-C during an update, once."""
    choose, calls = objective.choose, []

    def counted(self, size):
        calls.append(size)
        if len(calls) == update:
            signal.raise_signal(signal.SIGINT)
        return choose(self, size)

    monkeypatch.setattr(objective, "choose", counted)


def test_an_encoder_goes_from_a_config_to_ordinary_models(encoder: Path, capsys) -> None:
    run = str(encoder.parent / "run")
    assert main(["train", str(encoder)]) == 0
    assert main(["evaluate", run]) == 0
    table = Table.from_json(Path(run) / "table.json")
    assert (table.metric, len(table), table.higher_is_better) == ("accuracy", 2, True)
    assert set(table.columns) >= {"quality", "params", "flops", "latency_ms", "memory_bytes", "recovery"}
    assert all(row.quality_low <= row.quality <= row.quality_high for row in table)
    assert table.conditions["split"] == "all evaluation examples"
    whole = table.conditions["examples"]
    assert main(["evaluate", run, "--report_share", "0.5"]) == 0
    table = Table.from_json(Path(run) / "table.json")
    assert table.conditions["examples"] + table.conditions["reported examples"] == whole
    assert all(row.reported is not None for row in table)
    assert main(["select", run, "max_params=1000000", "--name", "best"]) == 0
    assert main(["extract", run, "best"]) == 0
    assert main(["report", run]) == 0
    page = (Path(run) / "report.html").read_text()
    assert "encoder on sst2" in page
    assert page.count("against the full model") == 2
    assert "Training" in page


def test_a_language_model_goes_from_a_config_to_ordinary_models(causal: Path, capsys) -> None:
    run = str(causal.parent / "run")
    assert main(["train", str(causal)]) == 0
    assert "Ordered the units of intermediate_size by taylor, on 2 batches." in capsys.readouterr().err
    assert main(["evaluate", run]) == 0
    table = Table.from_json(Path(run) / "table.json")
    assert (table.metric, len(table), table.higher_is_better) == ("loss", 4, False)
    assert table.select(max_params=10**9) == min(table, key=lambda row: row.quality).setting
    assert main(["select", run, "max_params=1000000", "--name", "small"]) == 0
    assert main(["extract", run, "num_hidden_layers=1,intermediate_size=8"]) == 0
    assert "from_pretrained opens it, without sortednet" in capsys.readouterr().err
    assert main(["report", run]) == 0
    extracted = Path(run) / "extracted" / "num_hidden_layers=1,intermediate_size=8"
    model = AutoModelForCausalLM.from_pretrained(extracted)
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (1, 8)
    AutoTokenizer.from_pretrained(extracted)


def test_the_loss_of_the_table_is_the_mean_over_answer_tokens(causal: Path) -> None:
    run = causal.parent / "run"
    assert main(["train", str(causal)]) == 0
    assert main(["evaluate", str(run), "--measure", "[]", "--batch_size", "5"]) == 0
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    net = sn.load(run / "model")
    total, count = 0.0, 0
    for row in SUMS:
        prompt = len(tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"])
        whole = tokenizer(f"Question: {row['question']}\nAnswer: {row['answer']}")["input_ids"]
        ids = torch.tensor([[*whole, tokenizer.eos_token_id]])
        with torch.no_grad():
            chances = net.submodel(num_hidden_layers=1)(input_ids=ids).logits[0, prompt - 1 : -1].log_softmax(-1)
        total -= float(chances.gather(1, ids[0, prompt:, None]).sum())
        count += ids.shape[1] - prompt
    found = Table.from_json(run / "table.json").row("num_hidden_layers=1,intermediate_size=16").quality
    assert found == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize(
    ("config", "objective", "name"),
    [
        ("encoder", Summation, "summation"),
        ("causal", Summation, "summation"),
        ("encoder", PerExample, "per_example"),
    ],
)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    config: str, objective: type, name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch, capsys
) -> None:
    words = ["train", str(request.getfixturevalue(config)), f"objective.name={name}"]
    assert main([*words, "--output", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patched:
        interrupted_at(patched, objective, 5)
        assert main(words) == 130
    assert "same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()
    assert main(words) == 0
    whole, resumed = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    updates = [json.loads(line)["update"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert updates == sorted(updates)


def test_a_finished_run_trains_no_further(encoder: Path) -> None:
    assert main(["train", str(encoder)]) == 0
    file = encoder.parent / "run" / "model" / "model.safetensors"
    before = load_file(file)
    assert main(["train", str(encoder), "training.save_total_limit=1"]) == 0
    after = load_file(file)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_last_update_is_logged(encoder: Path) -> None:
    assert main(["train", str(encoder), "training.max_steps=3"]) == 0
    lines = (encoder.parent / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [2, 3]
    assert set(json.loads(lines[0])["terms"]) == {"num_hidden_layers=1", "num_hidden_layers=2"}


def test_what_is_cut_and_left_out_is_said(causal: Path, capsys) -> None:
    assert main(["train", str(causal), "text.max_length=24", "training.max_steps=1"]) == 0
    message = " ".join(capsys.readouterr().err.split())
    assert re.search(r"\d+ of 24 train examples of gsm8k have no answer within max_length=24", message)
    assert re.search(r"\d+ of \d+ training examples are cut to text.max_length=24", message)


def test_an_order_that_is_not_resumed_is_said(encoder: Path, monkeypatch, capsys) -> None:
    words = ["train", str(encoder), "training.train_sampling_strategy=group_by_length"]
    with monkeypatch.context() as patched:
        interrupted_at(patched, PerExample, 2)
        assert main(words) == 130
    assert main(words) == 0
    assert "draws the order of training.train_sampling_strategy=group_by_length anew" in capsys.readouterr().err


def test_the_head_learns_at_its_own_rate(encoder: Path, folder: Path) -> None:
    assert main(["train", str(encoder), "training.learning_rate=1.0e-30", "training.weight_decay=0"]) == 0
    start, end = load_file(folder / "encoder" / "model.safetensors"), None
    end = load_file(encoder.parent / "run" / "model" / "model.safetensors")
    moved = {name for name in start if not torch.allclose(start[name], end[f"bert.{name}"], atol=1e-12)}
    assert moved == {"pooler.dense.weight", "pooler.dense.bias"}


def test_a_readout_that_transformers_does_not_know_is_noted(encoder: Path, capsys) -> None:
    run = encoder.parent / "run"
    assert main(["train", str(encoder)]) == 0
    capsys.readouterr()
    assert main(["extract", str(run), "num_hidden_layers=1", "--onnx", "true"]) == 0
    message = " ".join(capsys.readouterr().err.split())
    assert re.search(r"outputs differ by \d+ %, since it does not know the readout 'mean'", message)
    assert "model.onnx for texts of any number and length; onnxruntime differs by" in message
    extracted = run / "extracted" / "num_hidden_layers=1"
    again = sn.load(extracted, at="num_hidden_layers=1").eval()
    ids = torch.arange(5, 12)[None]
    with torch.no_grad():
        expected = sn.load(run / "model").submodel(num_hidden_layers=1)(input_ids=ids).logits
        assert torch.equal(again(input_ids=ids).logits, expected)


def test_the_models_own_readout_opens_plainly(encoder: Path, capsys) -> None:
    run = encoder.parent / "run"
    assert main(["train", str(encoder), "pretrained.readout=own"]) == 0
    assert main(["extract", str(run), "num_hidden_layers=1", "--onnx", "true"]) == 0
    assert "from_pretrained opens it" in capsys.readouterr().err
    model = AutoModelForSequenceClassification.from_pretrained(run / "extracted" / "num_hidden_layers=1")
    assert model.config.num_hidden_layers == 1
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert (run / "extracted" / "num_hidden_layers=1" / "model.onnx").stat().st_size > 0


def test_heads_that_a_config_cannot_express_are_noted(encoder: Path, capsys) -> None:
    run = encoder.parent / "run"
    words = ["pretrained.readout=own", "space={num_attention_heads: [1, 2]}"]
    assert main(["train", str(encoder), *words]) == 0
    capsys.readouterr()
    assert main(["extract", str(run), "num_attention_heads=1"]) == 0
    message = " ".join(capsys.readouterr().err.split())
    assert "cannot open it: its config cannot express num_attention_heads=1" in message
    ids = torch.arange(5, 12)[None]
    with torch.no_grad():
        again = sn.load(run / "extracted" / "num_attention_heads=1", at="num_attention_heads=1").eval()
        expected = sn.load(run / "model").submodel(num_attention_heads=1)(input_ids=ids).logits
        assert torch.allclose(again(input_ids=ids).logits, expected, atol=1e-6)


def test_numbers_are_predicted_too(encoder: Path, folder: Path, capsys) -> None:
    rows = "".join(f"{i / 6:.2f}\t{text}\tgood film\n" for i, (text, _) in enumerate(SENTENCES))
    for part in ("train", "dev"):
        (folder / f"glue_stsb_{part}.tsv").write_text("score\tsentence1\tsentence2\n" + rows)
    run = str(encoder.parent / "run")
    assert main(["train", str(encoder), "text.name=stsb"]) == 0
    assert main(["evaluate", run, "--measure", "[]"]) == 0
    assert Table.from_json(Path(run) / "table.json").metric == "pearson"
    assert not list(Path(run).glob("similarity*"))


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (
            "encoder",
            ["training.learning_rat=1"],
            r"learning_rat is no field of .*TrainingArguments. Did you mean learn",
        ),
        ("encoder", ["training.learning_rate=much"], r"learning_rate='much' is of type str. Give a number"),
        ("encoder", ["training.bf16=1"], r"training.bf16=1 is of type int. Give true or false"),
        ("encoder", ["training.lr_scheduler_type=curve"], r"training=.* cannot be used: curve is not a valid"),
        ("encoder", ["training.output_dir=here"], r"training.output_dir is set by the command. Give output instead"),
        ("encoder", ["space={num_hidden_layers: [1, 3]}"], r"is 3, larger than the pretrained size: the model has 2"),
        ("encoder", ["space={layers: [1, 2]}"], r"layers is no size in the config of BertForSequenceClassification"),
        ("encoder", ["text.max_length=100"], r"max_length=100 is beyond the model's 64 positions"),
        ("encoder", ["text.option={}"], r"'text.option'. Did you mean text.options"),
        ("encoder", ["text.options.part=1"], r"options .* do not fit the data 'sst2': .*part"),
        ("encoder", ["text.source=nowhere"], r"nowhere' is no folder. Give the folder with glue_sst2_train.tsv.gz"),
        ("encoder", ["text.source=hub"], r"HF_HUB_OFFLINE=1 .* In the configuration: text.source=FOLDER"),
        ("encoder", ["text.name=jsonl"], r"text.source=.* has no use for files of your own"),
        ("encoder", ["text.name=gsm8k"], r"gsm8k is causal, and pretrained.task=sequence_classification needs"),
        ("encoder", ["pretrained.path=nowhere"], r"pretrained.path='nowhere' cannot be opened: .*Give a folder that"),
        ("encoder", ["pretrained.path=python:no_such_package/model"], r"package 'no_such_package' cannot be found"),
        ("encoder", ["pretrained.path=python:sortednet/weights"], r"package sortednet has no folder 'weights'"),
        ("encoder", ["pretrained.pad_token=<none>"], r"pad_token='<none>' is none of the tokenizer's tokens"),
        ("encoder", ["importance.batches=0"], r"importance.batches=0 is below 1"),
        ("encoder", ["objective.full_weight=0"], r"full_weight=0.0 above 0"),
        ("encoder", ["head_learning_rate=0"], r"head_learning_rate=0.0 must be above 0"),
        ("causal", ["pretrained.readout=mean"], r"readout='mean' is for task: sequence_classification, not causal_lm"),
        ("causal", ["text.encoding={chatt: true}"], r"text.encoding=.* does not fit: .*chatt"),
    ],
)
def test_a_wrong_config_is_one_clear_error(
    config: str, changes: list[str], message: str, request: pytest.FixtureRequest, capsys
) -> None:
    file = request.getfixturevalue(config)
    assert re.search(message, error_of(capsys, "train", str(file), *changes))
    assert not (file.parent / "run" / "config.json").exists()


def test_a_model_of_other_labels_is_refused(encoder: Path, folder: Path, capsys) -> None:
    message = error_of(capsys, "train", str(encoder), f"pretrained.path={folder / 'three'}")
    assert "does not fit: The model's num_labels is 3, but sst2 has 2 classes, 0 to 1" in message


def test_a_tokenizer_of_another_model_is_refused(encoder: Path, folder: Path, tmp_path: Path, capsys) -> None:
    config = json.loads((folder / "encoder" / "config.json").read_text())
    small = tmp_path / "small"
    BertModel(BertConfig(**{**config, "vocab_size": 100})).save_pretrained(small)
    AutoTokenizer.from_pretrained(folder / "encoder").save_pretrained(small)
    message = error_of(capsys, "train", str(encoder), f"pretrained.path={small}")
    assert re.search(r"does not fit: The tokenizer has token ids up to \d+, but the model's vocab_size is 100", message)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", r"have .* rows. Give at least one row"),
        ("good\t-1\nbad\t-1\n", r"2 rows of the training data of sst2 have no label"),
        ("good\t\nbad\t0\n", r"1 rows of the training data of sst2 have no label"),
    ],
)
def test_empty_and_unlabelled_data_are_refused(encoder: Path, tmp_path: Path, rows: str, message: str, capsys) -> None:
    for part in ("train", "dev"):
        (tmp_path / f"glue_sst2_{part}.tsv").write_text("sentence\tlabel\n" + rows)
    assert re.search(message, error_of(capsys, "train", str(encoder), f"text.source={tmp_path}"))


def test_a_tokenizer_without_padding_is_refused_unless_a_token_is_given(
    causal: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    own = tmp_path / "unpadded"
    LlamaForCausalLM.from_pretrained(folder / "decoder").save_pretrained(own)
    tokenizer = AutoTokenizer.from_pretrained(folder / "decoder")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(own)
    message = error_of(capsys, "train", str(causal), f"pretrained.path={own}")
    assert "has no padding token. Give one of its tokens as pretrained.pad_token, such as '<|eos|>'" in message
    words = [f"pretrained.path={own}", "pretrained.pad_token=<|eos|>", "training.max_steps=1"]
    assert main(["train", str(causal), *words]) == 0


@pytest.mark.parametrize(
    "change",
    ["training.learning_rate=2.0e-3", "objective.name=summation", "text.max_length=12", "head_learning_rate=1"],
)
def test_a_run_is_not_continued_with_another_configuration(encoder: Path, capsys, change: str) -> None:
    assert main(["train", str(encoder), "training.max_steps=1"]) == 0
    before = (encoder.parent / "run" / "config.json").read_bytes()
    message = error_of(capsys, "train", str(encoder), "training.max_steps=1", change)
    assert re.search(rf"belongs to another run: .*{re.split('=', change)[0]}.* was .* and is ", message)
    assert (encoder.parent / "run" / "config.json").read_bytes() == before
    assert main(["train", str(encoder), "training.max_steps=1", change, "--resume", "false"]) == 0


def test_a_trained_network_is_not_replaced_unasked(encoder: Path, capsys) -> None:
    assert main(["train", str(encoder), "training.max_steps=1", "training.save_strategy=no"]) == 0
    message = error_of(capsys, "train", str(encoder), "training.max_steps=1")
    assert "holds a trained network, but no checkpoint is left" in message


def test_a_loss_that_is_not_finite_stops_the_run(encoder: Path, capsys) -> None:
    words = ["training.learning_rate=1.0e+30", "training.max_grad_norm=0", "training.logging_steps=1"]
    assert re.search(r"The loss is nan at update \d", error_of(capsys, "train", str(encoder), *words))


def test_a_run_can_be_used_from_another_folder(encoder: Path, folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    words = ["pretrained.path=encoder", "text.source=.", "training.max_steps=1"]
    assert main(["train", str(encoder), *words]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "run", "--measure", "[]"]) == 0


def test_evaluating_what_is_not_trained_says_what_to_do(encoder: Path, monkeypatch, capsys) -> None:
    with monkeypatch.context() as patched:
        interrupted_at(patched, PerExample, 2)
        assert main(["train", str(encoder)]) == 130
    message = error_of(capsys, "evaluate", str(encoder.parent / "run"))
    assert "holds no trained network yet. Finish it first: sortednet train" in message
