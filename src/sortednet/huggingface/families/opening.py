"""Open pretrained models: by name, as saved networks, by what their head predicts."""

from __future__ import annotations

import copy
import inspect
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import BuildError, CheckpointError
from ...files import records
from ...files.tensor_file import read_header
from ...files.weights import ADAPTER_CONFIG, WEIGHTS, index_of
from ...imports.packages import needs
from ...space import Number
from ...views.outlines import check_size
from ..readouts import readout_of
from .builder import PretrainedBuilder

__all__ = [
    "check_folder",
    "check_size_of",
    "check_tokenizer_files",
    "open_pretrained",
    "read_builder",
    "without_code",
]

_CONFIG, _GENERATION = "config.json", "generation_config.json"
_MOST_LAYERS, _MOST_COUNT, _MOST_SIZE = 10**4, 10**5, 2**40
_REFUSED = ("transformers_weights", "attribute_map")  # which lead elsewhere than the folder and the class say
_LAYERS = re.compile(r"(^|_)n?_?(layers?|depths?|blocks?|stages?)$|(layers?|depths?|blocks?)_types$")
_NUMBERS = re.compile(
    r"(max|min|num|top)_\w+(?<!_schedule)|temperature|\w+_(penalty|p|cutoff|beams?|size|length|tokens)"
)
_FLAGS = re.compile(r"(do|output|return|remove|renormalize)_\w+|use_cache")
_TOKENS = re.compile(r"\w+_token_ids?")
_MOST_LONGER = 1000
_MOST_UNKNOWN = 10**5  # tensors in files of another format than safetensors


def read_builder(path: str | Path, class_name: str, sizes: Mapping[str, Number], readout: str | None) -> Any:
    """Return the builder of a saved network.

    Args:
        path: The folder, with a `config.json`.
        class_name: The class of the model, in transformers.
        sizes: The full model's sizes.
        readout: The name of the readout.

    Raises:
        CheckpointError: If transformers does not know the class.
    """
    transformers = _transformers()
    model_class = _class_of(class_name)
    if model_class is None:
        raise CheckpointError(
            f"{path} holds a {class_name}, which transformers {transformers.__version__} does not have. Update it, or "
            "give build=."
        )
    config = _config(path)
    _check_kind(path, model_class, config)
    generation = None
    if (Path(path) / _GENERATION).is_file():
        try:
            generation = transformers.GenerationConfig.from_pretrained(path)
        except Exception as error:  # whatever transformers makes of it
            raise _unreadable(path, error) from error
    return PretrainedBuilder(model_class, config, dict(sizes), readout_of(readout), generation)


def open_pretrained(path: str | Path) -> nn.Module:
    """Open a pretrained model by its folder or its name, as the class that its config names.

    Raises:
        CheckpointError: If its config names no class, or a file in the folder is damaged or asks for more than a model.
    """
    config = _config(path)
    names = config.architectures or []
    model_class: Any = _class_of(names[0]) if names else None
    if model_class is not None:
        _check_kind(path, model_class, config)
    else:
        raise CheckpointError(
            f"The config of {path} names no class of transformers (architectures={config.architectures}). Open the "
            "model yourself, such as AutoModelForCausalLM.from_pretrained(...), and give it."
        )
    check_size_of(path, model_class, config)
    try:
        model: nn.Module = model_class.from_pretrained(path, config=config)
    except ImportError:  # a package that it needs
        raise
    except Exception as error:  # whatever transformers makes of it
        if isinstance(error, OSError) and not Path(path).is_dir():  # the network cannot be reached
            raise
        raise _unreadable(path, error) from error
    return model


def _class_of(name: str) -> Any:
    """Return a class of models of transformers; None where it has none of that name, or that is something else."""
    found = getattr(_transformers(), name, None) if isinstance(name, str) and name.isidentifier() else None
    if not (inspect.isclass(found) and issubclass(found, _transformers().PreTrainedModel)):
        return None
    return found if getattr(found, "config_class", None) else None


def _check_kind(path: str | Path, model_class: Any, config: Any) -> None:
    """Refuse a config of another model.

    Raises:
        CheckpointError: If it is one.
    """
    if not isinstance(config, model_class.config_class):
        raise CheckpointError(
            f"{path} is damaged: its config is a {type(config).__name__}, and its model a {model_class.__name__}. "
            "Restore it, or save again."
        )


