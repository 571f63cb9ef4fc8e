import gzip
import json
import sys

import numpy as np
import pytest
import torch

from sortednet.data.text import TextTask, from_columns, load_files, load_hub, load_task, load_text
from sortednet.errors import ConfigError, DataError

SENTIMENT = TextTask("classification", ("text",), "label")
SCORED = TextTask("regression", ("text",), "score")
QUESTIONS = TextTask("causal", ("question",), "answer")
PLAIN = TextTask("causal", ("text",))
FACTS = ["Aarhus_Airport | cityServed | Aarhus", 'Aarhus | leader | "Jacob | Bundsgaard"']
IN_ONE_LINE = 'Aarhus_Airport : cityServed : Aarhus | Aarhus : leader : "Jacob | Bundsgaard"'
GLUE = {
    "glue_sst2_train.tsv": 'sentence\tlabel\na "fine film\t1\n"bad"\t0\ndull\t0\n',
    "glue_sst2_dev.tsv": "sentence\tlabel\ngood\t1\n",
    "glue_mrpc_train.tsv": "label\tid1\tid2\tsentence1\tsentence2\n1\t5\t6\tA.\tB.\n0\t7\t8\tC.\tD.\n",
    "glue_mrpc_test.tsv": "label\tid1\tid2\tsentence1\tsentence2\n0\t9\t10\tE.\tF.\n",
    "glue_rte_train.tsv": "label\tsentence1\tsentence2\nnot_entailment\tA.\tB.\nentailment\tC.\tD.\n",
    "glue_rte_dev.tsv": "label\tsentence1\tsentence2\nentailment\tE.\tF.\n",
    "glue_stsb_train.tsv": "score\tgenre\tsentence1\tsentence2\n5.000\tnews\tA.\tB.\n2.5\tnews\tC.\tD.\n",
    "glue_stsb_dev.tsv": "score\tgenre\tsentence1\tsentence2\n0\tnews\tE.\tF.\n",
}


def write(path, text, zipped=False):
    if zipped:
        path = path.with_name(path.name + ".gz")
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8", newline="")
    return path


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def sentiment(count=10, **changes):
    return {"text": [f"text {i}" for i in range(count)], "label": [i % 2 for i in range(count)], **changes}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every file of the named tasks, in its format, gzipped."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, text in GLUE.items():
        write(folder / name, text, zipped=True)
    solved = [{"question": f"{i} + 1?", "answer": f"<<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"} for i in range(3)]
    write(folder / "gsm8k_train.jsonl", lines(solved), zipped=True)
    write(folder / "gsm8k_test_a.jsonl", lines(solved[:1]), zipped=True)
    tasks = [{"instruction": f"Do {i}.", "input": "" if i % 2 else f"in {i}", "output": f"out {i}"} for i in range(600)]
    write(folder / "alpaca_random9k.jsonl", lines([*tasks, {**tasks[0], "output": ""}]), zipped=True)
    for split, count in (("train", 3), ("dev", 1), ("test", 2)):
        rows = [
            {"category": "City", "size": 2, "triples": FACTS, "refs": [f"{split} {i}", "again"]} for i in range(count)
        ]
        write(folder / f"webnlg_v1.6_en_{split}.jsonl", lines([*rows, {"triples": FACTS, "refs": []}]), zipped=True)
    for split, count in (("valid", 3), ("test", 1)):
        rows = [{"mr": "name : Zizzi | Type : pub", "ref": f"Zizzi is a pub {i} ."} for i in range(count)]
        write(folder / f"e2e_{split}.jsonl", lines(rows), zipped=True)
    return folder


