import math
from decimal import Decimal

import pytest

from sortednet.errors import ConfigError, DataError
from sortednet.evaluation.judging import exact_match, exact_match_judge, final_answer, judge_pairs


def longer(prompt, a, b):
    return "tie" if len(a) == len(b) else "win" if len(a) > len(b) else "loss"


def first(prompt, a, b):
    return "win"


def judged(judge, wins, losses, ties, **options):
    a = ["aa"] * wins + ["a"] * losses + ["a"] * ties
    b = ["b"] * wins + ["bb"] * losses + ["b"] * ties
    return judge_pairs(judge, ["?"] * len(a), a, b, **options)


def test_thesis_equation_5_2_score_by_hand():
    found = judged(longer, wins=5, losses=2, ties=3)
    assert (found.wins, found.losses, found.ties, found.score) == (5, 2, 3, (5 - 2) / 10)


@pytest.mark.parametrize(
    ("orders", "counts", "swayed"),
    [("agree", (0, 0, 4), 4), ("average", (4, 4, 0), 4), ("given", (4, 0, 0), None)],
)
def test_a_judge_that_favours_a_place_counts_as_documented(orders, counts, swayed):
    found = judged(first, 0, 0, 4, orders=orders)
    assert (found.wins, found.losses, found.ties) == counts
    assert (found.score, found.swayed) == (1.0 if orders == "given" else 0.0, swayed)


@pytest.mark.parametrize("orders", ["agree", "average", "given"])
def test_a_fair_judge_scores_alike_in_every_mode(orders):
    found = judged(longer, 5, 2, 3, orders=orders)
    assert found.score == pytest.approx(0.3)
    assert found.swayed in (0, None)


def test_a_verdict_of_one_order_only_is_a_tie_or_half_a_win():
    def wins_first_only(prompt, a, b):
        return "win" if a == "aa" else "tie"

    agree, average = (judged(wins_first_only, 2, 0, 0, orders=orders) for orders in ("agree", "average"))
    assert (agree.wins, agree.ties, agree.swayed) == (0, 2, 2)
    assert (average.wins, average.losses, average.ties, average.score) == (2, 0, 2, 0.5)


def test_each_pair_is_judged_in_both_orders():
    seen = []

    def judge(prompt, a, b):
        seen.append((prompt, a, b))
        return "tie"

    judge_pairs(judge, ["?"], ["a"], ["b"])
    assert seen == [("?", "a", "b"), ("?", "b", "a")]


def test_agresti_and_min_2005_wald_plus_2_interval_by_hand():
    found = judged(longer, wins=5, losses=2, ties=3)
    middle = 3 / 12
    reach = 1.959964 * math.sqrt((5 + 2 + 1) - 3**2 / 12) / 12
    assert (found.low, found.high) == pytest.approx((middle - reach, middle + reach), abs=1e-6)


@pytest.mark.parametrize("count", [1, 10, 170])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_interval_keeps_a_width_and_holds_the_score_where_all_verdicts_are_alike(count, confidence):
    found = judged(longer, count, 0, 0, confidence=confidence)
    assert found.low < found.score == 1.0 == found.high


def test_the_interval_of_both_orders_counts_pairs_not_verdicts():
    assert judged(longer, 5, 2, 3, orders="average").low == pytest.approx(judged(longer, 5, 2, 3).low)


def test_the_interval_narrows_with_more_pairs():
    few, many = judged(longer, 5, 2, 3), judged(longer, 50, 20, 30)
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_turning_models_turns_the_score_and_the_interval():
    one, two = judged(longer, 5, 2, 3), judged(longer, 2, 5, 3)
    assert (one.score, one.low, one.high) == pytest.approx((-two.score, -two.high, -two.low))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"orders": "both"}, r"orders='both' is unknown. Choose one of \['agree', 'average', 'given'\]"),
        ({"confidence": 1.0}, r"confidence=1.0 is outside \(0, 1\). Give a share, such as 0.95"),
    ],
)
def test_options_outside_their_range_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        judged(longer, 1, 0, 0, **options)


