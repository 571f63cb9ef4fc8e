"""From what transformers' `generate` prepares to a decoded batch: checks, texts, and what is returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, SettingError
from ..imports.privates.transformers import mask_length
from ..network.cache_names import cache_among, cache_name
from .adapters import Decoder
from .engine import Engine
from .processing import Processing
from .sequences import Ending, Sequences
from .statistics import Emitted, Statistics

__all__ = ["Request", "prompts_of", "request_of"]

_UNSUPPORTED = (
    "output_scores", "output_logits", "output_attentions", "output_hidden_states", "penalty_alpha", "dola_layers",
    "prompt_lookup_num_tokens", "assistant_early_exit", "constraints", "force_words_ids", "token_healing",
)  # fmt: skip
_STATEFUL = ("SynthIDTextWatermarkLogitsProcessor", "UnbatchedClassifierFreeGuidanceLogitsProcessor")
_ROOM = 8  # positions allocated for drafts behind the longest text; more are made where that is too few
_MOST_DRAFTED = 64


@dataclass
class Request:
    """One call of `generate`, checked.

    Attributes:
        decoder: The model, taken apart.
        prompts: From the left, without padding before them; what is behind a prompt is anything. Shape (B, T).
        lengths: Of the prompts, without padding.
        sequences: The texts; their active rows are in the order of the prompts.
        processing: Of logits.
        statistics: Counts.
        depths: The depth at which each row is complete, decreasing.
        most: Positions that a row may need.
        padding: Token behind the end of a text.
        as_dict: Whether more than the texts is returned.
        known: transformers' cache of the first positions of every text, if there is one.
        began: When, in seconds of `perf_counter`.
    """

    decoder: Decoder
    prompts: Tensor
    lengths: list[int]
    sequences: Sequences
    processing: Processing
    statistics: Statistics
    depths: list[int]
    most: int
    padding: int
    as_dict: bool
    known: Any = None
    began: float = field(default_factory=perf_counter)

    def order(self, depths: Sequence[int]) -> None:
        """Give each row a depth, and put the deepest first.

        Raises:
            SettingError: If there is not one for each row, or the model has not as many layers.
        """
        if len(depths) != len(self.lengths):
            raise SettingError(f"There are {len(depths)} depths for {len(self.lengths)} texts. Give one for each.")
        for depth in depths:
            if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= self.decoder.depth:
                raise SettingError(f"Depth {depth!r} is outside 1 to {self.decoder.depth}, the layers of the model.")
        rows = sorted(range(len(depths)), key=lambda row: -depths[row])
        self.prompts = self.prompts[rows]
        self.lengths = [self.lengths[row] for row in rows]
        self.depths = [depths[row] for row in rows]
        self.sequences.active = rows

    def engine(self, exits: Sequence[int]) -> Engine:
        """Make an engine with these exits that holds the prompts."""
        return self._engine(self.decoder, sorted({*exits, *self.depths}), self.depths, self.statistics)

    def engine_of(self, smaller: Decoder) -> Engine:
        """Make an engine of a smaller model that holds the prompts."""
        depths = [smaller.depth] * len(self.lengths)
        return self._engine(smaller, [smaller.depth], depths, Statistics())

    def _engine(self, decoder: Decoder, exits: list[int], depths: list[int], statistics: Statistics) -> Engine:
        engine = Engine(decoder, [one for one in exits if one <= depths[0]], depths, self.most, statistics)
        known = 0
        if self.known is not None and decoder is self.decoder:
            rows = self.sequences.active  # the order of the prompts
            layers = [(layer.keys[rows], layer.values[rows]) for layer in self.known.layers]
            engine.take_in(layers)
            known = layers[0][0].shape[2]
        engine.push(self.prompts[:, known:], [length - known for length in self.lengths])
        return engine

    def output(self, engine: Engine) -> Any:
        """Return what transformers' `generate` would."""
        self.statistics.seconds += perf_counter() - self.began
        self.statistics.depth = self.decoder.depth
        texts = self.sequences.result(self.padding)
        if not self.as_dict:
            return texts
        from transformers.generation.utils import GenerateDecoderOnlyOutput

        kept = {cache_name(GenerateDecoderOnlyOutput): self._cache(engine)}
        output = GenerateDecoderOnlyOutput(sequences=texts, **kept)
        output["statistics"] = self.statistics
        return output

    def _cache(self, engine: Engine) -> Any:
        """Return the cache of a single text, as transformers leaves it: of all tokens but the last."""
        if len(self.lengths) > 1:
            return None
        from transformers import DynamicCache

        engine.complete()
        found = DynamicCache()
        for layer, (key, value) in enumerate(engine.cache.drain(self.sequences.lengths[0] - 1)):
            found.update(key, value, layer)
        return found