def _check_folder(path: str | Path) -> None:
    """Refuse a folder whose files ask for more than a model of transformers is, before any of them is taken up.

    Raises:
        CheckpointError: If a count is absurd, code is named, a file lies elsewhere, or an adapter comes with the model.
    """
    folder = Path(path)
    for name, check in ((_CONFIG, _check_config), (_GENERATION, _check_generation)):
        if (folder / name).is_file():
            check(folder / name, _held(folder / name))
    if (folder / ADAPTER_CONFIG).is_file() and (folder / _CONFIG).is_file():
        raise CheckpointError(
            f"{folder} holds a model and an adapter ({ADAPTER_CONFIG}), which would be put into it. Give a folder of "
            "the model alone; or open both yourself, merge them (model.merge_and_unload()), and give the model."
        )
    for index in folder.glob("*.index.json"):
        places = _held(index).get("weight_map")
        names = places.values() if isinstance(places, dict) else [None]
        if not all(isinstance(one, str) and Path(one).name == one for one in names):
            raise CheckpointError(f"{index} is damaged: its weight_map names what is no file beside it. Restore it.")


def _held(file: Path) -> dict[str, Any]:
    try:
        held = records.read(file)
        if not isinstance(held, dict):
            raise TypeError("it is no mapping")
    except (OSError, *records.MALFORMED) as error:
        raise CheckpointError(f"{file} is damaged ({error}). Restore it, or save again.") from None
    return held


def _check_config(file: Path, held: Mapping[str, Any]) -> None:
    names = held.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(one, str) for one in names)):
        raise CheckpointError(f"{file} is damaged: architectures={names!r:.60} are no names. Restore it.")
    for name, value, listed, nested in _values(held):
        if name in _REFUSED or (name == "auto_map" and nested):
            raise CheckpointError(f"{file} holds {name}, which asks for what does not lie in the class. Remove it.")
        if name.endswith("_implementation") and isinstance(value, str) and "/" in value:
            raise CheckpointError(
                f"{file} asks for code of the Hub ({name}={value!r:.60}), which is never run. If you know it, open the "
                "model yourself, and give it."
            )
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            layers, counts = bool(_LAYERS.search(name)), listed or name.startswith(("num_", "n_"))
            most = _MOST_LAYERS if layers else _MOST_COUNT if counts else _MOST_SIZE
            is_whole = isinstance(value, int) or (layers and value != math.inf)
            if value != value:
                raise CheckpointError(f"{file} is damaged: {name} is {value}, which no model has. Restore it.")
            if is_whole and value > most:
                raise CheckpointError(f"{file} is damaged: {name} is {value}, more than any model has. Restore it.")


def _check_generation(file: Path, held: Mapping[str, Any]) -> None:
    for name, value in held.items():
        if value is None:
            continue
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
        if _NUMBERS.fullmatch(name) and not is_number:
            raise CheckpointError(f"{file} is damaged: {name}={value!r:.60} is no number. Restore it.")
        if _FLAGS.fullmatch(name) and not isinstance(value, bool):
            raise CheckpointError(f"{file} is damaged: {name}={value!r:.60} is neither true nor false. Restore it.")
        tokens = value if isinstance(value, list) else [value]
        if _TOKENS.fullmatch(name) and not all(type(one) is int for one in tokens):
            raise CheckpointError(f"{file} is damaged: {name}={value!r:.60} is no token. Restore it.")


def _values(held: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool, bool]]:
    """Yield the values below a mapping by their keys, whether in a list, and whether further down than the mapping."""
    level: list[tuple[str, Any, bool]] = [(name, value, False) for name, value in held.items()]
    nested = False
    while level:
        below: list[tuple[str, Any, bool]] = []
        for name, value, listed in level:
            yield name, value, listed, nested
            if isinstance(value, dict):
                # Implementations for each part of a model stand under the names of the parts.
                kept = name if name.endswith("_implementation") else None
                below += [(kept or key, one, listed) for key, one in value.items()]
            elif isinstance(value, list):
                below += [(name, one, True) for one in value]
        level, nested = below, True


