"""`generate` by a policy: what is asked of it, who is told, and where texts end."""

import threading
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

import sortednet as sn
from sortednet.data.text import train_tokenizer
from sortednet.generation.adapters import Decoder

from ..contracts import decoding_cases as decoders

ASKED: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.8},
    "no_repeat_ngram": {"no_repeat_ngram_size": 1},
    "min_new_tokens": {"min_new_tokens": 5, "eos_token_id": [34, 2, 60], "pad_token_id": 0},
    "ends": {"eos_token_id": [34, 60, 31], "pad_token_id": 0},
    "all": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "min_new_tokens": 3, "eos_token_id": 34},
    "bad_words": {"bad_words_ids": [[34], [7, 60]], "suppress_tokens": [4]},
    "one": {"max_new_tokens": 1},
    "two": {"max_new_tokens": 2},
    "draft": {"max_new_tokens": 4},
    "draft_and_one": {"max_new_tokens": 5},
}
SOME = ["one_exit", "several_exits_last_always", "adaptive", "draft_of_first_layers", "early_exit_never_sure"]
DEPTHS = [2, 4, 6]


class Streamed:
    """Keeps what a streamer of transformers is given."""

    def __init__(self) -> None:
        self.put_: list[list[int]] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        assert not self.ended
        self.put_.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


class StopsAt(hf.StoppingCriteria):
    """Stops where a text ends with a token, and keeps the length of every text that it was asked about."""

    def __init__(self, token: int) -> None:
        self.token, self.lengths = token, []

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.lengths.append(input_ids.shape[1])
        return input_ids[:, -1] == self.token


@pytest.fixture(scope="module")
def net() -> sn.SortedNet:
    supports = {"num_hidden_layers": DEPTHS, "intermediate_size": [24, 48]}
    return sn.SortedNet.from_pretrained(decoders.fresh(), **supports).eval()


def policy(name: str, weak: bool = True) -> Any:
    return decoders.EXACT[name]("llama", weak)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_everything_asked_of_a_batch_is_as_in_greedy_decoding(asked: Any, name: str) -> None:
    found = decoders.greedy(decoders.decoder(), decoders.ragged(), policy(name), **asked)
    assert found.tolist() == decoders.plain("llama", True, decoders.ragged(), **asked).tolist()


@pytest.mark.parametrize("name", decoders.EXACT)
def test_prompt_of_one_token(name: str) -> None:
    given = {"input_ids": torch.tensor([[9]])}
    for asked in ({}, {"max_new_tokens": 1}):
        found = decoders.greedy(decoders.decoder(), given, policy(name), **asked)
        assert found.tolist() == decoders.plain("llama", True, given, **asked).tolist()


@pytest.mark.parametrize("name", SOME)
def test_padding_behind_a_prompt_is_as_padding_before_it(name: str) -> None:
    ends = [34, 60]
    given = [decoders.padded(decoders.prompts(), side) for side in ("left", "right")]
    found = [decoders.greedy(decoders.decoder(), one, policy(name), eos_token_id=ends) for one in given]
    left, right = (decoders.new_tokens(one, how, ends) for one, how in zip(found, given, strict=True))
    assert left == right


@pytest.mark.parametrize("name", [*SOME, "several_exits"])
def test_other_rows_and_their_order_change_no_row(name: str) -> None:
    model, texts, ends = decoders.decoder(), decoders.prompts(), [34, 60]

    def found(rows: list[int]) -> list[list[int]]:
        given = decoders.padded([texts[row] for row in rows])
        return decoders.new_tokens(decoders.greedy(model, given, policy(name), eos_token_id=ends), given, ends)

    whole = found([0, 1, 2, 3])
    for rows in ([3, 1, 0, 2], [2, 0], [1], [0, 0, 3]):
        assert found(rows) == [whole[row] for row in rows]


def test_more_than_thirty_two_rows() -> None:
    generator = torch.Generator().manual_seed(2)
    texts = [torch.randint(4, 61, (1 + row % 5,), generator=generator) for row in range(37)]
    given, asked = decoders.padded(texts), {"max_new_tokens": 6, "eos_token_id": [34, 60, 31]}
    plain = decoders.plain("llama", True, given, **asked)
    for name in ("one_exit", "adaptive", "early_exit_never_sure", "draft_of_first_layers"):
        assert decoders.greedy(decoders.decoder(), given, policy(name), **asked).tolist() == plain.tolist()


