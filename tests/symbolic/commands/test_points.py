import csv
from pathlib import Path

import numpy as np
import pytest

from sortednet.errors import DataError
from sortednet.symbolic.commands.points import read_points


def written(folder: Path, text: str | bytes, name: str = "points.csv") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_may_be_separated_by_commas_semicolons_or_tabs(tmp_path: Path, separator: str) -> None:
    text = "a,b,y\n1,2,3\n4,5,6\n".replace(",", separator)
    points = read_points(written(tmp_path, text))
    assert (points.columns, points.target) == (("a", "b"), "y")
    assert points.x.tolist() == [[1, 2], [4, 5]]
    assert points.y.tolist() == [3, 6]


def test_the_target_and_the_columns_can_be_chosen(tmp_path: Path) -> None:
    file = written(tmp_path, "name,y,a,b\nfirst,1,2,3\nsecond,4,5,6\n")
    points = read_points(file, "y", ["b"])
    assert (points.columns, points.target) == (("b",), "y")
    assert points.x.tolist() == [[3], [6]]


def test_quotes_blank_lines_spaces_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    text = '\ufeff"speed, m/s" , y\r\n\r\n 1 , 2e-3\r\n"3",4\r\n , \r\n'
    points = read_points(written(tmp_path, text))
    assert points.columns == ("speed, m/s",)
    assert np.column_stack([points.x, points.y]).tolist() == [[1, 0.002], [3, 4]]


def test_a_column_without_a_name_can_be_left_out(tmp_path: Path) -> None:
    file = written(tmp_path, ",x,y\n0,1,2\n1,3,4\n")
    assert read_points(file, columns=["x"]).x.tolist() == [[1], [3]]


BAD = {
    "": "is empty. Give a line of names, such as x,y",
    "\n \n": "is empty",
    "x,y\n": "has too few points below its line of names: 0. Give 2, better 20",
    "x,y\n1,2\n": "has too few points below its line of names: 1",
    "1,2\n3,4\n": "begins with the numbers 1, 2, not with names. Put a line of names first, such as x,y",
    "x,y,x\n1,2,3\n4,5,6\n": "has two columns 'x', number 1 and 3. Rename one",
    ",x,y\n0,1,2\n1,3,4\n": "Column 1 of {file} has no name. Name it, or if it only numbers the lines",
    "y\n1\n2\n": "has only the column 'y'. Give at least one more",
    "x,y\n1,2\n3\n": "Line 3 of {file} has 1 columns, and the first line 2",
    "x,y\n1,2\n\n3,4,5\n": "Line 4 of {file} has 3 columns",
    "x,y\n1,2\nred,4\n": "Column 'x' of {file} holds the text 'red' at line 3. Give numbers with a decimal",
    "x;y\n1,5;2\n1;4\n": "Column 'x' of {file} holds the text '1,5' at line 2. Give numbers with a decimal point",
    "x,y\n1_000,2\n1,4\n": "holds the text '1_000'",
    f"x,y\n{'a' * 99},2\n1,4\n": f"holds the text '{'a' * 37}...'",
    "x,y\n1,2\n,4\n": "Column 'x' of {file} is empty at line 3. Fill it, or remove the line",
    "x,y\n1,nan\n3,4\n": "Column 'y' of {file} holds nan at line 2, which is no finite number. Remove the line",
    "x,y\n1,2\n-inf,4\n": "Column 'x' of {file} holds -inf at line 3",
    "x,y\n1,2\n1e999,4\n": "Column 'x' of {file} holds 1e999 at line 3, which is no finite number",
    "x,y\n1,2\n1e200,4\n": "The largest size in column 'x' of {file} is 1e+200, outside 1e-30 to 1e+30. Give it",
    "x,y\n1,2e-50\n1,3e-50\n": "The largest size in column 'y' of {file} is 3e-50",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_table_of_numbers_is_named(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_points(file)
    assert BAD[text].format(file=file) in str(caught.value)
    assert str(file) in str(caught.value)


def test_text_that_is_not_utf_8_is_named_with_its_line(tmp_path: Path) -> None:
    file = written(tmp_path, "größe,y\n1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"no text in UTF-8 \(line 1, byte 0xf6\). Save it as CSV in UTF-8"):
        read_points(file)


def test_a_field_that_never_ends_is_named(tmp_path: Path) -> None:
    file = written(tmp_path, 'x,y\n1,2\n"' + "3" * (csv.field_size_limit() + 1))
    with pytest.raises(DataError, match=r"Line 3 of .* is no CSV: field larger than field limit"):
        read_points(file)


@pytest.mark.parametrize(("name", "why"), [("nowhere.csv", "No such file"), (".", "Is a directory")])
def test_a_missing_file_is_named(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(DataError, match=rf"cannot be read \({why}.*\). Give a CSV file"):
        read_points(tmp_path / name)


@pytest.mark.parametrize(
    ("target", "columns", "message"),
    [
        ("z", None, "has no column 'z'. Choose from a, b, y"),
        (None, ["a", "c"], "has no column 'c'. Choose from a, b, y"),
        ("a", ["a", "b"], "columns=a b must be different ones, without the target 'a'"),
        (None, ["a", "a"], "columns=a a must be different ones"),
    ],
)
def test_a_choice_that_the_file_does_not_have_is_named(tmp_path: Path, target, columns, message: str) -> None:
    file = written(tmp_path, "a,b,y\n1,2,3\n4,5,6\n")
    with pytest.raises(DataError, match=message):
        read_points(file, target, columns)


def test_every_line_of_a_long_file_is_read(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5000, 2))
    file = written(tmp_path, "a,y\n" + "\n".join(f"{float(a)!r},{float(b)!r}" for a, b in x))
    points = read_points(file)
    assert np.array_equal(np.column_stack([points.x, points.y]), x)
