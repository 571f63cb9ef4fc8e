import json
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import sortednet as sn
from sortednet.cli import main
from sortednet.evaluation.table import Table
from sortednet.files import records
from sortednet.huggingface.trainer import SortedTrainer
from sortednet.jobs.configurations import read_config
from sortednet.jobs.fine_tuning import open_run
from sortednet.training.objectives import PerExample, Stochastic

from ..contracts.adapter_cases import QUIET
from .test_command_fine_tuning import error_of, folder, interrupted_at, written

assert folder  # a fixture

ENCODER = """
output: {folder}/run
pretrained: {{path: {folder}/encoder}}
adapter: {{r: 4, lora_alpha: 4, use_rslora: true, target_modules: [query, value], modules_to_save: [pooler]}}
text: {{name: sst2, source: {folder}, max_length: 16}}
objective: {{name: per_example}}
head_learning_rate: 1.0e-2
training: {{max_steps: 8, per_device_train_batch_size: 8, learning_rate: 1.0e-2, save_steps: 4, logging_steps: 2}}
"""
CAUSAL = """
output: {folder}/run
pretrained: {{path: {folder}/decoder, task: causal_lm}}
adapter: {{r: 4, ranks: [1, 4], lora_alpha: 8, target_modules: [q_proj, v_proj]}}
text: {{name: gsm8k, source: {folder}, max_length: 48}}
objective: {{name: per_example}}
training: {{max_steps: 6, per_device_train_batch_size: 8, learning_rate: 1.0e-2, save_steps: 3, logging_steps: 2}}
"""
ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def encoder(folder: Path, tmp_path: Path) -> Path:
    return written(ENCODER, folder, tmp_path)


@pytest.fixture
def causal(folder: Path, tmp_path: Path) -> Path:
    return written(CAUSAL, folder, tmp_path)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(5, 12)[None]).logits


@QUIET
def test_an_adapter_goes_from_a_config_to_a_plain_adapter(encoder: Path, folder: Path, capsys) -> None:
    run = encoder.parent / "run"
    assert main(["train", str(encoder)]) == 0
    assert "Trained 3 sub-models in one network" in said(capsys)
    assert not (run / "model" / "model.safetensors").exists()
    assert main(["evaluate", str(run)]) == 0
    table = Table.from_json(run / "table.json")
    assert [str(row.setting) for row in table] == ["r=1", "r=2", "r=4"]
    assert set(table.columns) >= {"quality", "params", "flops", "latency_ms", "memory_bytes", "recovery"}
    assert main(["select", str(run), "max_params=1000000", "--name", "best"]) == 0
    capsys.readouterr()
    assert main(["extract", str(run), "r=2"]) == 0
    assert "Plain PeftModel.from_pretrained opens it on" in said(capsys)
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "encoder on sst2" in page
    assert "r=4" in page
    base = AutoModelForSequenceClassification.from_pretrained(folder / "encoder", num_labels=2)
    opened = PeftModel.from_pretrained(base, run / "extracted" / "r=2")
    assert opened.peft_config["default"].r == 2
    net = open_run(read_config(run / "config.json"), run).net
    assert torch.allclose(logits(opened), logits(net.submodel(r=2)), atol=1e-6)
    AutoTokenizer.from_pretrained(run / "extracted" / "r=2")


@QUIET
def test_a_language_model_with_an_adapter_is_measured_cut_out_and_continues_a_text(
    causal: Path, folder: Path, capsys
) -> None:  # fmt: skip
    run = causal.parent / "run"
    assert main(["train", str(causal)]) == 0
    assert main(["evaluate", str(run), "--measure", "[]"]) == 0
    table = Table.from_json(run / "table.json")
    assert (table.metric, len(table), table.higher_is_better) == ("loss", 2, False)
    assert main(["select", str(run), "max_params=1000000", "--name", "small"]) == 0
    assert main(["extract", str(run), "small"]) == 0
    capsys.readouterr()
    for words in (["--setting", "r=1"], ["--decoding", "plain"]):
        assert main(["generate", str(run), "1 + 1?", "--max_new_tokens", "3", *words]) == 0
        assert "3 tokens" in capsys.readouterr().err
    prompt = AutoTokenizer.from_pretrained(folder / "decoder")("1 + 1?", return_tensors="pt")
    assert main(["extract", str(run), "r=1"]) == 0
    base = AutoModelForCausalLM.from_pretrained(folder / "decoder")
    opened = PeftModel.from_pretrained(base, run / "extracted" / "r=1").eval()
    plain = opened.generate(**prompt, max_new_tokens=3, do_sample=False)
    capsys.readouterr()
    assert main(["generate", str(run), "1 + 1?", "--max_new_tokens", "3", "--setting", "r=1"]) == 0
    expected = AutoTokenizer.from_pretrained(folder / "decoder").decode(plain[0, prompt["input_ids"].shape[1] :])
    assert capsys.readouterr().out.rstrip("\n") == expected


