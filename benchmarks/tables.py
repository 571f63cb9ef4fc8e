"""Write docs/results.md, and what other pages say of results, from the JSON under benchmarks/results."""

import json
import statistics
import textwrap
from pathlib import Path
from typing import Any

from claims import CLAIMS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: made by benchmarks/tables.py -->", "<!-- end of results -->"
BEGIN_RANKS, END_RANKS = "<!-- dylora: made by benchmarks/tables.py -->", "<!-- end of dylora -->"
BEGIN_RECIPES, END_RECIPES = "<!-- recipes: made by benchmarks/tables.py -->", "<!-- end of recipes -->"
BEGIN_SPEED, END_SPEED = "<!-- speed: made by benchmarks/tables.py -->", "<!-- end of speed -->"
BEGIN_SYMBOLIC, END_SYMBOLIC = "<!-- symbolic: made by benchmarks/tables.py -->", "<!-- end of symbolic -->"


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


def ranks(found: dict[str, Any]) -> str:
    about, m = found["dylora"]["context"], found["dylora"]["metrics"]
    rows = about["rows"]
    places = sorted({row["rank"] for row in rows if row["rank"]})
    lines = [f"| method | {' | '.join(map(str, places))} | mean |", f"| --- |{' ---: |' * (len(places) + 1)}"]
    for name in dict.fromkeys(row["method"] for row in rows):
        held = {row["rank"]: row["mean"] for row in rows if row["method"] == name}
        if 0 in held:  # has no rank
            lines.append(f"| {name} |{' |' * len(places)} {held[0]:.1f} |")
            continue
        cells = [f"{held[rank]:.1f}" if rank in held else "" for rank in places]
        mean = f"{statistics.mean(held.values()):.1f}" if len(held) == len(places) else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {mean} |")
    how = about["how"]
    text = (
        f"MiniLM, {', '.join(name.upper() for name in about['quality_tasks'])}, {about['examples'] or 'all'} training "
        f"examples a task, {how['epochs']} epochs of batches of {how['batch']}, adapters of query and value, "
        f"classifier and pooler trained too, {len(about['seeds'])} seeds (the frozen mode and full fine-tuning: "
        f"{about['seeds_of_others']}). Accuracy on {about['evaluated'] or 'all'} test examples a task at most, mean "
        "over tasks and seeds, by rank. Rates were chosen on training examples that nothing was trained on: "
        + "; ".join(f"{name} {value:.1f}" for name, value in about["held_out"].items())
        + "."
    )
    costs = (
        f"A step of one rank per example takes {m['step_ratio_example']:.3f} of LoRA's at rank 8, one rank per step "
        f"{m['step_ratio_step']:.3f}. In the frozen mode of the first published code "
        f"{100 * m['reference_moved_outside']:.0f} % of all movement of the adapter is outside of the row and column "
        f"that it means to train; in ours none. In training {m['compiled_graphs_training']:.0f} graphs are compiled "
        f"for all ranks together, as for one rank alone ({m['compiled_graphs_one_rank']:.0f})."
    )
    return f"{text}\n\n{costs}\n\n" + "\n".join(lines)


def rank_summary(found: dict[str, Any]) -> str:
    m = found["dylora"]["metrics"]
    return (
        f"A training step costs {m['step_ratio_example']:.2f} of LoRA's at the largest rank with a rank for each "
        f"example, {m['step_ratio_step']:.2f} with one for each\nstep, so that eight ranks cost "
        f"{m['search_ratio']:.1f} times less than eight runs. On three GLUE tasks of 2,000 examples each the best rank "
        f"is\n{m['best_gap']:.1f} points below the best of LoRA trained at each rank, and the worst "
        f"{m['rank_spread']:.1f} points below that ([results](results.md))."
    )


