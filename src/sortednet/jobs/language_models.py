"""What the commands do with a language model: open it, continue a text, and show which depth chose each token."""

from __future__ import annotations

import colorsys
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import torch

from ..errors import CheckpointError, ConfigError, DataError, SortedNetError
from ..files.weights import network_in
from ..generation import EarlyExit, Emitted, FixedDepth, Policy, SelfSpeculative, Statistics
from ..generation.adapters import decoder_of
from ..generation.policies import exits_within
from ..generation.sub_models import depths_of, module_at
from ..huggingface.families import check_tokenizer_files, is_causal
from ..huggingface.network import PretrainedNet
from ..imports.packages import needs
from ..lora import base_of
from ..network import checkpoint
from ..network.loading import load
from ..space import Setting
from ..training.device import usable_device
from .generation_config import GenerateConfig
from .pretrained import first_line, opening, quiet

with needs("Generating text", "cli,transformers"):
    from rich.console import Console
    from rich.segment import Segment, Segments
    from rich.style import Style
    from transformers import AutoTokenizer

__all__ = ["ColouredText", "TokenText", "continue_text", "make_policy", "open_model"]

Write = Callable[[str, int], object]

_REMEDY = "Restore it, or save again."
_MOST_PARTS = 4  # tokens that one character may be made of: its bytes in UTF-8
_SHOWN = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_SHOWN |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def make_policy(
    config: GenerateConfig, generator: torch.Generator | None, observe: Callable[[Emitted], None] | None
) -> Policy:
    """Return how to decode.

    Args:
        config: What is wanted.
        generator: Of drawn tokens.
        observe: Called with every token.
    """
    exits = [config.exits] if isinstance(config.exits, int) else config.exits
    if config.decoding == "plain":
        return FixedDepth(generator=generator, observe=observe)
    if config.decoding == "early_exit":
        levels = "papers" if config.thresholds is None else config.thresholds
        return EarlyExit(exits=exits, thresholds=levels, generator=generator, observe=observe)  # type: ignore[arg-type]
    return SelfSpeculative(
        exits=exits, adaptive=config.thresholds is None, draft_tokens=config.draft_tokens, thresholds=config.thresholds,
        generator=generator, observe=observe,
    )  # fmt: skip


def _depths(config: GenerateConfig, net: PretrainedNet, setting: Setting) -> list[int]:
    """Return the depths that may choose a token, increasing; the sub-model's own is the last.

    Raises:
        BuildError: If the model cannot be decoded layer by layer.
        SettingError: If an exit is not in the space.
    """
    layers = decoder_of(module_at(net, setting)).depth
    if config.decoding == "plain":
        return [layers]
    support = depths_of(net, setting)
    exits = list(
        EarlyExit(exits=exits_within(config.exits, support) if support else config.exits).thresholds_at(layers)
    )
    return [*exits, layers]


# Tokens to text


@final
class TokenText:
    """Turns tokens into text while they come, each piece as soon as later tokens leave it as it is.

    Tokens that hold a part of a character wait for the others. Decoded is what is new together with what is before it,
    for some tokenizers give the first word of a text no space.

    Args:
        tokenizer: A tokenizer of Hugging Face.
        before: The tokens before the first, which are not written.
        write: Called with each piece of text and its depth: that of the token, or of several the greatest.

    Example:
        >>> from sortednet.data.text import train_tokenizer
        >>> tokenizer = train_tokenizer(["hello"], vocab_size=259)
        >>> text = TokenText(tokenizer, [], lambda piece, depth: print(repr(piece), depth))
        >>> for place, token in enumerate(tokenizer("ö!", add_special_tokens=False)["input_ids"]):
        ...     text(Emitted(row=0, token=token, exit=place + 2))
        'ö' 3
        '!' 4
    """

    def __init__(self, tokenizer: Any, before: Sequence[int], write: Write) -> None:
        self._tokenizer, self._write = tokenizer, write
        self._context, self._written = list(before), self._decoded(before)
        self._waiting: list[Emitted] = []

    def __call__(self, emitted: Emitted) -> None:
        """Take in the next token."""
        self._waiting.append(emitted)
        text = self._text()
        if not text.endswith("\ufffd"):
            if self._give(text):
                self._context = [one.token for one in self._waiting]
                self._written = self._decoded(self._context)
            else:  # a special token, which is nothing to go on from
                self._context += [one.token for one in self._waiting]
            self._waiting = []
        elif len(self._waiting) >= _MOST_PARTS:
            # These are no character's bytes. The last of them may still begin one.
            self._give(text[:-1])
            self._written = text[:-1]

    def end(self) -> None:
        """Write what is left."""
        self._give(self._text())
        self._waiting = []

    def _give(self, text: str) -> bool:
        piece = text[len(self._written) :]
        if piece:
            self._write(piece, max(one.exit for one in self._waiting))
        return bool(piece)

    def _text(self) -> str:
        return self._decoded([*self._context, *(one.token for one in self._waiting)])

    def _decoded(self, tokens: Sequence[int]) -> str:
        found: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return found