def _check_zip(file: Path) -> None:
    """Refuse a file of torch's own format whose parts are compressed: read through a memory map they are nonsense.

    Raises:
        CheckpointError: If they are.
    """
    if file.suffix == ".bin" and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as held:
            if any(one.compress_type != zipfile.ZIP_STORED for one in held.infolist()):
                raise CheckpointError(f"{file} is compressed, which torch does not read. Write it with torch.save.")


def check_size_of(path: str | Path, model_class: Any, config: Any) -> None:
    """Refuse a model that is far larger than the weights in its folder; nothing of it is made.

    Raises:
        CheckpointError: If it is, or it cannot be made.
    """
    files = [one for one in Path(path).glob("*") if one.suffix in (".safetensors", ".bin")]
    if not files:
        return  # there is none, or it is to be downloaded
    tensors, held = 0, sum(file.stat().st_size for file in files)
    for file in files:
        _check_zip(file)
        tensors += len(read_header(file).tensors) if file.suffix == ".safetensors" else _MOST_UNKNOWN
    most = 64 + 2 * tensors, 2**20 + 8 * held, 2**27 + 8 * held
    try:
        fits = check_size(lambda: model_class(copy.deepcopy(config)), {}, *most)
    except BuildError as error:
        raise _unreadable(path, error) from error
    if not fits:
        raise CheckpointError(
            f"The config of {path} describes a model far larger than its weights, {tensors:,} tensors in {held:,} "
            "bytes. Restore both."
        )


def _unreadable(path: str | Path, error: Exception) -> CheckpointError:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    return CheckpointError(
        f"The model at {path} is damaged, or of another version of transformers ({' '.join(lines)[:300]}). Restore "
        "it, or save again."
    )


def check_folder(path: str | Path) -> None:
    """Refuse a pretrained model whose files ask for more than a model of transformers is; of the Hub too.

    Args:
        path: The folder, or the name of one of the Hub.

    Raises:
        CheckpointError: If they do.
    """
    if Path(path).is_dir():
        _check_folder(path)
        return
    from transformers.utils import cached_file

    found = None
    for name in (_CONFIG, _GENERATION, ADAPTER_CONFIG, index_of(WEIGHTS), "pytorch_model.bin.index.json"):
        with suppress(OSError, ValueError):
            found = cached_file(str(path), name, _raise_exceptions_for_missing_entries=False) or found
    if found:
        _check_folder(Path(found).parent)


def _config(path: str | Path) -> Any:
    """Open a config; code that comes with it is never run.

    Raises:
        CheckpointError: If it cannot be opened without its own code.
    """
    check_folder(path)
    transformers = _transformers()
    try:
        return without_code(transformers.AutoConfig.from_pretrained(path, trust_remote_code=False))
    except OSError:  # there is none, or the network cannot be reached
        raise
    except Exception as error:  # whatever transformers makes of a config
        if "trust_remote_code" not in str(error):
            raise _unreadable(path, error) from error
        raise CheckpointError(
            f"The model at {path} is of a class that comes as code with it, which is never run. If you know it, open "
            "it yourself: AutoModel.from_pretrained(..., trust_remote_code=True), and give the model."
        ) from None


def check_tokenizer_files(path: str | Path) -> None:
    """Refuse a tokenizer whose normalisation makes a text many times as long, each step of what the one before made.

    Raises:
        CheckpointError: If it does, or its file is damaged.
    """
    file = Path(path) / "tokenizer.json"
    if not file.is_file():
        return
    held, longer = _held(file), 1
    for name, value, _, _ in _values({key: held.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")}):
        longer *= max(1, len(value)) if name in ("content", "prepend", "replacement") and isinstance(value, str) else 1
    if longer > _MOST_LONGER:
        raise CheckpointError(
            f"{file} makes a text up to {longer:,} times as long, which no tokenizer does. Restore it."
        )


def without_code(config: Any) -> Any:
    """Take out of a config, and of those inside it, what names code that would come with it."""
    for one in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))):
        getattr(one, "__dict__", {}).pop("auto_map", None)
    return config


def _transformers() -> Any:
    with needs("A pretrained model", "transformers"):
        import transformers
    return transformers