def speed(found: dict[str, Any]) -> str:
    about, m = found["decoding"]["context"], found["decoding"]["metrics"]
    return (
        f"On a model of {about['parameters'] / 1e6:.0f} M parameters and one CPU thread, self-speculation ran\n"
        f"{m['speculative_over_plain']:.2f} times as fast as transformers' plain `generate` on prompts like those "
        f"trained on ({m['batch_4_over_plain']:.2f} in batches\nof 4, {m['batch_over_plain']:.2f} of 8), and at least "
        f"{m['speculative_over_library']:.2f} times as fast as its tuned `assistant_early_exit`; early exit with\n"
        f"{m['early_exit_agreement']:.1f} % of the full model's tokens ran {m['early_exit_over_plain']:.2f} times as "
        "fast as plain ([results](results.md))."
    )


def papers(found: dict[str, Any]) -> str:
    about = found["recipes"]["context"]
    scale = "small" if about["scale"] == "cpu" else "papers'"
    parts = [
        f"The {scale} scale (`sortednet reproduce NAME --scale {about['scale']}`). Numbers are means, with the "
        "standard deviation over the seeds in brackets; columns of the papers are quoted.",
        "| experiment | seeds | minutes of jobs a seed, two at a time | figures |\n| --- | ---: | ---: | --- |",
    ]
    for name, one in about["experiments"].items():
        keys = one["figures"][0]
        figures = ", ".join(f"{key} {shown([run[key] for run in one['figures']])}" for key in keys)
        minutes = statistics.mean(one["seconds"]) / 60
        parts[-1] += f"\n| {name} | {len(one['seeds'])} | {minutes:.1f} | {figures} |"
    for one in about["experiments"].values():
        lines = [f"| {' | '.join(one['columns'])} |", f"| ---{' | ---:' * (len(one['columns']) - 1)} |"]
        lines += [f"| {' | '.join(map(cell, row))} |" for row in one["rows"]]
        parts += [f"### {one['title']}", one["notes"], "\n".join(lines)]
    return "\n\n".join(parts)


def recipe_summary(found: dict[str, Any]) -> str:
    m, small = found["recipes"]["metrics"], found["recipes"]["context"]["scale"] == "cpu"
    others = {
        column: max(
            (value, name.removeprefix(f"{column}_").replace("_", " "))
            for name, value in m.items()
            if name.startswith(f"{column}_") and not name.endswith(("_sd", "_sorted"))
        )
        for column in ("instance", "batch")
    }
    text = (
        f"At the {'small' if small else 'papers'} scale with equal updates, {m['seeds']:.0f} seeds: four widths of "
        f"cPreResNet20 reach {m['instance_sorted']:.1f} % on average with `recipe: sorted` and "
        f"{'group' if small else 'instance'} norm ({m['batch_sorted']:.1f} % with batch norm), "
        f"{m['instance_sortednet']:.1f} % ({m['batch_sortednet']:.1f} %) with plain SortedNet, and with the best other "
        f"method {others['instance'][0]:.1f} % ({others['instance'][1]}; {others['batch'][0]:.1f} %, "
        f"{others['batch'][1]}). Of 160 sub-models of MobileNetV2 the mean keeps {m['fig42_mean_recovery']:.0f} % of "
        f"the accuracy of the network trained alone, and the largest {m['fig42_full']:.0f} %; with plain SortedNet "
        f"{m['fig42_mean_recovery_sortednet']:.0f} % and {m['fig42_full_sortednet']:.0f} % "
        "([results](results.md))."
    )
    return textwrap.fill(text, 119, break_long_words=False, break_on_hyphens=False)


