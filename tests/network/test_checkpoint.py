"""Checkpoints that are damaged, missing, interrupted or of something else."""

import errno
import json
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import textwrap
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sortednet import Layout, SortedNet, Space, load
from sortednet.errors import BuildError, CheckpointError, SettingError
from sortednet.files import records
from sortednet.files.manifest import MANIFEST
from sortednet.models import MLP

from ..contracts.cases import Tied

SPACE = Space(depth=[1, 2], width=[2, 4])
build = partial(MLP, inputs=3, classes=2)


def network(fill=None, **options):
    torch.manual_seed(0)
    net = SortedNet(build, SPACE, **options)
    if fill is not None:
        with torch.no_grad():
            [parameter.fill_(fill) for parameter in net.parameters()]
    return net


def filled(path):
    """Return the one number that all weights of a whole checkpoint hold, private ones included."""
    net = load(path, build)
    values = {value for parameter in net.parameters() for value in parameter.flatten().tolist()}
    assert len(values) == 1, values
    assert len(list(net.parameters())) in (6, 6 + 3 * 2)
    return values.pop()


def names(path):
    return sorted(file.name for file in path.iterdir() if file.name != MANIFEST)


def headed(metadata, path):
    """Write weights whose header carries `metadata` instead of the space."""
    net = network()
    path.mkdir(exist_ok=True)
    save_file(net.full.state_dict(), path / "model.safetensors", {} if metadata is None else {"sortednet": metadata})


# --- what is written ------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_the_weights_and_a_description(tmp_path):
    network().save_pretrained(tmp_path / "deep" / "folder")
    assert names(tmp_path / "deep" / "folder") == ["model.safetensors", "sortednet.json"]
    described = records.read(tmp_path / "deep" / "folder" / "sortednet.json")
    assert described == {
        "format": 1,
        "space": SPACE.to_json(),
        "buffers": "shared",
        "private": [],
        "layouts": [],
        "cuts": {},
    }


def test_nothing_but_torch_and_safetensors_is_needed(tmp_path):
    """As installed without extras, where not even numpy need be."""
    program = textwrap.dedent("""
        import sys
        sys.modules["numpy"] = None
        from functools import partial
        import sortednet as sn
        build = partial(sn.models.MLP, inputs=3, classes=2)
        net = sn.SortedNet(build, sn.Space(depth=[1, 2], width=[2, 4]), private="head.*")
        net.save_pretrained(sys.argv[1])
        sn.load(sys.argv[1], build)
        sn.load(sys.argv[1], build, at="depth=1,width=2")
    """)
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, str(tmp_path)], check=True)


def test_the_weights_alone_are_enough_to_load(tmp_path):
    network(3.0).save_pretrained(tmp_path)
    (tmp_path / "sortednet.json").unlink()
    assert filled(tmp_path) == 3


def test_the_private_file_is_named_by_its_digest_and_the_stale_one_removed(tmp_path):
    network(1.0, private="head.*").save_pretrained(tmp_path)
    (first,) = tmp_path.glob("private-*.safetensors")
    assert re.fullmatch(r"private-[0-9a-f]{12}\.safetensors", first.name)
    network(1.0, private="head.*").save_pretrained(tmp_path)
    assert list(tmp_path.glob("private-*")) == [first]
    network(2.0, private="head.*").save_pretrained(tmp_path)
    (second,) = tmp_path.glob("private-*.safetensors")
    assert second != first
    assert filled(tmp_path) == 2


def test_saving_without_private_tensors_removes_the_private_file(tmp_path):
    network(1.0, private="head.*").save_pretrained(tmp_path)
    network(2.0).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("private-*"))
    assert filled(tmp_path) == 2


def test_tied_weights_are_saved_under_each_name_and_load_tied(tmp_path):
    net = SortedNet(Tied, Space(width=[2, 4]))
    net.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {"embed.weight", "head.weight"}
    whole, part = load(tmp_path, Tied), load(tmp_path, Tied, at="width=2")
    assert whole.full.embed.weight is whole.full.head.weight
    assert part.embed.weight is part.head.weight
    assert torch.equal(part.embed.weight, net.extract(width=2).embed.weight)