@pytest.mark.parametrize(
    ("name", "sizes", "kind", "metric", "names", "first"),
    [
        ("sst2", (3, 1), "classification", "accuracy", ("negative", "positive"), {"label": 1}),
        ("mrpc", (2, 1), "classification", "f1", ("not_equivalent", "equivalent"), {"sentence1": "A.", "label": 1}),
        ("rte", (2, 1), "classification", "accuracy", ("entailment", "not_entailment"), {"sentence2": "B."}),
        ("stsb", (2, 1), "regression", "pearson", (), {"sentence1": "A.", "score": 5.0}),
        ("gsm8k", (3, 1), "causal", "exact_match", (), {"question": "0 + 1?", "answer": "<<0+1=1>>1\n#### 1"}),
        ("alpaca", (100, 500), "causal", "loss", (), {}),
        ("webnlg", (6, 4), "causal", "loss", (), {"triples": IN_ONE_LINE, "text": "train 0"}),
        ("e2e", (3, 1), "causal", "loss", (), {"meaning": "name : Zizzi | Type : pub", "text": "Zizzi is a pub 0 ."}),
    ],
)  # fmt: skip
def test_named_task_loads(folder, name, sizes, kind, metric, names, first):
    data = load_text(name, folder)
    assert (data.train.num_rows, data.evaluation.num_rows) == sizes
    assert (data.name, data.kind, data.metric, data.label_names) == (name, kind, metric, names)
    assert data.train.column_names == list(data.task.columns)
    assert first.items() <= data.train[0].items()


def test_named_task_loads_files_that_are_not_gzipped(tmp_path):
    for name in ("glue_sst2_train.tsv", "glue_sst2_dev.tsv"):
        write(tmp_path / name, GLUE[name])
    assert load_task("sst2", str(tmp_path)).train.num_rows == 3


def test_quote_marks_in_tsv_are_literal(folder):
    assert load_text("sst2", folder).train["sentence"][:2] == ['a "fine film', '"bad"']


def test_empty_outputs_of_alpaca_are_left_out_and_counted(folder):
    data = load_text("alpaca", folder, evaluation_examples=10)
    assert (data.train.num_rows, data.evaluation.num_rows, data.dropped) == (590, 10, 1)
    assert data.overlap() == 0


def test_every_reference_is_an_example_and_triples_without_any_are_left_out(folder):
    data = load_text("webnlg", folder)
    assert data.evaluation["text"][:] == ["test 0", "again", "test 1", "again"]
    assert set(data.evaluation["triples"][:]) == {IN_ONE_LINE}


def test_another_split_can_be_evaluated_on(folder):
    data = load_text("webnlg", folder, evaluation_split="dev")
    assert data.evaluation["text"][:] == ["dev 0", "again"]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("webnlg", r"evaluation_split='validation' is no split of webnlg. Choose one of \['dev', 'test'\]"),
        ("sst2", r"evaluation_split='validation' is no split of sst2. It has no other split; leave it out"),
    ],
)
def test_an_unknown_split_is_refused(folder, name, match):
    with pytest.raises(ConfigError, match=match):
        load_text(name, folder, evaluation_split="validation")


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"triples": "a | b | c", "refs": ["x"]}, r"Row 1 of .*train.* has triples='a \| b \| c', which is no list"),
        ({"triples": ["a | b | c"], "refs": "x"}, r"Row 1 of .* has refs='x', which is no list of texts"),
        ({"triples": ["a | b"], "refs": ["x"]}, r"triples \['a \| b'\]. Write each as 'subject \| property \| object'"),
        ({"triples": [], "refs": ["x"]}, r"Row 1 of .* has the triples \[\]"),
        ({"triples": ["a | b | c"]}, r"lacks the columns \['refs'\]"),
        ({"triples": ["a | b | c"], "refs": []}, r"at least one row"),
    ],
)
def test_unfit_facts_are_refused(tmp_path, row, match):
    for split in ("train", "test"):
        write(tmp_path / f"webnlg_v1.6_en_{split}.jsonl", lines([row]))
    with pytest.raises(DataError, match=match):
        load_text("webnlg", tmp_path)