def test_prefixes_that_allow_other_tokens_in_each_row() -> None:
    def allowed(row: int, text: Tensor) -> list[int]:
        return [3 + row, 10 + row, 20] if int(text[-1]) % 2 else [4, 30 + row]

    asked = {"prefix_allowed_tokens_fn": allowed}
    plain = decoders.greedy(decoders.decoder(), decoders.ragged(), **asked)
    for name in SOME:
        found = decoders.greedy(decoders.decoder(), decoders.ragged(), policy(name), **asked)
        assert found.tolist() == plain.tolist()


def test_padding_is_the_first_end_where_there_is_none() -> None:
    model = decoders.fresh()
    model.generation_config.pad_token_id = None
    found = [
        decoders.greedy(model, decoders.ragged(), one, eos_token_id=[34, 2, 60]) for one in (None, policy("one_exit"))
    ]
    assert found[0].tolist() == found[1].tolist()


# Sub-models of a network.


@pytest.mark.parametrize("setting", [{"num_hidden_layers": 4}, {"intermediate_size": 24},
                                     {"num_hidden_layers": 4, "intermediate_size": 24}, {}])  # fmt: skip
@pytest.mark.parametrize("name", ["default", "speculative", "adaptive", "early_exit"])
def test_generate_of_a_setting_is_generate_of_the_extracted_model(net: Any, setting: Any, name: str) -> None:
    decoding = {
        "default": None,
        "speculative": sn.SelfSpeculative(exits=2, adaptive=False),
        "adaptive": sn.SelfSpeculative(),
        "early_exit": sn.EarlyExit(thresholds=1.0),
    }[name]
    whole = {**net.space.full, **setting}
    found = net.generate(**decoders.ragged(), setting=whole, decoding=decoding, do_sample=False, max_new_tokens=8)
    plain = net.extract(whole).generate(**decoders.ragged(), do_sample=False, max_new_tokens=8)
    assert found.tolist() == plain.tolist()


def test_the_shallowest_setting_has_no_exits_and_decodes_plainly(net: Any) -> None:
    whole = {**net.space.full, "num_hidden_layers": 2}
    asked = {"do_sample": False, "max_new_tokens": 8}
    plain = net.extract(whole).generate(**decoders.ragged(), **asked)
    for decoding in (sn.SelfSpeculative(adaptive=False), sn.EarlyExit(), sn.SelfSpeculative()):
        assert net.generate(**decoders.ragged(), setting=whole, decoding=decoding, **asked).tolist() == plain.tolist()


def test_a_narrower_sub_model_drafts(net: Any) -> None:
    asked = {"do_sample": False, "max_new_tokens": 8}
    for adaptive in (True, False):
        decoding = sn.SelfSpeculative(draft=net.submodel(num_hidden_layers=2, intermediate_size=24), adaptive=adaptive)
        found = net.generate(**decoders.ragged(), decoding=decoding, **asked)
        assert found.tolist() == net.full.generate(**decoders.ragged(), **asked).tolist()


def settings_of(depths: list[int], width: int = 48) -> list[dict[str, int]]:
    return [{"num_hidden_layers": depth, "intermediate_size": width} for depth in depths]


def alone(net: Any, settings: list[dict[str, int]], **asked: Any) -> list[list[int]]:
    """Return what each prompt gets of its own extracted model."""
    found = []
    for prompt, setting in zip(decoders.prompts(), settings, strict=True):
        given = {"input_ids": prompt[None]}
        found += decoders.new_tokens(net.extract(setting).generate(**given, **asked), given)
    return found


@pytest.mark.parametrize("width", [24, 48])
def test_mixed_depths_in_a_batch_are_each_alone(net: Any, width: int) -> None:
    asked = {"do_sample": False, "max_new_tokens": 8}
    settings = settings_of([2, 6, 4, 4], width)
    found = net.generate(**decoders.ragged(), settings=settings, **asked)
    assert decoders.new_tokens(found, decoders.ragged()) == alone(net, settings, **asked)


def test_mixed_depths_draft_below_the_shallowest(net: Any) -> None:
    asked = {"do_sample": False, "max_new_tokens": 8}
    for depths in ([4, 6, 4, 6], [6, 6, 4, 4]):
        decoding = sn.SelfSpeculative(exits=2, adaptive=False)
        found = net.generate(**decoders.ragged(), settings=settings_of(depths), decoding=decoding, **asked)
        assert decoders.new_tokens(found, decoders.ragged()) == alone(net, settings_of(depths), **asked)