# --- reading a part -------------------------------------------------------------------------------------------------


class Everything(nn.Module):
    """Fused axes, statistics, a scalar, an integer buffer and a non-persistent one."""

    def __init__(self, width, depth):
        super().__init__()
        self.qkv = nn.Linear(3, 3 * width)
        self.norm = nn.BatchNorm1d(3 * width)
        self.both = nn.Parameter(torch.randn(2 * width, 3 * width))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.blocks = nn.ModuleList(nn.Linear(2 * width, 2 * width) for _ in range(depth))
        self.register_buffer("order", torch.arange(width))
        self.register_buffer("steps", torch.arange(width) / 2, persistent=False)


EVERYTHING = Space(width=[1, 2, 4], depth=[1, 2])
LAYOUTS = [
    Layout("qkv.*", blocks=3),
    Layout("norm.*", blocks=3),
    Layout("both", 0, 2),
    Layout("both", 1, 3),
    Layout("blocks.*", 0, 2),
    Layout("blocks.*", 1, 2),
]


@pytest.mark.parametrize("options", [{}, {"private": "scale"}, {"buffers": "private"}, {"private": ["both", "norm.*"]}])
def test_every_part_that_is_read_equals_the_extracted_model(tmp_path, options):
    torch.manual_seed(0)
    net = SortedNet(Everything, EVERYTHING, layouts=LAYOUTS, **options)
    with torch.no_grad():
        [tensor.add_(torch.randn_like(tensor)) for tensor in net.parameters()]
    net.full.norm.running_mean.normal_()
    net.save_pretrained(tmp_path)
    for one in EVERYTHING:
        part = load(tmp_path, Everything, at=one, layouts=LAYOUTS)
        expected = net.extract(one)
        assert part.state_dict().keys() == expected.state_dict().keys()
        for name, tensor in expected.state_dict().items():
            assert torch.equal(part.state_dict()[name], tensor), (str(one), name)
            assert part.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(part.steps, expected.steps)


@pytest.mark.parametrize("form", ["depth=1,width=2", {"depth": 1, "width": 2}, SPACE.smallest])
def test_a_part_is_named_by_text_or_mapping(tmp_path, form):
    network().save_pretrained(tmp_path)
    assert load(tmp_path, build, at=form).head.weight.shape == (2, 2)


def test_a_part_is_independent_of_the_file(tmp_path):
    network(1.0).save_pretrained(tmp_path)
    part = load(tmp_path, build, at=SPACE.smallest)
    with torch.no_grad():
        [parameter.fill_(5) for parameter in part.parameters()]
    assert filled(tmp_path) == 1


def test_a_part_outside_the_space_is_refused(tmp_path):
    network().save_pretrained(tmp_path)
    with pytest.raises(SettingError, match=r"depth=3 is outside its support \[1, 2\]"):
        load(tmp_path, build, at={"depth": 3, "width": 2})
    with pytest.raises(SettingError, match=r"height=1 names no dimension"):
        load(tmp_path, build, at="height=1")


def test_dimensions_left_out_of_a_part_take_their_largest_value(tmp_path):
    network().save_pretrained(tmp_path)
    whole, named = load(tmp_path, build, at={"depth": 1}), load(tmp_path, build, at="depth=1,width=4")
    assert {n: p.shape for n, p in whole.named_parameters()} == {n: p.shape for n, p in named.named_parameters()}


