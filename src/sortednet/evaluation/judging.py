"""Judge answers: in pairs by any judge, or against references by exact match."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import NormalDist
from typing import Literal, get_args

from ..errors import ConfigError, DataError

__all__ = [
    "Judge",
    "Judgement",
    "Normalisation",
    "Verdict",
    "exact_match",
    "exact_match_judge",
    "final_answer",
    "judge_pairs",
]

Verdict = Literal["win", "loss", "tie"]
Judge = Callable[[str, str, str], Verdict]
Normalisation = Literal["triviaqa", "squad", "none"]
Orders = Literal["agree", "average", "given"]

_VALUES = {"win": 1.0, "tie": 0.0, "loss": -1.0}
_MARK = "####"
_TRIVIAQA_QUOTES = "\u2018\u2019\u00b4`"
# A minus after a digit is a sign of subtraction or of a range.
_NUMBER = r"(?:(?<!\d)-\$?|\$-?)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"


@dataclass(frozen=True)
class Judgement:
    """How answers A fare against answers B.

    Attributes:
        wins: Verdicts for A.
        losses: Verdicts for B.
        ties: Verdicts for neither.
        score: (wins - losses) / (wins + losses + ties), in [-1, 1]; above 0 where A is the better.
        low: Lower end of the confidence interval of the score, in [-1, 1].
        high: Upper end of it.
        swayed: Pairs whose verdict changed with the order of the answers; None where each was judged once.
    """

    wins: int
    losses: int
    ties: int
    score: float
    low: float
    high: float
    swayed: int | None = None


def judge_pairs(
    judge: Judge,
    prompts: Sequence[str],
    answers_a: Sequence[str],
    answers_b: Sequence[str],
    *,
    orders: Orders = "agree",
    confidence: float = 0.95,
) -> Judgement:
    """Let a judge compare the answers of two models to the same prompts.

    Args:
        judge: A function of a prompt and two answers that returns `win`, `loss` or `tie`, as the first answer sees it.
        prompts: N prompts, N at least 1.
        answers_a: The answers of one model, N.
        answers_b: The answers of the other, N.
        orders: Judges favour a place, so each pair is judged in both orders. `agree`: a verdict counts where both
            orders give it, and the pair is a tie where they do not. `average`: the verdicts of both orders count, 2 N
            of them. `given`: only the order given is judged.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        The verdicts, the score and its interval over the draw of prompts.

    Raises:
        ConfigError: If an argument is outside its range.
        DataError: If there is no pair, the lengths differ, or the judge returns anything else.

    Source:
        Valipour (2024), PhD thesis, Eq. 5.2 and Sec. 5.4: PandaLM's verdicts, averaged over both orders (`average`).
        The interval is ours: Agresti & Min (2005), Statistics in Medicine 24, 729-740, which adds half an observation
        to each cell, so that it keeps a width where all verdicts are alike. With `average`, a pair is one observation.

    Example:
        >>> def longer(prompt, a, b):
        ...     return "tie" if len(a) == len(b) else "win" if len(a) > len(b) else "loss"
        >>> found = judge_pairs(longer, ["1 + 1?", "2 + 2?", "3 + 3?"], ["two", "four", "six"], ["2", "4", "six"])
        >>> found.wins, found.losses, found.ties, round(found.score, 3), found.swayed
        (2, 0, 1, 0.667, 0)
    """
    if orders not in get_args(Orders):
        raise ConfigError(f"orders={orders!r} is unknown. Choose one of {list(get_args(Orders))}.")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence={confidence} is outside (0, 1). Give a share, such as 0.95.")
    lengths = [len(prompts), len(answers_a), len(answers_b)]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise DataError(
            f"There are {lengths[0]} prompts, {lengths[1]} answers A and {lengths[2]} answers B. "
            "Give as many of each, at least one."
        )
    verdicts: list[Verdict] = []
    values: list[float] = []  # of each pair, in [-1, 1]
    swayed = 0
    for place, (prompt, a, b) in enumerate(zip(prompts, answers_a, answers_b, strict=True)):
        first = _verdict(judge, prompt, a, b, place)
        if orders == "given":
            counted = [first]
        else:
            second = _turned(_verdict(judge, prompt, b, a, place))
            swayed += first != second
            counted = [first, second] if orders == "average" else [first if first == second else "tie"]
        verdicts += counted
        values.append(math.fsum(_VALUES[one] for one in counted) / len(counted))
    wins, losses, ties = (verdicts.count(one) for one in get_args(Verdict))
    score = (wins - losses) / len(verdicts)
    low, high = _interval(values, confidence)
    once = orders == "given"
    return Judgement(wins, losses, ties, score, min(low, score), max(high, score), None if once else swayed)


def _verdict(judge: Judge, prompt: str, first: str, second: str, place: int) -> Verdict:
    verdict = judge(prompt, first, second)
    if verdict not in get_args(Verdict):
        raise DataError(
            f"The judge returned {verdict!r} for pair {place}. Let it return one of {list(get_args(Verdict))}."
        )
    return verdict


def _turned(verdict: Verdict) -> Verdict:
    """Return a verdict as the other answer sees it."""
    return "loss" if verdict == "win" else "win" if verdict == "loss" else "tie"


def _interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Bound the mean of values in [-1, 1], after adding half a 1, half a -1 and one 0."""
    count = len(values) + 2
    middle = math.fsum(values) / count
    variance = (math.fsum(value**2 for value in values) + 1) / count - middle**2
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance / count)
    return max(-1.0, middle - reach), min(1.0, middle + reach)