def test_data_are_in_memory(folder):
    assert load_text("mrpc", folder).train.cache_files == []


def test_num_labels_is_the_models(folder):
    assert [load_text(name, folder).num_labels for name in ("mrpc", "stsb", "gsm8k")] == [2, 1, 0]


def test_csv_is_quoted_as_usual_and_keeps_words_like_null(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\r\n"a, ""b""\nc",yes\r\nNA,no\r\n\r\nnull,no\r\n')
    data = load_files(path, path, task=SENTIMENT)
    assert data.train["text"][:] == ['a, "b"\nc', "NA", "null"]
    assert data.label_names == ("no", "yes")
    assert data.train["label"][:] == [1, 0, 0]


def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path):
    path = write(tmp_path / "a.tsv", "\ufefftext\tlabel\na\t0\nb\t1\n")
    assert load_files(path, path, task=SENTIMENT).train["text"][:] == ["a", "b"]


def test_jsonl_keeps_the_named_columns(tmp_path):
    path = write(
        tmp_path / "a.jsonl", lines([{"text": "é", "label": 0, "id": 1}, {"text": "b", "label": 1}]) + "\n", True
    )
    data = load_files(path, path, task=SENTIMENT)
    assert data.train[0] == {"text": "é", "label": 0}


@pytest.mark.parametrize(
    ("separator", "expected"), [("\n", ["one", "  two", "three"]), ("\n\n", ["one", "  two\nthree"])]
)
def test_text_file_is_divided(tmp_path, separator, expected):
    path = write(tmp_path / "a.txt", "one\r\n\r\n  two\r\nthree\r\n")
    data = load_text("text", train=path, evaluation=path, separator=separator)
    assert data.train["text"][:] == expected
    assert (data.kind, data.label_column) == ("causal", None)


def test_load_text_takes_the_tasks_arguments_beside_the_loaders(tmp_path):
    path = write(tmp_path / "mine", "first\tsecond\tscore\na\tb\t1.5\nc\td\t2\n")
    options = {"kind": "regression", "text_columns": ["first", "second"], "label_column": "score"}
    data = load_text("tsv", train=path, evaluation=path, metric="spearman", **options)
    assert (data.metric, data.text_columns, data.train["score"][:]) == ("spearman", ("first", "second"), [1.5, 2.0])


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A data set in the Hub's layout, and a folder for the cache."""
    folder = tmp_path_factory.mktemp("hub")
    write(folder / "train.jsonl", lines([{"text": f"t{i}", "label": i % 3, "extra": i} for i in range(6)]))
    write(folder / "validation.jsonl", lines([{"text": "v", "label": 2, "extra": 0}]))
    return str(folder), tmp_path_factory.mktemp("cache")


def test_data_set_of_the_hub_loads(hub):
    data = load_hub(hub[0], task=SENTIMENT, cache_folder=hub[1])
    assert (data.train.num_rows, data.evaluation[0]) == (6, {"text": "v", "label": 2})
    assert data.label_names == ("0", "1", "2")
    assert data.train.cache_files == []


def test_data_set_of_the_hub_loads_by_load_text(hub):
    options = {"kind": "classification", "text_columns": ["text"], "label_column": "label"}
    data = load_text(
        hub[0], "hub", train_split="train[:3]", evaluation_split=None, evaluation_examples=1, cache_folder=hub[1],
        label_names=["a", "b", "c"], **options,
    )  # fmt: skip
    assert (data.train.num_rows, data.evaluation.num_rows, data.label_names) == (2, 1, ("a", "b", "c"))


def test_the_class_names_of_the_hub_are_kept(monkeypatch):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    made = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made)
    data = load_hub("any", task=SENTIMENT)
    assert (data.label_names, data.train["label"][:]) == (("bad", "good"), [1, 0])


