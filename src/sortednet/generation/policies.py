"""What users choose: `SelfSpeculative`, `EarlyExit` and `FixedDepth`, for `generate` of ours and of transformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor, nn

from ..errors import ConfigError, SettingError
from .adapters import Decoder, decoder_of
from .chance import Drawn
from .controller import Controller, Plan
from .drafting import Drafter, ExitDrafter, ModelDrafter
from .early_exit import ExitDecoding, Filling
from .generation import Request, request_of
from .processing import CONFIDENCES, Confidence
from .speculation import Speculation
from .statistics import Emitted

__all__ = ["EarlyExit", "FixedDepth", "Policy", "SelfSpeculative", "exits_within"]

_MOST_DRAFTED = 16
_DEFAULT_SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2)  # of the depth, where nobody names exits
# Share of the depth up to which a threshold holds: those of 40 layers, at exits 12 to 36.
_PAPERS = ((0.4, 0.95), (0.6, 0.9), (0.8, 0.8), (1.0, 0.7))


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """How a causal language model decodes. Give it to `SortedNet.generate`, or to `generate(custom_generate=...)`.

    Args:
        generator: Of random draws; torch's own where left out.
        observe: Called with every token as it is known to belong to a text, with its row and its exit.
    """

    generator: torch.Generator | None = field(default=None, compare=False, repr=False)
    observe: Callable[[Emitted], None] | None = field(default=None, compare=False, repr=False)

    def within(self, depths: Sequence[int], shallowest: int) -> Policy:
        """Return this policy for a network whose sub-models have these depths, the full model's among them.

        Args:
            depths: Of the space, up to that of the deepest row.
            shallowest: The depth of the shallowest row.

        Raises:
            SettingError: If it names an exit that is none of them.
        """
        return self

    def __call__(
        self,
        model: nn.Module,
        input_ids: Tensor,
        logits_processor: Any = (),
        stopping_criteria: Any = (),
        generation_config: Any = None,
        streamed_to: Any = None,
        depths: Sequence[int] | None = None,
        decoder: Decoder | None = None,
        **kwargs: Any,
    ) -> Any:
        """Decode, as transformers' `generate` calls its own methods: `model.generate(ids, custom_generate=policy)`.

        Args:
            model: A causal language model of a supported family, in evaluation mode.
            input_ids: Prompts, padded at either side. Shape (B, P).
            logits_processor: Applied to each position with its own text before it.
            stopping_criteria: Asked after each token, one row at a time.
            generation_config: As `generate` prepared it.
            streamed_to: A streamer of transformers, which gives none to callables.
            depths: The depth of each row's own full model; all layers where left out.
            decoder: The model taken apart, where that has been done.
            kwargs: What else `generate` prepared: `attention_mask` is used.

        Returns:
            The texts, shape (B, T), padded behind their ends; with `return_dict_in_generate` an output that holds
            `sequences` and `statistics`.

        Raises:
            BuildError: If the model is not supported.
            ConfigError: If something is asked for that is not decoded here.
            DataError: If a prompt is empty or too long.
            SettingError: If an exit is not inside the model.
        """
        if generation_config is None:
            raise ConfigError(
                f"{type(self).__name__} is called by generate. Use model.generate(ids, custom_generate=...), or "
                "SortedNet.generate."
            )
        apart = decoder_of(model) if decoder is None else decoder
        request = request_of(
            apart, input_ids, logits_processor, stopping_criteria, generation_config, kwargs, self.observe, streamed_to
        )
        if depths is not None:
            request.order(depths)
        if streamed_to is not None:
            streamed_to.put(input_ids.cpu())
        return self._decode(request)

    @abstractmethod
    def _decode(self, request: Request) -> Any:
        """Decode a checked request."""


@final
@dataclass(frozen=True, kw_only=True)
class FixedDepth(Policy):
    """Plain decoding; in a batch, each row at a depth of its own.

    Args:
        depth: Layers that run for every row, or for each row of a batch; all where left out.
        generator: Of random draws; torch's own where left out.
        observe: Called with every token as it is known to belong to a text, with its row and its exit.

    Raises:
        SettingError: When it decodes, if a depth is not inside the model, or there is not one for each row.

    Example:
        >>> FixedDepth(depth=[4, 8]).depth  # two texts, by the first 4 and by the first 8 layers
        [4, 8]
    """

    depth: int | Sequence[int] | None = None

    def within(self, depths: Sequence[int], shallowest: int) -> FixedDepth:
        given = () if self.depth is None else (self.depth,) if isinstance(self.depth, int) else self.depth
        for one in given:
            if one not in depths:
                raise SettingError(f"depth={one} is outside its support {list(depths)}. Choose one of these.")
        return self

    def _decode(self, request: Request) -> Any:
        if self.depth is not None:
            request.order([self.depth] * len(request.lengths) if isinstance(self.depth, int) else list(self.depth))
        return _run_exits(request, {}, self.generator)


@final
@dataclass(frozen=True, kw_only=True)
class EarlyExit(Policy):
    """Read each token at the first exit that is sure of it. Faster, and not quite the full model's text.

    Args:
        exits: Depths that are tried in turn before the full one; where left out those of the network's support, or, for
            a plain model, an eighth to a half of its layers.
        thresholds: How sure an exit must be, in (0, 1]: one for all, one for each, or the `papers`' (0.95 up to two
            fifths of the depth, then 0.9, 0.8 and 0.7). `calibrate` finds them for a wanted agreement.
        confidence: The top `probability`, its `margin` to the second, or one minus the normalised `entropy`.
        kv: What deeper layers hold of tokens that left before: `exact`, what they would have computed, computed when a
            later token goes there, or `propagate`, what they make of the exit's state, which computes less. The tokens
            with `exact` are those of a model that runs all layers every time; a cache returned with `propagate` is no
            full model's.
        max_waiting: Positions that may wait for the deeper layers until all are filled, at least 1.
        generator: Of random draws; torch's own where left out.
        observe: Called with every token as it is known to belong to a text, with its row and its exit.

    Raises:
        ConfigError: If a threshold is outside (0, 1], or another value is unknown.

    Source:
        Kavehzadeh et al. (2023), arXiv:2309.08968, confidence-based early exit, for the thresholds; Schuster et al.
        (2022), arXiv:2207.07061v2, Sec. 3, for propagation. Exact filling is ours.

    Example:
        >>> EarlyExit(exits=[12, 24, 36]).thresholds_at(depth=40)
        {12: 0.95, 24: 0.9, 36: 0.7}
    """

    exits: int | Sequence[int] | None = None
    thresholds: float | Sequence[float] | Literal["papers"] = "papers"
    confidence: Confidence = "probability"
    kv: Filling = "exact"
    max_waiting: int = 32

    def __post_init__(self) -> None:
        _check_confidence(self.confidence)
        if self.kv not in get_args(Filling):
            raise ConfigError(f"kv={self.kv!r} is unknown. Choose 'exact' or 'propagate'.")
        if self.max_waiting < 1:
            raise ConfigError(f"max_waiting={self.max_waiting} must be at least 1.")
        if isinstance(self.thresholds, str):
            if self.thresholds != "papers":
                raise ConfigError(f"thresholds={self.thresholds!r} is unknown. Give numbers in (0, 1], or 'papers'.")
        else:
            _check_thresholds(self.exits, self.thresholds)

    def within(self, depths: Sequence[int], shallowest: int) -> EarlyExit:
        return replace(self, exits=exits_within(self.exits, depths))

    def thresholds_at(self, depth: int) -> dict[int, float]:
        """Return the threshold of each exit, in a model of so many layers."""
        exits = _exits(self.exits, depth)
        if self.thresholds == "papers":
            return {one: next(level for share, level in _PAPERS if one / depth <= share) for one in exits}
        return dict(zip(exits, _each(self.thresholds, exits), strict=True))

    def _decode(self, request: Request) -> Any:
        thresholds = self.thresholds_at(request.decoder.depth)
        return _run_exits(request, thresholds, self.generator, self.confidence, self.kv, self.max_waiting)


@final
@dataclass(frozen=True, kw_only=True)
class SelfSpeculative(Policy):
    """Draft tokens with the first layers, and let the full model judge them all at once. The text stays its own.

    Greedy decoding gives the full model's tokens, drawn tokens its distribution (not the same draws for a seed). In
    half precision a near tie may fall the other way, as between any two batch sizes.

    Args:
        exits: Depths that may draft. Where there are several, each drafted token leaves at the first one that is sure.
            Where left out those of the network's support, or, for a plain model, an eighth to a half of its layers.
        adaptive: Whether exits, thresholds and length are chosen from what layers cost on this machine and how often
            exits agree, none at all included. What was learned stays with this object for its next call.
        draft_tokens: Most tokens of a draft, 1 to 64; 16 where left out, and 4 if not adaptive.
        thresholds: If not adaptive, how sure an exit must be, in (0, 1], one for all or one for each; None for always.
            Where no exit is sure, the full model takes over and judges the draft.
        confidence: The top `probability`, its `margin` to the second, or one minus the normalised `entropy`.
        draft: A smaller model that drafts instead, such as `net.submodel(intermediate_size=512)`; it has a cache of its
            own.
        shortlist: The only tokens that are drafted: their ids, or how many of the first ids, which need no memory.
        generator: Of random draws; torch's own where left out.
        observe: Called with every token as it is known to belong to a text, with its row and its exit.

    Raises:
        BuildError: If the model that drafts is not supported.
        ConfigError: If a value is outside its range.

    Source:
        Kavehzadeh et al. (2023), arXiv:2309.08968, sorted self-speculative decoding; Leviathan et al. (2023),
        arXiv:2211.17192v2, Alg. 1, for the rule of acceptance.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=4,
        ...                      num_attention_heads=4, num_key_value_heads=2, eos_token_id=None, pad_token_id=0)
        >>> model, ids = LlamaForCausalLM(config).eval(), torch.tensor([[1, 2, 3]])
        >>> plain = model.generate(ids, max_new_tokens=8, do_sample=False)
        >>> ours = model.generate(ids, max_new_tokens=8, do_sample=False, custom_generate=SelfSpeculative(exits=1))
        >>> bool((plain == ours).all())
        True
    """

    exits: int | Sequence[int] | None = None
    adaptive: bool = True
    draft_tokens: int | None = None
    thresholds: float | Sequence[float | None] | None = None
    confidence: Confidence = "probability"
    draft: nn.Module | None = field(default=None, compare=False, repr=False)
    shortlist: int | Sequence[int] | Tensor | None = field(default=None, compare=False)
    _learned: dict[Any, Controller] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check_confidence(self.confidence)
        if self.draft_tokens is not None and (type(self.draft_tokens) is not int or not 1 <= self.draft_tokens <= 64):
            raise ConfigError(f"draft_tokens={self.draft_tokens} is no whole number in [1, 64].")
        if self.thresholds is not None:
            if self.adaptive:
                raise ConfigError(
                    f"thresholds={self.thresholds} are chosen by what is measured. Leave them out, or set "
                    "adaptive=False."
                )
            _check_thresholds(self.exits, self.thresholds, always=True)
        if self.draft is not None:
            if self.exits is not None:
                raise ConfigError(f"Give exits={self.exits} or a model that drafts, not both.")
            if hasattr(self.draft, "space"):
                raise ConfigError("A whole network cannot draft. Give one of its sub-models: draft=net.submodel(...).")
            decoder_of(self.draft)
        _words(self.shortlist)

    def within(self, depths: Sequence[int], shallowest: int) -> SelfSpeculative:
        if self.draft is not None:
            return self
        named = exits_within(self.exits, depths)
        found = replace(self, exits=named if self.exits is not None else [one for one in named if one < shallowest])
        object.__setattr__(found, "_learned", self._learned)
        return found

    def _decode(self, request: Request) -> Any:
        decoder, rows = request.decoder, len(request.lengths)
        exits = (0,) if self.draft is not None else tuple(_exits(self.exits, min(request.depths)))
        if not exits:
            return _run_exits(request, {}, self.generator)
        smaller = None if self.draft is None else decoder_of(self.draft)
        self._check_words(decoder, smaller)
        most = self.draft_tokens or (_MOST_DRAFTED if self.adaptive else 4)
        controller = fixed = None
        if self.adaptive:
            key = (type(decoder.model), decoder.depth, decoder.config.hidden_size, decoder.device, decoder.dtype, rows,
                   exits, request.processing.sample)  # fmt: skip
            controller = self._learned.setdefault(key, Controller(decoder.depth, exits, most))
        else:
            levels = [level or 0.0 for level in _each(self.thresholds, exits)]
            fixed = Plan(exits, tuple(levels), most)
        engine = request.engine([] if self.draft is not None else exits)
        words = _words(self.shortlist)
        drafter: Drafter
        if smaller is None:
            drafter = ExitDrafter(engine, self.confidence, words)
        else:
            beside = request.engine_of(smaller)
            drafter = ModelDrafter(beside, request.sequences, self.confidence, words)
        decoding = Speculation(
            engine, request.sequences, request.processing, Drawn(self.generator), request.statistics, drafter,
            controller, fixed, self.confidence, observes_exits=self.draft is None,
        )  # fmt: skip
        decoding.run()
        return request.output(engine)

    def _check_words(self, decoder: Decoder, smaller: Decoder | None) -> None:
        """Refuse a shortlist or a drafting model of another vocabulary."""
        words: int = decoder.config.vocab_size
        listed = _words(self.shortlist)
        highest = int(listed.max()) + 1 if isinstance(listed, Tensor) else listed or 0
        if highest > words:
            raise ConfigError(f"The shortlist goes up to {highest} tokens, and the vocabulary has {words}.")
        own = words if smaller is None else smaller.config.vocab_size
        if own != words:
            raise ConfigError(
                f"The model that drafts has a vocabulary of {own}, the one that judges of {words}. Draft with a "
                "sub-model of the same network."
            )


def _run_exits(
    request: Request,
    thresholds: dict[int, float],
    generator: torch.Generator | None,
    confidence: Confidence = "probability",
    kv: Filling = "exact",
    max_waiting: int = 32,
) -> Any:
    engine = request.engine(list(thresholds))
    decoding = ExitDecoding(
        engine, request.sequences, request.processing, Drawn(generator), request.statistics, thresholds, confidence, kv,
        max_waiting,
    )  # fmt: skip
    decoding.run()
    return request.output(engine)


def _words(shortlist: Any) -> int | Tensor | None:
    """Return a shortlist as how many of the first ids, or as ids.

    Raises:
        ConfigError: If it is neither, or empty.
    """
    if shortlist is None or (isinstance(shortlist, int) and not isinstance(shortlist, bool)):
        count = shortlist
    else:
        shortlist = torch.as_tensor(shortlist)
        if shortlist.dim() != 1 or shortlist.is_floating_point() or bool((shortlist < 0).any()):
            raise ConfigError(f"shortlist={shortlist} are no ids. Give whole numbers of at least 0, or how many.")
        count = shortlist.numel()
    if count is not None and count < 1:
        raise ConfigError(f"shortlist={shortlist} leaves nothing to draft. Give at least 1.")
    return shortlist if shortlist is None or isinstance(shortlist, int) else shortlist.long()


def _exits(exits: int | Sequence[int] | None, depth: int) -> list[int]:
    """Return the exits below a depth, increasing.

    Raises:
        SettingError: If one is not below it.
    """
    if exits is None:
        return sorted({max(1, round(share * depth)) for share in _DEFAULT_SHARES} - {depth})
    given = _listed(exits)
    for one in given:
        if isinstance(one, bool) or not isinstance(one, int) or not 1 <= one < depth:
            raise SettingError(
                f"Exit {one!r} is not inside the model of {depth} layers. Choose depths of 1 to {depth - 1}."
            )
    if any(second <= first for first, second in pairwise(given)):
        raise SettingError(f"exits={given} must increase, each depth once.")
    return given


def exits_within(exits: int | Sequence[int] | None, depths: Sequence[int]) -> list[int]:
    """Return the exits that a network has below the greatest of its depths.

    Raises:
        SettingError: If an exit is none of them.
    """
    below = sorted(depths)[:-1]
    given = below if exits is None else _listed(exits)
    for one in given:
        if one not in below:
            raise SettingError(f"Exit {one!r} is outside the depth support {sorted(depths)}. Choose from {below}.")
    return given


def _listed(exits: Any) -> list[int]:
    """Return one depth or several as a list.

    Raises:
        SettingError: If they are neither.
    """
    if isinstance(exits, int):
        return [exits]
    if not isinstance(exits, Sequence) or isinstance(exits, str):
        raise SettingError(f"exits={exits!r} are no depths. Give a whole number, or a list of them.")
    return list(exits)


def _each(thresholds: Any, exits: Sequence[int]) -> list[Any]:
    if thresholds is None or isinstance(thresholds, (int, float)):
        return [thresholds] * len(exits)
    if len(thresholds) != len(exits):
        raise ConfigError(f"thresholds={list(thresholds)} are {len(thresholds)} for the exits {list(exits)}.")
    return list(thresholds)


def _check_thresholds(exits: Any, thresholds: Any, always: bool = False) -> None:
    for one in thresholds if isinstance(thresholds, Sequence) else [thresholds]:
        if one is None and always:
            continue
        if isinstance(one, bool) or not isinstance(one, (int, float)) or not 0 < one <= 1:
            raise ConfigError(f"A threshold of {one!r} is outside (0, 1].")
    if isinstance(exits, Sequence):
        _each(thresholds, exits)


def _check_confidence(confidence: str) -> None:
    if confidence not in CONFIDENCES:
        raise ConfigError(f"confidence={confidence!r} is unknown. Choose one of {', '.join(CONFIDENCES)}.")
