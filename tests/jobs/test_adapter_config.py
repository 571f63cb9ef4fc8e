from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from sortednet import Space
from sortednet.errors import BuildError, ConfigError, SpaceError
from sortednet.jobs.adapter_config import AdapterConfig
from sortednet.jobs.configurations import read_config
from sortednet.jobs.fine_tuning_config import FineTuningConfig, ImportanceConfig, PretrainedConfig, TextConfig
from sortednet.jobs.fine_tuning_parts import make_adapter, make_arguments
from sortednet.jobs.fine_tuning_stages import identity
from sortednet.network.sorted_net import SortedNet
from sortednet.training.config import SamplerConfig
from sortednet.training.names import make_objective
from sortednet.training.objectives import PerExample
from sortednet.training.sampling import Geometric, Weighted

CONFIGS = Path(__file__).parent.parent.parent / "configs"
GLUE = ["dylora_minilm_sst2", "dylora_minilm_mrpc", "dylora_minilm_rte"]
CAUSAL = ["dylora_causal_webnlg", "dylora_causal_e2e"]
SMALL = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def objective_of_config(config, space):
    return make_objective(config.objective, config.sampler, space, config.seed)


def encoder() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SMALL))


def config(adapter: AdapterConfig | None = None, path: str = "a/model", **given) -> FineTuningConfig:
    pretrained = given.pop("pretrained", PretrainedConfig(path))
    return FineTuningConfig(pretrained, TextConfig("sst2"), adapter=adapter or AdapterConfig(), **given)


def made(adapter: AdapterConfig, model: nn.Module | SortedNet | None = None) -> SortedNet:
    return make_adapter(adapter, encoder() if model is None else model, task_type="SEQ_CLS", path=None)


@pytest.mark.parametrize("name", [*GLUE, *CAUSAL])
def test_every_shipped_config_describes_a_run(name: str, tmp_path: Path) -> None:
    found = read_config(CONFIGS / f"{name}.yaml")
    assert isinstance(found, FineTuningConfig)
    space = found.make_space()
    assert list(space.supports) == ["r"]
    assert space.size == (8 if name in GLUE else 5)
    assert isinstance(objective_of_config(found, space), PerExample)
    make_arguments(found, tmp_path)


@pytest.mark.parametrize("name", [*GLUE, *CAUSAL])
def test_no_shipped_config_names_a_path_of_a_machine(name: str) -> None:
    found = read_config(CONFIGS / f"{name}.yaml")
    assert found.text.source == "hub"
    assert not Path(found.pretrained.path).is_absolute()


def test_values_inside_of_an_adapter_can_be_changed() -> None:
    changes = ["adapter.ranks=[2, 4]", "adapter.r=4", "adapter.target_modules=all-linear", "update=unique"]
    found = read_config(CONFIGS / "dylora_minilm_sst2.yaml", changes)
    assert (found.adapter.r, found.adapter.ranks, found.adapter.lora_alpha) == (4, [2, 4], 5.657)
    assert (found.adapter.target_modules, found.update) == ("all-linear", "unique")


def test_ranks_are_the_powers_of_two_where_left_out() -> None:
    assert AdapterConfig(r=12).sorted_ranks() == [1, 2, 4, 8, 12]


@pytest.mark.parametrize(("rule", "largest"), [("clip", 8), ("proportional", 4)])
def test_the_largest_rank_is_that_of_the_rule(rule: str, largest: int) -> None:
    assert AdapterConfig(r=4, rank_pattern={"query": 8}, rank_pattern_rule=rule).sorted_ranks()[-1] == largest


@pytest.mark.parametrize(
    "inner", [None, {"num_hidden_layers": [1, 2]}, [{"num_hidden_layers": 1}, {"num_hidden_layers": 2}]]
)
def test_the_space_of_a_config_is_that_of_its_network(inner: dict | list | None) -> None:
    adapter = AdapterConfig(r=2, target_modules=["query"])
    space = None if inner is None else Space(inner) if isinstance(inner, list) else Space(**inner)
    model = encoder() if space is None else SortedNet.from_pretrained(encoder(), space=space, readout="own")
    assert config(adapter, space=inner).make_space() == made(adapter, model).space


def test_all_fields_reach_peft() -> None:
    adapter = AdapterConfig(
        r=4, lora_alpha=16, lora_dropout=0.1, target_modules=["query", "value"], modules_to_save=["pooler"],
        use_rslora=True, rank_pattern={"value": 2}, alpha_pattern={"value": 3.0}, init_lora_weights="gaussian",
    )  # fmt: skip
    found = made(adapter).full.peft_config["default"]
    assert (found.r, found.lora_alpha, found.lora_dropout, found.use_rslora) == (4, 16, 0.1, True)
    assert found.target_modules == {"query", "value"}
    assert (found.rank_pattern, found.alpha_pattern) == ({"value": 2}, {"value": 3.0})
    assert found.init_lora_weights == "gaussian"
    assert {"pooler", "classifier"} <= set(found.modules_to_save)