@pytest.mark.parametrize(
    ("name", "path", "config", "split", "label"),
    [
        ("sst2", "nyu-mll/glue", "sst2", "validation", "label"),
        ("stsb", "nyu-mll/glue", "stsb", "validation", "label"),
        ("gsm8k", "openai/gsm8k", "main", "test", "answer"),
    ],
)
def test_named_task_comes_from_its_place_on_the_hub(monkeypatch, folder, name, path, config, split, label):
    import datasets

    local, asked = load_text(name, folder), []

    def load_dataset(path, config, *, split, **_):
        asked.append((path, config, split))
        part = local.train if split == "train" else local.evaluation
        return part if local.label_column == label else part.rename_column(local.label_column, label)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load_text(name, "hub")
    assert asked == [(path, config, "train"), (path, config, split)]
    assert (data.label_column, data.train.num_rows) == (label, local.train.num_rows)


def test_alpaca_of_the_hub_is_held_out_from_its_only_split(monkeypatch, folder):
    import datasets

    rows = load_text("alpaca", folder).train
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda path, *_, split, **__: asked.append((path, split)) or rows)
    data = load_text("alpaca", "hub", evaluation_examples=20)
    assert asked == [("tatsu-lab/alpaca", "train")]
    assert (data.train.num_rows, data.evaluation.num_rows) == (80, 20)


@pytest.mark.parametrize(
    ("name", "path", "folder_name", "rows", "expected"),
    [
        (
            "webnlg",
            "GEM/web_nlg",
            "en",
            [
                {"input": FACTS, "target": "one", "references": [], "category": "City"},
                {"input": FACTS, "target": "two", "references": ["two", "three"], "category": "City"},
            ],
            {"triples": [IN_ONE_LINE] * 3, "text": ["one", "two", "three"]},
        ),
        (
            "e2e",
            "tuetschek/e2e_nlg",
            "default",
            [
                {
                    "meaning_representation": "name[Zizzi], eatType[pub], priceRange[more than £30, or so], near[A]",
                    "human_reference": "Zizzi!",
                }
            ],
            {
                "meaning": ["name : Zizzi | Type : pub | price : more than £30, or so | near : A"],
                "text": ["Zizzi!"],
            },
        ),
    ],
)
def test_facts_of_the_hub_are_written_as_those_of_the_files(monkeypatch, name, path, folder_name, rows, expected):
    import datasets

    asked = []

    def load_dataset(*args, split, data_files, revision, **_):
        asked.append((args, split, data_files, revision))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load_text(name, "hub")
    assert asked == [
        ((path, None), split, {split: f"{folder_name}/{split}/*.parquet"}, "refs/convert/parquet")
        for split in ("train", "test")
    ]
    assert data.train[:] == data.evaluation[:] == expected


