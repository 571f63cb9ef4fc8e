"""Self-speculation: draft with the first layers, verify from the draft's exit on, on one cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import final

import torch
from torch import Tensor

from .chance import Chance, judge_greedy, judge_sampled
from .controller import Controller, Plan
from .drafting import Drafter
from .engine import Engine
from .processing import Confidence, Processing, confidence_of
from .sequences import Sequences
from .statistics import Statistics

__all__ = ["Speculation"]

_PLAN_EVERY = 16  # rounds
_TIMED_EVERY = 4  # rounds, on an accelerator
_PLAN_SOON = 4  # rounds, while little is known
_COMPARED_SHARE = 0.01  # of the time, to compare exits with the full model
_PROMPT_POSITIONS = 16
_PROBE_EVERY = 32  # rounds without a draft, where only drafting shows whether it would pay


@dataclass
class _Draft:
    """What one round drafted: tokens, the exits that chose them, and the scores that they were chosen from."""

    tokens: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    confidence: list[Tensor] = field(default_factory=list)


@final
class Speculation:
    """Decodes a batch: each round drafts some tokens, then the full model judges them all at once.

    Args:
        engine: Holds the prompts, not yet advanced.
        sequences: The texts.
        processing: Of logits.
        chance: Of drawn tokens and of acceptance.
        statistics: Counts.
        drafter: Drafts; nothing is drafted without one.
        controller: Chooses the plans.
        fixed: The plan of every round, where there is no controller.
        confidence: How sure exits are.
        observes_exits: Whether the exits of the engine are compared with the full model for the controller.
    """

    def __init__(
        self,
        engine: Engine,
        sequences: Sequences,
        processing: Processing,
        chance: Chance,
        statistics: Statistics,
        drafter: Drafter | None = None,
        controller: Controller | None = None,
        fixed: Plan | None = None,
        confidence: Confidence = "probability",
        observes_exits: bool = True,
    ) -> None:
        self._engine, self._sequences, self._processing = engine, sequences, processing
        self._chance, self._statistics, self._drafter = chance, statistics, drafter
        self._controller, self._fixed = controller, fixed or Plan()
        self._confidence, self._observes_exits = confidence, observes_exits
        self._verifying: dict[int, tuple[float, int]] = {}
        self._drafting = (0.0, 0)
        self._rounds = self._idle = 0
        self._plan = self._fixed
        self._next_comparison = 0.0

    def run(self) -> None:
        """Decode until every text has ended."""
        newest = self._first()
        while self._sequences.active:
            newest = self._round(newest, self._choose())

    def _first(self) -> Tensor:
        """Run the prompts through all layers, and choose the first token of each. Shape (B,)."""
        engine = self._engine
        lengths, new = list(engine.filled[0]), engine.new
        engine.complete()
        if self._drafter is not None:
            self._drafter.prepare()
        target = self._processing(engine.decoder.logits(engine.final(new)), self._sequences)
        self._statistics.prompt_layer_calls += engine.layer_calls
        if self._controller is not None and self._observes_exits:
            self._learn_from_prompt(new)
        newest = self._pick(target[:, 0])
        engine.roll_back(lengths)
        if self._drafter is not None:
            self._drafter.judged(lengths)
        return self._extend([[token] for token in newest.tolist()], [[depth] for depth in engine.depths], newest)

    def _pick(self, scores: Tensor) -> Tensor:
        """Choose a token for each row. From (M, V) to (M,)."""
        return self._chance.pick(scores) if self._processing.sample else scores.argmax(-1)

    def _choose(self) -> Plan:
        """Return the plan of the next round. It depends on nothing that is still to be drawn."""
        controller, left = self._controller, self._sequences.left
        due = self._rounds % _PLAN_EVERY == 0 or self._rounds == _PLAN_SOON
        if controller is not None and due:
            controller.timed(self._engine.seconds, self._verifying, self._drafting)
            self._engine.seconds, self._verifying, self._drafting = {}, {}, (0.0, 0)
            self._plan = controller.plan(self._engine.rows, left)
        # An accelerator runs ahead of us, and is only waited for, to be timed, now and then.
        on_accelerator = self._engine.decoder.device.type != "cpu"
        self._engine.timed = controller is not None and not (on_accelerator and self._rounds % _TIMED_EVERY)
        self._rounds += 1
        plan = self._plan
        self._idle = 0 if plan.length else self._idle + 1
        if controller is not None and not self._observes_exits and self._idle >= _PROBE_EVERY:
            self._idle, plan = 0, controller.probe
        length = min(plan.length, left - 1)
        return Plan(plan.exits, plan.thresholds, length) if length > 0 else Plan()

    def _round(self, newest: Tensor, plan: Plan) -> Tensor:
        """Draft, judge and extend. Takes and returns the newest token of each row, shape (M,)."""
        engine = self._engine
        lengths = list(engine.filled[0])
        engine.forget()
        engine.push(newest[:, None])
        draft = self._draft(newest, plan)
        engine.complete()
        began = engine.clock()
        target = self._processing(engine.decoder.logits(engine.final()), self._sequences)  # (M, K + 1, V)
        count = len(draft.tokens)
        if not count:
            behind = self._pick(target[:, 0])
            tokens, numbers = behind[:, None].tolist(), [0] * len(lengths)
        else:
            drafted = torch.stack(draft.tokens, 1)
            if self._processing.sample:
                accepted, behind = judge_sampled(drafted, torch.stack(draft.scores, 1), target, self._chance)
            else:
                accepted, behind = judge_greedy(drafted, target)
            numbers = accepted.tolist()
            tokens = [
                [*row[:number], last]
                for row, number, last in zip(drafted.tolist(), numbers, behind.tolist(), strict=True)
            ]
        if engine.timed:
            spent, times = self._verifying.get(count + 1, (0.0, 0))
            self._verifying[count + 1] = (spent + engine.clock() - began, times + 1)
        self._compare(target, numbers, draft)
        ends = [length + number + 1 for length, number in zip(lengths, numbers, strict=True)]
        engine.roll_back(ends)
        if self._drafter is not None:
            self._drafter.judged(ends)
        self._statistics.rounds += 1
        self._statistics.drafted += count * len(lengths)
        exits = [[*draft.exits[:number], depth] for number, depth in zip(numbers, engine.depths, strict=True)]
        return self._extend(tokens, exits, behind)

    def _extend(self, tokens: list[list[int]], exits: list[list[int]], newest: Tensor) -> Tensor:
        alive = self._sequences.extend(tokens, exits, [len(row) - 1 for row in tokens])
        if alive and len(alive) < len(tokens):
            self._engine.keep(alive)
            if self._drafter is not None:
                self._drafter.keep(alive)
            newest = newest[torch.tensor(alive, dtype=torch.long, device=newest.device)]
        return newest

    def _draft(self, newest: Tensor, plan: Plan) -> _Draft:
        """Draft up to the plan's length. `newest` has been pushed; what is drafted is pushed behind it."""
        draft = _Draft()
        while len(draft.tokens) < plan.length:
            assert self._drafter is not None
            began, layers = self._engine.clock(), self._engine.spent
            found = self._drafter.read(newest, plan)
            if found is not None:
                logits, depth = found
                scores = self._processing(logits, self._sequences, len(draft.tokens))[:, 0]
                if self._drafter.partial and bool(scores.isnan().any()):
                    break  # the processors leave nothing of the tokens that may be drafted
                newest = self._pick(scores)
                self._sequences.draft(len(draft.tokens), newest)
                self._engine.push(newest[:, None])
                draft.tokens.append(newest)
                draft.scores.append(scores)
                draft.exits.append(depth)
                if self._controller is not None and not self._observes_exits:
                    draft.confidence.append(confidence_of(logits[:, 0], self._confidence))
            ended = found is None or self._sequences.ends(newest.tolist())
            if self._engine.timed:
                seconds = self._engine.clock() - began - (self._engine.spent - layers)
                self._drafting = (self._drafting[0] + seconds, self._drafting[1] + 1)
            if ended:
                break
        return draft

    def _compare(self, target: Tensor, numbers: Sequence[int], draft: _Draft) -> None:
        """Tell the controller how exits compare with the full model, at the positions just verified.

        Only those up to the first rejected token count: behind it the text would have been another.
        """
        if self._controller is None:
            return
        if not self._observes_exits:
            for row, number in enumerate(numbers):
                for place in range(min(number + 1, len(draft.tokens))):
                    agreed = torch.tensor([[float(place < number)]])
                    self._controller.observe(draft.confidence[place][row].reshape(1, 1), agreed)
            return
        began = perf_counter()
        if began < self._next_comparison:
            return
        rows = torch.tensor([row for row, number in enumerate(numbers) for _ in range(number + 1)])
        places = torch.tensor([place for number in numbers for place in range(number + 1)])
        self._observe(target[rows, places], rows, places)
        now = perf_counter()
        self._next_comparison = now + (now - began) / _COMPARED_SHARE

    def _learn_from_prompt(self, new: Sequence[int]) -> None:
        """Compare the exits with the full model at the last positions of the prompts."""
        engine = self._engine
        whole = [row for row, depth in enumerate(engine.depths) if depth == engine.exits[-1]]
        count = max(1, _PROMPT_POSITIONS // len(whole))
        chosen = [(row, place) for row in whole for place in range(max(0, new[row] - count), new[row])]
        rows, places = torch.tensor(chosen).T
        target = engine.decoder.logits(engine.advanced(engine.exits[-1])[rows, places][:, None])
        self._observe(self._processing.roughly(target)[:, 0], rows, places)

    def _observe(self, target: Tensor, rows: Tensor, places: Tensor) -> None:
        """Compare exits with the target's scores (N, V) at the positions (N,) of what advanced last."""
        engine, controller = self._engine, self._controller
        assert controller is not None
        states = torch.cat([engine.advanced(depth)[rows, places] for depth in controller.exits])  # (E N, W)
        logits = engine.decoder.logits(states[:, None])[:, 0].view(len(controller.exits), len(rows), -1)
        confidence = confidence_of(logits, self._confidence)
        if self._processing.sample:
            agreement = torch.minimum(self._processing.roughly(logits), target).sum(-1)
        else:
            agreement = (logits.argmax(-1) == target.argmax(-1)).float()
        controller.observe(confidence.T, agreement.T)