@final
class ColouredText:
    """Writes text in the colours of the depths that chose it; plain where the output is no terminal.

    On a terminal a line that explains the colours and the prompt come first, and control characters are made visible.

    Args:
        console: Where to.
        depths: All that may choose a token, increasing.
        prompt: What was given.
    """

    def __init__(self, console: Console, depths: Sequence[int], prompt: str) -> None:
        self._console, self._prompt = console, prompt
        self._styles = dict(zip(depths, _colours(len(depths)), strict=True))
        self._begun = False

    def begin(self) -> None:
        """Write what comes before the text, once."""
        if not self._begun and self._console.is_terminal:
            if self._console.color_system and not self._console.no_color:
                self._print(("layers that chose a token:", Style(dim=True)))
                self._print(*((f" {one}", style) for one, style in self._styles.items()), ("\n\n", None))
            self._print((self._prompt.translate(_SHOWN), Style(bold=True)))
        self._begun = True

    def __call__(self, piece: str, depth: int) -> None:
        """Write a piece of text."""
        self.begin()
        self._print((piece.translate(_SHOWN) if self._console.is_terminal else piece, self._styles.get(depth)))

    def end(self) -> None:
        """End the line, if there is one."""
        if self._begun:
            self._print(("\n", None))

    def _print(self, *parts: tuple[str, Style | None]) -> None:
        # As segments, for what rich makes of a text loses spaces behind the edge, and tabs.
        try:
            self._console.print(Segments([Segment(*part) for part in parts]), end="", soft_wrap=True)
        except UnicodeEncodeError as error:
            raise DataError(
                f"The output's encoding {error.encoding} has no {error.object[error.start : error.end]!r}. Set "
                "PYTHONIOENCODING=utf-8."
            ) from None


def _colours(count: int) -> list[Style]:
    """Return as many colours, from green over blue to red."""
    styles = []
    for place in range(count):
        hue = (140 + 220 * (place + 1 if count == 1 else place / (count - 1))) / 360
        red, green, blue = (round(255 * one) for one in colorsys.hls_to_rgb(hue % 1, 0.55, 0.65))
        styles.append(Style.parse(f"rgb({red},{green},{blue})"))
    return styles


# The command


