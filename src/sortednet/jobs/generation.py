"""Continue a text with a trained language model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files.run_folder import CONFIG
from ..files.weights import is_adapter, network_in
from ..imports.packages import needs
from .configurations import read_config
from .fine_tuning_config import FineTuningConfig
from .generation_config import GenerateConfig
from .selection import chosen_in
from .terminal import output_console

with needs("A command", "cli"):
    from rich.console import Console

__all__ = ["generate"]


def generate(run: str, prompt: str, config: GenerateConfig, console: Console) -> None:
    """Print a text and what continues it, each token in the colour of the depth that chose it.

    Args:
        run: The folder of a run, or of a saved network.
        prompt: The text, or `-` to read it from standard input.
        config: How it is continued; its setting may be the label of a selection.
        console: Where notes are shown; the text goes to the standard output.
    """
    if network_in(run) != Path(run):  # refuses what is none before anything large is imported
        _check_causal(run)
    from .language_models import continue_text

    label = chosen_in(run).get(config.setting or "")
    config = config if label is None else replace(config, setting=str(label))
    continue_text(run, prompt, config, output_console(), console, _adapted_model(run))


def _check_causal(run: str) -> None:
    """Refuse a run of another task, which its configuration says.

    Raises:
        ConfigError: If it is one.
    """
    if not (Path(run) / CONFIG).is_file():
        return
    config = read_config(Path(run) / CONFIG)
    if isinstance(config, FineTuningConfig) and config.pretrained.task != "causal_lm":
        raise ConfigError(
            f"{run} holds a model for {config.pretrained.task}, which is no causal language model, so that there is "
            "nothing to generate. Give the run of one, such as that of configs/causal_gsm8k.yaml."
        )


def _adapted_model(run: str) -> Any:
    """Return the pretrained model of a run's adapter; None where the run holds a model or is none."""
    if not is_adapter(Path(run) / "model") or not (Path(run) / CONFIG).is_file():
        return None
    config = read_config(Path(run) / CONFIG)
    if not isinstance(config, FineTuningConfig) or config.pretrained.task != "causal_lm":
        return None
    from .fine_tuning_parts import make_base, make_tokenizer

    return make_base(config, None, make_tokenizer(config))
