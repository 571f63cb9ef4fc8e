"""What every recipe keeps to on pretrained models of text, trained as the commands train them."""

import json
import math
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, TrainingArguments

import sortednet as sn
from sortednet.data.text import train_tokenizer
from sortednet.errors import ConfigError
from sortednet.huggingface.trainer import SortedTrainer
from sortednet.jobs import fine_tuning_parts
from sortednet.jobs.adapter_config import AdapterConfig
from sortednet.jobs.fine_tuning import train
from sortednet.jobs.fine_tuning_config import FineTuningConfig, PretrainedConfig, TextConfig
from sortednet.training.config import ObjectiveConfig, SamplerConfig
from sortednet.training.objectives import Stochastic, Summation

UPDATES = 2  # of a stage
WORDS = ["good fine film", "bad dull film", "a nice story", "a poor story", "so good", "so bad"]
SENTENCES = [(f"{text} {i}", i % 2) for i, text in enumerate(WORDS * 2)]
SUMS = [{"question": f"{i} + {i}?", "answer": f"it is {2 * i}"} for i in range(12)]
DEPTH = {"num_hidden_layers": [1, 2]}
WIDTH = {"intermediate_size": [8, 16]}
HEADS_TOO = [
    {"num_hidden_layers": depth, "intermediate_size": width, "num_attention_heads": heads}
    for depth, width, heads in ((1, 8, 2), (2, 8, 2), (2, 16, 4))
]
HEADS = {"bert": "classifier.*", "llama": "lm_head.*"}
TASKS = {"bert": ("sequence_classification", "sst2"), "llama": ("causal_lm", "gsm8k")}


@dataclass(frozen=True)
class Case:
    """A recipe on a model."""

    recipe: str
    space: Any
    stages: int = 1
    takes_head: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def config(self, folder: Path, model: str, output: Path, **changes: Any) -> FineTuningConfig:
        task, text = TASKS[model]
        options = {**self.options, "head": HEADS[model]} if self.takes_head else dict(self.options)
        training = {
            "max_steps": UPDATES * self.stages, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
            "save_steps": 100, "logging_steps": 1, "report_to": "none",
        }  # fmt: skip
        made = FineTuningConfig(
            pretrained=PretrainedConfig(str(folder / model), task),  # type: ignore[arg-type]
            text=TextConfig(text, str(folder), 24),
            space=self.space,
            output=str(output),
            training=training,
            recipe=self.recipe,
            recipe_options=options,
        )
        return replace(made, **changes)


CASES = [
    Case("sortednet", HEADS_TOO),
    Case("slimmable", {**WIDTH, **DEPTH}),
    Case("universally_slimmable", {"intermediate_size": [4, 8, 16], **DEPTH}, options={"draws": 3}),
    Case("lcs_p", {"intermediate_size": [4, 8, 16]}, options={"draws": 3}),
    Case("matformer", {"intermediate_size": [4, 8, 16]}),
    Case("early_exit", DEPTH, takes_head=True),
    Case("sft_ict", DEPTH, stages=2, takes_head=True, options={"heads_share": 0.5}),
    Case("extracted", DEPTH),
    Case("layer_drop", DEPTH, options={"rate": 0.2}),
    Case("layer_skip", DEPTH, options={"rate": 0.5}),
    Case("dynabert", HEADS_TOO, stages=4),
    Case("once_for_all", {**WIDTH, **DEPTH}, stages=3),
]
BY_NAME = {case.recipe: case for case in CASES}