def continue_text(
    run: str | Path, prompt: str, config: GenerateConfig, out: Console, aside: Console, model: Any = None
) -> Statistics:
    """Continue a text, write it while it is generated, and then what was measured.

    Args:
        run: The folder of a run, or one that `SortedNet.save_pretrained` wrote, with its tokenizer.
        prompt: The text; `-` reads it from standard input.
        config: How.
        out: Gets the text; where it is a terminal in colours, and what was measured too.
        aside: Gets what was measured, where `out` is no terminal.
        model: The pretrained model of an adapter; see `sortednet.load`.

    Returns:
        What was measured.

    Raises:
        BuildError: If the model cannot be decoded layer by layer.
        CheckpointError: If the network or its tokenizer is missing or damaged.
        ConfigError: If there is no run, or no causal language model in it.
        DataError: If the prompt is empty or too long.
        SettingError: If the setting or an exit is not in the space.
    """
    text = _read(prompt)
    with quiet():
        net, tokenizer = open_model(run, model)
        setting = net.space.setting(**(Setting.parse(config.setting) if config.setting is not None else {}))
        decoder = module_at(net, setting)
        inputs = _encoded(tokenizer, text, decoder)
        shown = ColouredText(out, _depths(config, net, setting), text)
        pieces = TokenText(tokenizer, inputs["input_ids"][0].tolist(), shown)
        policy = make_policy(config, torch.Generator(decoder.device).manual_seed(config.seed), pieces)
        own_end = decoder.generation_config.eos_token_id is None and tokenizer.eos_token_id is not None
        end = {"eos_token_id": tokenizer.eos_token_id} if own_end else {}
        try:
            output = net.generate(
                **inputs, **config.sampling, **end, decoding=policy, setting=setting,
                max_new_tokens=config.max_new_tokens, return_dict_in_generate=True,
            )  # fmt: skip
            pieces.end()
            shown.begin()  # where there is no token but the end
        except (SortedNetError, ImportError, KeyboardInterrupt):
            raise
        except Exception as error:  # what transformers makes of the model's generation config
            raise ConfigError(
                f"The model of {run} cannot continue a text: {first_line(error)} Look at its "
                "generation_config.json, and remove what is not known there."
            ) from error
        finally:
            shown.end()
    statistics: Statistics = output["statistics"]
    (out if out.is_terminal else aside).print(_described(statistics), style="dim", markup=False, highlight=False)
    return statistics


def open_model(run: str | Path, model: Any = None) -> tuple[PretrainedNet, Any]:
    """Open the causal language model of a folder and its tokenizer, on the accelerator if there is one.

    Args:
        run: The folder of a run, or one that `SortedNet.save_pretrained` wrote.
        model: The pretrained model of an adapter, or a network of it; the one that the adapter names where left out.

    Returns:
        The network, in evaluation mode, and the tokenizer.

    Raises:
        CheckpointError: If the network or its tokenizer is missing or damaged.
        ConfigError: If there is no run, or no causal language model in it.
    """
    folder = network_in(run)
    stored = checkpoint.read_metadata(folder)
    kind = "model with an adapter" if "adapter" in stored else stored.get("class")
    with opening(f"The network in {folder}", _REMEDY):
        net = load(folder, model=model) if kind is not None else None
    if net is None or not is_causal(base_of(net.full)):
        raise ConfigError(
            f"{folder} holds {f'a {kind}' if kind else 'a model of your own'}, which is no causal language model of "
            "transformers, so that there is nothing to generate. Give the run of one, such as that of "
            "configs/causal_gsm8k.yaml."
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise CheckpointError(
            f"{folder} holds no tokenizer. Save it there: tokenizer.save_pretrained({str(folder)!r})."
        )
    with opening(f"The tokenizer in {folder}", _REMEDY):
        check_tokenizer_files(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return net.to(usable_device()).eval(), tokenizer


def _read(prompt: str) -> str:
    """Return the prompt, read from standard input if it says so, without the end of the last line.

    Raises:
        DataError: If it is empty, or no UTF-8.
    """
    try:
        text = sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt
        text.encode()
    except UnicodeError as error:
        raise DataError(f"The prompt cannot be read as UTF-8: {error}. Give text.") from None
    if not text.strip():
        raise DataError('The prompt is empty. Give text, such as "Once upon a time", or - to read standard input.')
    return text


def _encoded(tokenizer: Any, text: str, model: Any) -> dict[str, Any]:
    """Return what `generate` takes. Shapes (1, P)."""
    found = tokenizer(text, return_tensors="pt")
    ids = found["input_ids"].to(model.device)
    words = model.get_input_embeddings().weight.shape[0]
    if ids.numel() and int(ids.max()) >= words:
        raise DataError(
            f"The tokenizer gives the token {int(ids.max())}, and the model has {words}. Save the tokenizer that the "
            "model was trained with beside it."
        )
    return {"input_ids": ids, "attention_mask": found["attention_mask"].to(model.device)}


def _described(found: Statistics) -> str:
    parts = [f"{found.tokens} tokens, {found.tokens_per_second:.1f} per second"]
    if found.drafted:
        parts.append(f"{100 * found.acceptance:.0f} % of drafted tokens accepted")
    parts.append(f"{100 * found.share_of_layers:.0f} % of the layers run")
    parts.append(f"mean exit {found.mean_exit:.1f} of {found.depth}")
    return "; ".join(parts)