def test_a_network_loads_in_the_type_it_was_saved_in(tmp_path):
    net = network().double()
    net.save_pretrained(tmp_path)
    again = load(tmp_path, build)
    assert again.full.head.weight.dtype == torch.float64
    assert torch.equal(again.full.head.weight, net.full.head.weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_part_loads_in_the_type_it_was_saved_in(tmp_path, dtype):
    net = network().to(dtype)
    net.save_pretrained(tmp_path)
    part = load(tmp_path, build, at=SPACE.smallest)
    assert part.head.weight.dtype == dtype
    assert torch.equal(part.head.weight, net.extract(SPACE.smallest).head.weight)


def test_the_buffers_a_builder_computes_take_the_type_of_a_part(tmp_path):
    net = SortedNet(Everything, EVERYTHING, layouts=LAYOUTS).double()
    net.save_pretrained(tmp_path)
    part = load(tmp_path, Everything, at=EVERYTHING.smallest, layouts=LAYOUTS)
    assert part.steps.dtype == net.extract(EVERYTHING.smallest).steps.dtype


# --- damaged, missing, of something else ----------------------------------------------------------------------------

each_way = pytest.mark.parametrize("options", [{}, {"at": SPACE.smallest}], ids=["whole", "part"])


@each_way
@pytest.mark.parametrize("size", [0, 4, 8, 40, -1, -4, 0.5])
def test_a_truncated_file_is_refused(tmp_path, options, size):
    network().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * size) if isinstance(size, float) else size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or cut short .* take an earlier check"):
        load(tmp_path, build, **options)


@each_way
@pytest.mark.parametrize("data", [b"garbage", b"\0" * 100, b"\xff" * 100, struct.pack("<Q", 10) + b"not json!!"])
def test_garbage_is_refused(tmp_path, options, data):
    network().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or cut short"):
        load(tmp_path, build, **options)


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@each_way
@pytest.mark.parametrize("writer", [pickle.dump, torch.save])
def test_a_pickle_is_refused_and_never_opened(tmp_path, options, writer):
    network().save_pretrained(tmp_path)
    with open(tmp_path / "model.safetensors", "wb") as file:
        writer(Trap(tmp_path / "sprung"), file)
    with pytest.raises(CheckpointError, match=r"is damaged or cut short"):
        load(tmp_path, build, **options)
    assert not (tmp_path / "sprung").exists()


@each_way
def test_a_missing_folder_or_file_is_refused(tmp_path, options):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(
            CheckpointError, match=r"There is no checkpoint at .*: model\.safetensors is missing\. Give"
        ):
            load(path, build, **options)


@each_way
def test_weights_without_a_description_are_refused(tmp_path, options):
    headed(None, tmp_path)
    with pytest.raises(
        CheckpointError, match=r"holds weights but no sortednet\.json, so its space is not known\. Save"
    ):
        load(tmp_path, build, **options)


@each_way
@pytest.mark.parametrize(
    "text", ["{", "[]", "5", "null", '{"format": 1}', '{"space": {}, "buffers": 1, "private": []}']
)
def test_a_damaged_description_is_refused(tmp_path, options, text):
    headed(text, tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged .* Restore it or save again"):
        load(tmp_path, build, **options)


@each_way
def test_a_later_format_is_refused(tmp_path, options):
    text = json.dumps({"format": 2, "space": SPACE.to_json(), "buffers": "shared", "private": [], "layouts": []})
    headed(text, tmp_path)
    with pytest.raises(CheckpointError, match=r"has format 2; this version reads format 1\. Update sortednet, or save"):
        load(tmp_path, build, **options)


def test_a_later_format_with_other_keys_is_refused_as_later(tmp_path):
    headed(json.dumps({"format": 2, "spaces": []}), tmp_path)
    with pytest.raises(CheckpointError, match=r"has format 2"):
        load(tmp_path, build)


@pytest.mark.parametrize(
    "part", [{"space": 5}, {"space": {"supports": {"depth": {"values": [2, 1]}}}}, {"buffers": "mine"}]
)
def test_a_description_with_a_bad_part_is_refused_as_a_damaged_checkpoint(tmp_path, part):
    described = {"format": 1, "space": SPACE.to_json(), "buffers": "shared", "private": [], **part}
    headed(json.dumps(described), tmp_path)
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path, build)


@each_way
def test_a_checkpoint_of_another_space_is_refused(tmp_path, options):
    network().save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"holds Space\(depth=\[1, 2\], width=\[2, 4\]\), not Space\(depth=\[1\]\)"
    ):
        load(tmp_path, build, space=Space(depth=[1]), **options)
    load(tmp_path, build, space=SPACE, **options)


