"""The configuration of a fine-tuning run: what a YAML file with the key `pretrained` may say."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from .adapter_config import AdapterConfig
from .config import ObjectiveConfig, SamplerConfig, check_recipe, make_objective
from .errors import CheckpointError, ConfigError, DataError, SortedNetError
from .lora import RANK
from .network import SortedNet
from .objectives import Objective
from .recipes import Recipe, Stage, recipe_of
from .space import Number, Space
from .text import EncodedText, TextData, check_labels, check_tokenizer, encode, load_text
from .text.sources import Format
from .training import UpdateRule
from .training_arguments import first_line, make_training_arguments, that_matter, the_transformers

__all__ = ["FineTuningConfig", "ImportanceConfig", "PretrainedConfig", "TextConfig"]

_OF_PACKAGE = "python:"
_TASK_TYPES = {"sequence_classification": "SEQ_CLS", "causal_lm": "CAUSAL_LM"}
_KINDS = {"sequence_classification": ("classification", "regression"), "causal_lm": ("causal",)}


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
            folder = Path(self.path).expanduser()
            return str(folder) if folder.is_dir() else self.path
        package, _, inside = self.path.removeprefix(_OF_PACKAGE).partition("/")
        try:
            found = Path(str(importlib.resources.files(package).joinpath(inside)))
        except (ImportError, TypeError, ValueError) as error:
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


@dataclass(frozen=True)
class TextConfig:
    """Which text.

    Args:
        name: A task (`sst2`, `mrpc`, `rte`, `stsb`, `gsm8k`, `alpaca`, `webnlg`, `e2e`), a format of your own files
            (`jsonl`, `tsv`, `csv`, `text`), or a data set of the Hugging Face Hub; see `sortednet.text.load_text`.
        source: The folder with a task's files, or `hub`, which is meant where left out.
        max_length: Most tokens of an example.
        options: Arguments of the loader, such as `train_examples`, `evaluation_examples` and `seed`; for your own files
            `train`, `evaluation`, `kind`, `text_columns`, `label_column` and the like.
        encoding: Arguments of `sortednet.text.encode`: `train_on_prompt`, `strip_calculations`, `chat`.
    """

    name: str
    source: str | None = None
    max_length: int = 128
    options: dict[str, Any] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)

    def load(self) -> TextData:
        """Load the text.

        Raises:
            DataError: If it is missing or unfit.
            ConfigError: If a name or an option is unknown.
        """
        own_files = self.name in get_args(Format)
        source = None if own_files else self.source or "hub"
        if own_files and self.source:
            raise ConfigError(
                f"text.source={self.source!r} has no use for files of your own. Give their paths: "
                "text.options={train: FILE, evaluation: FILE}."
            )
        try:
            return load_text(self.name, source, **self.options)
        except DataError as error:
            if source != "hub":
                raise
            raise DataError(f"{error} In the configuration: text.source=FOLDER.") from None
        except TypeError as error:
            raise ConfigError(f"text.options={self.options} do not fit: {error}. Correct the names.") from None


@dataclass(frozen=True)
class ImportanceConfig:
    """How heads and feed-forward units are ordered before training, so that sub-models get the important ones.

    Args:
        kind: `none`, `taylor`, `activation` or `magnitude`; see `sortednet.importance.score`.
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
            `sortednet.recipes`. It trains the model's own weights, and so does not go with an adapter.
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
        return int(self.training.get("seed", 0))

    def absolute(self) -> FineTuningConfig:
        """Return the same configuration with its paths made absolute, so that it can be used from any folder."""
        path, source, options = self.pretrained.path, self.text.source, dict(self.text.options)
        if Path(path).expanduser().is_dir():
            path = str(Path(path).expanduser().absolute())
        if source is not None and source != "hub":
            source = str(Path(source).expanduser().absolute())
        for name in ("train", "evaluation", "cache_folder"):
            if isinstance(options.get(name), str):
                options[name] = str(Path(options[name]).expanduser().absolute())
        text = replace(self.text, source=source, options=options)
        return replace(self, pretrained=replace(self.pretrained, path=path), text=text)

    def identity(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """Keep of a described configuration what must be equal for a run to be continued."""
        since: dict[str, Any] = {
            "update": "standard",
            "recipe": None,
            "recipe_options": {},
        }  # of runs before there were these
        kept = since | {name: value for name, value in described.items() if name != "output"}
        training = dict(kept.pop("training", {}))
        return {**kept, "training": that_matter(training)}

    def make_space(self) -> Space:
        """Return the space.

        Raises:
            SpaceError: If it is none.
        """
        inner = self._make_inner_space()
        if self.adapter is not None:
            return self.adapter.make_space(inner)
        assert inner is not None
        return inner

    def _make_inner_space(self) -> Space | None:
        """Return the space of the model's own dimensions, if some are sorted."""
        if not self.space:
            return None
        return Space(self.space) if isinstance(self.space, list) else Space(**self.space)

    def make_objective(self, space: Space) -> Objective:
        """Return the objective and its sampler.

        Raises:
            ConfigError: If a name or an option is unknown.
        """
        return make_objective(self.objective, self.sampler, space, self.seed)

    def make_recipe(self) -> Recipe:
        """Return the method of training: the recipe that is named, or what the sections say as one stage.

        Raises:
            ConfigError: If a name or an option is unknown, or the recipe cannot be had of a pretrained model.
        """
        space = self.make_space()
        if self.recipe is None:
            return Recipe("sections", space, (Stage(lambda net, seed, teacher: self.make_objective(net.space)),))
        found = recipe_of(self.recipe, space, self.recipe_options)
        if found.wrap is not None:
            raise ConfigError(
                f"recipe={self.recipe} changes the class of the model, and a pretrained one must stay its own to be "
                "saved and opened as such. Choose another, such as lcs_p."
            )
        return found

    def load_data(self) -> TextData:
        """Load the text, and check that the task can be trained on it.

        Raises:
            DataError: If it is missing or unfit.
            ConfigError: If a name or an option is unknown, or the text is of another kind than the task.
        """
        data = self.text.load()
        kinds = _KINDS[self.pretrained.task]
        if data.kind not in kinds:
            fitting = next(task for task, held in _KINDS.items() if data.kind in held)
            raise ConfigError(
                f"{self.text.name} is {data.kind}, and pretrained.task={self.pretrained.task} needs "
                f"{' or '.join(kinds)}. Choose another text, or task: {fitting}."
            )
        return data

    def make_tokenizer(self) -> Any:
        """Open the model's tokenizer.

        Raises:
            CheckpointError: If it cannot be opened.
            ConfigError: If it has no padding token.
        """
        with _opening(self.pretrained.path):
            tokenizer = the_transformers().AutoTokenizer.from_pretrained(self.pretrained.resolve())
        wanted = self.pretrained.pad_token
        if wanted is not None:
            if wanted not in tokenizer.get_vocab():
                raise ConfigError(f"pretrained.pad_token={wanted!r} is none of the tokenizer's tokens. Give one.")
            tokenizer.pad_token = wanted
        if tokenizer.pad_token_id is None:
            raise ConfigError(
                f"The tokenizer of {self.pretrained.path} has no padding token. Give one of its tokens as "
                f"pretrained.pad_token, such as {tokenizer.eos_token!r}."
            )
        return tokenizer

    def make_network(self, data: TextData, tokenizer: Any) -> SortedNet:
        """Open the pretrained model as a network, once it is known to fit the tokenizer and the labels.

        Raises:
            CheckpointError: If the model cannot be opened.
            ConfigError: If it does not fit the tokenizer or the labels.
            BuildError: If a dimension makes no sense for it, or the adapter does not fit it.
            SpaceError: If a support does not fit its sizes.
        """
        model = self.make_base(data, tokenizer)
        if self.adapter is None:
            assert isinstance(model, SortedNet)
            return model
        given = self.pretrained
        return self.adapter.make_network(model, task_type=_TASK_TYPES[given.task], path=given.resolve())

    def make_base(self, data: TextData | None, tokenizer: Any) -> SortedNet | nn.Module:
        """Open the pretrained model without an adapter: as a network if dimensions of its own are sorted.

        Args:
            data: The text; None for a causal language model, which has no head of its own for it.
            tokenizer: The tokenizer.

        Raises:
            CheckpointError: If the model cannot be opened.
            ConfigError: If it does not fit the tokenizer or the labels.
            BuildError: If a dimension makes no sense for it.
            SpaceError: If a support does not fit its sizes.
        """
        recipe = self.make_recipe()
        model, space = self.make_model(data, tokenizer), self._make_inner_space()
        if space is None:
            return model
        readout = "own" if self.adapter is not None else self.pretrained.readout
        return SortedNet.from_pretrained(
            model, space=space, readout=readout, buffers=recipe.buffers, private=recipe.private(model)
        )

    def make_model(self, data: TextData | None, tokenizer: Any, **sizes: Number) -> nn.Module:
        """Open the pretrained model itself, with a head for the labels; the same weights for the same seed.

        Args:
            data: The text; None for a causal language model, which has no head of its own for it.
            tokenizer: The tokenizer.
            sizes: Fields of its config to change, such as `num_hidden_layers=4` for its first layers.

        Raises:
            CheckpointError: If it cannot be opened.
            ConfigError: If it does not fit the tokenizer or the labels.
        """
        transformers, given = the_transformers(), self.pretrained
        with _opening(given.path):
            config = transformers.AutoConfig.from_pretrained(given.resolve(), **sizes)
        is_classifier = any(one.endswith("ForSequenceClassification") for one in config.architectures or ())
        causal = data is None or data.kind == "causal"
        if data is not None and not causal and not is_classifier:  # the head is new
            config.num_labels = data.num_labels
            config.problem_type = "regression" if data.kind == "regression" else "single_label_classification"
            if data.kind == "classification":
                config.id2label = dict(enumerate(data.label_names))
                config.label2id = {name: place for place, name in enumerate(data.label_names)}
        if given.pad_token is not None:
            config.pad_token_id = tokenizer.pad_token_id
        if data is not None:
            try:
                check_tokenizer(tokenizer, config, kind=data.kind, max_length=self.text.max_length)
                check_labels(data, config)
            except ConfigError as error:
                raise ConfigError(f"pretrained.path={given.path!r} does not fit: {error}") from None
        kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSequenceClassification
        torch.manual_seed(self.seed)
        with _opening(given.path):
            model: nn.Module = kind.from_pretrained(given.resolve(), config=config, dtype=getattr(torch, given.dtype))
        return model

    def encode(self, data: TextData, tokenizer: Any) -> EncodedText:
        """Turn the text into tokens.

        Raises:
            ConfigError: If an option is unknown or not possible.
            DataError: If no example is left.
        """
        try:
            return encode(data, tokenizer, max_length=self.text.max_length, **self.text.encoding)
        except TypeError as error:
            raise ConfigError(f"text.encoding={self.text.encoding} does not fit: {error}. Correct the names.") from None

    def make_arguments(self, output: Path) -> Any:
        """Return the training arguments, for checkpoints in a folder.

        Raises:
            ConfigError: If a name is unknown, or a value cannot be used.
        """
        return make_training_arguments(self.training, output)


@contextmanager
def _opening(path: str) -> Iterator[None]:
    """Say what to give, where transformers cannot open a model."""
    try:
        yield
    except SortedNetError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"pretrained.path={path!r} cannot be opened: {first_line(error)} Give a folder that holds a model and its "
            "tokenizer, the name of one on the Hugging Face Hub (with a network, or once it was downloaded), or "
            "python:PACKAGE/FOLDER."
        ) from error