def test_a_meaning_of_another_form_is_refused(monkeypatch):
    import datasets

    made = datasets.Dataset.from_dict({"meaning_representation": ["name: Zizzi"], "human_reference": ["Zizzi"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made)
    with pytest.raises(DataError, match=r"Row 1 of .*'train' of tuetschek/e2e_nlg has meaning_representation='name: Z"):
        load_text("e2e", "hub")


def test_a_data_set_that_cannot_be_reached_says_what_to_do(hub):
    with pytest.raises(DataError, match=r"split 'test' of .* cannot be loaded: .*Check the names and the network"):
        load_hub(hub[0], task=SENTIMENT, evaluation_split="test", cache_folder=hub[1])


def test_a_data_set_of_the_hub_without_the_column_names_those_it_has(hub):
    task = TextTask("classification", ("sentence",), "label")
    with pytest.raises(DataError, match=r"lacks the columns \['sentence'\]; it holds \['text', 'label', 'extra'\]"):
        load_hub(hub[0], task=task, cache_folder=hub[1])


def test_the_same_seed_draws_the_same_examples_and_another_seed_others():
    def draw(seed):
        rows = sentiment(40)
        data = from_columns(rows, rows, task=SENTIMENT, train_examples=10, evaluation_examples=4, seed=seed)
        return data.train["text"][:], data.evaluation["text"][:]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert [len(part) for part in draw(1)] == [10, 4]


def test_held_out_examples_are_not_trained_on():
    data = from_columns(sentiment(10), task=SENTIMENT, evaluation_examples=3)
    assert sorted(data.train["text"][:] + data.evaluation["text"][:]) == sentiment(10)["text"]
    assert data.evaluation.num_rows == 3


def test_overlap_counts_examples_that_are_in_both_parts():
    held = sentiment(2, text=["text 3", "new"])
    assert from_columns(sentiment(10), held, task=SENTIMENT).overlap() == 1


def test_columns_may_be_arrays_and_tensors():
    rows = {"text": np.array(["a", "b"]), "label": torch.tensor([1, 0])}
    assert from_columns(rows, rows, task=SENTIMENT).train[0] == {"text": "a", "label": 1}


@pytest.mark.parametrize(
    ("given", "names", "expected"),
    [
        (["1", "0"], (), [1, 0]),
        ([" 1", 0], (), [1, 0]),
        (["b", "a"], (), [1, 0]),
        (["b", "a"], ("b", "a"), [0, 1]),
        ([1, "b"], ("b", "a"), [1, 0]),
        (["2", "1"], ("1", "2"), [1, 0]),
    ],
)
def test_classes_are_numbers_or_names(given, names, expected):
    rows = sentiment(2, label=given)
    task = TextTask("classification", ("text",), "label", names)
    assert from_columns(rows, rows, task=task).train["label"][:] == expected


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"text": [], "label": []}, r"at least one row"),
        ({"label": [0, 1]}, r"\{'text': 3, 'label': 2\} rows"),
        ({"label": [0, 1, None]}, r"1 rows of the training data of columns have no label \(nothing, or -1\).*row 3"),
        ({"label": [-1, 1, 0]}, r"1 rows .* have no label .*row 1\. Remove them, or choose a split with labels"),
        ({"label": ["", "a", "b"]}, r"1 rows .* have no label"),
        ({"label": [0, 2, 2]}, r"labels of columns are \[0, 2\]\. Number the classes from 0 without a gap"),
        ({"label": [0, 0, 0]}, r"has the classes \['0'\] only"),
        ({"label": [0.5, 1, 0]}, r"label of columns is 0\.5 of type float"),
        ({"label": [True, False, True]}, r"label of columns is True of type bool"),
        ({"text": ["a", "", " \n"]}, r"2 rows of the training data of columns have an empty text, the first is row 2"),
        ({"text": ["a", None, "b"]}, r"Row 2 .* has text=None of type NoneType\. Texts must be str"),
        ({"text": ["a", 5, "b"]}, r"Row 2 .* has text=5 of type int"),
        ({"sentence": ["a"] * 3, "text": None}, r"lacks the columns \['text'\]; it holds \['label', 'sentence'\]"),
        ({"label": None}, r"lacks the columns \['label'\]; it holds \['text'\]. Correct text_columns or label_column"),
    ],
)
def test_unfit_rows_are_refused(changes, match):
    rows = {name: values for name, values in sentiment(3, **changes).items() if values is not None}
    with pytest.raises(DataError, match=match):
        from_columns(rows, sentiment(2), task=SENTIMENT)


def test_a_label_outside_the_classes_is_refused():
    with pytest.raises(
        DataError, match=r"Row 2 of the evaluation data of columns has label=2, which is none of the cl"
    ):
        from_columns(sentiment(4), sentiment(2, label=[0, 2]), task=SENTIMENT)


@pytest.mark.parametrize("value", ["high", float("nan"), float("inf"), True, [1.0]])
def test_a_score_that_is_no_number_is_refused(value):
    rows = {"text": ["a", "b"], "score": [1.0, value]}
    with pytest.raises(
        DataError, match=r"Row 2 .* has score=.*, which is no finite number. Give numbers for regression"
    ):
        from_columns(rows, rows, task=SCORED)