def test_mixed_depths_leave_out_exits_that_nobody_named(net: Any) -> None:
    asked = {"do_sample": False, "max_new_tokens": 6}
    for depths in ([4, 6, 4, 6], [2, 6, 4, 2]):
        for adaptive in (True, False):
            decoding = sn.SelfSpeculative(adaptive=adaptive)
            found = net.generate(**decoders.ragged(), settings=settings_of(depths), decoding=decoding, **asked)
            assert decoders.new_tokens(found, decoders.ragged()) == alone(net, settings_of(depths), **asked)


POLICIES = {
    "fixed": lambda net: sn.FixedDepth(),
    "early": lambda net: sn.EarlyExit(exits=[2], thresholds=1.0),
    "speculative": lambda net: sn.SelfSpeculative(exits=[2]),
    "draft": lambda net: sn.SelfSpeculative(draft=net.submodel(num_hidden_layers=2)),
}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("depths", [[6], [4], [4, 6]])
def test_a_call_takes_the_model_apart_once(net: Any, monkeypatch: Any, name: str, training: bool, depths: Any) -> None:
    made, apart, built = POLICIES[name](net), [], []
    own, submodel = Decoder.__init__, net.submodel

    def take_apart(decoder: Decoder, model: Any, adapter: Any) -> None:
        apart.append(model)
        own(decoder, model, adapter)

    monkeypatch.setattr(Decoder, "__init__", take_apart)
    net.__dict__["submodel"] = lambda *given, **values: built.append(given) or submodel(*given, **values)
    chosen = [{"num_hidden_layers": depth, "intermediate_size": 48} for depth in depths]
    given = {"setting": chosen[0]} if len(chosen) == 1 else {"settings": chosen}
    try:
        net.train(training)
        net.generate(torch.tensor([[3, 4]] * len(chosen)), decoding=made, max_new_tokens=3, pad_token_id=0, **given)
    finally:
        net.eval()
        del net.__dict__["submodel"]
    assert len(apart) == (2 if name == "draft" else 1)
    assert len(built) == (training or max(depths) < 6)


def test_a_network_in_training_mode_decodes_as_in_evaluation_mode(net: Any) -> None:
    asked = {"do_sample": False, "max_new_tokens": 6, "decoding": sn.SelfSpeculative(adaptive=False)}
    plain = net.generate(**decoders.ragged(), **asked)
    try:
        assert net.train().generate(**decoders.ragged(), **asked).tolist() == plain.tolist()
        assert net.full.training
    finally:
        net.eval()


# Who is told, and where texts end.


DECODINGS = {
    "none": lambda net: None,
    "fixed": lambda net: sn.SelfSpeculative(exits=4, adaptive=False),
    "adaptive": lambda net: sn.SelfSpeculative(),
    "narrower": lambda net: sn.SelfSpeculative(draft=net.submodel(num_hidden_layers=2, intermediate_size=24)),
    "early_exit": lambda net: sn.EarlyExit(),
}


@pytest.mark.parametrize("name", DECODINGS)
def test_streamer_gets_the_prompt_every_token_in_order_and_one_end(net: Any, name: str) -> None:
    streamer, decoding = Streamed(), DECODINGS[name](net)
    asked = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": [27]}
    found = net.generate(decoders.PROMPT, decoding=decoding, streamer=streamer, **asked)
    prompt, *tokens = streamer.put_
    assert prompt == decoders.PROMPT[0].tolist()
    assert [*prompt, *(token for one in tokens for token in one)] == found[0].tolist()
    assert all(len(one) == 1 for one in tokens)
    assert streamer.ended == 1


def test_observe_gets_the_tokens_of_every_row_in_order() -> None:
    for make in (lambda **own: sn.SelfSpeculative(exits=3, adaptive=False, **own),
                 lambda **own: sn.EarlyExit(exits=[2, 4], thresholds=0.4, **own), sn.FixedDepth):  # fmt: skip
        told: list[sn.generation.Emitted] = []
        given, ends = decoders.ragged(), [34, 60]
        found = decoders.greedy(decoders.decoder(), given, make(observe=told.append), eos_token_id=ends)
        for row, tokens in enumerate(decoders.new_tokens(found, given, ends)):
            assert [one.token for one in told if one.row == row] == tokens


def test_observe_tells_who_chose_a_token() -> None:
    told: list[sn.generation.Emitted] = []
    chosen = sn.SelfSpeculative(exits=3, adaptive=False, observe=told.append)
    decoders.greedy(decoders.decoder(), decoders.single(), chosen)
    assert {(one.exit, one.drafted) for one in told} == {(3, True), (6, False)}
    assert not told[0].drafted, "the first token is the full model's"


