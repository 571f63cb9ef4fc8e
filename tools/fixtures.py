"""Write small files of every kind that this version writes: `python tools/fixtures.py tests/fixtures/0.1`.

`tests/test_fixtures.py` opens them in every later version, and compares what is in them with the expectations beside
them. So they are made once for each version, before a format changes, and never again.

Paths are relative, or begin with `<here>`, which stands for the folder of the version.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

import sortednet as sn
from sortednet.cli import main
from sortednet.experiments import Conditions
from sortednet.experiments.formulas import formulas as symbolic
from sortednet.symbolic import load_model
from sortednet.symbolic.commands.record import FormulaRecord
from sortednet.training.config import ObjectiveConfig, SamplerConfig
from sortednet.training.names import make_objective
from sortednet.training.recipes import recipe_of

HERE = "<here>"
CONFIGS, LISTS = (Path(__file__).absolute().parent / one for one in ("configs", "lists"))
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
GOOD, BAD = ("good", "fine"), ("bad", "dull")
WORDS = (*GOOD, *BAD, "film", "story", "a", "the", "so", "it", "is", "was")
SENTENCES = [
    (f"{one} {other} {what}", int(kind is GOOD)) for kind in (GOOD, BAD) for one in kind for other in kind
    for what in WORDS[4:6]
]  # fmt: skip
SHAPE = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 12,
}  # fmt: skip
TOKENS = {
    "input_ids": torch.tensor([[2, 5, 7, 9, 3], [2, 12, 4, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
}

# Written for people, and never read again; or what a run that goes on does not read.
UNREAD = (
    "*.png", "*.log", ".lock", "training_args.bin", "checkpoint-*/tokenizer*", "stages/*/checkpoints/checkpoint-*/*",
    "runs/stages/stages/1/checkpoints/update-00000001.safetensors",
)  # fmt: skip


def make(target: Path) -> None:
    """Write the fixtures of this version.

    Args:
        target: A folder that does not exist, named after the version.

    Raises:
        SystemExit: If it exists, has another name, or what was written names a folder of this machine.
    """
    version = ".".join(sn.__version__.split(".")[:2])
    if target.exists():
        raise SystemExit(f"{target} exists: fixtures are written once and never again; those of {version} are there.")
    if target.name != version:
        raise SystemExit(f"This is sortednet {sn.__version__}. Name the folder {version}, not {target.name}.")
    target = target.absolute()
    logging.set_verbosity_error()
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="sortednet-fixtures-") as folder:
        os.chdir(folder)
        try:
            for write in (
                write_networks, write_models, write_pretrained, write_adapters, write_image_runs, write_text_runs,
                write_symbolic, write_draws, write_results, write_experiments,
            ):  # fmt: skip
                write()
            expect("about.json", {"sortednet": sn.__version__, "torch": torch.__version__})
            tidy(Path.cwd().resolve())
        finally:
            os.chdir(before)
        shutil.copytree(folder, target)


def tidy(folder: Path) -> None:
    """Remove what is never read, and let paths begin with `<here>`.

    Raises:
        SystemExit: If a folder of this machine is named in a file that is no text.
    """
    for pattern in UNREAD:
        for file in folder.rglob(pattern):
            file.unlink()
    for file in filter(Path.is_file, folder.rglob("*")):
        data = file.read_bytes().replace(str(folder).encode(), HERE.encode())
        if data == file.read_bytes():
            continue
        if file.suffix not in (".json", ".jsonl", ".md"):
            raise SystemExit(f"{file.relative_to(folder)} names {folder}, and is no text in which that can be changed.")
        file.write_bytes(data)


def expect(path: str, values: Any) -> None:
    """Write an expectation as JSON."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(values) + "\n")