def test_minus_one_is_a_score():
    rows = {"text": ["a", "b"], "score": [-1, "2.5"]}
    assert from_columns(rows, rows, task=SCORED).train["score"][:] == [-1.0, 2.5]


def test_missing_scores_are_refused():
    rows = {"text": ["a", "b"], "score": [None, 1]}
    with pytest.raises(DataError, match=r"1 rows of .* have no score \(nothing, or -1\), the first is row 1"):
        from_columns(rows, rows, task=SCORED)


def test_scores_that_are_all_hidden_are_refused():
    rows = {"text": ["a", "b"], "score": [-1.0, -1.0]}
    with pytest.raises(DataError, match=r"2 rows of the evaluation data of columns have no score"):
        from_columns({**rows, "score": [1, 2]}, rows, task=SCORED)


def test_data_of_empty_texts_only_are_refused():
    rows = sentiment(2, text=["", " "])
    task = TextTask("classification", ("text",), "label", drop_empty=True)
    with pytest.raises(DataError, match=r"Every row .* has an empty text"):
        from_columns(rows, rows, task=task)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, r"no evaluation data"),
        ({"evaluation_examples": 10}, r"evaluation_examples=10 is not possible.*one must be left.*Give 1 to 9"),
        ({"evaluation_examples": 3, "train_examples": 8}, r"train_examples=8 is not possible: columns has 7 examples"),
        ({"evaluation_examples": 0}, r"evaluation_examples=0"),
        ({"evaluation_examples": 2.0}, r"evaluation_examples=2.0"),
    ],
)
def test_more_examples_than_there_are_are_refused(options, match):
    with pytest.raises(DataError, match=match):
        from_columns(sentiment(10), task=SENTIMENT, **options)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.tsv", "text\tlabel\na\t0\nb\n", r"Line 3 of .*a\.tsv has 1 fields, the header 2"),
        ("a.tsv", "text\tlabel\ttext\na\t0\tb\n", r"has a column twice"),
        ("a.tsv", "sentence\tlabel\na\t0\n", r"a\.tsv lacks the columns \['text'\]; it holds \['sentence', 'label'\]"),
        ("a.tsv", "", r"lacks the columns"),
        ("a.tsv", "text\tlabel\n", r"at least one row"),
        ("a.csv", 'text,label\n"a,0\n', r"a\.csv cannot be read as csv in UTF-8"),
        ("a.jsonl", '{"text": "a", "label": 0}\n{"text": \n', r"Line 2 of .*a\.jsonl is no JSON"),
        ("a.jsonl", "[1]\n", r"Line 1 of .* is of type list. Write one JSON object a line"),
        ("a.jsonl", '{"text": "a"}\n', r"Line 1 of .* lacks the columns \['label'\]"),
        ("a.txt", "a\n", r"a\.txt lacks the columns \['label'\]; it holds \['text'\]"),
    ],
)
def test_unfit_file_is_refused(tmp_path, name, text, match):
    path = write(tmp_path / name, text)
    with pytest.raises(DataError, match=match):
        load_files(path, path, task=SENTIMENT)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"text\tlabel\na\t0\n" * 50, mtime=0)[:40]])
def test_damaged_gzip_is_refused(tmp_path, content):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tsv\.gz cannot be read as tsv in UTF-8"):
        load_files(path, path, task=SENTIMENT)


