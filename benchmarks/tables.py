"""Write docs/results.md and the README's table from the JSON under benchmarks/results."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: made by benchmarks/tables.py -->", "<!-- end of results -->"
BEGIN_SPEED, END_SPEED = "<!-- speed: made by benchmarks/tables.py -->", "<!-- end of speed -->"


@dataclass(frozen=True)
class Claim:
    """A figure, what it says, and the bound it is held against."""

    file: str
    key: str
    what: str
    bound: float | None
    at_least: bool = False
    unit: str = ""
    form: str = "{:.2f}"

    def holds(self, value: float) -> bool:
        if self.bound is None:
            return True
        return value >= self.bound if self.at_least else value <= self.bound


CLAIMS = [
    Claim(
        "core",
        "inference_ratio",
        "time of `submodel(s)(x)` over the extracted model's, 30 M transformer",
        1.02,
        form="{:.3f}",
    ),
    Claim(
        "core",
        "training_step_ratio",
        "time of forward and backward through `at(s)` over the extracted model's",
        1.10,
        form="{:.3f}",
    ),
    Claim(
        "core",
        "uniform_step_over_flops",
        "mean training step under uniform sampling over (FLOP share x full step)",
        1.15,
        form="{:.3f}",
    ),
    Claim("core", "switch_ms", "going from one used setting to another", 1, unit=" ms"),
    Claim(
        "core",
        "compiled_graphs",
        "graphs for 40 settings of a transformer, training, each visited twice",
        6,
        form="{:.0f}",
    ),
    Claim(
        "core",
        "extra_parameter_bytes",
        "parameter memory that 160 sub-models of MobileNetV2 add in inference",
        0,
        unit=" bytes",
        form="{:.0f}",
    ),
    Claim(
        "core", "corner_read_ratio", "bytes that `load(at=...)` reads over the bytes of the corner, 500 MB file", 1.2
    ),
    Claim("core", "demo_seconds", "`make demo` after installation, two cores", 180, unit=" s", form="{:.0f}"),
    Claim(
        "quality",
        "gap_to_alone",
        "digits: networks trained alone minus the same inside one sorted run, 8 settings",
        2.0,
        unit=" points",
    ),
    Claim("quality", "full_gap", "the same for the largest setting", 1.0, unit=" points"),
    Claim(
        "quality", "mean_accuracy", "digits: mean of the 40 sub-models, batches split among 8 stratified draws", None
    ),
    Claim("quality", "mean_accuracy_one_draw", "the same updates and images, one uniform draw a batch (papers)", None),
    Claim(
        "quality",
        "order_dependency",
        "neurons kept in target order, sorted training (papers 89.25)",
        86,
        True,
        " %",
    ),
    Claim(
        "quality",
        "order_dependency_reverse",
        "neurons kept in reverse order, sorted training (papers 59.38)",
        60,
        unit=" %",
    ),
    Claim(
        "pretrained",
        "summation_time_over_flops",
        "time of a summation over 8 exits over an ordinary step, over the ratio of their FLOPs, 100 M Llama",
        1.15,
    ),
    Claim("pretrained", "per_example_time_ratio", "time of one exit per example over an ordinary step", 1.0),
    Claim(
        "pretrained",
        "summation_memory_ratio",
        "peak memory of a summation over 8 exits over an ordinary step's (papers 1.27)",
        1.05,
    ),
    Claim(
        "pretrained",
        "families_exact",
        "of 18 Hugging Face families, those that pass the contract tests",
        18,
        True,
        form="{:.0f}",
    ),
    Claim(
        "pretrained",
        "trajectory_difference",
        "largest loss difference over 50 steps: DDP, FSDP2, FSDP2 per block, resumed",
        1e-4,
        form="{:.1e}",
    ),
    Claim(
        "finetuning",
        "encoder_gap",
        "MiniLM, four GLUE tasks, depths 1, 2, 4, 6: cut and fine-tuned alone minus sorted",
        0.5,
        unit=" points",
    ),
    Claim(
        "finetuning",
        "encoder_full_gap",
        "the same for the full depth against ordinary fine-tuning (papers 2.0)",
        0.5,
        unit=" points",
    ),
    Claim(
        "finetuning",
        "encoder_gain",
        "sorted minus ordinarily fine-tuned, read at the same depths",
        15,
        True,
        " points",
    ),
    Claim(
        "finetuning",
        "width_gain",
        "half the heads and feed-forward width of MiniLM: ordered by importance minus not",
        1,
        True,
        " points",
    ),
    Claim(
        "finetuning",
        "lm_gain",
        "causal model, exits below the last: loss of ordinary minus sorted fine-tuning",
        0.5,
        True,
        " nats",
    ),
    Claim(
        "finetuning",
        "lm_full_difference",
        "the same at the full depth: sorted minus ordinary",
        0.03,
        unit=" nats",
        form="{:.3f}",
    ),
    Claim(
        "decoding",
        "speculative_over_plain",
        "self-speculation over Hugging Face's greedy `generate`, sorted Llama of 16 layers, batch 1 (papers 2.01)",
        1.5,
        True,
    ),
    Claim(
        "decoding",
        "speculative_over_library",
        "the same over `generate(assistant_early_exit)` tuned for each kind of prompt, its worst kind",
        1.1,
        True,
    ),
    Claim(
        "decoding",
        "batch_over_plain",
        "the same over plain `generate`, batch 8",
        1.2,
        True,
    ),
    Claim(
        "decoding",
        "worst_case",
        "the same where drafts fail: foreign prompts, an unsorted model",
        0.97,
        True,
    ),
    Claim(
        "decoding",
        "early_exit_over_plain",
        "early exit, calibrated, over plain `generate` (papers 2.09)",
        1.5,
        True,
    ),
    Claim(
        "decoding",
        "early_exit_accuracy_lost",
        "next-token accuracy that this early exit loses (papers 3.3 of task accuracy)",
        1.0,
        unit=" points",
    ),
    Claim(
        "decoding",
        "identical_tokens",
        "of 200 prompts x 128 tokens, at batch 1 and 8: texts equal to plain decoding's",
        1.0,
        True,
        form="{:.3f}",
    ),
    Claim(
        "decoding",
        "sampling_total_variation",
        "distance of drawn texts' distribution from the full model's, every outcome enumerated",
        1e-06,
        form="{:.1e}",
    ),
    Claim(
        "decoding",
        "extra_memory_ratio",
        "peak memory of self-speculation over plain decoding's",
        1.05,
    ),
    Claim(
        "decoding",
        "recomputed_rows",
        "positions that a layer computes more than once",
        0,
        form="{:.0f}",
    ),
]


def results() -> dict[str, Any]:
    return {file.stem: json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))}


def table(found: dict[str, Any]) -> str:
    lines = ["| figure | what | target | measured | made by |", "| --- | --- | ---: | ---: | --- |"]
    for claim in CLAIMS:
        value = found.get(claim.file, {}).get("metrics", {}).get(claim.key)
        shown = "not measured" if value is None else claim.form.format(value + 0.0) + claim.unit
        sd = found.get(claim.file, {}).get("metrics", {}).get(f"{claim.key}_sd")
        if sd is not None:
            shown += f" (sd {sd:.2f})"
        mark = "" if value is None or claim.holds(value) else " **missed**"
        target = (
            "-" if claim.bound is None else f"{'at least' if claim.at_least else 'at most'} {claim.bound:g}{claim.unit}"
        )
        lines.append(f"| `{claim.key}` | {claim.what} | {target} | {shown}{mark} | `benchmarks/{claim.file}.py` |")
    return "\n".join(lines)


def described(found: dict[str, Any]) -> str:
    lines = []
    for name, result in found.items():
        about = result["context"]
        lines.append(
            f"`benchmarks/{name}.py`: commit {about['commit']}, {about['cores']} cores, Python {about['python']}, "
            f"torch {about['torch']}."
        )
    return "\n\n".join(lines)


def quality(found: dict[str, Any]) -> str:
    about = found["quality"]["context"]
    lines = ["| seed | setting | trained alone | sorted | gap |", "| ---: | --- | ---: | ---: | ---: |"]
    for row in about["rows"]:
        if "alone" in row:
            gap = row["alone"] - row["sorted"]
            lines.append(f"| {row['seed']} | {row['setting']} | {row['alone']:.2f} | {row['sorted']:.2f} | {gap:.2f} |")
        else:
            lines.append(f"| {row['seed']} | {row['setting']} | | {row['sorted']:.2f} | |")
            lines.append(f"| {row['seed']} | {row['setting']}, one uniform draw a batch | | {row['one draw']:.2f} | |")
    about_runs = (
        f"Digits, {about['train_images']} training and {about['test_images']} test images, {about['updates']} updates "
        f"of {about['batch_size']} images each, split among {about['draws']} draws in the sorted run; test accuracy in "
        "per cent. A network trained alone has the same hyper-parameters and as many updates."
    )
    return about_runs + "\n\n" + "\n".join(lines)


def order(found: dict[str, Any]) -> str:
    from sortednet.experiments import order_dependency

    about_it = (
        "A hidden layer of 10 neurons on four blobs; neurons are kept (X) or zeroed (O). A sorted network, trained "
        "with one uniformly drawn width a batch, keeps its accuracy when the last neurons go and loses it when the "
        "first go; an ordinary one has no order. Mean and standard deviation of 5 seeds, accuracy in per cent; "
        "`sortednet reproduce order-dependency` takes seconds."
    )
    return about_it + "\n\n" + order_dependency.table(found["quality"]["context"]["order_dependency"])


def encoder(found: dict[str, Any]) -> str:
    about = found["finetuning"]["context"]
    lines = ["| task | depth | alone | sorted | ordinary, read there |", "| --- | ---: | ---: | ---: | ---: |"]
    rows = about["rows"]["encoder"]
    for task in dict.fromkeys(row["task"] for row in rows):
        for depth in dict.fromkeys(row["depth"] for row in rows):
            here = [row for row in rows if row["task"] == task and row["depth"] == depth]
            cells = [shown([row[name] for row in here]) for name in ("alone", "sorted", "ordinary")]
            lines.append(f"| {task} | {depth} | {' | '.join(cells)} |")
    how = about["encoder_training"]
    text = (
        f"MiniLM (6 layers, hidden size 384), {about['examples'] or 'all'} training examples a task, {how['epochs']} "
        f"epochs of batches of {how['batch']}, texts cut at {how['length']} tokens, {len(about['seeds'])} seeds (mean, "
        "standard deviation). Accuracy, for STS-B Spearman's correlation, in points. Alone: cut first, then "
        "fine-tuned, read over the mean of the tokens like the sorted network's exits; at depth 6 ordinary fine-tuning."
    )
    return text + "\n\n" + "\n".join(lines)


def compared(found: dict[str, Any]) -> str:
    about, metrics = found["finetuning"]["context"], found["finetuning"]["metrics"]
    lines = ["| objective | mean over depths and tasks |", "| --- | ---: |"]
    for name in dict.fromkeys(row["objective"] for row in about["rows"]["compared"]):
        key = f"encoder_mean_{name.lower()}"
        lines.append(f"| {name} | {metrics[key]:.2f} (sd {metrics[key + '_sd']:.2f}) |")
    tasks = ", ".join(about["rows"]["compared"][0]["scores"])
    text = f"At equal cost on {tasks}: an objective that runs fewer blocks has more updates."
    return text + "\n\n" + "\n".join(lines)


def causal(found: dict[str, Any]) -> str:
    about = found["finetuning"]["context"]
    rows = about["rows"]["causal"]
    lines = ["| exit | ordinary | sorted |", "| --- | ---: | ---: |"]
    for name in rows[0]["ordinary"]:
        cells = [shown([row[kind][name] for row in rows], 3) for kind in ("ordinary", "sorted")]
        lines.append(f"| {name.rpartition('=')[2]} | {' | '.join(cells)} |")
    text = (
        "A Llama of 8 layers and 7.4 M parameters, pre-trained by `benchmarks/pretraining.py`, fine-tuned on "
        f"{about['causal_examples_of_each']} examples of GSM8K and of Alpaca each; loss over the answers' tokens of "
        f"held out examples in nats, {len(about['seeds'])} seeds. Objective: summation with the full depth weighted "
        "ten times each other exit."
    )
    return text + "\n\n" + "\n".join(lines)


def decoding(found: dict[str, Any]) -> str:
    about, m = found["decoding"]["context"], found["decoding"]["metrics"]
    arms = {
        "library": "library",
        "speculative": "self-speculation",
        "early_exit": "early exit",
        "own_plain": "our plain",
    }
    lines = [f"| prompts | {' | '.join(arms.values())} |", f"| --- |{' ---: |' * len(arms)}"]
    for name, cell in about["cells"].items():
        shown_arms = []
        for arm in arms:
            one = cell.get(f"{arm}_over_plain")
            calls = "" if one is None or one["layer_calls"] is None else f", {one['layer_calls']:.1f} layers"
            shown_arms.append("" if one is None else f"{one['median']:.2f} ({one['q1']:.2f} to {one['q3']:.2f}){calls}")
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(shown_arms)} |")
    text = (
        f"A Llama of 16 layers and {about['parameters'] / 1e6:.0f} M parameters, trained sorted from scratch by "
        "`benchmarks/decoding_model.py` on stories (TinyStories) and texts about facts (E2E, WebNLG); GSM8K and "
        f"Shakespeare are foreign to it. {about['tokens']} new tokens, greedy, float32, one thread, "
        f"{about['prompts']['e2e']} held-out prompts of each kind. Shown is the speed over transformers' plain "
        "`generate` on the same prompts, in turn and back: the median of the prompts' ratios, quartiles, and layer "
        "calls for each new token of a text (plain: 16). The library is `generate(assistant_early_exit)` with exit, "
        "draft length and threshold tuned for each kind of prompt; it takes one text at a time. Batches mix "
        "all kinds inside the domain. Unsorted: an ordinary Llama of 8 layers. Ours tune themselves while they decode; "
        "early exit has calibrated thresholds."
    )
    figures = (
        f"Plain {m['plain_ms_per_token']:.1f} ms a token, the library {m['library_ms_per_token']:.1f}, "
        f"self-speculation {m['speculative_ms_per_token']:.1f}, early exit {m['early_exit_ms_per_token']:.1f} "
        f"(medians inside the domain). Rejection ratio of drafted tokens {m['rejection_ratio']:.2f} (papers .06 to "
        f".35); mean exit {m['speculative_mean_exit']:.1f} and {m['early_exit_mean_exit']:.1f} of 16. Early exit: "
        f"{m['early_exit_agreement']:.1f} % of the tokens of held-out texts are the full model's, "
        f"{m['early_exit_accuracy_lost']:.2f} points of next-token accuracy ({m['early_exit_accuracy']:.1f} %) and "
        f"{m['early_exit_rouge_lost']:.1f} points of ROUGE-L ({m['early_exit_rouge']:.1f}) are lost."
    )
    return f"{text}\n\n{figures}\n\n" + "\n".join(lines)


def speed(found: dict[str, Any]) -> str:
    about, m = found["decoding"]["context"], found["decoding"]["metrics"]
    return (
        f"On a model of {about['parameters'] / 1e6:.0f} M parameters and one CPU thread, self-speculation ran\n"
        f"{m['speculative_over_plain']:.2f} times as fast as transformers' plain `generate` on prompts like those "
        f"trained on ({m['batch_4_over_plain']:.2f} in batches\nof 4, {m['batch_over_plain']:.2f} of 8), and at least "
        f"{m['speculative_over_library']:.2f} times as fast as its tuned `assistant_early_exit`; early exit with\n"
        f"{m['early_exit_agreement']:.1f} % of the full model's tokens ran {m['early_exit_over_plain']:.2f} times as "
        "fast as plain ([results](docs/results.md))."
    )


def shown(values: list[float], decimals: int = 1) -> str:
    return f"{statistics.mean(values):.{decimals}f} ({statistics.stdev(values):.{decimals}f})"


def main() -> None:
    found = results()
    page = ["# Results", "", "Made by `python benchmarks/tables.py` from `benchmarks/results/*.json`.", ""]
    page.append(table(found))
    page += ["", described(found)]
    if "quality" in found:
        page += ["", "## Networks trained alone against one sorted run", "", quality(found)]
        page += ["", "## Order dependency (table C.4 of the papers)", "", order(found)]
    if "finetuning" in found:
        page += ["", "## Sorted fine-tuning of a pretrained encoder", "", encoder(found)]
        page += ["", "### Objectives", "", compared(found)]
        page += ["", "## Sorted fine-tuning of a causal language model", "", causal(found)]
    if "decoding" in found:
        page += ["", "## Self-speculation and early exit", "", decoding(found)]
    (ROOT / "docs" / "results.md").write_text("\n".join(page) + "\n")
    readme = (ROOT / "README.md").read_text()
    for begin, end, made in ((BEGIN, END, table), (BEGIN_SPEED, END_SPEED, speed)):
        before, after = readme.split(begin)[0], readme.split(end)[1]
        readme = f"{before}{begin}\n{made(found)}\n{end}{after}"
    (ROOT / "README.md").write_text(readme)


if __name__ == "__main__":
    main()