def expect_outputs(folder: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    """Write what sub-models give, by the text of their settings, beside the inputs."""
    held = {f"input|{name}": one for name, one in inputs.items()} | {f"output|{at}": one for at, one in outputs.items()}
    save_file({name: one.detach().clone().contiguous() for name, one in held.items()}, f"{folder}/expected.safetensors")


def command(*words: str) -> None:
    """Run a command of the library, which must succeed."""
    if main(words):
        raise SystemExit(f"sortednet {' '.join(words)} failed.")


def scattered(module: nn.Module) -> nn.Module:
    """Give every tensor values of its own, so that no two blocks, statistics or adapters are alike."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, one in module.state_dict().items():
            if one.is_floating_point():
                drawn = torch.randn(one.shape, generator=generator) * 0.2
                is_scale = name.endswith("var") or (name.endswith("weight") and one.dim() == 1)
                one.copy_(drawn.abs() + 0.5 if is_scale else drawn)
    return module


# Networks of builders


def write_networks() -> None:
    """Write networks of builders, one for each thing that a network's files can hold."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 1, 6, 6, generator=generator)
    residual = {"stages": 1, "channels": 1, "classes": 3}
    tokens = {"vocabulary": 11, "positions": 6, "head_size": 2, "hidden": 4}
    space = sn.Space(depth=[1, 2], width=[2, 4])
    transformers = sn.Space(depth=[1, 2], width=[4, 8], heads=[1, 2])
    listed = sn.Space([{"num_features": 2, "momentum": 0.125}, {"num_features": 3, "momentum": 0.5}])
    write_network("sizes", transformers, torch.tensor([[1, 2, 3], [4, 9, 10]]), "transformer", tokens)
    write_network(
        "layout", sn.Space(out_features=[6, 12]), torch.eye(3), "torch.nn:Linear", {"in_features": 3},
        layouts=[sn.Layout("*", axis=0, blocks=3)],
    )  # fmt: skip
    write_network("shared_buffers", space, images, "preresnet", residual)
    write_network("private_buffers", space, images, "preresnet", residual, buffers="private")
    write_network("private_classifiers", space, images, "preresnet", residual, private="head.*")
    write_network("listed", listed, torch.eye(3), "torch.nn:BatchNorm1d", {}, buffers="private")
    write_network("line", sn.Space(width=[2, 4]), images, "preresnet", residual | {"depth": 2}, recipe="lcs_l")


def write_network(
    name: str,
    space: sn.Space,
    inputs: Tensor,
    builder: str,
    options: Mapping[str, Any],
    *,
    recipe: str | None = None,
    **arguments: Any,
) -> None:
    """Write a network and what each sub-model gives."""
    folder, build = f"networks/{name}", partial(sn.models.resolve(builder), **options)
    torch.manual_seed(0)
    net = sn.SortedNet(build, space, **arguments) if recipe is None else network_of(recipe, space, build)
    scattered(net)
    net.eval().save_pretrained(folder)
    expect(
        f"{folder}/expected.json",
        {"builder": builder, "options": options, "recipe": recipe, "space": space.to_json()},
    )
    outputs = {}
    for setting in space:
        features = setting.get("num_features", inputs.shape[-1])
        outputs[str(setting)] = net.submodel(setting)(inputs[..., :features])
    expect_outputs(folder, {"x": inputs}, outputs)


def network_of(recipe: str, space: sn.Space, build: Callable[..., nn.Module]) -> sn.SortedNet:
    """Return the network of a recipe."""
    return recipe_of(recipe, space, {}).network(build)


# Pretrained models and adapters


def write_models() -> None:
    """Write the models that runs and adapters begin from, with a tokenizer, as transformers does; and texts."""
    tokenizer = tokenizer_of([*SPECIAL, *WORDS])
    shape = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id} | SHAPE
    tokens = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    for name, model in {
        "encoder": BertForSequenceClassification(BertConfig(**shape)),
        "decoder": LlamaForCausalLM(LlamaConfig(**shape, **tokens)),
    }.items():
        scattered(model).save_pretrained(f"models/{name}")
        tokenizer.save_pretrained(f"models/{name}")
    Path("texts").mkdir()
    for part, examples in {"train": SENTENCES * 2, "evaluation": SENTENCES}.items():
        lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in examples]
        Path(f"texts/{part}.jsonl").write_text("".join(lines))
        Path(f"texts/{part}.txt").write_text("".join(f"{text}\n" for text, _ in examples))


def tokenizer_of(words: Sequence[str]) -> Any:
    """Return a tokenizer of whole words."""
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=named["cls_token"], eos_token=named["sep_token"], **named
    )


