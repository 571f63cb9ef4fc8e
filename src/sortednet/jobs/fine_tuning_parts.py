"""What a fine-tuning configuration names, opened: its text, tokenizer, model, adapter, network and method."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from ..data.text import EncodedText, TextData, check_labels, check_tokenizer, encode, load_text
from ..errors import BuildError, ConfigError, DataError
from ..huggingface.families import check_folder, check_size_of, check_tokenizer_files, without_code
from ..imports.names import TextFormat
from ..imports.packages import needs
from ..imports.privates.transformers import class_for
from ..lora import lora_config
from ..lora.ranks import dylora
from ..network.sorted_net import SortedNet
from ..space import Number
from ..training.names import make_objective
from ..training.objectives import Objective
from ..training.recipes import Recipe, Stage, recipe_of
from .adapter_config import AdapterConfig
from .fine_tuning_config import FineTuningConfig, PretrainedConfig, TextConfig
from .pretrained import opening
from .training_arguments import make_training_arguments

with needs("Fine-tuning", "cli,transformers,text"):
    import transformers

__all__ = [
    "encoded",
    "load_data",
    "make_adapter",
    "make_arguments",
    "make_base",
    "make_model",
    "make_network",
    "make_recipe",
    "make_tokenizer",
]

_TASK_TYPES = {"sequence_classification": "SEQ_CLS", "causal_lm": "CAUSAL_LM"}
_KINDS = {"sequence_classification": ("classification", "regression"), "causal_lm": ("causal",)}


def make_recipe(config: FineTuningConfig) -> Recipe:
    """Return the method of training: the recipe that is named, or what the sections say as one stage.

    Raises:
        ConfigError: If a name or an option is unknown, or the recipe cannot be had of a pretrained model.
    """
    space = config.make_space()
    if config.recipe is None:

        def objective(net: SortedNet, seed: int, teacher: nn.Module | None) -> Objective:
            return make_objective(config.objective, config.sampler, net.space, config.seed)

        return Recipe("sections", space, (Stage(objective),))
    found = recipe_of(config.recipe, space, config.recipe_options)
    if found.wrap is not None:
        raise ConfigError(
            f"recipe={config.recipe} changes the class of the model, and a pretrained one must stay its own to be "
            "saved and opened as such. Choose another, such as lcs_p."
        )
    return found


def load_data(config: FineTuningConfig) -> TextData:
    """Load the text, and check that the task can be trained on it.

    Raises:
        DataError: If it is missing or unfit.
        ConfigError: If a name or an option is unknown, or the text is of another kind than the task.
    """
    data = _load(config.text)
    kinds = _KINDS[config.pretrained.task]
    if data.kind not in kinds:
        fitting = next(task for task, held in _KINDS.items() if data.kind in held)
        raise ConfigError(
            f"{config.text.name} is {data.kind}, and pretrained.task={config.pretrained.task} needs "
            f"{' or '.join(kinds)}. Choose another text, or task: {fitting}."
        )
    return data


def make_tokenizer(config: FineTuningConfig) -> Any:
    """Open the model's tokenizer.

    Raises:
        CheckpointError: If it cannot be opened.
        ConfigError: If it has no padding token.
    """
    with _opening(config.pretrained):
        place = config.pretrained.resolve()
        check_tokenizer_files(place)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    wanted = config.pretrained.pad_token
    if wanted is not None:
        if wanted not in tokenizer.get_vocab():
            raise ConfigError(f"pretrained.pad_token={wanted!r} is none of the tokenizer's tokens. Give one.")
        tokenizer.pad_token = wanted
    if tokenizer.pad_token_id is None:
        raise ConfigError(
            f"The tokenizer of {config.pretrained.path} has no padding token. Give one of its tokens as "
            f"pretrained.pad_token, such as {tokenizer.eos_token!r}."
        )
    return tokenizer


def make_network(config: FineTuningConfig, data: TextData, tokenizer: Any) -> SortedNet:
    """Open the pretrained model as a network, once it is known to fit the tokenizer and the labels.

    Raises:
        CheckpointError: If the model cannot be opened.
        ConfigError: If it does not fit the tokenizer or the labels.
        BuildError: If a dimension makes no sense for it, or the adapter does not fit it.
        SpaceError: If a support does not fit its sizes.
    """
    model = make_base(config, data, tokenizer)
    if config.adapter is None:
        assert isinstance(model, SortedNet)
        return model
    given = config.pretrained
    return make_adapter(config.adapter, model, task_type=_TASK_TYPES[given.task], path=given.resolve())


def make_base(config: FineTuningConfig, data: TextData | None, tokenizer: Any) -> SortedNet | nn.Module:
    """Open the pretrained model without an adapter: as a network if dimensions of its own are sorted.

    Args:
        config: The configuration.
        data: The text; None for a causal language model, which has no head of its own for it.
        tokenizer: The tokenizer.

    Raises:
        CheckpointError: If the model cannot be opened.
        ConfigError: If it does not fit the tokenizer or the labels.
        BuildError: If a dimension makes no sense for it.
        SpaceError: If a support does not fit its sizes.
    """
    recipe = make_recipe(config)
    model, space = make_model(config, data, tokenizer), config.make_inner_space()
    if space is None:
        return model
    readout = "own" if config.adapter is not None else config.pretrained.readout
    return SortedNet.from_pretrained(
        model, space=space, readout=readout, buffers=recipe.buffers, private=recipe.private(model)
    )


def make_model(config: FineTuningConfig, data: TextData | None, tokenizer: Any, **sizes: Number) -> nn.Module:
    """Open the pretrained model itself, with a head for the labels; the same weights for the same seed.

    Args:
        config: The configuration.
        data: The text; None for a causal language model, which has no head of its own for it.
        tokenizer: The tokenizer.
        sizes: Fields of its config to change, such as `num_hidden_layers=4` for its first layers.

    Raises:
        CheckpointError: If it cannot be opened.
        ConfigError: If it does not fit the tokenizer or the labels.
    """
    given = config.pretrained
    with _opening(given):
        check_folder(given.resolve())
        own = without_code(transformers.AutoConfig.from_pretrained(given.resolve(), trust_remote_code=False, **sizes))
    is_classifier = any(one.endswith("ForSequenceClassification") for one in own.architectures or ())
    causal = data is None or data.kind == "causal"
    if data is not None and not causal and not is_classifier:  # the head is new
        own.num_labels = data.num_labels
        own.problem_type = "regression" if data.kind == "regression" else "single_label_classification"
        if data.kind == "classification":
            own.id2label = dict(enumerate(data.label_names))
            own.label2id = {name: place for place, name in enumerate(data.label_names)}
    if given.pad_token is not None:
        own.pad_token_id = tokenizer.pad_token_id
    if data is not None:
        try:
            check_tokenizer(tokenizer, own, kind=data.kind, max_length=config.text.max_length)
            check_labels(data, own)
        except ConfigError as error:
            raise ConfigError(f"pretrained.path={given.path!r} does not fit: {error}") from None
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSequenceClassification
    torch.manual_seed(config.seed)
    with _opening(given):
        model_class = class_for(kind, own)
        if inspect.isclass(model_class):  # else transformers says what is wrong
            check_size_of(given.resolve(), model_class, own)
        model: nn.Module = kind.from_pretrained(
            given.resolve(), config=own, dtype=getattr(torch, given.dtype), trust_remote_code=False
        )
    return model


def encoded(config: FineTuningConfig, data: TextData, tokenizer: Any) -> EncodedText:
    """Turn the text into tokens.

    Raises:
        ConfigError: If an option is unknown or not possible.
        DataError: If no example is left.
    """
    try:
        return encode(data, tokenizer, max_length=config.text.max_length, **config.text.encoding)
    except TypeError as error:
        raise ConfigError(f"text.encoding={config.text.encoding} does not fit: {error}. Correct the names.") from None


def make_arguments(config: FineTuningConfig, output: Path) -> Any:
    """Return the training arguments, for checkpoints in a folder.

    Raises:
        ConfigError: If a name is unknown, or a value cannot be used.
    """
    return make_training_arguments(config.training, output)


def _load(text: TextConfig) -> TextData:
    """Load the text.

    Raises:
        DataError: If it is missing or unfit.
        ConfigError: If a name or an option is unknown.
    """
    own_files = text.name in get_args(TextFormat)
    source = None if own_files else text.source or "hub"
    if own_files and text.source:
        raise ConfigError(
            f"text.source={text.source!r} has no use for files of your own. Give their paths: "
            "text.options={train: FILE, evaluation: FILE}."
        )
    try:
        return load_text(text.name, source, **text.options)
    except DataError as error:
        if source != "hub":
            raise
        raise DataError(f"{error} In the configuration: text.source=FOLDER.") from None
    except TypeError as error:
        raise ConfigError(f"text.options={text.options} do not fit: {error}. Correct the names.") from None


def _opening(given: PretrainedConfig) -> AbstractContextManager[None]:
    return opening(
        f"pretrained.path={given.path!r}",
        "Give a folder that holds a model and its tokenizer, the name of one on the Hugging Face Hub (with a network, "
        "or once it was downloaded), or python:PACKAGE/FOLDER.",
    )


def make_adapter(config: AdapterConfig, model: nn.Module | SortedNet, *, task_type: str, path: str | None) -> SortedNet:
    """Put the adapter into a model.

    Args:
        config: The adapter's configuration.
        model: The pretrained model, which is changed in place; or a network of it.
        task_type: What PEFT calls the task: `SEQ_CLS` or `CAUSAL_LM`.
        path: The folder or name of the pretrained model, which is saved with the adapter; None where it has none.

    Raises:
        ConfigError: If it cannot be cut to a rank.
        BuildError: If PEFT cannot put it into this model, or a layer cannot be cut.
    """
    fields = {
        "r": config.r,
        "lora_alpha": int(config.lora_alpha) if config.lora_alpha == int(config.lora_alpha) else config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": config.target_modules,
        "modules_to_save": config.modules_to_save,
        "use_rslora": config.use_rslora,
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": dict(config.alpha_pattern),
        "init_lora_weights": config.init_lora_weights,
        "task_type": task_type,
        "base_model_name_or_path": path,
    }
    full = model.full if isinstance(model, SortedNet) else model
    _check_names(config, full)
    return dylora(
        model,
        lora_config(fields),
        ranks=config.sorted_ranks(),
        rank_pattern=config.rank_pattern_rule,
        scaling=config.scaling,
    )


def _check_names(config: AdapterConfig, full: nn.Module) -> None:
    """Refuse targets that no module of a model has, which PEFT would pass over where it finds others."""
    names = [name for name, _ in full.named_modules() if name]
    leaves = sorted({name.rpartition(".")[2] for name, one in full.named_modules() if _is_adaptable(one)})
    for one in config.target_modules if isinstance(config.target_modules, list) else []:
        if not any(name == one or name.endswith(f".{one}") for name in names):
            raise BuildError(
                f"adapter.target_modules names {one!r}, which {type(full).__name__} does not have. Choose among "
                f"{', '.join(leaves)}, or other names of its modules."
            )


def _is_adaptable(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)) or (
        type(module).__name__ == "Conv1D"
    )
