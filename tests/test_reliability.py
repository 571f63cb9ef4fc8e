"""What `benchmarks/reliability.py` measures at large, at small: kills, flips, files of others, fuzzed files; shards."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # where the kinds of files are

import fuzz  # noqa: E402
import reliability  # noqa: E402
from stored import KINDS, SPACE, adapter, base, build, language_model, network  # noqa: E402

import sortednet as sn  # noqa: E402
from sortednet.errors import CheckpointError, ConfigError  # noqa: E402
from sortednet.files import weights  # noqa: E402
from sortednet.jobs.selection import table_of  # noqa: E402
from sortednet.models import MLP  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = tmp_path_factory.mktemp("made")
        fuzz.make_all(folder)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_one_clear_error_or_the_right_result(made: Path, name: str) -> None:
    outcomes = [fuzz.one(name, number, 7, made) for number in range(8)]
    assert not [outcome for outcome in outcomes if outcome.failure]


@pytest.mark.parametrize(
    ("name", "number"), [("adapter", 106), ("adapter", 616), ("similarity", 156), ("pretrained", 884)]
)
def test_what_fuzzing_has_found_is_one_clear_error(made: Path, name: str, number: int) -> None:
    assert not fuzz.one(name, number, 0, made).failure


def test_no_flipped_bit_changes_what_is_read() -> None:
    found, about = reliability.flips(128)
    assert found["flips_silent"] == 0, about["silent"]


def test_killed_saves_leave_the_whole_of_one() -> None:
    found, about = reliability.kills(12)
    assert found == {"kills": 12, "unreadable_after_kill": 0}, about["bad"]


@pytest.mark.parametrize("scene", reliability.SCENES)
def test_nothing_of_others_is_lost(scene: str, monkeypatch) -> None:
    monkeypatch.setattr(reliability, "SCENES", {scene: reliability.SCENES[scene]})
    lost, about = reliability.foreign_files()
    assert lost == 0, about["lost"]


# The same bytes


def bytes_of(folder: Path) -> dict[str, str]:
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in sorted(folder.iterdir())}


@pytest.mark.parametrize("make", [network, partial(network, private="head.*"), language_model, adapter])
def test_the_same_network_gives_the_same_bytes(tmp_path: Path, make) -> None:
    for name in ("one", "other"):
        make(1).save_pretrained(tmp_path / name)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "other")


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    program = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); from pathlib import Path\n"
    program += "from stored import adapter; adapter(1).save_pretrained(Path(sys.argv[1]))"
    for seed in ("1", "2"):
        variables = {"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": ":".join(filter(None, sys.path))}
        subprocess.run([sys.executable, "-c", program, str(tmp_path / seed)], env=variables, check=True)
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "2")


# Shards


def test_shards_hold_the_same_network(tmp_path: Path) -> None:
    net = language_model(2)
    net.save_pretrained(tmp_path / "one")
    net.save_pretrained(tmp_path / "many", max_shard_size="1KB")
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    for name in set(index["weight_map"].values()):
        assert (tmp_path / "many" / name).is_file()
    one, many = (sn.load(tmp_path / name).full.state_dict() for name in ("one", "many"))
    assert all(torch.equal(one[name], many[name]) for name in one | many)
    assert weights.digest(tmp_path / "one") == weights.digest(tmp_path / "many")
    plain = type(net.full).from_pretrained(tmp_path / "many").state_dict()
    assert all(torch.equal(plain[name], many[name]) for name in plain | many)


def test_a_save_in_one_file_removes_shards_and_the_other_way_round(tmp_path: Path) -> None:
    net = network(1)
    net.save_pretrained(tmp_path, max_shard_size=100)
    assert not (tmp_path / "model.safetensors").exists()
    net.save_pretrained(tmp_path)
    assert [one.name for one in sorted(tmp_path.glob("*.safetensors*"))] == ["model.safetensors"]
    net.save_pretrained(tmp_path, max_shard_size=100)
    assert not (tmp_path / "model.safetensors").exists()
    assert sn.load(tmp_path, build).space == SPACE


@pytest.mark.parametrize("size", ["5 gigabytes", "", "GB", -1, 0, True, 1.5, None])
def test_sizes_that_are_none_are_refused(tmp_path: Path, size) -> None:
    with pytest.raises(ConfigError, match="max_shard_size"):
        network().save_pretrained(tmp_path, max_shard_size=size)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    network().save_pretrained(tmp_path, max_shard_size=100)
    (tmp_path / "model-00002-of-00003.safetensors").unlink(missing_ok=True)
    shard = next(tmp_path.glob("model-*.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"model-0000\d-of-0000\d.safetensors is missing"):
        sn.load(tmp_path, build)


@pytest.mark.parametrize("at", ["r=1", "r=2"])
def test_a_corner_of_an_adapter_is_the_sub_model(tmp_path: Path, at: str) -> None:
    net = adapter(3)
    net.save_pretrained(tmp_path)
    found, expected = sn.load(tmp_path, model=base(), at=at).state_dict(), net.extract(at).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# Without the check, and without the weights


def test_the_check_may_be_left_out(tmp_path: Path) -> None:
    network(1).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for at in (None, "depth=2,width=4"):
        with pytest.raises(CheckpointError, match="damaged"):
            sn.load(tmp_path, build, at=at)
        sn.load(tmp_path, build, at=at, verify=False)


def test_a_table_belongs_to_a_network_without_reading_its_weights(made: Path, monkeypatch) -> None:
    with tempfile.TemporaryDirectory() as place:
        run = Path(shutil.copytree(made / "selection", Path(place) / "run"))
        monkeypatch.setattr(weights, "_add", lambda *_: pytest.fail("values are read"))
        assert len(table_of(run)) == 4
        sn.SortedNet(partial(MLP, inputs=3, classes=2), SPACE).save_pretrained(run / "model")
        with pytest.raises(ConfigError, match="is of an earlier network"):
            table_of(run)