def symbolic(found: dict[str, Any]) -> str:
    about, m = found["symbolic"]["context"], found["symbolic"]["metrics"]
    columns, rows = about["table"]["columns"], about["table"]["rows"]
    lines = [f"| {' | '.join(columns)} |", f"| --- | ---{' | ---:' * (len(columns) - 2)} |"]
    lines += [f"| {' | '.join(map(cell, row))} |" for row in rows]
    parts = [
        f"A model of {about['parameters'] / 1e6:.2f} M parameters. {about['notes']}",
        "\n".join(lines),
        "![Cumulative curves of the error](symbolic-curves.png)",
        "![Data against formulas](symbolic-formulas.png)",
    ]
    if "hybrid" in m:
        parts.append(
            f"Started from our formulas, pyoperon solves {m['hybrid_gained']:.0f} problems that it does not solve in "
            f"the same time from a cold start, and loses {m['hybrid_lost']:.0f}."
        )
    if "examples_per_second" in m:
        parts.append(f"The generator draws {m['examples_per_second']:,.0f} training examples a second on two cores.")
    if about["missing"]:
        parts.append(f"Not measured for lack of time: {', '.join(about['missing'])}.")
    for title, key in (("Depths of one sorted model", "depths"), ("Node control", "conditional")):
        if about[key]:
            parts += [f"### {title}", _by_part(about[key])]
    if "conditional_gain" in m:
        sd = f" (sd {m['conditional_gain_sd']:.1f})" if "conditional_gain_sd" in m else ""
        parts.append(f"Node control minus the summed condition: {m['conditional_gain']:.1f} points{sd}.")
    parts += ["### What ours does not solve", _failures(about["failures"])]
    return "\n\n".join(parts)


