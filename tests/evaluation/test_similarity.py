import json
import math

import pytest

from sortednet.errors import CheckpointError, DataError, SettingError
from sortednet.evaluation.similarity import Similarity


def found(**changes):
    given = {
        "measure": "kl",
        "settings": ("depth=1", "depth=2"),
        "positions": (0, 1),
        "values": ((0.5, 2.0), (0.1, math.inf)),
        "counts": (3, 1),
    }
    return Similarity(**{**given, **changes})


def test_reading_gives_back_what_was_written(tmp_path):
    one = found(name="SFT", reference="the sorted full model")
    one.to_json(tmp_path / "similarity.json")
    assert Similarity.from_json(tmp_path / "similarity.json") == one


def test_lists_become_tuples_so_that_a_result_is_hashable():
    assert hash(found(settings=["depth=1", "depth=2"], values=[[1, 2], [3, 4]])) is not None


def test_the_mean_weighs_positions_by_their_examples():
    assert found().mean({"depth": 1}) == pytest.approx((3 * 0.5 + 2.0) / 4)


def test_a_setting_without_a_row_is_refused():
    with pytest.raises(DataError, match=r"depth=3 was not compared. Choose one of \['depth=1', 'depth=2'\]"):
        found().mean("depth=3")


def test_an_unknown_measure_is_refused():
    with pytest.raises(DataError, match=r"measure='l2' is unknown. Choose one of \['kl', 'cosine'\]"):
        found(measure="l2")


@pytest.mark.parametrize(
    "changes",
    [{"values": ((0.5, 2.0),)}, {"counts": (3,)}, {"values": ((1.0,), (2.0,))}, {"settings": (), "values": ()}],
)
def test_sizes_that_do_not_fit_are_refused(changes):
    with pytest.raises(DataError, match=r"do not fit .* settings and 2 positions. Give each setting a row"):
        found(**changes)


def test_a_text_that_is_no_setting_is_refused():
    with pytest.raises(SettingError, match="'small' is not a setting"):
        found(settings=("small", "depth=2"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"similarity.json cannot be read .* Give the file"):
        Similarity.from_json(tmp_path / "similarity.json")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 1, "measure": "kl", "settings": 3}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "similarity.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"similarity.json is damaged .* Restore it, or compare again"):
        Similarity.from_json(tmp_path / "similarity.json")


def test_a_later_format_is_named(tmp_path):
    (tmp_path / "similarity.json").write_text(json.dumps({"format": 9}))
    with pytest.raises(CheckpointError, match=r"has format 9; this version reads format 1. Update sortednet"):
        Similarity.from_json(tmp_path / "similarity.json")