@QUIET
def test_a_baked_adapter_gives_the_same_with_alpha_as_its_rank(encoder: Path, folder: Path) -> None:
    run = encoder.parent / "run"
    assert main(["train", str(encoder), "training.max_steps=2"]) == 0
    opened = []
    for form in ("plain", "baked"):
        words = ["--form", form, "--output", str(run / form)]
        assert main(["extract", str(run), "r=2", *words]) == 0
        base = AutoModelForSequenceClassification.from_pretrained(folder / "encoder", num_labels=2)
        opened.append(PeftModel.from_pretrained(base, run / form))
    assert (opened[1].peft_config["default"].lora_alpha, opened[1].peft_config["default"].use_rslora) == (2, False)
    assert torch.allclose(logits(opened[0]), logits(opened[1]), atol=1e-6)


def test_a_rank_that_the_server_has_no_slot_of_is_said(causal: Path, capsys) -> None:
    run = causal.parent / "run"
    assert main(["train", str(causal), "training.max_steps=1"]) == 0
    capsys.readouterr()
    assert main(["extract", str(run), "r=4", "--server", "vllm"]) == 0
    assert "note: vllm holds an adapter of rank 4 in a slot of 8" in said(capsys)
    assert main(["extract", str(run), "r=1", "--server", "vllm"]) == 0
    assert "note:" not in said(capsys)


def test_an_adapter_is_exported_within_its_model(encoder: Path) -> None:
    run = encoder.parent / "run"
    assert main(["train", str(encoder), "training.max_steps=1"]) == 0
    assert main(["extract", str(run), "r=1", "--onnx", "true"]) == 0
    assert (run / "extracted" / "r=1" / "model.onnx").stat().st_size > 0


@QUIET
def test_an_adapter_of_fewer_layers_is_for_a_model_of_as_many(causal: Path, folder: Path, capsys) -> None:
    run = causal.parent / "run"
    words = ["space={num_hidden_layers: [1, 2]}", "training.max_steps=2"]
    assert main(["train", str(causal), *words]) == 0
    assert main(["evaluate", str(run), "--measure", "[]"]) == 0
    assert len(Table.from_json(run / "table.json")) == 4
    capsys.readouterr()
    assert main(["extract", str(run), "num_hidden_layers=1,r=4"]) == 0
    assert "note: it is for the pretrained model opened with num_hidden_layers=1" in said(capsys)
    base = AutoModelForCausalLM.from_pretrained(folder / "decoder", num_hidden_layers=1)
    opened = PeftModel.from_pretrained(base, run / "extracted" / "num_hidden_layers=1,r=4")
    model = AutoModelForCausalLM.from_pretrained(folder / "decoder")
    expected = sn.load(run / "model", at="num_hidden_layers=1,r=4", model=model)
    assert torch.allclose(logits(opened), logits(expected), atol=1e-6)
    assert main(["extract", str(run), "num_hidden_layers=2,r=4"]) == 0
    assert main(["generate", str(run), "1 + 1?", "--max_new_tokens", "3"]) == 0


