"""Drawn texts have the full model's distribution: proved by enumerating every outcome of every draw."""

from typing import Any

import pytest
import torch
from torch import Tensor

import sortednet as sn
from sortednet.generation import policies, speculation
from sortednet.generation.chance import Chance, Drawn, judge_greedy, judge_sampled
from sortednet.generation.controller import Controller, Plan
from sortednet.generation.drafting import ExitDrafter
from sortednet.generation.speculation import Speculation

from ..contracts import enumeration

EXACT = 1e-6
PROMPT = (2, 1)


class Scripted(Chance):
    """Picks and flips as told, and keeps the distributions that it was asked to draw from."""

    def __init__(self, picks: list[int], flips: list[list[bool]]) -> None:
        self._picks, self._flips, self.asked = picks, flips, []

    def pick(self, probabilities: Tensor) -> Tensor:
        self.asked.append(probabilities)
        return torch.tensor(self._picks)

    def flip(self, probabilities: Tensor) -> Tensor:
        self.asked.append(probabilities)
        return torch.tensor(self._flips)


def distribution(
    monkeypatch: Any, make: Any, model: Any, prompts: Any = (PROMPT,), new: int = 3, ends: Any = (), **asked: Any
) -> dict[Any, float]:
    """Enumerate what a policy, made anew for each outcome, may return."""
    processors = list(enumeration.processors_of(**asked))

    def run(chance: Chance) -> Any:
        monkeypatch.setattr(policies, "Drawn", lambda generator: chance)
        request = enumeration.request(model, prompts, new, processors, ends)
        make()._decode(request)
        return enumeration.continued(request)

    return enumeration.outcomes(run)


def error(monkeypatch: Any, make: Any, model: Any, new: int = 3, ends: Any = (), **asked: Any) -> float:
    """Return the total variation between what a policy returns and what the model alone would."""
    found = distribution(monkeypatch, make, model, (PROMPT,), new, ends, **asked)
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    alone = enumeration.wanted(model, PROMPT, new, list(enumeration.processors_of(**asked)), ends)
    return enumeration.total_variation(found, enumeration.together(alone))


def speculative(**own: Any) -> Any:
    return lambda: sn.SelfSpeculative(adaptive=False, **own)


PROCESSORS: dict[str, dict[str, Any]] = {
    "as_it_is": {},
    "temperature_and_top_k": {"temperature": 0.7, "top_k": 2},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.3},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "no_repeat_ngram": {"no_repeat_ngram_size": 2, "temperature": 1.4},
}


@pytest.mark.parametrize("name", ["as_it_is", "no_repeat_ngram"])
def test_plain_draws_are_the_models(monkeypatch: Any, name: str) -> None:
    assert error(monkeypatch, lambda: sn.FixedDepth(), enumeration.tiny(4), **PROCESSORS[name]) <= EXACT


@pytest.mark.parametrize("asked", PROCESSORS.values(), ids=PROCESSORS)
def test_drafts_at_one_exit_keep_the_distribution(monkeypatch: Any, asked: Any) -> None:
    assert error(monkeypatch, speculative(exits=1), enumeration.tiny(4), **asked) <= EXACT


def test_long_drafts_keep_the_distribution(monkeypatch: Any) -> None:
    model = enumeration.tiny(3, weakness=1.0)
    assert error(monkeypatch, speculative(exits=1, draft_tokens=2), model, new=4) <= EXACT


def test_long_drafts_of_the_likeliest_tokens_keep_the_distribution(monkeypatch: Any) -> None:
    make = speculative(exits=1, draft_tokens=3)
    assert error(monkeypatch, make, enumeration.tiny(5), new=5, top_k=2) <= EXACT


@pytest.mark.parametrize("thresholds", [[0.55, None], [0.8, 0.45]])
def test_several_exits_with_thresholds_keep_the_distribution(monkeypatch: Any, thresholds: Any) -> None:
    """Whether to stop is decided before the token is drawn, from its distribution alone."""
    make = speculative(exits=[1, 2], thresholds=thresholds, draft_tokens=2)
    assert error(monkeypatch, make, enumeration.tiny(3, 3), new=4, temperature=1.3) <= EXACT


def test_a_drafted_end_keeps_the_distribution(monkeypatch: Any) -> None:
    make = speculative(exits=[1, 2], thresholds=[0.5, None], draft_tokens=3)
    assert error(monkeypatch, make, enumeration.tiny(4, 3), new=4, ends=(3, 1), top_k=3) <= EXACT


@pytest.mark.parametrize("shortlist", [2, torch.tensor([0, 3])], ids=["first", "ids"])
def test_shortlist_keeps_the_distribution(monkeypatch: Any, shortlist: Any) -> None:
    make = speculative(exits=1, shortlist=shortlist)
    assert error(monkeypatch, make, enumeration.tiny(4), temperature=0.8) <= EXACT