def _by_part(found: dict[str, Any]) -> str:
    lines = [
        "| model | layers | solved in the outer range, % | inside, % | invalid texts, % | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in found.items():
        label = name.split("-", 1)[1].replace("-", " ")
        cells = [
            label,
            str(one["layers"]),
            f"{100 * one['share']:.1f} ± {100 * one['sd']:.1f}",
            f"{100 * one['inside']:.1f}",
            f"{100 * one['invalid']:.1f}",
            f"{one['seconds']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    problems = next(iter(found.values()))["problems"]
    return f"{problems} drawn problems of 1, 2 and 3 variables, R2 > 0.999.\n\n" + "\n".join(lines)


def _failures(found: dict[str, Any]) -> str:
    lines = ["| set | problem | what ours found | R2 | solved by |", "| --- | --- | --- | ---: | --- |"]
    for name, rows in found.items():
        for row in rows:
            r2 = "" if row["r2"] is None else f"{row['r2']:.4f}" if row["r2"] > -10 else "below -10"
            truth, own = (
                textwrap.shorten(row[key].replace("+", " + "), 70, placeholder=" ...") for key in ("truth", "found")
            )
            solved = ", ".join(row["solved_by"])
            lines.append(f"| {name} {row['name']} | `{truth}` | `{own}` | {r2} | {solved} |")
    return "R2 > 0.999, in the outer range for drawn problems (the first of each set).\n\n" + "\n".join(lines)


def symbolic_summary(found: dict[str, Any]) -> str:
    m = found["symbolic"]["metrics"]

    def all_three(key: str) -> str:
        ours, gplearn, pyoperon = (m[key.format(one)] for one in ("ours", "gplearn", "pyoperon"))
        return f"{ours:.0f} % (gplearn {gplearn:.0f} %, pyoperon {pyoperon:.0f} %)"

    text = (
        "On drawn problems of one variable with skeletons that it was not trained on, it has R2 > 0.999 on "
        f"{all_three('generated_1_{}_inside_0.999')} inside of the training range and on "
        f"{all_three('generated_1_{}_outside_0.999')} outside of it, in {m['seconds_per_problem']:.1f} s of one core a "
        f"problem ({m['speed_over_gplearn']:.1f} times as fast as gplearn). On Nguyen's problems it has R2 > 0.999 in "
        f"{all_three('nguyen_{}_inside_0.999')} of runs, and on AI Feynman's with up to three variables R2 > 0.99 on "
        f"{all_three('feynman_{}_inside_0.99')}. pyoperon started from its formulas gains {m['hybrid_gained']:.0f} "
        f"problems and loses {m['hybrid_lost']:.0f} against as long a cold start ([results](results.md))."
    )
    return textwrap.fill(text, 119, break_long_words=False, break_on_hyphens=False)


def summary(found: dict[str, Any]) -> str:
    """Results, each with what speaks against it."""
    quality, tuned, text = (found[name]["metrics"] for name in ("quality", "finetuning", "decoding"))
    costs, seconds = found["costs"]["metrics"], found["costs"]["context"]["details"]["language"]["seconds"]
    exits = len(found["costs"]["context"]["exits"])
    summed = seconds["summation"]["median"] / seconds["ordinary"]["median"]
    lines = [
        f"Digits, 40 sub-models of one network: {quality['mean_accuracy']:.1f} % on average, where one draw a batch, "
        f"as in the paper, gives {quality['mean_accuracy_one_draw']:.1f} % at the same cost; but a network trained "
        f"alone is {quality['gap_to_alone']:.1f} points better than the same one inside.",
        f"MiniLM on four GLUE tasks, exits after 1, 2, 4 and 6 layers: {tuned['encoder_gain']:.1f} points better than "
        f"ordinary fine-tuning read at the same layers, and {-tuned['encoder_full_gap']:+.1f} at the full depth; but "
        f"models cut and fine-tuned at each depth alone are {tuned['encoder_gap']:.1f} points better.",
        f"A sorted Llama of 16 layers drafts for itself: {text['speculative_over_plain']:.2f} times as fast as "
        f"`generate`, with the same tokens; but {text['speculative_over_library']:.2f} times as fast as transformers' "
        f"own early exit tuned for the prompts, and {text['batch_over_plain']:.2f} times at batch 8.",
        f"In bfloat16, a Llama of SmolLM2-135M's sizes, {exits} exits: all of them in one step cost {summed:.1f} "
        f"ordinary steps, one exit for each example {costs['bf16_per_example_ratio']:.2f}, with "
        f"{costs['train_memory_ratio']:.2f} times its memory; but a first step takes as long as "
        f"{costs['first_step_time_ratio']:.1f} later ones ({found['costs']['context']['processor']}).",
    ]
    wrap = textwrap.TextWrapper(119, initial_indent="- ", subsequent_indent="  ", break_long_words=False)
    return "\n".join(wrap.fill(line) for line in lines)


def cell(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]:.1f} ({value[1]:.1f})"
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def shown(values: list[float], decimals: int = 1) -> str:
    mean = f"{statistics.mean(values):.{decimals}f}"
    return f"{mean} ({statistics.stdev(values):.{decimals}f})" if len(values) > 1 else mean


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
    if "dylora" in found:
        page += ["", "## An adapter for every rank", "", ranks(found)]
    if "recipes" in found:
        page += ["", "## The papers' experiments", "", papers(found)]
    if "symbolic" in found:
        page += ["", "## Symbolic regression", "", symbolic(found)]
    (ROOT / "docs" / "results.md").write_text("\n".join(page) + "\n")
    parts = [("README.md", BEGIN, END, summary), ("docs/text.md", BEGIN_SPEED, END_SPEED, speed)]
    if "dylora" in found:
        parts.append(("docs/adapters.md", BEGIN_RANKS, END_RANKS, rank_summary))
    if "recipes" in found:
        parts.append(("docs/experiments.md", BEGIN_RECIPES, END_RECIPES, recipe_summary))
    if "symbolic" in found:
        parts.append(("docs/formulas.md", BEGIN_SYMBOLIC, END_SYMBOLIC, symbolic_summary))
    for name, begin, end, made in parts:
        text = (ROOT / name).read_text()
        before, after = text.split(begin)[0], text.split(end)[1]
        (ROOT / name).write_text(f"{before}{begin}\n{made(found)}\n{end}{after}")


if __name__ == "__main__":
    main()