@pytest.mark.parametrize(
    ("config", "objective", "name"),
    [
        ("encoder", PerExample, "per_example"),
        ("encoder", Stochastic, "stochastic"),
        ("causal", PerExample, "per_example"),
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
    assert not (tmp_path / "run" / "model").exists()
    assert main(words) == 0
    whole, resumed = (load_file(tmp_path / one / "model" / ADAPTER) for one in ("whole", "run"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[one], resumed[one]) for one in whole)
    updates = [json.loads(line)["update"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert updates == sorted(updates)


def test_a_finished_run_trains_no_further(encoder: Path) -> None:
    assert main(["train", str(encoder), "training.max_steps=2"]) == 0
    file = encoder.parent / "run" / "model" / ADAPTER
    before = load_file(file)
    assert main(["train", str(encoder), "training.max_steps=2", "training.save_total_limit=1"]) == 0
    after = load_file(file)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_trained_adapter_is_not_replaced_unasked(encoder: Path, capsys) -> None:
    assert main(["train", str(encoder), "training.max_steps=1", "training.save_strategy=no"]) == 0
    message = error_of(capsys, "train", str(encoder), "training.max_steps=1")
    assert "holds a trained network, but no checkpoint is left" in message


@pytest.mark.parametrize(
    "change", ["adapter.lora_alpha=8", "adapter.ranks=[4]", "update=touched", "sampler.name=uniform"]
)
def test_a_run_is_not_continued_with_another_adapter(encoder: Path, capsys, change: str) -> None:
    assert main(["train", str(encoder), "training.max_steps=1"]) == 0
    message = error_of(capsys, "train", str(encoder), "training.max_steps=1", change)
    assert re.search(rf"belongs to another run: .*{re.split('=', change)[0]}.* was .* and is ", message)


@pytest.mark.filterwarnings("ignore:The PEFT config's `base_model_name_or_path` was renamed")
def test_another_pretrained_model_is_refused(encoder: Path, folder: Path, capsys) -> None:
    run = encoder.parent / "run"
    assert main(["train", str(encoder), "training.max_steps=1"]) == 0
    held = records.read(run / "config.json")
    other = AutoModelForSequenceClassification.from_pretrained(folder / "encoder", num_labels=2)
    for parameter in other.parameters():
        parameter.data.add_(1)
    other.save_pretrained(run / "other")
    AutoTokenizer.from_pretrained(folder / "encoder").save_pretrained(run / "other")
    held["pretrained"]["path"] = str(run / "other")
    (run / "config.json").write_text(json.dumps(held))
    assert re.search(r"The model is not the one that .* was trained on", error_of(capsys, "evaluate", str(run)))


def test_a_pretrained_model_that_is_gone_is_said(encoder: Path, capsys) -> None:
    run = encoder.parent / "run"
    assert main(["train", str(encoder), "training.max_steps=1"]) == 0
    held = records.read(run / "config.json")
    held["pretrained"]["path"] = str(run / "nowhere")
    (run / "config.json").write_text(json.dumps(held))
    assert "pretrained.path='" in error_of(capsys, "evaluate", str(run))


def test_the_update_rule_and_the_draws_reach_the_trainer(encoder: Path, monkeypatch) -> None:
    rules = []
    train = SortedTrainer.train

    def noted(self, *args, **kwargs):
        rules.append((self.update, type(self.objective.sampler).__name__))
        return train(self, *args, **kwargs)

    monkeypatch.setattr(SortedTrainer, "train", noted)
    words = ["update=unique", "training.max_steps=2", "sampler={name: geometric, options: {p: 0.15}}"]
    assert main(["train", str(encoder), *words, "objective={name: stochastic, draws: 1}"]) == 0
    assert rules == [("unique", "Geometric")]
    assert main(["evaluate", str(encoder.parent / "run"), "--measure", "[]"]) == 0
    assert main(["report", str(encoder.parent / "run")]) == 0
    assert "unique" in (encoder.parent / "run" / "report.html").read_text()


def test_the_head_of_an_adapted_model_learns_at_its_own_rate(encoder: Path, folder: Path) -> None:
    assert main(["train", str(encoder), "training.learning_rate=1.0e-30", "training.weight_decay=0"]) == 0
    end = load_file(encoder.parent / "run" / "model" / ADAPTER)
    assert all(one.abs().max() < 1e-12 for name, one in end.items() if "lora_B" in name)
    start = load_file(folder / "encoder" / "model.safetensors")["pooler.dense.weight"]
    assert not torch.allclose(end["base_model.model.bert.pooler.dense.weight"], start, atol=1e-4)


def test_the_second_text_of_a_pair_is_told_from_the_first(encoder: Path, folder: Path, monkeypatch) -> None:
    rows = "".join(f"{['entailment', 'not_entailment'][i % 2]}\tgood film {i}\ta story\n" for i in range(12))
    for part in ("train", "dev"):
        (folder / f"glue_rte_{part}.tsv").write_text("label\tsentence1\tsentence2\n" + rows)
    taken = []
    step = SortedTrainer.training_step

    def noted(self, model, inputs, *args, **kwargs):
        taken.append(set(inputs))
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SortedTrainer, "training_step", noted)
    columns = AutoTokenizer.from_pretrained(folder / "encoder")(["a"], ["b"]).keys()
    assert main(["train", str(encoder), "text.name=rte", "training.max_steps=1"]) == 0
    assert taken[0] >= set(columns)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ("encoder", ["adapter.ranks=[1, 16]"], r"ranks=\[1, 16\] holds 16; .* whole numbers from 1 to 4"),
        ("encoder", ["adapter.ranks=[1, 2]"], r"does not hold the largest rank 4"),
        ("encoder", ["adapter.r=0"], r"adapter.r=0 must be at least 1"),
        ("encoder", ["adapter.rank=8"], r"It does not accept option 'adapter.rank'. Did you mean adapter.ranks"),
        ("encoder", ["adapter.target_modules=[q_proj]"], r"names 'q_proj', which BertFor.* Choose among .*query"),
        ("encoder", ["adapter.target_modules=query"], r"target_modules='query' is no list"),
        ("encoder", ["adapter.modules_to_save=[head]"], r"modules_to_save names 'head'"),
        ("encoder", ["adapter.init_lora_weights=olora"], r"init_lora_weights='olora' cannot be cut to a rank"),
        ("encoder", ["adapter.scaling=half"], r"adapter: scaling: .*rank.*constant.*Got value: half\.$"),
        ("encoder", ["pretrained.readout=mean"], r"readout='mean' does not go with an adapter"),
        ("encoder", ["importance.kind=taylor"], r"importance.kind=taylor reorders the weights of the model"),
        ("encoder", ["space={r: [1, 2]}"], r"space has r, the rank"),
        ("encoder", ["space={num_hidden_layers: [1, 3]}"], r"is 3, larger than the pretrained size"),
        ("encoder", ["pretrained.path=nowhere"], r"pretrained.path='nowhere' cannot be opened"),
        ("encoder", ["update=some"], r"update"),
        ("encoder", ["sampler={name: weighted}"], r"sampler.options=.*weights"),
        ("encoder", ["sampler={name: weighted, options: {weights: {r=3: 1.0}}}"], r"r=3"),
        ("encoder", ["sampler={name: geometric, options: {p: 2}}"], r"p=2 is outside \(0, 1\)"),
        ("encoder", ["adapter=null"], r"space=None sorts nothing. Give fields of the model's config"),
        ("causal", ["adapter.target_modules=[query]"], r"names 'query', which LlamaForCausalLM does not have.*q_proj"),
    ],
)
def test_a_wrong_config_is_one_clear_error(
    config: str, changes: list[str], message: str, request: pytest.FixtureRequest, capsys
) -> None:
    file = request.getfixturevalue(config)
    assert re.search(message, error_of(capsys, "train", str(file), *changes))
    assert not (file.parent / "run" / "config.json").exists()


def test_a_form_is_for_adapters_only(encoder: Path, capsys) -> None:
    words = ["adapter=null", "space={num_hidden_layers: [1, 2]}", "training.max_steps=1"]
    assert main(["train", str(encoder), *words]) == 0
    for option in (["--form", "baked"], ["--server", "vllm"]):
        message = error_of(capsys, "extract", str(encoder.parent / "run"), "num_hidden_layers=1", *option)
        assert re.search(r"--form and --server are for an adapter, and .* trained none", message)


def test_a_setting_without_a_trained_rank_is_refused(encoder: Path, capsys) -> None:
    assert main(["train", str(encoder), "training.max_steps=1"]) == 0
    assert "r=3" in error_of(capsys, "extract", str(encoder.parent / "run"), "r=3")