def test_shortlist_of_which_nothing_is_left_keeps_the_distribution(monkeypatch: Any) -> None:
    make = speculative(exits=1, shortlist=torch.tensor([1, 3]))
    assert error(monkeypatch, make, enumeration.tiny(5), no_repeat_ngram_size=1) <= EXACT


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_another_model_that_drafts_keeps_the_distribution(monkeypatch: Any, threshold: float | None) -> None:
    other = enumeration.tiny(3, depth=1, seed=8)
    make = speculative(draft=other, thresholds=threshold, draft_tokens=2)
    assert error(monkeypatch, make, enumeration.tiny(3), new=4, top_p=0.9) <= EXACT


def test_drafts_of_two_rows_keep_both_distributions(monkeypatch: Any) -> None:
    model, prompts, processors = enumeration.tiny(4), ((1, 2, 3), (2,)), {"top_k": 2}
    found = distribution(monkeypatch, speculative(exits=1), model, prompts, **processors)
    kinds = list(enumeration.processors_of(**processors))
    rows = [enumeration.wanted(model, prompt, 3, kinds) for prompt in prompts]
    assert enumeration.total_variation(found, enumeration.together(*rows)) <= EXACT


def test_drafts_of_two_rows_of_which_one_ends_keep_both_distributions(monkeypatch: Any) -> None:
    model, prompts, processors = enumeration.tiny(4), ((1, 2, 3), (2,)), {"top_k": 2}
    found = distribution(monkeypatch, speculative(exits=1), model, prompts, ends=(0, 3), **processors)
    kinds = list(enumeration.processors_of(**processors))
    rows = [enumeration.wanted(model, prompt, 3, kinds, ends=(0, 3)) for prompt in prompts]
    assert any(len(text) < 3 for row in rows for text in row)
    assert enumeration.total_variation(found, enumeration.together(*rows)) <= EXACT


@pytest.mark.parametrize("exits", [[1], [1, 2]])
def test_adaptive_drafts_keep_the_distribution(monkeypatch: Any, exits: list[int]) -> None:
    """The controller learns from every text, and plans anew each round; only its clock is taken away."""
    plans: set[Plan] = set()

    def planned(self: Controller, rows: int, left: int, plan: Any = Controller.plan) -> Plan:
        found = plan(self, rows, left)
        plans.add(found)
        return found

    monkeypatch.setattr(speculation, "_PLAN_EVERY", 1)
    monkeypatch.setattr(speculation, "_COMPARED_SHARE", float("inf"))
    monkeypatch.setattr(Controller, "timed", lambda *_: None)
    monkeypatch.setattr(Controller, "plan", planned)

    def make() -> sn.SelfSpeculative:
        return sn.SelfSpeculative(exits=exits, draft_tokens=2)

    assert error(monkeypatch, make, enumeration.tiny(3, 3), new=4) <= EXACT
    assert len(plans) > 1, "the choices depend on what was drawn before"


def test_early_exit_that_is_never_sure_has_the_models_distribution(monkeypatch: Any) -> None:
    make = lambda: sn.EarlyExit(exits=[1, 2], thresholds=1.0)  # noqa: E731
    assert error(monkeypatch, make, enumeration.tiny(4, 3), temperature=0.9) <= EXACT


# What implementations do wrong, after part B.4 of the survey of peers: the enumeration must see it.


def test_the_enumeration_sees_that_unsure_tokens_are_thrown_away(monkeypatch: Any) -> None:
    def draft(self: Speculation, newest: Tensor, plan: Plan, drafted: Any = Speculation._draft) -> Any:
        found = drafted(self, newest, plan)
        for place, token in enumerate(found.tokens):
            if float(found.scores[place][0, int(token)]) < 0.4:
                return speculation._Draft(found.tokens[:place], found.scores[:place], found.exits[:place])
        return found

    monkeypatch.setattr(Speculation, "_draft", draft)
    monkeypatch.setattr(speculation, "judge_sampled", _judge_of_the_first)
    assert error(monkeypatch, speculative(exits=1), enumeration.tiny(4)) > 1e-2