@dataclass(frozen=True)
class Trained:
    """A run to its end."""

    case: Case
    model: str
    config: FineTuningConfig
    before: dict[str, Tensor]
    net: sn.SortedNet

    @property
    def lines(self) -> list[dict[str, Any]]:
        output = Path(self.config.output)
        files = [*sorted(output.glob("stages/*/metrics.jsonl")), output / "metrics.jsonl"]
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models and texts."""
    made = tmp_path_factory.mktemp("text_recipes")
    for part in ("train", "dev"):
        lines = "".join(f"{text}\t{label}\n" for text, label in SENTENCES)
        (made / f"glue_sst2_{part}.tsv").write_text("sentence\tlabel\n" + lines)
    for name in ("gsm8k_train", "gsm8k_test_a"):
        (made / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    tokenizer = train_tokenizer([text for text, _ in SENTENCES], vocab_size=300)
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 32, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    models = {"bert": BertModel(BertConfig(**shape)), "llama": LlamaForCausalLM(LlamaConfig(**shape, **tokens))}
    for name, model in models.items():
        model.save_pretrained(made / name)
        tokenizer.save_pretrained(made / name)
    return made


def network_of(config: FineTuningConfig) -> sn.SortedNet:
    return fine_tuning_parts.make_network(
        config, fine_tuning_parts.load_data(config), fine_tuning_parts.make_tokenizer(config)
    )


@pytest.fixture(
    scope="module",
    params=[(case, model) for case in CASES for model in HEADS],
    ids=lambda param: f"{param[0].recipe}-{param[1]}",
)
def trained(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    case, model = request.param
    config = case.config(folder, model, tmp_path_factory.mktemp("run"))
    before = {name: one.clone() for name, one in network_of(config).state_dict().items()}
    return Trained(case, model, config, before, train(config, resume=False, say=lambda text: None))


def inputs_of(trained: Trained) -> dict[str, Tensor]:
    ids = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 3]])
    return {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}


def outputs(net: sn.SortedNet, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {str(setting): net.eval().at(setting)(**inputs).logits for setting in net.space}


def test_all_stages_train_with_finite_losses(trained: Trained) -> None:
    assert len(trained.lines) == UPDATES * trained.case.stages
    assert all(math.isfinite(line["loss"]) for line in trained.lines)
    stages = {path.parent.name for path in Path(trained.config.output).glob("stages/*/model")}
    assert stages == {str(number) for number in range(1, trained.case.stages)}


def test_all_is_trained_but_what_the_last_stage_freezes(trained: Trained) -> None:
    before, head = trained.before, HEADS[trained.model].removesuffix(".*")
    if trained.case.recipe == "sft_ict":
        before = sn.load(Path(trained.config.output) / "stages" / "1" / "model").state_dict()
    changed = {name for name, one in trained.net.state_dict().items() if not torch.equal(one, before[name])}
    if trained.case.takes_head:
        assert all(head in name for name in changed)
        assert any(name.startswith("private.") for name in changed)
    else:
        assert any("layers.0" in name or "layer.0" in name for name in changed)


def test_sub_model_equals_extracted_model(trained: Trained) -> None:
    inputs = inputs_of(trained)
    for name, logits in outputs(trained.net, inputs).items():
        with torch.no_grad():
            found = trained.net.extract(name).eval()(**inputs).logits
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-6)


def test_a_saved_network_gives_the_same_outputs(trained: Trained) -> None:
    inputs = inputs_of(trained)
    opened = sn.load(Path(trained.config.output) / "model")
    for name, logits in outputs(opened, inputs).items():
        assert torch.equal(logits, outputs(trained.net, inputs)[name])


def test_nothing_stays_frozen_or_dropped(trained: Trained) -> None:
    assert all(parameter.requires_grad for parameter in trained.net.parameters())


@pytest.mark.parametrize("model", HEADS)
def test_slimmable_has_norms_of_its_own(folder: Path, tmp_path: Path, model: str) -> None:
    net = network_of(BY_NAME["slimmable"].config(folder, model, tmp_path))
    names = {name for name, _ in net.full.named_parameters()}
    owned = {name for _, name in net.private.tensors()} & names
    assert owned == {name for name in names if "norm" in name.lower()}


@pytest.mark.parametrize("model", HEADS)
def test_dynabert_follows_hidden_states(folder: Path, tmp_path: Path, model: str) -> None:
    config = BY_NAME["dynabert"].config(folder, model, tmp_path)
    torch.manual_seed(0)
    net = network_of(config).train(False)
    stage = fine_tuning_parts.make_recipe(config).stages[2]
    teacher = net.extract().requires_grad_(False)
    for parameter in teacher.parameters():
        parameter.mul_(1.1)
    objective = stage.objective(net, 0, teacher)
    labels = torch.tensor([0, 1]) if model == "bert" else torch.tensor([[5, 6, 7, 8], [9, 8, 7, -100]])
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 8, 7, 3]]), "labels": labels}
    if model == "llama":
        net.head = None
    found = {str(term.setting): term.loss for term in objective.terms(net, batch, lambda output, _: output.loss)}
    for name, loss in found.items():
        with torch.no_grad():
            own, guide = (one(**batch, output_hidden_states=True) for one in (net.at(name), teacher))
        depth = int(net.space.setting(name)["num_hidden_layers"])
        assert len(own.hidden_states) == depth + 1
        states = [guide.hidden_states[place * 2 // depth] for place in range(depth + 1)]
        differences = [(one - other).square().mean() for one, other in zip(own.hidden_states, states, strict=True)]
        alone = sn.Distillation(labels=0.0, teacher=teacher)(own, guide, batch)
        torch.testing.assert_close(loss.detach(), alone + torch.stack(differences).sum())
    total = torch.stack(list(found.values())).sum()
    (gradient,) = torch.autograd.grad(total, [net.full.get_input_embeddings().weight])
    assert gradient.abs().sum() > 0


def interrupted_at(monkeypatch: pytest.MonkeyPatch, objective: type, update: int) -> None:
    """Send the process Ctrl-C during an update, once."""
    choose, calls = objective.choose, []

    def counted(self, size):
        calls.append(size)
        if len(calls) == update:
            signal.raise_signal(signal.SIGINT)
        return choose(self, size)

    monkeypatch.setattr(objective, "choose", counted)


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], str]:
    """The weights and the metrics of a run of four stages."""
    output = tmp_path_factory.mktemp("uninterrupted")
    net = train(BY_NAME["dynabert"].config(folder, "bert", output), resume=False, say=lambda text: None)
    return net.state_dict(), (output / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("objective", "update"),
    [(Stochastic, UPDATES), (Stochastic, UPDATES + 1), (Summation, 1)],
    ids=["the end of the first stage", "the start of the second", "the start of the third"],
)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    folder: Path, tmp_path: Path, monkeypatch, uninterrupted: Any, objective: type, update: int
) -> None:
    config = BY_NAME["dynabert"].config(folder, "bert", tmp_path)
    with monkeypatch.context() as patch:
        interrupted_at(patch, objective, update)
        with pytest.raises(KeyboardInterrupt, match="which is saved"):
            train(config, resume=True, say=lambda text: None)
    found = train(config, resume=True, say=lambda text: None).state_dict()
    expected, metrics = uninterrupted
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert (tmp_path / "metrics.jsonl").read_text() == metrics


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "sorted_"}, "recipe='sorted_' is unknown. Did you mean sorted"),
        ({"recipe_options": {"draw": 4}}, "Recipe sortednet takes no option draw. It takes accumulation."),
        ({"recipe": None, "recipe_options": {"draws": 4}}, "recipe_options={'draws': 4} have no recipe. Name one"),
        ({"objective": ObjectiveConfig("summation")}, "recipe=sortednet decides what objective says. Leave objective"),
        ({"sampler": SamplerConfig("uniform")}, "recipe=sortednet decides what sampler says. Leave sampler out"),
        (
            {"adapter": AdapterConfig(ranks=[1, 8])},
            "recipe=sortednet trains the weights of the model, which an adapter",
        ),
    ],
)
def test_what_does_not_go_with_a_recipe_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        fine_tuning_parts.make_recipe(BY_NAME["sortednet"].config(folder, "bert", folder / "run", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"recipe": "lcs_l", "recipe_options": {"dimension": "intermediate_size"}},
            "recipe=lcs_l changes the class of the model, and a pretrained one must stay its own",
        ),
        (
            {"recipe": "dynabert", "training": {"max_steps": 3, "report_to": "none"}},
            "3 updates are too few for the 4 stages of recipe dynabert. Give more.",
        ),
    ],
)
def test_what_a_pretrained_model_cannot_do_is_refused(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(BY_NAME["sortednet"].config(folder, "bert", tmp_path, **changes), resume=False)


def test_a_run_is_not_continued_with_another_recipe(folder: Path, tmp_path: Path) -> None:
    train(BY_NAME["sortednet"].config(folder, "bert", tmp_path), resume=False)
    with pytest.raises(sn.errors.CheckpointError, match="recipe was 'sortednet' and is 'lcs_p'"):
        train(BY_NAME["sortednet"].config(folder, "bert", tmp_path, recipe="lcs_p"), resume=True)


def test_starting_anew_removes_the_stages(folder: Path, tmp_path: Path) -> None:
    train(BY_NAME["sft_ict"].config(folder, "bert", tmp_path), resume=False, say=lambda text: None)
    train(BY_NAME["early_exit"].config(folder, "bert", tmp_path), resume=False)
    assert not list(tmp_path.glob("stages/*"))


@pytest.mark.parametrize("model", HEADS)
def test_own_weights_decay_as_the_shared_ones_do(folder: Path, tmp_path: Path, model: str) -> None:
    net = network_of(BY_NAME["extracted"].config(folder, model, tmp_path))
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    names = SortedTrainer(net, arguments).get_decay_parameter_names(net)
    shared = {name.removeprefix("full.") for name in names if name.startswith("full.")}
    own = {name.split(".", 3)[3].replace("/", ".") for name in names if name.startswith("private.")}
    assert own == {name for _, name in net.private.tensors() if name in shared}


def test_own_norms_learn_at_the_rate_of_the_rest(folder: Path, tmp_path: Path, monkeypatch) -> None:
    rates: dict[str, float] = {}
    step = torch.optim.AdamW.step

    def noted(self, *args, **kwargs):
        held = {id(one): group["initial_lr"] for group in self.param_groups for one in group["params"]}
        rates.update({name: held[id(one)] for name, one in net.named_parameters()})
        return step(self, *args, **kwargs)

    made = SortedTrainer.__init__

    def keep(self, model, *args, **kwargs):
        nonlocal net
        net = model
        made(self, model, *args, **kwargs)

    net = None
    monkeypatch.setattr(SortedTrainer, "__init__", keep)
    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    config = BY_NAME["slimmable"].config(folder, "bert", tmp_path, head_learning_rate=0.5)
    train(config, resume=False)
    assert {name for name, rate in rates.items() if rate == 0.5} == {
        name for name in rates if "classifier" in name or "pooler" in name
    }