def prompts_of(input_ids: Tensor, mask: Tensor | None) -> tuple[Tensor, list[int]]:
    """Move padding behind the prompts.

    Args:
        input_ids: Shape (B, P), int64.
        mask: 1 for tokens and 0 for padding, at either side. Shape (B, P); no padding where left out.

    Returns:
        The prompts from the left, shape (B, T), and their lengths.

    Raises:
        DataError: If a prompt is empty, or there is padding inside of one.
    """
    if input_ids.dim() != 2 or not input_ids.numel():
        raise DataError(f"input_ids are of shape {tuple(input_ids.shape)}. Give at least one token for each text.")
    if mask is None:
        return input_ids, [input_ids.shape[1]] * len(input_ids)
    if mask.shape != input_ids.shape:
        raise DataError(f"attention_mask is of shape {tuple(mask.shape)}, input_ids of {tuple(input_ids.shape)}.")
    seen = mask.bool()
    lengths = seen.sum(1).tolist()
    if not all(lengths):
        raise DataError(f"The prompt of row {lengths.index(0)} is empty. Give at least one token for each text.")
    prompts = input_ids.new_zeros(len(input_ids), max(lengths))
    for row, length in enumerate(lengths):
        first = int(seen[row].int().argmax())
        if not bool(seen[row, first : first + length].all()):
            raise DataError(
                f"attention_mask hides tokens in the middle of row {row}. Padding may be before or behind a prompt."
            )
        prompts[row, :length] = input_ids[row, first : first + length]
    return prompts, lengths


def request_of(
    decoder: Decoder,
    input_ids: Tensor,
    logits_processor: Sequence[Callable[..., Any]],
    stopping_criteria: Sequence[Callable[..., Any]],
    config: Any,
    kwargs: Mapping[str, Any],
    told: Callable[[Emitted], None] | None,
    streamer: Any,
) -> Request:
    """Check what `generate` prepared, before any layer runs.

    Raises:
        ConfigError: If the generation config asks for what is not decoded here.
        DataError: If a prompt is empty or too long.
    """
    _check_config(config, kwargs, logits_processor)
    input_ids = input_ids.long()
    prompts, lengths = prompts_of(input_ids, _mask_of(input_ids, kwargs, config))
    new = config.max_length - input_ids.shape[1]
    if max(lengths) > decoder.positions:
        raise DataError(
            f"A prompt has {max(lengths)} tokens, and the model {decoder.positions} positions. Shorten the prompt."
        )
    if decoder.learned_positions and max(lengths) + new - 1 > decoder.positions:  # the last token needs none
        raise DataError(
            f"A prompt of {max(lengths)} tokens and {new} new ones are more than the model's {decoder.positions} "
            f"positions. Give max_new_tokens of at most {decoder.positions - max(lengths) + 1}."
        )
    known = _known(kwargs, decoder, lengths, input_ids.shape[1])
    ends = config.eos_token_id
    ids = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    own = ("MaxLengthCriteria", "EosTokenCriteria")
    others = [one for one in stopping_criteria if type(one).__name__ not in own]
    if streamer is not None and len(lengths) > 1:
        raise ConfigError(f"A streamer takes one text, and there are {len(lengths)}. Use observe= for a batch.")
    statistics = Statistics()
    ending = Ending(config.max_length, frozenset(ids), others)
    padding = config.pad_token_id if config.pad_token_id is not None else next(iter(ids), 0)
    return Request(
        decoder, prompts.to(decoder.device), lengths,
        Sequences(input_ids.to(decoder.device), ending, statistics, told, streamer, _MOST_DRAFTED),
        Processing(list(logits_processor), bool(config.do_sample)), statistics, [decoder.depth] * len(lengths),
        # Of one text no more is drafted than it may still get; of several, one may be ahead of the others.
        max(lengths) + new + (_ROOM if len(lengths) > 1 else 0), padding, bool(config.return_dict_in_generate), known,
    )  # fmt: skip