def exact_match_judge(
    references: Mapping[str, str | Iterable[str]], match: Callable[[str, str | Iterable[str]], bool] | None = None
) -> Judge:
    """Return a judge that prefers the answer that matches a reference, and calls a tie where both or neither do.

    Args:
        references: The right answer, or several, of each prompt.
        match: Whether an answer matches the references; `exact_match` where left out.

    Returns:
        The judge. It raises a DataError for a prompt without references.

    Example:
        >>> judge_one = exact_match_judge({"Capital of France?": "Paris"})
        >>> judge_one("Capital of France?", "paris.", "Lyon")
        'win'
    """
    held = {prompt: one if isinstance(one, str) else tuple(one) for prompt, one in references.items()}
    matches = exact_match if match is None else match

    def judge(prompt: str, answer_a: str, answer_b: str) -> Verdict:
        if prompt not in held:
            raise DataError(f"The prompt {prompt!r} has no reference. Give one for each prompt; there are {len(held)}.")
        a, b = matches(answer_a, held[prompt]), matches(answer_b, held[prompt])
        return "tie" if a == b else "win" if a else "loss"

    return judge


def exact_match(prediction: str, references: str | Iterable[str], *, normalisation: Normalisation = "triviaqa") -> bool:
    """Tell whether a prediction equals one of the references after normalisation.

    Args:
        prediction: The model's answer.
        references: The right answer, or all its aliases; at least one.
        normalisation: `triviaqa` and `squad` ignore case, punctuation, English articles and the amount of white space.
            Punctuation parts words in TriviaQA (`rock-n-roll` is `rock n roll`) and vanishes in SQuAD (`rocknroll`).
            `none` ignores only white space around the answer.

    Returns:
        Whether any reference matches. An empty prediction matches nothing; the scripts let it match an answer that is
        nothing but an article.

    Raises:
        ConfigError: If the normalisation is unknown.
        DataError: If there is no reference.

    Source:
        The evaluation scripts of TriviaQA (Joshi et al. (2017), arXiv:1705.03551) and of SQuAD 1.1 (Rajpurkar et al.
        (2016), arXiv:1606.05250). Valipour (2024), PhD thesis, Fig. 5.3, reports "case-sensitive exact match" on
        TriviaQA: `none`.

    Example:
        >>> exact_match("The Beatles!", ["Beatles", "Fab Four"]), exact_match("rock-n-roll", "rock n roll")
        (True, True)
        >>> exact_match("rock-n-roll", "rocknroll", normalisation="squad"), exact_match("paris", "lyon")
        (True, False)
    """
    if normalisation not in get_args(Normalisation):
        raise ConfigError(f"normalisation={normalisation!r} is unknown. Choose among {list(get_args(Normalisation))}.")
    held = [references] if isinstance(references, str) else list(references)
    if not held:
        raise DataError("There is no reference to match. Give at least one right answer.")
    wanted = _normalised(prediction, normalisation)
    return bool(prediction.strip()) and any(wanted == _normalised(one, normalisation) for one in held)


def _normalised(text: str, normalisation: Normalisation) -> str:
    if normalisation == "none":
        return text.strip()
    parting = normalisation == "triviaqa"
    marks = string.punctuation + (_TRIVIAQA_QUOTES if parting else "")
    bare = text.lower().translate(dict.fromkeys(map(ord, marks), " " if parting else None))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def final_answer(text: str, *, anywhere: bool = False) -> Decimal | None:
    r"""Read the final answer of a solution of GSM8K: the number after the first `####`.

    Thousands commas, a dollar sign and a dot at the end of the sentence are no part of it.

    Args:
        text: The solution, a reference or a model's.
        anywhere: Whether to take the last number of the text where none follows the mark.

    Returns:
        The number, exact, so that 18 equals 18.00; None where there is none.

    Source:
        Cobbe et al. (2021), arXiv:2110.14168, whose script compares the texts of the numbers.

    Example:
        >>> final_answer("3 * 400 = 1200\n#### 1,200."), final_answer("So she has 7 of the 9 left.", anywhere=True)
        (Decimal('1200'), Decimal('9'))
    """
    after = text.partition(_MARK)[2]
    found = re.match(rf"\s*({_NUMBER})", after)
    numbers = [found[1]] if found else re.findall(_NUMBER, text) if anywhere else []
    return Decimal(re.sub(r"[$,]", "", numbers[-1])) if numbers else None
