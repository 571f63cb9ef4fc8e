"""The configuration of a fine-tuning run: what a YAML file with the key `pretrained` may say.

Nothing here opens anything, or needs torch: `fine_tuning_parts` opens what a configuration names.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError
from ..imports.names import UpdateRule
from ..lora.rank_space import RANK
from ..space import Space
from ..training.config import ObjectiveConfig, SamplerConfig
from .adapter_config import AdapterConfig
from .image_config import check_recipe, check_space

__all__ = [
    "FineTuningConfig",
    "ImportanceConfig",
    "PretrainedConfig",
    "TextConfig",
    "own_folder",
]

_OF_PACKAGE = "python:"


@dataclass(frozen=True)
class PretrainedConfig:
    """Which pretrained model.

    Args:
        path: A folder, the name of a model of the Hugging Face Hub, or `python:PACKAGE/FOLDER`, a folder inside an
            installed Python package.
        task: `sequence_classification` (classes, or numbers) or `causal_lm`.
        readout: What a classifier reads: `own`, `mean` over the tokens, or `default`; see `SortedNet.from_pretrained`.
        pad_token: The padding token, where the tokenizer has none, such as its end token.
        dtype: Type of the weights while training.

    Raises:
        ConfigError: If the mean is to be read for something else than a classifier.
    """

    path: str
    task: Literal["sequence_classification", "causal_lm"] = "sequence_classification"
    readout: Literal["default", "own", "mean"] = "default"
    pad_token: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        if self.readout == "mean" and self.task != "sequence_classification":
            raise ConfigError(
                f"pretrained.readout='mean' is for task: sequence_classification, not {self.task}, where every token "
                "is read. Leave it out."
            )

    def resolve(self) -> str:
        """Return the folder or the name that transformers opens.

        Raises:
            ConfigError: If the package is not installed, or has no such folder.
        """
        if not self.path.startswith(_OF_PACKAGE):
            folder = own_folder(self.path)
            return str(folder) if folder.is_dir() else self.path
        package, _, inside = self.path.removeprefix(_OF_PACKAGE).partition("/")
        try:
            found = _inside(package, inside)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"pretrained.path={self.path!r}: the Python package {package!r} cannot be found ({error}). Install it "
                "with pip, or give a folder."
            ) from None
        if not found.is_dir():
            raise ConfigError(
                f"pretrained.path={self.path!r}: the package {package} has no folder {inside!r}. Correct it, or give a "
                "folder."
            )
        return str(found)


def _inside(package: str, inside: str) -> Path:
    """Return a folder of an installed package, which is not imported: a configuration may come from a stranger."""
    top, *below = package.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"No module named {package!r}" if spec is None else f"{top!r} is no package")
    root = Path(spec.submodule_search_locations[0]).resolve()
    found = root.joinpath(*below, inside).resolve()
    if not found.is_relative_to(root):
        raise ValueError(f"{inside!r} leads out of it")
    return found


@dataclass(frozen=True)
class TextConfig:
    """Which text.

    Args:
        name: A task (`sst2`, `mrpc`, `rte`, `stsb`, `gsm8k`, `alpaca`, `webnlg`, `e2e`), a format of your own files
            (`jsonl`, `tsv`, `csv`, `text`), or a data set of the Hugging Face Hub; see `sortednet.data.text.load_text`.
        source: The folder with a task's files, or `hub`, which is meant where left out.
        max_length: Most tokens of an example.
        options: Arguments of the loader, such as `train_examples`, `evaluation_examples` and `seed`; for your own files
            `train`, `evaluation`, `kind`, `text_columns`, `label_column` and the like.
        encoding: Arguments of `sortednet.data.text.encode`: `train_on_prompt`, `strip_calculations`, `chat`.
    """

    name: str
    source: str | None = None
    max_length: int = 128
    options: dict[str, Any] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportanceConfig:
    """How heads and feed-forward units are ordered before training, so that sub-models get the important ones.

    Args:
        kind: `none`, `taylor`, `activation` or `magnitude`; see `sortednet.training.importance.score`.
        batches: Training batches to score on, at least 1.

    Raises:
        ConfigError: If there is no batch.
    """

    kind: Literal["none", "taylor", "activation", "magnitude"] = "none"
    batches: int = 16

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise ConfigError(f"importance.batches={self.batches} is below 1. Give at least 1, such as 16.")


@dataclass(frozen=True)
class FineTuningConfig:
    """A run of `sortednet train` from a pretrained model.

    Args:
        pretrained: Which model.
        text: Which text.
        space: By field of its config the values, the largest its own; or a list of settings. May be left out where
            there is an adapter.
        adapter: An adapter whose rank is sorted; the model's own weights are not trained then. None where null.
        output: Folder for all that the run writes.
        importance: How units are ordered before training.
        sampler: How settings are drawn.
        objective: Which sub-models a batch trains.
        head_learning_rate: Learning rate of the head (all outside the base model, and its pooler); that of `training`
            where null.
        update: What a step may change: `standard`, `touched`, `unique` or `reference`.
        training: Fields of `transformers.TrainingArguments`. Where a recipe has several stages, each gets its share of
            the updates, or of the epochs, with a schedule of its own; `warmup_steps` from 1 on are those of each stage.
        recipe: A method by name, such as `sorted` or `dynabert`, in place of `sampler` and `objective`; see
            `sortednet.training.recipes`. It trains the model's own weights, and so does not go with an adapter.
        recipe_options: Its further arguments.

    Raises:
        ConfigError: If these do not fit together, or the recipe or an option of it is unknown.
    """

    pretrained: PretrainedConfig
    text: TextConfig
    space: dict[str, Any] | list[Any] | None = None
    adapter: AdapterConfig | None = None
    output: str = "runs/fine_tuning"
    importance: ImportanceConfig = field(default_factory=ImportanceConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    objective: ObjectiveConfig = field(default_factory=lambda: ObjectiveConfig(name="per_example"))
    head_learning_rate: float | None = None
    update: UpdateRule = "standard"
    training: dict[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    recipe_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_space(self.space)
        check_recipe(self, ("sampler", "objective"))
        if self.head_learning_rate is not None and not self.head_learning_rate > 0:
            raise ConfigError(f"head_learning_rate={self.head_learning_rate} must be above 0, or null.")
        if self.adapter is not None:
            self._check_adapter()
        elif not self.space:
            raise ConfigError(
                f"space={self.space} sorts nothing. Give fields of the model's config with their values, such as "
                "space={num_hidden_layers: [2, 4, 6]}, or an adapter."
            )

    def _check_adapter(self) -> None:
        """Refuse what does not go with an adapter, whose model stays as it is and is not saved."""
        if self.recipe is not None:
            raise ConfigError(
                f"recipe={self.recipe} trains the weights of the model, which an adapter leaves as they are. Leave the "
                "recipe out, and give objective and sampler; or leave the adapter out."
            )
        dimensions = self.space if isinstance(self.space, dict) else {name for one in self.space or () for name in one}
        if RANK in dimensions:
            raise ConfigError(
                f"space has {RANK}, the rank, which the adapter says itself. Leave it out of space; give adapter.ranks."
            )
        if self.pretrained.readout == "mean":
            raise ConfigError(
                "pretrained.readout='mean' does not go with an adapter, which PEFT opens on the model as it is. Leave "
                "it out."
            )
        if self.importance.kind != "none":
            raise ConfigError(
                f"importance.kind={self.importance.kind} reorders the weights of the model, which an adapter leaves as "
                "they are. Leave it out; ranks learn their order in training."
            )

    @property
    def title(self) -> str:
        """The heading of the report."""
        path = self.pretrained.path
        package = path.removeprefix(_OF_PACKAGE).partition("/")[0]
        return f"{package if path.startswith(_OF_PACKAGE) else Path(path).name} on {self.text.name}"

    @property
    def seed(self) -> int:
        """The seed of the new head, of what is drawn, and of the data's order."""
        seed = self.training.get("seed", 0)
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise ConfigError(f"training.seed={seed!r} is no seed. Give a whole number from 0 to {2**32 - 1}.")
        return seed

    def absolute(self) -> FineTuningConfig:
        """Return the same configuration with its paths made absolute, so that it can be used from any folder."""
        path, source, options = self.pretrained.path, self.text.source, dict(self.text.options)
        if own_folder(path).is_dir():
            path = str(own_folder(path).absolute())
        if source is not None and source != "hub":
            source = str(own_folder(source).absolute())
        for name in ("train", "evaluation", "cache_folder"):
            if isinstance(options.get(name), str):
                options[name] = str(own_folder(options[name]).absolute())
        text = replace(self.text, source=source, options=options)
        return replace(self, pretrained=replace(self.pretrained, path=path), text=text)

    def make_space(self) -> Space:
        """Return the space.

        Raises:
            SpaceError: If it is none.
        """
        inner = self.make_inner_space()
        if self.adapter is not None:
            return self.adapter.make_space(inner)
        assert inner is not None
        return inner

    def make_inner_space(self) -> Space | None:
        """Return the space of the model's own dimensions, if some are sorted."""
        if not self.space:
            return None
        return Space(self.space) if isinstance(self.space, list) else Space(**self.space)


def own_folder(path: str) -> Path:
    """Return a path whose `~` is the user's folder; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
