import io
import json
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.style import Style
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

import sortednet as sn
from sortednet.cli import main
from sortednet.data.text import train_tokenizer
from sortednet.files.weights import digest
from sortednet.generation import Emitted, FixedDepth
from sortednet.jobs import language_models
from sortednet.jobs.generation_config import GenerateConfig
from sortednet.jobs.language_models import TokenText, continue_text, make_policy
from sortednet.models import MLP

from ..test_cli import error_of

TEXTS = ["once upon a time there was a fox", "the fox was not a hen", "the hen had a hat"]
PROMPT = "once upon"
ESCAPE = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model of three depths and two widths, as `save_pretrained` leaves it."""
    made = tmp_path_factory.mktemp("generate") / "model"
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        max_position_embeddings=128, initializer_range=0.3, **tokens,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2, 4], intermediate_size=[16, 32]).save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TTY_COMPATIBLE", "1"), ("COLORTERM", "truecolor"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)


def expected(folder: Path, tokenizer: Any, count: int, at: str | None = None, **options: Any) -> str:
    """Return the text that transformers continues the prompt with."""
    model = sn.load(folder, at=at).eval() if at else LlamaForCausalLM.from_pretrained(folder).eval()
    inputs = tokenizer(PROMPT, return_tensors="pt")
    found = model.generate(**inputs, max_new_tokens=count, **{"do_sample": False, **options})
    return tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def written(tokenizer: Any, tokens: Sequence[int], before: Sequence[int] = ()) -> list[tuple[str, int]]:
    """Return the pieces of text that tokens give, the exits being 1, 2, ..."""
    pieces: list[tuple[str, int]] = []
    text = TokenText(tokenizer, before, lambda piece, depth: pieces.append((piece, depth)))
    for place, token in enumerate(tokens):
        text(Emitted(0, token, place + 1))
    text.end()
    return pieces


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


# What is written


@pytest.mark.parametrize("decoding", ["self_speculative", "plain"])
def test_the_plain_output_is_the_text_that_transformers_generates(
    folder: Path, tokenizer: Any, capfdbinary, decoding: str
) -> None:
    assert main(["generate", str(folder), PROMPT, "--decoding", decoding, "--max_new_tokens", "60"]) == 0
    out, err = capfdbinary.readouterr()
    text = expected(folder, tokenizer, 60)
    assert len(text) > 20
    assert out.decode() == text + "\n"
    assert b"60 tokens" in err
    assert b"of the layers run; mean exit" in err


def test_a_sub_model_decodes_its_own_text(folder: Path, tokenizer: Any, capfd) -> None:
    at = "num_hidden_layers=2,intermediate_size=16"
    assert main(["generate", str(folder), PROMPT, "--setting", at, "--max_new_tokens", "30"]) == 0
    out, err = capfd.readouterr()
    assert out == expected(folder, tokenizer, 30, at) + "\n"
    assert " of 2" in err


def test_early_exit_at_a_low_threshold_takes_the_exits_text(folder: Path, tokenizer: Any, capfd) -> None:
    words = ["--decoding", "early_exit", "--exits", "2", "--thresholds", "1e-6", "--max_new_tokens", "12"]
    assert main(["generate", str(folder), PROMPT, *words]) == 0
    out, err = capfd.readouterr()
    assert out == expected(folder, tokenizer, 12, "num_hidden_layers=2,intermediate_size=32") + "\n"
    assert "mean exit 2.0 of 4" in err
    assert "accepted" not in err


def test_a_sub_model_without_exits_decodes_plainly(folder: Path, tokenizer: Any, capfd) -> None:
    at = "num_hidden_layers=1"
    assert main(["generate", str(folder), PROMPT, "--setting", at, "--max_new_tokens", "12"]) == 0
    out, err = capfd.readouterr()
    assert out == expected(folder, tokenizer, 12, at) + "\n"
    assert "accepted" not in err


def test_fixed_drafts_leave_the_text_as_it_is(folder: Path, tokenizer: Any, capfd) -> None:
    words = ["--exits", "[1,2]", "--thresholds", "[0.1,0.01]", "--draft_tokens", "3", "--max_new_tokens", "30"]
    assert main(["generate", str(folder), PROMPT, *words]) == 0
    out, err = capfd.readouterr()
    assert out == expected(folder, tokenizer, 30) + "\n"
    assert "% of drafted tokens accepted" in err


def test_the_prompt_may_come_from_standard_input(folder: Path, tokenizer: Any, capfd, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT + "\n"))
    assert main(["generate", str(folder), "-", "--max_new_tokens", "8"]) == 0
    assert capfd.readouterr().out == expected(folder, tokenizer, 8) + "\n"


def test_a_run_is_opened_by_its_folder(folder: Path, tokenizer: Any, capfd) -> None:
    assert main(["generate", str(folder.parent), PROMPT, "--max_new_tokens", "8"]) == 0
    assert capfd.readouterr().out == expected(folder, tokenizer, 8) + "\n"


@pytest.mark.parametrize("words", [["--top_k", "7"], ["--top_p", "0.5"], []])
def test_tokens_are_drawn_alike_for_a_seed(folder: Path, capfd, words: list[str]) -> None:
    texts = []
    for seed in ("3", "3", "4"):
        given = ["--temperature", "1.5", "--seed", seed, "--max_new_tokens", "20", "--decoding", "plain", *words]
        assert main(["generate", str(folder), PROMPT, *given]) == 0
        texts.append(capfd.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_the_models_own_file_does_not_limit_what_is_drawn() -> None:
    assert GenerateConfig(temperature=0.5).sampling == {
        "do_sample": True, "temperature": 0.5, "top_k": 0, "top_p": 1.0,
    }  # fmt: skip
    assert GenerateConfig().sampling == {"do_sample": False}


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_legend_the_prompt_and_colours(folder: Path, tokenizer: Any, capfd) -> None:
    words = ["--decoding", "early_exit", "--thresholds", "0.05", "--max_new_tokens", "40"]
    assert main(["generate", str(folder), PROMPT, *words]) == 0
    out = capfd.readouterr().out
    plain = ESCAPE.sub("", out)
    assert plain.startswith(f"layers that chose a token: 1 2 4\n\n{PROMPT}")
    assert "40 tokens" in plain.splitlines()[-1]
    legend = dict(re.findall(r"(\x1b\[38;2;[\d;]+m) (\d)\x1b\[0m", out.split("\n")[0]))
    assert sorted(legend.values()) == ["1", "2", "4"]
    body = out.split("\n\n", 1)[1]
    assert len({colour for colour in legend if colour in body}) >= 2


@pytest.mark.usefixtures("terminal")
def test_a_terminal_without_colours_gets_no_legend(folder: Path, capfd, monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["generate", str(folder), PROMPT, "--max_new_tokens", "3"]) == 0
    assert ESCAPE.sub("", capfd.readouterr().out).startswith(PROMPT)


@pytest.mark.usefixtures("terminal")
def test_each_token_has_the_colour_of_its_exit(folder: Path, tokenizer: Any) -> None:
    seen: list[Emitted] = []
    net = sn.load(folder).eval()
    config = GenerateConfig(decoding="early_exit", thresholds=0.05, max_new_tokens=40)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    policy = make_policy(config, None, seen.append)
    net.generate(**inputs, decoding=policy, max_new_tokens=40, do_sample=False)
    assert len({one.exit for one in seen}) >= 2
    page = Console(record=True, force_terminal=True, color_system="truecolor", file=io.StringIO(), soft_wrap=True)
    continue_text(folder, PROMPT, config, page, Console(file=io.StringIO()))
    styles = dict(zip([1, 2, 4], language_models._colours(3), strict=True))
    wanted: list[tuple[str, Style]] = []
    text = TokenText(
        tokenizer, inputs["input_ids"][0].tolist(), lambda piece, depth: wanted.append((piece, styles[depth]))
    )
    for one in seen:
        text(one)
    text.end()
    found = [(one.text, one.style) for one in page._record_buffer if not one.control]
    start = next(place for place, one in enumerate(found) if one[0] == PROMPT) + 1
    assert found[start : start + len(wanted)] == [
        (piece.translate(language_models._SHOWN), style) for piece, style in wanted
    ]


@pytest.mark.usefixtures("terminal")
def test_control_characters_are_shown_and_not_obeyed_on_a_terminal(folder: Path, capfd) -> None:
    assert main(["generate", str(folder), "once \x1b[31m\x9b2J", "--max_new_tokens", "1"]) == 0
    assert "once ␛[31m\ufffd2J" in ESCAPE.sub("", capfd.readouterr().out)


def test_depths_have_different_colours() -> None:
    assert len(set(map(str, language_models._colours(12)))) == 12
    assert len(language_models._colours(1)) == 1


def test_a_long_line_keeps_its_spaces_and_tabs() -> None:
    page = Console(force_terminal=True, color_system=None, file=(file := io.StringIO()), width=20)
    text = language_models.ColouredText(page, [1], "p")
    text("a" * 30 + " " * 30 + "\t\tb [red]:smile:[/]", 1)
    text.end()
    assert "a" * 30 + " " * 30 + "\t\tb [red]:smile:[/]\n" in file.getvalue()


# From tokens to text


@pytest.mark.parametrize("text", ["Käse für Jörg", "a 😀 b", "日本語", "👍🏽", "  two  spaces \n\n line", "tab\tend "])
def test_text_comes_out_whole(tokenizer: Any, text: str) -> None:
    pieces = written(tokenizer, ids(tokenizer, text))
    assert "".join(piece for piece, _ in pieces) == text
    assert not any("\ufffd" in piece for piece, _ in pieces)


def test_a_split_character_waits_and_takes_its_greatest_depth(tokenizer: Any) -> None:
    tokens = ids(tokenizer, "😀ä!")
    assert len(tokens) == 7
    assert written(tokenizer, tokens) == [("😀", 4), ("ä", 6), ("!", 7)]


def test_every_whole_token_is_written_at_once(tokenizer: Any) -> None:
    tokens = ids(tokenizer, "once upon a time")
    assert [depth for _, depth in written(tokenizer, tokens)] == list(range(1, len(tokens) + 1))


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_what_is_no_character_is_written_as_decode_gives_it(tokenizer: Any, cut: int) -> None:
    broken = ids(tokenizer, "😀")[:cut]
    for tokens in (broken, broken * 4, [*broken, *ids(tokenizer, "ab")], [*broken * 5, *ids(tokenizer, "😀x")]):
        assert "".join(piece for piece, _ in written(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_random_bytes_are_written_as_decode_gives_them(tokenizer: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        tokens = torch.randint(3, len(tokenizer), (20,), generator=generator).tolist()
        assert "".join(piece for piece, _ in written(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_special_tokens_are_left_out(tokenizer: Any) -> None:
    tokens = [*ids(tokenizer, "fox"), tokenizer.bos_token_id, *ids(tokenizer, " hen"), tokenizer.eos_token_id]
    assert "".join(piece for piece, _ in written(tokenizer, tokens)) == "fox hen"


def test_the_first_word_keeps_its_space() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "▁a": 1, "▁fox": 2, "<0xC3>": 3, "<0xA4>": 4, "</s>": 5}
    made = Tokenizer(models.WordLevel(words, "<unk>"))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)  # as Llama 2 has it
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>")
    assert written(tokenizer, [2, 5, 1, 3, 4, 2], before=[1]) == [(" fox", 1), (" a", 3), ("ä", 5), (" fox", 6)]


# Errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--exits", "3"], r"Exit 3 is outside the depth support \[1, 2, 4\]\. Choose from \[1, 2\]\."),
        (["--exits", "[2,1]"], r"exits=\[2, 1\] must increase, each depth once"),
        (["--setting", "num_hidden_layers=3"], r"num_hidden_layers=3 is outside its support \[1, 2, 4\]"),
        (["--setting", "small"], r"'small' is not a setting"),
        (["--decoding", "fast"], r"self_speculative.*Got value: fast"),
        (["--max_new_tokens", "0"], r"max_new_tokens=0 must be at least 1"),
        (["--temperature", "0"], r"temperature=0.0 must be above 0; leave it out to draw nothing"),
        (["--temperature", "1", "--top_k", "0"], r"top_k=0 must be at least 1"),
        (["--temperature", "1", "--top_p", "2"], r"top_p=2.0 must be in \(0, 1\]"),
        (["--seed", "-1"], r"seed=-1 must be at least 0"),
        (["--top_k", "5"], r"top_k=5 is for drawn tokens\. Give temperature too"),
        (
            ["--decoding", "plain", "--exits", "2"],
            r"exits=2 is not used by decoding=plain\. Leave it out, or choose self",
        ),
        (["--decoding", "early_exit", "--draft_tokens", "4"], r"draft_tokens=4 is not used by decoding=early_exit"),
        (["--draft_tokens", "65"], r"draft_tokens=65 is no whole number in \[1, 64\]"),
        (["--thresholds", "1.5"], r"A threshold of 1\.5 is outside \(0, 1\]"),
        (["--thresholds", "[0.5]"], r"thresholds=\[0\.5\] are 1 for the exits \[1, 2\]"),
    ],
)
def test_a_wrong_option_is_one_clear_error(folder: Path, capsys, words: list[str], message: str) -> None:
    assert re.search(message, error_of(capsys, "generate", str(folder), PROMPT, *words))


@pytest.mark.usefixtures("terminal")
def test_nothing_is_written_before_an_error(folder: Path, capsys) -> None:
    assert main(["generate", str(folder), "fox " * 200]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "model 128 positions. Shorten the prompt" in ESCAPE.sub("", err)


def test_a_folder_without_a_network_says_what_to_give(tmp_path: Path, capsys) -> None:
    assert "There is no network in" in error_of(capsys, "generate", str(tmp_path), PROMPT)
    (tmp_path / "config.json").write_text("{}")
    assert f"Finish it first: sortednet train {tmp_path}" in error_of(capsys, "generate", str(tmp_path), PROMPT)


def test_an_encoder_has_nothing_to_generate(tmp_path: Path, capsys) -> None:
    config = BertConfig(vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    sn.SortedNet.from_pretrained(BertForSequenceClassification(config), num_hidden_layers=[1, 2]).save_pretrained(
        tmp_path
    )
    message = error_of(capsys, "generate", str(tmp_path), PROMPT)
    assert "holds a BertForSequenceClassification, which is no causal language model" in message


def test_a_model_of_ones_own_has_nothing_to_generate(tmp_path: Path, capsys) -> None:
    space = sn.Space(depth=[1, 2], width=[2, 4])
    sn.SortedNet(lambda depth, width: MLP(depth, width, inputs=4, classes=2), space).save_pretrained(tmp_path)
    assert "holds a model of your own, which is no causal" in error_of(capsys, "generate", str(tmp_path), PROMPT)


def copied(folder: Path, to: Path, *left_out: str) -> Path:
    to.mkdir(exist_ok=True)
    for one in folder.iterdir():
        if one.is_file() and one.name not in left_out:
            (to / one.name).write_bytes(one.read_bytes())
    return to


def test_a_missing_tokenizer_is_named(folder: Path, tmp_path: Path, capsys) -> None:
    made = copied(folder, tmp_path / "bare", "tokenizer.json", "tokenizer_config.json")
    message = error_of(capsys, "generate", str(made), PROMPT)
    assert f"{made} holds no tokenizer. Save it there: tokenizer.save_pretrained('{made}')" in message


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_damaged_file_is_named(folder: Path, tmp_path: Path, capsys, name: str) -> None:
    made = copied(folder, tmp_path / "damaged")
    (made / name).write_text("{")
    assert f"{made / name} is damaged" in error_of(capsys, "generate", str(made), PROMPT)


def test_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path, capsys) -> None:
    made = copied(folder, tmp_path / "other")
    larger = train_tokenizer([" ".join(TEXTS), *(f"word{i} word{i}" for i in range(99))], vocab_size=600)
    larger.save_pretrained(made)
    message = error_of(capsys, "generate", str(made), "word98 word97")
    assert re.search(r"The tokenizer gives the token \d+, and the model has \d+", message)


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_refused(folder: Path, capsys, monkeypatch, prompt: str) -> None:
    assert "The prompt is empty" in error_of(capsys, "generate", str(folder), prompt)
    monkeypatch.setattr(sys, "stdin", io.StringIO(prompt))
    assert "The prompt is empty" in error_of(capsys, "generate", str(folder), "-")


def test_a_prompt_that_is_no_text_is_refused(folder: Path, capsys, monkeypatch) -> None:
    assert "cannot be read as UTF-8" in error_of(capsys, "generate", str(folder), "a\udcff")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), "utf-8"))
    assert "cannot be read as UTF-8" in error_of(capsys, "generate", str(folder), "-")


def test_an_encoding_without_the_character_says_what_to_set() -> None:
    page = Console(file=io.TextIOWrapper(io.BytesIO(), "ascii"))
    with pytest.raises(sn.errors.DataError, match=r"encoding ascii has no 'ä'. Set PYTHONIOENCODING=utf-8"):
        language_models.ColouredText(page, [1], "p")("ä", 1)


def test_an_interrupted_text_ends_its_line(folder: Path, capfd, monkeypatch) -> None:
    def stop(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(language_models.TokenText, "_decoded", _after(5, language_models.TokenText._decoded, stop))
    assert main(["generate", str(folder), PROMPT]) == 130
    out, err = capfd.readouterr()
    assert out.endswith("\n")
    assert err.strip() == "Interrupted."


def _after(count: int, function: Any, then: Any) -> Any:
    calls = iter(range(count))

    def counted(*args: Any) -> Any:
        if next(calls, None) is None:
            then()
        return function(*args)

    return counted


def test_a_selection_decodes_by_its_label(folder: Path, tokenizer: Any, capfd, tmp_path: Path) -> None:
    made = copied(folder, tmp_path / "run")
    at = "num_hidden_layers=2,intermediate_size=16"
    (made / "chosen.json").write_text(json.dumps({"model": digest(made), "chosen": {"small": at}}))
    assert main(["generate", str(made), PROMPT, "--setting", "small", "--max_new_tokens", "9"]) == 0
    assert capfd.readouterr().out == expected(folder, tokenizer, 9, at) + "\n"


def test_plain_decoding_is_a_policy_of_its_own() -> None:
    assert isinstance(make_policy(GenerateConfig(decoding="plain"), None, None), FixedDepth)
