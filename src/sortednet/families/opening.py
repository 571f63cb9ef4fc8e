"""Open pretrained models: by name, as saved networks, by what their head predicts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import CheckpointError
from ..files import records
from ..packages import needs
from ..readouts import readout_of
from ..space import Number
from .builder import PretrainedBuilder

__all__ = ["is_causal", "open_pretrained", "read_builder"]

_MOST = 10**6  # layers, heads, labels


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
    generation = None
    if (Path(path) / "generation_config.json").is_file():
        try:
            generation = transformers.GenerationConfig.from_pretrained(path)
        except Exception as error:  # whatever transformers makes of it
            raise _unreadable(path, error) from error
    return PretrainedBuilder(model_class, config, sizes, readout_of(readout), generation)


def open_pretrained(path: str | Path) -> nn.Module:
    """Open a pretrained model by its folder or its name, as the class that its config names.

    Raises:
        CheckpointError: If its config names no class.
    """
    config = _config(path)
    names = config.architectures or []
    model_class: Any = _class_of(names[0]) if names else None
    if model_class is None:
        raise CheckpointError(
            f"The config of {path} names no class of transformers (architectures={config.architectures}). Open the "
            "model yourself, such as AutoModelForCausalLM.from_pretrained(...), and give it."
        )
    model: nn.Module = model_class.from_pretrained(path, config=config)
    return model


def _class_of(name: str) -> Any:
    """Return a class of models of transformers; None where it has none of that name, or that is something else."""
    found = getattr(_transformers(), name, None) if isinstance(name, str) and name.isidentifier() else None
    return found if inspect.isclass(found) and issubclass(found, _transformers().PreTrainedModel) else None


def _check_numbers(path: str | Path) -> None:
    """Refuse a config whose counts are absurd: transformers makes lists as long.

    Raises:
        CheckpointError: If there is one.
    """
    file = Path(path) / "config.json"
    if not file.is_file():
        return
    try:
        held = records.read(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error}). Restore it, or save again.") from None
    level = [held] if isinstance(held, (dict, list)) else []
    while level:
        mappings = [one for one in level if isinstance(one, dict)]
        for name, value in (item for one in mappings for item in one.items()):
            counts = name.startswith(("num_", "n_")) or name.endswith("layers")
            if counts and isinstance(value, (int, float)) and value > _MOST:
                raise CheckpointError(f"{file} is damaged: {name} is {value}, more than any model has. Restore it.")
        inner = (held for one in level for held in (one.values() if isinstance(one, dict) else one))
        level = [one for one in inner if isinstance(one, (dict, list))]


def _unreadable(path: str | Path, error: Exception) -> CheckpointError:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    return CheckpointError(
        f"The config at {path} is damaged, or of another version of transformers ({' '.join(lines)[:300]}). Restore "
        "it, or save again."
    )


def _config(path: str | Path) -> Any:
    """Open a config; code that comes with it is never run.

    Raises:
        CheckpointError: If it cannot be opened without its own code.
    """
    _check_numbers(path)
    transformers = _transformers()
    try:
        return transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    except OSError:  # there is none, or the network cannot be reached
        raise
    except Exception as error:  # whatever transformers makes of a config
        if "trust_remote_code" not in str(error):
            raise _unreadable(path, error) from error
        raise CheckpointError(
            f"The model at {path} is of a class that comes as code with it, which is never run. If you know it, open "
            "it yourself: AutoModel.from_pretrained(..., trust_remote_code=True), and give the model."
        ) from None


def is_causal(model: nn.Module) -> bool:
    """Whether a Hugging Face model predicts the next token at each token, by a head on its hidden states."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    names = {name for one in CAUSAL.values() for name in ((one,) if isinstance(one, str) else one)}
    return type(model).__name__.removeprefix("FSDP") in names and not getattr(
        model.config, "output_router_logits", False
    )


def _transformers() -> Any:
    with needs("A pretrained model", "transformers"):
        import transformers
    return transformers