def test_the_builder_of_larger_weights_is_refused(tmp_path):
    network().save_pretrained(tmp_path)
    wider = partial(MLP, inputs=5, classes=2)
    with pytest.raises(CheckpointError, match=r"(?s)does not fit the builder: .*size mismatch for hidden\.0\.weight"):
        load(tmp_path, wider)
    with pytest.raises(
        CheckpointError,
        match=r"does not fit the builder: hidden\.0\.weight is \(4, 3\) in it and \(4, 5\) in the builder's",
    ):
        load(tmp_path, wider, at=SPACE.smallest)


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param(
            {"at": SPACE.smallest},
        ),
    ],
    ids=["whole", "part"],
)
def test_the_builder_of_smaller_weights_is_refused(tmp_path, options):
    network().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"does not fit the builder|hidden\.0\.weight"):
        load(tmp_path, partial(MLP, inputs=2, classes=2), **options)


@each_way
def test_the_builder_of_other_names_is_refused(tmp_path, options):
    network().save_pretrained(tmp_path)

    def other(depth, width):
        return nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))

    with pytest.raises(
        CheckpointError, match=r"does not fit the builder|holds no 0\.weight\. Load it with the builder"
    ):
        load(tmp_path, other, **options)


@each_way
def test_a_builder_that_fails_is_refused(tmp_path, options):
    network().save_pretrained(tmp_path)
    with pytest.raises(BuildError, match=r"failed with TypeError"):
        load(tmp_path, lambda heads: nn.Linear(3, heads), **options)


@each_way
def test_a_missing_private_file_is_refused(tmp_path, options):
    network(private="head.*").save_pretrained(tmp_path)
    (file,) = tmp_path.glob("private-*")
    file.unlink()
    with pytest.raises(CheckpointError, match=rf"{file.name} is missing, which holds the private tensors of .*Restore"):
        load(tmp_path, build, **options)


@each_way
def test_a_truncated_private_file_is_refused(tmp_path, options):
    network(private="head.*").save_pretrained(tmp_path)
    (file,) = tmp_path.glob("private-*")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=rf"{file.name} is damaged or cut short"):
        load(tmp_path, build, **options)