def test_file_that_is_no_utf8_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\né,0\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"cannot be read as csv in UTF-8"):
        load_files(tmp_path / "a.csv", task=SENTIMENT, evaluation_examples=1)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"There is no file .*glue_sst2_train\.tsv\.gz"):
        load_task("sst2", tmp_path)
    with pytest.raises(DataError, match=r"source=.*nowhere.* is no folder"):
        load_task("sst2", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("sst3", {}, r"data='sst3' is unknown. Choose a task, one of \['sst2', .*source='hub'"),
        ("sst2", {}, r"do not fit the data 'sst2': missing a required argument: 'source'"),
        (
            "sst2",
            {"source": "x", "examples": 3},
            r"unexpected keyword argument 'examples'\. Give name, source, train_ex",
        ),
        ("csv", {"train": "a.csv"}, r"do not fit the data 'csv': missing a required argument: 'kind'"),
        ("csv", {"train": "a", "kind": "ranking", "text_columns": ["a"]}, r"kind='ranking' is unknown"),
        ("text", {"train": "a.txt", "folder": "b"}, r"unexpected keyword argument 'folder'"),
        ("some/data", {"source": "hub", "kind": "causal", "text_columns": ["a"], "splits": 1}, r"argument 'splits'"),
    ],
)
def test_unfit_options_are_refused(name, options, match):
    with pytest.raises(ConfigError, match=match):
        load_text(name, **options)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"The task 'cola' is unknown"):
        load_task("cola", tmp_path)
    with pytest.raises(ConfigError, match=r"format=None\. Choose one of \['jsonl', 'tsv', 'csv', 'text'\]"):
        load_files(tmp_path / "a.parquet", task=SENTIMENT)
    with pytest.raises(ConfigError, match=r"separator=''"):
        load_files(write(tmp_path / "a.txt", "a"), task=PLAIN, separator="")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kind": "ranking"}, r"kind='ranking' is unknown"),
        ({"text_columns": "text"}, r"text_columns='text' is no list of names"),
        ({"text_columns": ("a", "a")}, r"holds a name twice"),
        ({"text_columns": ("a", "b", "c")}, r"Give one or two columns of text"),
        ({"label_column": None}, r"and the column of labels"),
        ({"label_column": "text"}, r"label_column='text' is a text column too"),
        ({"metric": "pearson"}, r"metric='pearson' is none of classification. Choose one of \('accuracy', 'f1'\)"),
        ({"template": "{text}{label}"}, r"needs kind='causal' and a label_column"),
        ({"kind": "causal", "text_columns": ("a", "b"), "label_column": None}, r"Give one column of plain text"),
        ({"kind": "causal", "template": "{text}"}, r"does not end with its answer. Let it end with \{label\}"),
        ({"kind": "causal", "template": "{label}{label}"}, r"does not end with its answer"),
        ({"kind": "causal", "template": "{text!r}{label}"}, r"does not end with its answer"),
        ({"kind": "causal", "template": "{text.__class__}{label}"}, r"names \['text.__class__'\]. Name only"),
        ({"kind": "causal", "template": "{}{label}"}, r"names \[''\]"),
        ({"kind": "causal", "template": "{text{label}"}, r"is no template"),
        ({"kind": "causal", "short_template": "{other}{label}"}, r"short_template=.* names \['other'\]"),
    ],
)
def test_unfit_task_is_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        TextTask(**{"kind": "classification", "text_columns": ("text",), "label_column": "label", **options})


def test_a_column_that_the_short_template_leaves_out_may_be_empty():
    task = TextTask("causal", ("a", "b"), "c", template="{a} {b}: {c}", short_template="{a}: {c}")
    assert task.optional_columns == ("b",)
    rows = {"a": ["x"], "b": [""], "c": ["y"]}
    assert from_columns(rows, rows, task=task).train.num_rows == 1
    with pytest.raises(DataError, match=r"1 rows .* have an empty text"):
        from_columns(rows, rows, task=TextTask("causal", ("a", "b"), "c"))


def test_missing_datasets_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for make in (
        lambda: from_columns(sentiment(), sentiment(), task=SENTIMENT),
        lambda: load_hub("any", task=SENTIMENT),
    ):
        with pytest.raises(ImportError, match=r'pip install "sortednet\[text\]"'):
            make()
