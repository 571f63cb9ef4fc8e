"""The figures that the results are held against."""

from dataclasses import dataclass


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
    Claim("ground", "help_over_torch", "processor time of `sortednet --help` over `python -c 'import torch'`", 0.4),
    Claim("ground", "select_over_torch", "the same of `sortednet select RUN`", 0.5),
    Claim("ground", "error_over_torch", "the same of a misspelt key in a configuration", 0.5),
    Claim("ground", "demo_minutes", "`make demo` in a clean clone, installation included", 4, unit=" min"),
    Claim(
        "ground",
        "warnings_seen",
        "warnings that a user sees in the README's examples, newest versions",
        0,
        form="{:.0f}",
    ),
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
    Claim(
        "dylora",
        "step_ratio",
        "DyLoRA's training step over LoRA's at the largest rank, the dearer of its two forms (paper 1.021)",
        1.03,
        form="{:.3f}",
    ),
    Claim("dylora", "search_ratio", "time of eight LoRA runs over one DyLoRA run (paper 7.8)", 7.5, at_least=True),
    Claim(
        "dylora",
        "rank1_gain",
        "three GLUE tasks, rank 1: ours minus LoRA trained at 8 and cut (paper 29.3)",
        15,
        at_least=True,
        unit=" points",
    ),
    Claim(
        "dylora",
        "svd_gain",
        "ranks 1 to 4: ours minus LoRA at 8 cut by its singular values",
        1,
        at_least=True,
        unit=" points",
    ),
    Claim(
        "dylora",
        "example_gain",
        "all ranks: one rank per example minus one per step, equal updates",
        0.5,
        at_least=True,
        unit=" points",
    ),
    Claim("dylora", "best_gap", "best rank of LoRA trained at each minus our best (paper -0.17)", 0.3, unit=" points"),
    Claim("dylora", "rank_spread", "our best rank minus our worst (paper 1.34)", 2, unit=" points"),
    Claim(
        "dylora",
        "frozen_exact",
        "`unique`: largest change outside of row and column b in AdamW steps with decay",
        0,
        form="{:.0f}",
    ),
    Claim("dylora", "compiled_graphs", "graphs for all ranks, inference", 1, form="{:.0f}"),
    Claim(
        "dylora", "extra_memory_ratio", "peak memory of a step, one rank per example, over LoRA's", 1.05, form="{:.3f}"
    ),
    Claim(
        "recipes",
        "table42_in",
        "cPreResNet20, mean of four widths: `recipe: sorted` minus the best other method; instance norm (small scale: "
        "group norm)",
        1.0,
        at_least=True,
        unit=" points",
    ),
    Claim("recipes", "table42_bn", "the same with batch norm", 5.0, at_least=True, unit=" points"),
    Claim(
        "recipes",
        "fig42_mean_recovery",
        "MobileNetV2, 160 sub-models: their mean accuracy in per cent of the network trained alone",
        75,
        at_least=True,
        unit=" %",
    ),
    Claim(
        "recipes",
        "fig42_full",
        "the same of the largest sub-model",
        98,
        at_least=True,
        unit=" %",
    ),
    Claim("recipes", "lcs_time_ratio", "time of an epoch, SortedNet with g_acc 4 over LCS-p, equal updates", 0.68),
    Claim("recipes", "seeds", "runs behind every quality figure of the experiments", 3, at_least=True, form="{:.0f}"),
    Claim(
        "symbolic",
        "generated_share_ratio",
        "drawn problems of one variable, unseen skeletons, R2 > 0.999 in the outer range: SymbolicGPT's share over "
        "gplearn's (to one problem where gplearn solves none)",
        1.5,
        at_least=True,
    ),
    Claim("symbolic", "generated_share_ratio_inside", "the same at fresh points inside of the range", None),
    Claim(
        "symbolic",
        "seconds_per_problem",
        "median CPU time of `SymbolicGPTRegressor.fit`, 64 candidates, one thread",
        2,
        unit=" s",
    ),
    Claim("symbolic", "speed_over_gplearn", "gplearn's median time over ours", 5, at_least=True),
    Claim("symbolic", "nguyen", "Nguyen runs with R2 > 0.999", 60, at_least=True, unit=" %", form="{:.0f}"),
    Claim("symbolic", "nguyen_gplearn", "the same for gplearn", None, unit=" %", form="{:.0f}"),
    Claim("symbolic", "nguyen_pyoperon", "the same for pyoperon", None, unit=" %", form="{:.0f}"),
    Claim(
        "symbolic",
        "feynman3",
        "AI Feynman up to three variables with R2 > 0.99",
        50,
        at_least=True,
        unit=" %",
        form="{:.0f}",
    ),
    Claim("symbolic", "feynman3_gplearn", "the same for gplearn", None, unit=" %", form="{:.0f}"),
    Claim("symbolic", "feynman3_pyoperon", "the same for pyoperon", None, unit=" %", form="{:.0f}"),
    Claim(
        "symbolic",
        "hybrid",
        "problems with R2 > 0.999 that pyoperon gains when started from our formulas, equal time",
        1,
        at_least=True,
        form="{:.0f}",
    ),
    Claim(
        "symbolic",
        "examples_per_second",
        "training examples that the generator draws, two cores",
        5000,
        at_least=True,
        form="{:.0f}",
    ),
    Claim(
        "symbolic",
        "sorted_depth_gap",
        "sorted SymbolicGPT, share of drawn problems solved: full depth minus half",
        10,
        unit=" points",
        form="{:.1f}",
    ),
    Claim(
        "symbolic",
        "sorted_half_minus_cut",
        "the same at half depth: sorted minus the ordinary model cut there",
        15,
        at_least=True,
        unit=" points",
        form="{:.1f}",
    ),
    Claim(
        "symbolic",
        "conditional_gain",
        "share solved: node control minus the summed condition, equal training",
        0,
        at_least=True,
        unit=" points",
        form="{:.1f}",
    ),
]