def _mask_of(input_ids: Tensor, kwargs: Mapping[str, Any], config: Any) -> Tensor | None:
    """Return the mask of padding, after checking that positions are as it says.

    Raises:
        ConfigError: If there are other positions.
        DataError: If the mask is of another length.
    """
    mask: Tensor | None = kwargs.get("attention_mask")
    length = mask_length(config)
    if mask is None and length is not None and length != input_ids.shape[1]:
        raise DataError(
            f"attention_mask has {length} positions, and input_ids {input_ids.shape[1]}. Give one for each."
        )
    given: Tensor | None = kwargs.get("position_ids")
    if given is not None and (mask is None or mask.shape == input_ids.shape):
        seen = torch.ones_like(input_ids) if mask is None else mask.long()
        count = given.shape[-1]
        usual, shown = (seen.cumsum(1) - 1)[:, -count:], seen[:, -count:].bool()
        if not torch.equal(given.expand_as(usual)[shown], usual[shown]):
            raise ConfigError("position_ids are others than 0, 1, 2, ... of each text. Leave them out.")
    return mask


def _known(kwargs: Mapping[str, Any], decoder: Decoder, lengths: Sequence[int], width: int) -> Any:
    """Return a cache of earlier positions that is not empty, after checking that it fits.

    Raises:
        ConfigError: If it does not.
    """
    given = cache_among(kwargs)
    if given is None:
        return None
    name, cache = given
    kind, length = type(cache).__name__, cache.get_seq_length()
    if kind != "DynamicCache":
        raise ConfigError(f"{name} is a {kind}, and only a DynamicCache is taken. Leave it out.")
    if not length:
        return None
    rows = cache.layers[0].keys.shape[0]
    if rows != len(lengths) or min(lengths) < width or length >= width or len(cache.layers) < decoder.depth:
        raise ConfigError(
            f"{name} holds {length} positions of {rows} texts in {len(cache.layers)} layers. It must hold "
            f"fewer than the {width} positions of input_ids, its {len(lengths)} texts without padding, and all "
            f"{decoder.depth} layers. Leave it out."
        )
    return cache


def _check_config(config: Any, kwargs: Mapping[str, Any], processors: Sequence[Any]) -> None:
    if (config.num_beams or 1) > 1:
        raise ConfigError(f"num_beams={config.num_beams} is not decoded here. Use num_beams=1, or plain generate.")
    for name in _UNSUPPORTED:
        if getattr(config, name, None):
            raise ConfigError(f"{name}={getattr(config, name)} is not done here. Leave it out, or use plain generate.")
    if getattr(config, "guidance_scale", None) not in (None, 1, 1.0):
        raise ConfigError(f"guidance_scale={config.guidance_scale} runs the model twice. Use plain generate.")
    if any(type(one).__name__ in _STATEFUL for one in processors):
        raise ConfigError(
            "A watermark that keeps a state from token to token is not done here, where tokens are judged several at "
            "once. Use plain generate."
        )
    for name in ("inputs_embeds", "token_type_ids"):
        if kwargs.get(name) is not None:
            raise ConfigError(f"{name} are not read here. Give input_ids alone, or use plain generate.")
    implementation = getattr(config, "cache_implementation", None)
    if implementation not in (None, "dynamic"):
        raise ConfigError(f"cache_implementation={implementation!r} is not used here. Leave it out.")