def _judge_of_the_first(drafted: Tensor, draft: Tensor, target: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    return judge_sampled(drafted, draft, target[:, : drafted.shape[1] + 1], chance)


def test_the_enumeration_sees_a_ratio_of_unfiltered_drafts(monkeypatch: Any) -> None:
    read: list[Tensor] = []

    def reading(self: ExitDrafter, newest: Tensor, plan: Plan, right: Any = ExitDrafter.read) -> Any:
        found = right(self, newest, plan)
        read.append(found[0].softmax(-1)[:, 0])
        return found

    def judge(drafted: Tensor, draft: Tensor, target: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
        return judge_sampled(drafted, torch.stack(read[-drafted.shape[1] :], 1), target, chance)

    monkeypatch.setattr(ExitDrafter, "read", reading)
    monkeypatch.setattr(speculation, "judge_sampled", judge)
    assert error(monkeypatch, speculative(exits=1), enumeration.tiny(4), top_k=2) > 1e-2


def test_the_enumeration_sees_an_exit_chosen_by_the_drawn_token(monkeypatch: Any) -> None:
    """Draw at the first exit; where that token is unsure, draw at the second instead, and judge by that one alone."""

    def draft(self: Speculation, newest: Tensor, plan: Plan) -> Any:
        found = speculation._Draft()
        drafter = self._drafter
        assert drafter is not None
        for depth in (1, 2):
            read = drafter.read(newest, Plan((depth,), (0.0,), 1))
            assert read is not None
            scores = self._processing(read[0], self._sequences)[:, 0]
            token = self._pick(scores)
            if float(scores[0, int(token)]) >= 0.5:
                break
        self._sequences.draft(0, token)
        self._engine.push(token[:, None])
        found.tokens, found.scores, found.exits = [token], [scores], [depth]
        return found if plan.length else speculation._Draft()

    original = Speculation._draft
    monkeypatch.setattr(
        Speculation, "_draft", lambda self, newest, plan: (draft if plan.length else original)(self, newest, plan)
    )
    assert error(monkeypatch, speculative(exits=[1, 2]), enumeration.tiny(4, 3)) > 1e-2


# The rules themselves, by hand.


def test_judge_greedy_by_hand() -> None:
    logits = torch.tensor([[[0.0, 2, 1], [3, 0, 0], [0, 0, 1]]]).repeat(3, 1, 1)  # chooses 1, 0, 2
    accepted, behind = judge_greedy(torch.tensor([[1, 0], [1, 2], [0, 0]]), logits)
    assert (accepted.tolist(), behind.tolist()) == ([2, 1, 0], [2, 0, 1])


def test_judge_greedy_does_not_accept_behind_a_rejected_token() -> None:
    logits = torch.tensor([[[0.0, 1], [1, 0], [1, 0], [1, 0]]])  # chooses 1, 0, 0, 0
    accepted, behind = judge_greedy(torch.tensor([[0, 0, 0]]), logits)
    assert (accepted.tolist(), behind.tolist()) == ([0], [1])


def test_judge_sampled_by_hand_algorithm_1() -> None:
    """Leviathan et al., Alg. 1: accept with min(1, p/q), else draw from what p has more than q."""
    draft, target = torch.tensor([[[0.5, 0.3, 0.2]]]), torch.tensor([[[0.2, 0.6, 0.2], [0.1, 0.1, 0.8]]])
    chance = Scripted([1], [[False]])
    accepted, behind = judge_sampled(torch.tensor([[0]]), draft, target, chance)
    assert (accepted.tolist(), behind.tolist()) == ([0], [1])
    assert torch.allclose(chance.asked[0], torch.tensor([[0.4]]))
    assert torch.allclose(chance.asked[1], torch.tensor([[0.0, 1.0, 0.0]]))


def test_judge_sampled_draws_the_token_behind_a_whole_draft_from_the_target() -> None:
    draft, target = torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[0.9, 0.1], [0.3, 0.7]]])
    chance = Scripted([1], [[True]])
    accepted, behind = judge_sampled(torch.tensor([[0]]), draft, target, chance)
    assert (accepted.tolist(), behind.tolist()) == ([1], [1])
    assert chance.asked[0].tolist() == [[1.0]]
    assert torch.equal(chance.asked[1], target[:, 1])


def test_judge_sampled_draws_from_the_target_where_nothing_is_left_of_it() -> None:
    """Rounding may reject although the draft claims all that the target has."""
    same = torch.tensor([[[0.25, 0.75]]])
    chance = Scripted([0], [[False]])
    accepted, behind = judge_sampled(torch.tensor([[1]]), same, torch.cat([same, same], 1), chance)
    assert (accepted.tolist(), behind.tolist()) == ([0], [0])
    assert torch.equal(chance.asked[1], same[:, 0])


def test_draws_are_of_the_generator_alone() -> None:
    probabilities = torch.tensor([[0.3, 0.3, 0.4]]).repeat(50, 1)
    picks = [Drawn(torch.Generator().manual_seed(4)).pick(probabilities) for _ in range(2)]
    state = torch.get_rng_state()
    flips = [Drawn(torch.Generator().manual_seed(4)).flip(probabilities) for _ in range(2)]
    assert torch.equal(*picks)
    assert torch.equal(*flips)
    assert torch.equal(state, torch.get_rng_state())


def test_flips_of_certain_outcomes_are_certain() -> None:
    flips = Drawn(torch.Generator().manual_seed(0)).flip(torch.tensor([[0.0, 1.0]]).repeat(2000, 1))
    assert not flips[:, 0].any()
    assert flips[:, 1].all()