@pytest.mark.parametrize(("prompts", "answers"), [([], []), (["?"], ["a", "b"])])
def test_lengths_that_differ_or_are_zero_are_refused(prompts, answers):
    with pytest.raises(DataError, match=r"prompts, . answers A and . answers B. Give as many of each, at least one"):
        judge_pairs(longer, prompts, answers, answers)


def test_a_verdict_that_is_none_is_refused():
    with pytest.raises(DataError, match=r"The judge returned 'A' for pair 0. Let it return one of \['win', 'loss'"):
        judge_pairs(lambda prompt, a, b: "A", ["?"], ["a"], ["b"])


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [("Paris", "Lyon", "win"), ("Lyon", "paris.", "loss"), ("Paris", "PARIS", "tie"), ("Rome", "Lyon", "tie")],
)
def test_the_exact_match_judge_prefers_the_right_answer(a, b, verdict):
    assert exact_match_judge({"?": ["Paris", "City of Light"]})("?", a, b) == verdict


def test_the_exact_match_judge_takes_another_match():
    judge = exact_match_judge({"?": "#### 18"}, lambda answer, right: final_answer(answer) == final_answer(right))
    assert judge("?", "9 + 9 = 18\n#### 18.00", "#### 81") == "win"


def test_the_exact_match_judge_keeps_references_that_can_be_read_once():
    judge = exact_match_judge({"?": iter(["Paris"])})
    assert [judge("?", "Paris", "Lyon") for _ in range(2)] == ["win", "win"]


def test_a_prompt_without_reference_is_named():
    with pytest.raises(DataError, match=r"The prompt 'Why\?' has no reference. Give one for each prompt; there are 1"):
        exact_match_judge({"?": "Paris"})("Why?", "a", "b")


@pytest.mark.parametrize(
    ("prediction", "references", "triviaqa", "squad", "plain"),
    [
        ("Paris", "Paris", True, True, True),
        (" Paris\n", "Paris", True, True, True),
        ("paris", "Paris", True, True, False),
        ("the  Eiffel Tower.", "Eiffel tower", True, True, False),
        ("Theatre", "atre", False, False, False),
        ("rock-n-roll", "rock n roll", True, False, False),
        ("rock-n-roll", "rocknroll", False, True, False),
        ("O\u2019Neill", "O'Neill", True, False, False),
        ("New_York", "New York", True, False, False),
        ("Lyon", ["Paris", "Lyon"], True, True, True),
        ("The The", "The The", True, True, True),
        ("", "A", False, False, False),
        ("", "", False, False, False),
    ],
)
def test_exact_match_follows_each_script(prediction, references, triviaqa, squad, plain):
    found = [exact_match(prediction, references, normalisation=one) for one in ("triviaqa", "squad", "none")]
    assert found == [triviaqa, squad, plain]


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ConfigError, match=r"normalisation='nq' is unknown. Choose among \['triviaqa', 'squad', 'none'"):
        exact_match("a", "b", normalisation="nq")


def test_no_reference_is_refused():
    with pytest.raises(DataError, match=r"There is no reference to match. Give at least one"):
        exact_match("a", [])


@pytest.mark.parametrize(
    ("text", "marked", "anywhere"),
    [
        ("#### 42", "42", "42"),
        ("9 * 2 = 18\n####18", "18", "18"),
        ("#### 1,234,567.", "1234567", "1234567"),
        ("#### $1,200.50 a month", "1200.5", "1200.5"),
        ("#### -3", "-3", "-3"),
        ("#### -$3", "-3", "-3"),
        ("#### $-3", "-3", "-3"),
        ("#### .5", "0.5", "0.5"),
        ("#### 5 #### 6", "5", "5"),
        ("She has 7, 8 or 9.", None, "9"),
        ("It is 10-4", None, "4"),
        ("#### unknown, of 12", None, "12"),
        ("No idea.", None, None),
    ],
)
def test_the_final_answer_of_a_solution(text, marked, anywhere):
    expected = [None if one is None else Decimal(one) for one in (marked, anywhere)]
    assert [final_answer(text), final_answer(text, anywhere=True)] == expected