def test_a_private_file_with_a_changed_byte_is_refused(tmp_path):
    network(1.0, private="head.*").save_pretrained(tmp_path)
    (file,) = tmp_path.glob("private-*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path, build)


# --- saves that fail ------------------------------------------------------------------------------------------------


def fail_at(monkeypatch, function, turn, error):
    """Let the `turn`-th call of a function of `os` fail."""
    real, calls = getattr(os, function), []

    def failing(*args):
        calls.append(args)
        if len(calls) == turn:
            raise error
        return real(*args)

    monkeypatch.setattr(os, function, failing)


@pytest.mark.parametrize(("function", "turns"), [("replace", [1, 2, 3, 4, 5]), ("fsync", [1, 2, 3, 5, 7])])
def test_a_full_disk_is_reported_and_leaves_a_whole_checkpoint(tmp_path, monkeypatch, function, turns):
    """The save counts with the first replacement, of the manifest; three files are on the disk before it, and all."""
    for turn in turns:
        path = tmp_path / str(turn)
        network(1.0, private="head.*").save_pretrained(path)
        new = network(2.0, private="head.*")
        with monkeypatch.context() as patch:
            fail_at(patch, function, turn, OSError(errno.ENOSPC, "No space left on device"))
            with pytest.raises(CheckpointError, match="No space left on device"):
                new.save_pretrained(path)
        counts = turn > (1 if function == "replace" else 5)
        assert counts or len(names(path)) == 3
        assert filled(path) == (2 if counts else 1)
        new.save_pretrained(path)
        assert filled(path) == 2
        assert len(names(path)) == 3


def test_a_failed_first_save_leaves_no_checkpoint(tmp_path, monkeypatch):
    fail_at(monkeypatch, "replace", 1, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(CheckpointError, match=r"No space left on device.*before is unchanged. Free space"):
        network().save_pretrained(tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load(tmp_path, build)


def test_an_interrupted_save_leaves_no_rubbish(tmp_path, monkeypatch):
    network(1.0).save_pretrained(tmp_path)
    fail_at(monkeypatch, "replace", 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        network(2.0).save_pretrained(tmp_path)
    assert names(tmp_path) == ["model.safetensors", "sortednet.json"]


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(CheckpointError, match="could not be written"):
        network().save_pretrained(tmp_path / "file")


KILLED = textwrap.dedent("""
    import os, signal, sys
    from functools import partial
    import torch
    from sortednet import SortedNet, Space
    from sortednet.models import MLP

    folder, after = sys.argv[1], sys.argv[2] == "after"

    def network(fill):
        net = SortedNet(partial(MLP, inputs=3, classes=2), Space(depth=[1, 2], width=[2, 4]), private="head.*")
        with torch.no_grad():
            [parameter.fill_(fill) for parameter in net.parameters()]
        return net

    first, second, real = network(1.0), network(2.0), os.replace
    for turn in range(1, 6):
        path = os.path.join(folder, str(turn))
        first.save_pretrained(path)
        if os.fork() == 0:
            calls = []

            def replace(*args):
                calls.append(args)
                if len(calls) == turn and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                real(*args)
                if len(calls) == turn:
                    os.kill(os.getpid(), signal.SIGKILL)

            os.replace = replace
            second.save_pretrained(path)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
""")


@pytest.fixture(scope="module", params=["before", "after"])
def killed(request, tmp_path_factory):
    """Kill a process inside each of its replacements in turn, before or after the file is in its place.

    They are of the manifest, of three files, and of the manifest again.
    """
    folder = tmp_path_factory.mktemp(request.param)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), request.param], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 5, done.stderr
    return request.param, folder


@pytest.mark.parametrize("turn", range(1, 6))
def test_a_save_that_is_killed_leaves_the_last_good_checkpoint_whole(killed, turn):
    when, folder = killed
    new = turn > 1 or when == "after"  # the save counts with the manifest
    assert filled(folder / str(turn)) == (2 if new else 1)
    part = load(folder / str(turn), build, at=SPACE.smallest)
    assert {value for p in part.parameters() for value in p.flatten().tolist()} == {2.0 if new else 1.0}


@pytest.mark.parametrize("turn", range(1, 6))
def test_the_next_save_after_a_kill_succeeds_and_removes_stale_private_files(killed, turn, tmp_path):
    import shutil

    path = shutil.copytree(killed[1] / str(turn), tmp_path / "copy")
    network(3.0, private="head.*").save_pretrained(path)
    assert filled(path) == 3
    assert len(list(path.glob("private-*"))) == 1


# --- layouts ----------------------------------------------------------------------------------------------------------


def fused(width):
    return nn.ModuleDict({"qkv": nn.Linear(3, 3 * width), "out": nn.Linear(width, 2)})


FUSED = Layout("qkv.*", blocks=3)


def test_layouts_are_kept_with_the_network(tmp_path):
    net = SortedNet(fused, Space(width=[2, 4]), layouts=FUSED)
    net.save_pretrained(tmp_path)
    expected = net.extract(width=2).state_dict()
    loaded = load(tmp_path, fused)
    with pytest.warns(UserWarning, match="Nothing has run yet"):
        whole = loaded.extract(width=2)
    for found in (whole, load(tmp_path, fused, at={"width": 2})):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


def test_other_layouts_than_the_networks_are_refused(tmp_path):
    SortedNet(fused, Space(width=[2, 4]), layouts=FUSED).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"saved with other layouts .*blocks.*3.*Give the same, or none"):
        load(tmp_path, fused, at={"width": 2}, layouts=[Layout("qkv.*", blocks=1)])


def test_layouts_that_are_functions_must_be_given_again(tmp_path):
    layout = Layout("qkv.*", blocks=lambda model: [model["out"].in_features] * 3)
    SortedNet(fused, Space(width=[2, 4]), layouts=[layout]).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"blocks are a function .*Give layouts= again"):
        load(tmp_path, fused)
    assert load(tmp_path, fused, at={"width": 2}, layouts=[layout])["qkv"].weight.shape == (6, 3)


def test_the_digest_names_the_weights_not_the_file(tmp_path):
    from sortednet.files.weights import digest

    net = network()
    for name in ("one", "two"):
        net.save_pretrained(tmp_path / name)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    with torch.no_grad():
        next(net.parameters()).add_(1)
    net.save_pretrained(tmp_path / "two")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")