def test_the_rule_and_the_scaling_reach_the_builder() -> None:
    adapter = AdapterConfig(r=4, target_modules=["query"], rank_pattern_rule="proportional", scaling="constant")
    builder = made(adapter).builder
    assert (builder.pattern, builder.scaling) == ("proportional", "constant")


def test_all_linear_layers_leave_out_the_head() -> None:
    names = [name for name, _ in made(AdapterConfig(r=2, target_modules="all-linear")).full.named_parameters()]
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name in names if "lora_A" in name}
    assert adapted == {"query", "key", "value", "dense"}


def test_target_modules_are_those_of_peft_where_left_out() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    net = make_adapter(AdapterConfig(r=2), model, task_type="CAUSAL_LM", path=None)
    assert any("q_proj.lora_A" in name for name, _ in net.full.named_parameters())


def test_samplers_draw_ranks() -> None:
    geometric = config(sampler=SamplerConfig("geometric", {"p": 0.15}))
    found = objective_of_config(geometric, geometric.make_space())
    assert isinstance(found.sampler, Geometric)
    assert found.sampler.p == 0.15
    weighted = config(sampler=SamplerConfig("weighted", {"weights": {"r=1": 1.0, "r=8": 3.0}}))
    found = objective_of_config(weighted, weighted.make_space())
    assert isinstance(found.sampler, Weighted)
    assert {int(one["r"]) for one in found.sampler.draw(50)} == {1, 8}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"r": 0}, ConfigError, r"adapter.r=0 must be at least 1"),
        ({"lora_alpha": 0}, ConfigError, r"adapter.lora_alpha=0 must be above 0"),
        ({"lora_dropout": 1.0}, ConfigError, r"adapter.lora_dropout=1.0 must be in \[0, 1\)"),
        ({"rank_pattern": {"query": 0}}, ConfigError, r"rank_pattern=.* must be of ranks of at least 1"),
        ({"target_modules": "query"}, ConfigError, r"target_modules='query' is no list. Give names.*or all-linear"),
        ({"ranks": [1, 16]}, SpaceError, r"ranks=\[1, 16\] holds 16; .* whole numbers from 1 to 8"),
        ({"ranks": [0, 8]}, SpaceError, r"holds 0"),
        ({"ranks": [1, 2]}, SpaceError, r"does not hold the largest rank 8"),
        ({"scaling": "half"}, ConfigError, r"scaling='half' is unknown. Choose one of rank, constant"),
        ({"rank_pattern_rule": "cut"}, ConfigError, r"rank_pattern='cut' is unknown. Choose one of clip, proportional"),
    ],
)
def test_values_out_of_range_are_refused(given: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        made(AdapterConfig(**{"target_modules": ["query"], **given}))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"target_modules": ["queri"]},
            BuildError,
            r"target_modules names 'queri', which BertForSequenceClassification does not have. Choose among cl.*query",
        ),
        ({"modules_to_save": ["head"]}, BuildError, r"modules_to_save names 'head'.* Choose among bert, .*classifier"),
        ({"target_modules": ["LayerNorm"]}, BuildError, r"LayerNorm"),
        ({"init_lora_weights": "pissa"}, ConfigError, r"init_lora_weights='pissa' cannot be cut to a rank"),
        ({"init_lora_weights": "loud"}, ConfigError, r"init_lora_weights='loud'"),
    ],
)
def test_what_the_model_cannot_have_is_refused(given: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        made(AdapterConfig(**{"target_modules": ["query"], **given}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"space": {"r": [1, 2]}}, r"space has r, the rank, .* give adapter.ranks"),
        ({"space": [{"r": 1}]}, r"space has r, the rank"),
        ({"importance": ImportanceConfig("taylor")}, r"importance.kind=taylor reorders the weights of the model"),
        ({"pretrained": PretrainedConfig("a", readout="mean")}, r"readout='mean' does not go with an adapter"),
    ],
)
def test_what_does_not_go_with_an_adapter_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**given)


def test_a_run_without_an_adapter_needs_a_space() -> None:
    with pytest.raises(ConfigError, match=r"space=None sorts nothing. Give fields .* or an adapter"):
        FineTuningConfig(PretrainedConfig("a"), TextConfig("sst2"))


def test_a_run_of_an_earlier_version_has_the_standard_rule() -> None:
    now = {"space": {}, "update": "standard"}
    assert identity({"space": {}}) == identity(now)
    assert identity({"update": "unique"}) != identity(now)