def write_pretrained() -> None:
    """Write networks of pretrained models."""
    shape = {"vocab_size": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3} | SHAPE
    gpt2 = GPT2Config(vocab_size=16, n_positions=12, n_embd=8, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=3)
    write_pretrained_network(
        "llama", LlamaForCausalLM(LlamaConfig(**shape, head_dim=4, tie_word_embeddings=True)),
        num_hidden_layers=[1, 2], intermediate_size=[4, 8], num_attention_heads=[1, 2],
    )  # fmt: skip
    write_pretrained_network("gpt2", GPT2LMHeadModel(gpt2), num_hidden_layers=[1, 2], num_attention_heads=[1, 2])
    write_pretrained_network(
        "bert_mean", BertForSequenceClassification(BertConfig(**shape)), num_hidden_layers=[1, 2],
        private="classifier.*",
    )  # fmt: skip
    write_pretrained_network(
        "bert_own", BertForSequenceClassification(BertConfig(**shape)), num_hidden_layers=[1, 2], readout="own"
    )


def write_pretrained_network(name: str, model: nn.Module, **arguments: Any) -> None:
    """Write a network of a pretrained model and what each sub-model gives."""
    net = sn.SortedNet.from_pretrained(scattered(model.eval()), **arguments)
    scattered(net.private)
    net.save_pretrained(f"pretrained/{name}")
    plain = net.builder.readout is None  # whether transformers alone gives the same
    expect(f"pretrained/{name}/expected.json", {"class": type(model).__name__, "plain": plain})
    expect_outputs(f"pretrained/{name}", TOKENS, {str(one): logits_of(net.submodel(one)) for one in net.space})


def logits_of(model: nn.Module) -> Tensor:
    """Return what a language model or a classifier gives for the tokens."""
    with torch.no_grad():
        logits: Tensor = model.eval()(**TOKENS).logits
    return logits


def write_adapters() -> None:
    """Write adapters of all ranks, of one, and of ranks and depths."""
    decoder = LlamaForCausalLM.from_pretrained("models/decoder").eval()
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], rank_pattern={"layers.1.self_attn.q_proj": 2},
        task_type="CAUSAL_LM", base_model_name_or_path=str(Path("models/decoder").resolve()),
    )  # fmt: skip
    net = with_values(sn.dylora(decoder, config, ranks=[1, 2, 4]))
    net.save_pretrained("adapters/ranks")
    expect("adapters/ranks/expected.json", {"all_ranks": True})
    expect_outputs("adapters/ranks", TOKENS, {str(one): logits_of(net.extract(one)) for one in net.space})
    for form in ("plain", "baked"):
        sn.save_adapter(net, f"adapters/{form}", r=2, form=form)
        expect(f"adapters/{form}/expected.json", {"all_ranks": False})
        expect_outputs(f"adapters/{form}", TOKENS, {"r=2": logits_of(net.extract(r=2))})
    classifier = BertForSequenceClassification.from_pretrained("models/encoder").eval()
    config = LoraConfig(
        r=2, lora_alpha=2, use_rslora=True, target_modules=["query", "value"], modules_to_save=["classifier"],
        task_type="SEQ_CLS", base_model_name_or_path=str(Path("models/encoder").resolve()),
    )  # fmt: skip
    net = with_values(sn.dylora(classifier, config, num_hidden_layers=[1, 2]))
    net.save_pretrained("adapters/ranks_and_depths")
    expect("adapters/ranks_and_depths/expected.json", {"all_ranks": True})
    expect_outputs("adapters/ranks_and_depths", TOKENS, {str(one): logits_of(net.extract(one)) for one in net.space})


def with_values(net: sn.SortedNet) -> sn.SortedNet:
    """Give an adapter values that change what its model gives."""
    generator = torch.Generator().manual_seed(5)
    for one in net.parameters():
        if one.requires_grad:
            nn.init.normal_(one, std=0.5, generator=generator)
    return net.eval()


# Runs


def write_image_runs() -> None:
    """Write runs on images: one measured, chosen from and cut out of; one of a recipe with stages."""
    expected = trained("images")
    expected |= measured("images", "max_params=500", {"depth": 1, "width": 2})
    expect("runs/images/expected.json", expected)
    expect("runs/stages/expected.json", trained("stages"))


