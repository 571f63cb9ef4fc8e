"""Export to ONNX: the file computes what the model computes, or there is no file."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from sortednet import SortedNet, Space
from sortednet.errors import ExportError, MissingPackageError
from sortednet.export.axes import Axes
from sortednet.export.onnx import _compare, to_onnx

from .onnx_cases import ONNX

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

DEFAULT = ("bert", "llama", "wav2vec2")  # the others take half a minute


def build(width):
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)

    def forward(self, ids, mask, scale=1.0):
        states = self.embed(ids) * mask[..., None] * scale
        return {"states": states, "mean": states.mean(1)}


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(2, 6) + 1


class FixedLength(nn.Module):
    def forward(self, input_ids):
        return input_ids + torch.arange(5)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return SortedNet(build, Space(width=[2, 4]))


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "folder" / "small.onnx"
    model = net.extract(width=2).train()
    modes = [one.training for one in model.modules()]
    difference = to_onnx(model, torch.ones(1, 3), path)
    assert [one.training for one in model.modules()] == modes
    return path, model, difference


def opened(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(path, *arrays):
    session = opened(path)
    names = [one.name for one in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=True)))


def test_returned_difference_is_within_the_tolerance(exported):
    assert 0 <= exported[2] <= 1e-4


def test_exported_file_gives_the_models_output_at_another_batch_size(exported):
    path, model, _ = exported
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.from_numpy(run(path, x.numpy())[0]), model.eval()(x).detach(), rtol=0, atol=1e-5)


def test_export_leaves_one_file_and_no_external_data(exported):
    assert [one.name for one in exported[0].parent.iterdir()] == ["small.onnx"]


def test_export_takes_keyword_arguments_and_dictionaries_of_outputs(tmp_path):
    inputs = {"mask": torch.ones(3, 5), "ids": torch.arange(15).reshape(3, 5) % 7, "scale": 2.0}
    assert to_onnx(Named(), inputs, tmp_path / "named.onnx") <= 1e-6


def test_inputs_of_the_file_are_named_as_in_the_forward(tmp_path):
    to_onnx(Named(), (torch.ones(3, 5, dtype=torch.long), torch.ones(3, 5)), tmp_path / "named.onnx")
    session = opened(tmp_path / "named.onnx")
    assert [one.name for one in session.get_inputs()] == ["ids", "mask"]


def test_recurrent_model_is_exported(tmp_path):
    assert to_onnx(nn.LSTM(3, 4, batch_first=True), torch.ones(2, 5, 3), tmp_path / "lstm.onnx") <= 1e-5


@pytest.mark.parametrize(
    ("model", "inputs", "text"),
    [
        (FixedBatch(), torch.ones(2, 6),
         r"fixes axis 0 of x, 'batch', at the size 2\. .* give inputs of that size with dynamic_axes=\{\}\."),
        (FixedLength(), {"input_ids": torch.ones(2, 5, dtype=torch.long)},
         r"fixes axis 1 of input_ids, 'sequence', at the size 5\. .* dynamic_axes=\{'input_ids': \{0: 'batch'\}\}\."),
    ],
    ids=["batch", "length"],
)  # fmt: skip
def test_an_axis_that_the_model_fixes_is_named_with_the_remedy(model, inputs, text, tmp_path):
    with pytest.raises(ExportError, match=text):
        to_onnx(model, inputs, tmp_path / "fixed.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "inputs", "axes", "shape"),
    [
        (FixedBatch(), torch.ones(2, 6), {}, [2, 6]),
        (FixedLength(), {"input_ids": torch.ones(2, 5, dtype=torch.long)}, {"input_ids": {0: "texts"}}, ["texts", 5]),
    ],
    ids=["batch", "length"],
)
def test_an_axis_is_fixed_where_it_is_not_named(model, inputs, axes, shape, tmp_path):
    path = tmp_path / "fixed.onnx"
    assert to_onnx(model, inputs, path, dynamic_axes=axes) == 0
    assert opened(path).get_inputs()[0].shape == shape


def test_axes_take_the_names_they_are_given(tmp_path):
    path = tmp_path / "named.onnx"
    axes = {name: {0: "texts", 1: "tokens"} for name in ("ids", "mask")}
    to_onnx(Named(), {"ids": torch.ones(3, 5, dtype=torch.long), "mask": torch.ones(3, 5)}, path, dynamic_axes=axes)
    session = opened(path)
    assert {one.name: one.shape for one in (*session.get_inputs(), *session.get_outputs())} == {
        "ids": ["texts", "tokens"],
        "mask": ["texts", "tokens"],
        "states": ["texts", "tokens", 4],
        "mean": ["texts", 4],
    }


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        ({"x": {0: "batch"}}, r"names the input 'x'\. Choose among ids, mask"),
        ({"ids": {2: "batch"}}, r"names axis 2 of ids, which has the shape \(3, 5\)\. Count from 0 to 1"),
        ({"ids": {0: "batch", 1: "batch"}}, r"Axis 1 of ids has the size 5, and another axis called 'batch' 3\. Give"),
        ({"ids": {1: "tokens"}}, r"fixes axis 1 of ids, 'tokens', at the size 5\. Name it at every input that has it"),
    ],
    ids=["input", "axis", "sizes", "one of two"],
)
def test_axes_that_do_not_fit_the_inputs_are_refused(axes, text, tmp_path):
    inputs = {"ids": torch.ones(3, 5, dtype=torch.long), "mask": torch.ones(3, 5)}
    with pytest.raises(ExportError, match=text):
        to_onnx(Named(), inputs, tmp_path / "named.onnx", dynamic_axes=axes)


def test_axes_of_inputs_that_transformers_knows_are_dynamic():
    ids, pixels = torch.ones(2, 5, dtype=torch.long), torch.ones(2, 3, 8, 8)
    tensors = {"input_ids": ids, "position_ids": ids[:1], "decoder_input_ids": ids[:, :3], "pixel_values": pixels}
    assert Axes.of(tensors, None).names == {
        "input_ids": {0: "batch", 1: "sequence"},
        "position_ids": {1: "sequence"},
        "decoder_input_ids": {0: "batch", 1: "decoder_sequence"},
        "pixel_values": {0: "batch"},
    }


def test_a_file_is_tried_at_other_sizes_of_each_axis_and_of_all():
    tensors = {"ids": torch.ones(2, 5), "mask": torch.ones(2, 5)}
    axes = Axes.of(tensors, {name: {0: "batch", 1: "tokens"} for name in tensors})
    assert [tuple(one["mask"].shape) for one in axes.others(tensors)] == [(2, 5), (3, 5), (2, 4), (3, 4), (1, 5)]


def test_what_no_file_holds_is_refused(tmp_path):
    class Counted(nn.Module):
        def forward(self, x):
            return {"x": x, "count": 3}

    with pytest.raises(ExportError, match="Among what the model returns is 3, and a file holds tensors only"):
        to_onnx(Counted(), torch.ones(2, 3), tmp_path / "counted.onnx")


def test_a_model_that_does_not_run_is_named(tmp_path):
    with pytest.raises(ExportError, match=r"The model does not run on inputs of shapes \{'input': \(2, 4\)\}: mat1"):
        to_onnx(nn.Linear(3, 2), torch.ones(2, 4), tmp_path / "small.onnx")


def test_a_model_that_torch_cannot_follow_is_told_why(net, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no such operation\nand a long trace")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match=r"cannot follow the model, ValueError: no such .* Try dynamic_axes=\{\} if"):
        to_onnx(net.extract(width=2), torch.ones(2, 3), tmp_path / "small.onnx")


@pytest.mark.parametrize("case", [one for one in ONNX if one.name in DEFAULT], ids=lambda one: one.name)
def test_extracted_models_give_their_outputs_at_any_batch_and_length(case, tmp_path):
    assert case.difference(tmp_path / "model.onnx") <= 1e-4


def test_difference_above_the_tolerance_is_refused(net, tmp_path, monkeypatch):
    monkeypatch.setattr("sortednet.export.onnx._compare", lambda *_: 0.5)
    with pytest.raises(ExportError, match=r"differs from the model's by 0\.5, more than tolerance=0\.0001"):
        to_onnx(net.extract(width=2), torch.ones(2, 3), tmp_path / "small.onnx")


def test_difference_that_is_no_number_is_refused(net, tmp_path, monkeypatch):
    monkeypatch.setattr("sortednet.export.onnx._compare", lambda *_: float("nan"))
    with pytest.raises(ExportError, match="by nan, more than"):
        to_onnx(net.extract(width=2), torch.ones(2, 3), tmp_path / "small.onnx")


def test_wrong_numbers_in_the_file_are_found(net, tmp_path, monkeypatch):
    def wrong(module, *arguments, **keywords):
        changed = copy.deepcopy(module)
        nn.init.constant_(changed.get_parameter("module.3.bias"), 7.0)
        return export(changed, *arguments, **keywords)

    export = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", wrong)
    with pytest.raises(ExportError, match="differs from the model's"):
        to_onnx(net.extract(width=2), torch.ones(2, 3), tmp_path / "small.onnx")


def test_failed_export_leaves_nothing_and_keeps_the_last_good_file(net, tmp_path, monkeypatch):
    path = tmp_path / "small.onnx"
    path.write_bytes(b"good")
    monkeypatch.setattr("sortednet.export.onnx._compare", lambda *_: 0.5)
    with pytest.raises(ExportError, match="Nothing was written"):
        to_onnx(net.extract(width=2), torch.ones(2, 3), path)
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("small.onnx", b"good")]


def test_sub_model_inside_a_larger_network_is_refused_and_no_folder_made(net, tmp_path):
    with pytest.raises(
        ExportError, match=r"0\.weight has 24 bytes and is a view of a storage of 48 .*extract it first"
    ):
        to_onnx(net.submodel(width=2), torch.ones(2, 3), tmp_path / "folder" / "small.onnx")
    assert not list(tmp_path.iterdir())


def test_bfloat16_is_refused_with_the_remedy(net, tmp_path):
    model = net.extract(width=2).to(torch.bfloat16)
    with pytest.raises(ExportError, match=r"bfloat16.*\.float\(\)"):
        to_onnx(model, torch.ones(2, 3, dtype=torch.bfloat16), tmp_path / "small.onnx")


def test_inputs_without_a_tensor_are_refused(net, tmp_path):
    with pytest.raises(ExportError, match="no tensor with an axis"):
        to_onnx(net.extract(width=2), {"x": 1}, tmp_path / "small.onnx")


def test_missing_package_is_named_with_its_extra(net, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingPackageError, match=r'needs onnxscript, .*pip install "sortednet\[onnx\]"'):
        to_onnx(net.extract(width=2), torch.ones(2, 3), tmp_path / "small.onnx")


def test_export_says_nothing(tmp_path):
    # In a process of its own: the exporter says some things only once.
    script = (
        "import sys, torch; from sortednet.export.onnx import to_onnx; "
        "to_onnx(torch.nn.Linear(3, 2), torch.ones(2, 3), sys.argv[1])"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "small.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    # A CUDA build of torch says this on importing, where there is CUDA's compiler and no GPU.
    ours = [line for line in done.stderr.splitlines() if "No CUDA runtime is found" not in line]
    assert (done.returncode, done.stdout, ours) == (0, "", [])


def test_difference_is_measured_over_every_output(net, tmp_path):
    class Session:
        def __init__(self, *_, **__):
            pass

        def get_inputs(self):
            return []

        def run(self, _, feed):
            return [feed["x"] + np.float32(0.25), feed["x"] + np.float32(0.5)]

    class Twice(nn.Module):
        def forward(self, x):
            return x, x

    runtime = type("Runtime", (), {"InferenceSession": Session})
    assert _compare(runtime, Twice(), [{"x": torch.ones(2, 3)}], tmp_path, Axes({}, {})) == 0.5