@pytest.mark.parametrize("name", SOME)
def test_stopping_criteria_are_asked_token_by_token(name: str) -> None:
    plain = decoders.plain("llama", True, decoders.single(), max_new_tokens=12)[0]
    stop = StopsAt(int(plain[10]))  # the fifth new token, inside of a draft
    found = decoders.greedy(decoders.decoder(), decoders.single(), policy(name), stopping_criteria=[stop])
    end = plain[6:].tolist().index(stop.token) + 7
    assert found[0].tolist() == plain[:end].tolist()
    assert stop.lengths == list(range(7, end + 1))


def test_stopping_criteria_stop_one_row_of_a_batch() -> None:
    asked = {"stopping_criteria": [StopsAt(34)], "max_new_tokens": 10}
    plain = decoders.greedy(decoders.decoder(), decoders.ragged(), **asked)
    found = decoders.greedy(decoders.decoder(), decoders.ragged(), policy("one_exit"), **asked)
    assert found.tolist() == plain.tolist()


@pytest.fixture(scope="module")
def words() -> tuple[Any, sn.SortedNet]:
    """Return a tokenizer and a network of its vocabulary."""
    tokenizer = train_tokenizer(["some words of a small text, and more words"], 300, min_frequency=1)
    case = decoders.case_of("llama")
    model = decoders.spread(case, case.make(vocab_size=len(tokenizer)), weak=True)
    return tokenizer, sn.SortedNet.from_pretrained(model, num_hidden_layers=DEPTHS).eval()


@pytest.mark.parametrize("own", [{"adaptive": False, "draft_tokens": 6}, {}], ids=["fixed", "adaptive"])
def test_stop_strings_end_a_text_inside_of_a_draft(words: Any, own: Any) -> None:
    tokenizer, net = words
    ids = tokenizer("some", return_tensors="pt")["input_ids"]
    asked = {"do_sample": False, "max_new_tokens": 24, "tokenizer": tokenizer}
    whole = net.generate(ids, **asked)[0, ids.shape[1] :]
    last = tokenizer.convert_ids_to_tokens(whole.tolist())[7]
    stop = tokenizer.convert_tokens_to_string([last])
    asked["stop_strings"] = [stop]
    plain = net.generate(ids, **asked)
    found = net.generate(ids, decoding=sn.SelfSpeculative(exits=4, **own), **asked)
    assert plain.shape[1] < ids.shape[1] + 24
    assert found.tolist() == plain.tolist()


# Whole calls.


def test_a_policy_is_used_again_and_by_other_models() -> None:
    chosen = sn.SelfSpeculative()
    for _ in range(2):
        for name in ("llama", "gpt2"):
            for given in (decoders.single(), decoders.ragged()):
                found = decoders.greedy(decoders.decoder(name), given, chosen)
                assert found.tolist() == decoders.plain(name, True, given).tolist()


def test_generator_makes_draws_repeatable() -> None:
    def drawn(seed: int) -> list[Any]:
        chosen = sn.SelfSpeculative(exits=2, adaptive=False, generator=torch.Generator().manual_seed(seed))
        asked = {"do_sample": True, "max_new_tokens": 12, "custom_generate": chosen}
        return decoders.decoder().generate(**decoders.ragged(), **asked).tolist()

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_several_texts_of_one_prompt() -> None:
    chosen = sn.SelfSpeculative(exits=2, generator=torch.Generator().manual_seed(0))
    asked = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 6}
    found = decoders.decoder().generate(decoders.PROMPT, custom_generate=chosen, **asked)
    assert found.shape == (3, 12)
    assert len(set(map(tuple, found.tolist()))) == 3


def test_output_holds_the_texts_and_the_statistics() -> None:
    found = decoders.greedy(decoders.decoder(), decoders.single(), policy("one_exit"), return_dict_in_generate=True)
    assert found.sequences.tolist() == decoders.plain("llama", True, decoders.single()).tolist()
    assert (found.statistics.tokens, found.statistics.depth) == (12, 6)
    assert found.statistics.seconds > 0


def test_two_threads_at_two_depths_give_what_each_gives_alone() -> None:
    model, depths = decoders.decoder(), (3, 6)
    chosen = [sn.FixedDepth(depth=depth) for depth in depths]
    alone_ = [decoders.greedy(model, decoders.ragged(), one).tolist() for one in chosen]
    found: dict[int, list[Any]] = {0: [], 1: []}

    def decode(place: int) -> None:
        for _ in range(4):
            found[place].append(decoders.greedy(model, decoders.ragged(), chosen[place]).tolist())

    threads = [threading.Thread(target=decode, args=(place,)) for place in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {place: [alone_[place]] * 4 for place in found}