def write_text_runs() -> None:
    """Write fine-tuning runs: of a classifier, of a recipe with stages, and of an adapter of a language model."""
    expected = trained("text")
    expected |= measured("text", "max_params=1000", {"num_hidden_layers": 1, "intermediate_size": 4})
    expect("runs/text/expected.json", expected)
    expect("runs/text_stages/expected.json", trained("text_stages"))
    expect("runs/adapter/expected.json", trained("adapter") | measured("adapter", "max_params=5000", {"r": 1}))


def trained(name: str) -> dict[str, Any]:
    """Train, and lose the last checkpoint, so that the same command goes on from the one before.

    Returns:
        What the training's metrics are to be then.
    """
    run = Path("runs", name)
    run.mkdir(parents=True)
    shutil.copy(CONFIGS / f"{name}.yaml", run / "config.yaml")
    command(*(("symbolic",) if name == "symbolic" else ()), "train", f"{run}/config.yaml")
    last = max((run / "checkpoints").iterdir(), key=lambda one: int(one.stem.rpartition("-")[2]))
    if last.is_dir():
        shutil.rmtree(last)
    else:
        last.unlink()
    return {"metrics": [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]}


def measured(name: str, budget: str, other: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate a run, choose from it, and cut out what was chosen and one more sub-model.

    Returns:
        The rows, and what was chosen.
    """
    run = f"runs/{name}"
    command("evaluate", run, "--measure", "[flops]")
    command("select", run, budget, "--name", "small")
    command("extract", run, "small")
    command("extract", run, str(sn.Setting(other)))
    chosen = json.loads(Path(run, "chosen.json").read_text())["chosen"]["small"]
    return {"table": described(sn.Table.from_json(f"{run}/table.json")), "budget": budget, "chosen": chosen}


def described(table: sn.Table) -> dict[str, Any]:
    """Return what is in a table."""
    rows = [{**vars(row), "setting": str(row.setting)} for row in table]
    return {"metric": table.metric, "higher_is_better": table.higher_is_better, "rows": rows}


# Formulas


def write_symbolic() -> None:
    """Write a run that trains a model of formulas, its model files, and a formula that was found."""
    expect("runs/symbolic/expected.json", trained("symbolic"))
    generator = torch.Generator().manual_seed(2)
    points, mask, tokens = torch.randn(2, 20, 2, generator=generator), torch.ones(2, 20), torch.tensor([[0, 1, 2]] * 2)
    outputs = {}
    for name in ("symbolic", "symbolic-1"):
        model = load_model(f"runs/symbolic/{name}.safetensors").model
        outputs[name] = model(points, mask, tokens)
    expect_outputs("runs/symbolic", {"points": points, "mask": mask, "tokens": tokens}, outputs)
    Path("formula").mkdir()
    x = np.linspace(-2, 2, 24)
    lines = ["speed (m/s),y", *(f"{one:.6f},{3 * one**2 - np.sin(one):.6f}" for one in x)]
    Path("formula/points.csv").write_text("\n".join(lines) + "\n")
    command("symbolic", "fit", "formula/points.csv", "--output", "formula")
    record = FormulaRecord.from_json("formula/fit.json")
    expect(
        "formula/expected.json",
        {
            "text": str(record.best),
            "values": record.best(record.x).tolist(),
            "r2": record.r2,
            "candidates": [[str(one), one.complexity, one.error] for one in record.candidates],
            "columns": list(record.columns),
            "points": [record.x.tolist(), record.y.tolist(), record.total],
            "facts": vars(record.facts),
        },
    )


# What is drawn, measured and compared


def write_draws() -> None:
    """Write the states of samplers, as checkpoints hold them, and what each draws next."""
    space = sn.Space(depth=[1, 2, 3], width=[4, 8])
    some = ["depth=1,width=8", "depth=3,width=4", "depth=2,width=4"]
    found = []
    for name, options, always in (
        ("uniform", {}, None),
        ("stratified", {}, None),
        ("weighted", {"weights": dict(zip(some, (1.0, 2.0, 3.0), strict=True))}, None),
        ("per_dimension", {}, None),
        ("geometric", {"p": 0.3}, None),
        ("cycle", {"settings": some}, None),
        ("stratified", {}, "largest"),
        ("uniform", {}, "sandwich"),
    ):
        for objective in ("stochastic", "per_example", "stochastic_summation"):
            if objective != "stochastic" and (always or name == "cycle"):
                continue
            made = {"name": name, "options": options, "always": always}
            drawing = make_objective(ObjectiveConfig(objective, draws=4), SamplerConfig(**made), space, seed=11)
            for _ in range(3):
                drawing.choose(5)
            state = drawing.state_dict()
            found.append({"objective": objective, "sampler": made, "state": state, "next": choices(drawing)})
    held = sn.Stochastic(sn.training.Held(sn.Stratified(space, seed=11), 4), draws=2)
    held.choose(5)
    found.append({"objective": "held", "sampler": None, "state": held.state_dict(), "next": choices(held)})
    expect("draws/expected.json", {"space": space.to_json(), "drawn": found})


def choices(objective: sn.Objective) -> list[list[str]]:
    """Return the settings of the next batches of five examples."""
    return [[str(one) for one in objective.choose(5)[0]] for _ in range(6)]


def write_results() -> None:
    """Write tables and a similarity of which every value is known."""
    Path("tables").mkdir()
    settings = [sn.Setting({"depth": depth, "width": width}) for depth in (1, 2) for width in (0.5, 1.0)]
    costs = {"flops": 10**6, "latency_ms": 0.25, "memory_bytes": 4096}
    tables = {
        "all_columns": sn.Table(
            [sn.Row(one, 60.0 + n, 100 * n, recovery=90.5 + n, **costs) for n, one in enumerate(settings)], "accuracy"
        ),
        "lower_is_better": sn.Table(
            [sn.Row(one, 2.5 - n / 8, 100 * n) for n, one in enumerate(settings)], "loss", higher_is_better=False
        ),
        "not_a_number": sn.Table([sn.Row(settings[0], float("nan"), 1), sn.Row(settings[1], 50.0, 2)]),
        "ranks": sn.Table([sn.Row(sn.Setting({"r": r}), 50.0 + r, 10 * r) for r in (0, 1, 2, 4)], "F1"),
    }
    for name, table in tables.items():
        table.to_json(f"tables/{name}.json")
        table.to_csv(f"tables/{name}.csv")
    curve = sn.lora.RankCurve(tables["ranks"])
    expect(
        "tables/expected.json",
        {
            "tables": {name: described(table) for name, table in tables.items()},
            "curve": {"base": curve.base, "best": curve.best, "area": curve.area(), "within": curve.smallest_within(2)},
        },
    )
    values = ((0.5, 2.0, float("nan")), (0.125, 0.25, 0.0))
    found = sn.evaluation.Similarity(
        "kl", ("depth=1", "depth=2"), (0, 1, 5), values, (3, 2, 1), "exits", "the last one"
    )
    Path("similarity").mkdir()
    found.to_json("similarity/similarity.json")
    expect("similarity/expected.json", {**vars(found), "mean": found.mean("depth=2")})


def write_experiments() -> None:
    """Write the results of an experiment, and the rows of one that is not done."""
    command("reproduce", "order-dependency", "--output", "experiments/run", "--workers", "1")
    held = json.loads(Path("experiments/run/cpu-0/order-dependency.json").read_text())
    shutil.copytree(LISTS, "experiments/lists")
    for name in ("nguyen_constants", "ai_feynman"):
        shutil.copy(LISTS / "nguyen.csv", f"experiments/lists/{name}.csv")
    rows = symbolic_job("experiments").run(Path("experiments/symbolic"), {})["rows"]
    expect("experiments/expected.json", {"table": held["table"], "figures": held["figures"], "rows": rows})


def symbolic_job(folder: str) -> Any:
    """Return a job of the symbolic experiment that takes no time."""
    conditions = Conditions(data=f"{folder}/lists")
    return symbolic.jobs(conditions, symbolic.Sizes(1, 1, seeds=1), methods=("mlp",))["symbolic-nguyen-mlp"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write small files of every kind that this version writes.")
    parser.add_argument("folder", type=Path, help="where to, such as tests/fixtures/0.1; it must not exist")
    make(parser.parse_args().folder)
