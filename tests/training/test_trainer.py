import io
import json
import re
import signal
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.nn import functional
from torch.utils.data import Dataset

import sortednet as sn
from sortednet.errors import CheckpointError, ConfigError, DataError, MissingPackageError, TrainingError
from sortednet.files.run_folder import read_curves
from sortednet.models import MLP
from sortednet.network import checkpoint
from sortednet.training.trainer import Trainer, TrainingConfig

CONFIG = TrainingConfig(updates=12, batch_size=8, checkpoint_every=5, log_every=2, learning_rate=0.01)
SPACE = sn.Space(depth=[1, 2], width=[4, 8])


def digits_like(count: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def make_net() -> sn.SortedNet:
    torch.manual_seed(0)

    def build(depth: int, width: int) -> torch.nn.Module:
        model = MLP(depth, width, inputs=6, classes=3)
        model.register_module("dropout", torch.nn.Dropout(0.2))
        plain = model.forward
        model.forward = lambda x: plain(model.dropout(x))
        return model

    return sn.SortedNet(build, SPACE)


def make_trainer(output, config: TrainingConfig = CONFIG, net: sn.SortedNet | None = None, **options) -> Trainer:
    objective = sn.Stochastic(sn.Stratified(SPACE, seed=0), draws=2)

    def jitter(batch, generator):
        return batch[0] + 0.1 * torch.randn(batch[0].shape, generator=generator), batch[1]

    return Trainer(
        net or make_net(), objective, functional.cross_entropy, digits_like(), config, output,
        transform=jitter, console=Console(quiet=True), **options,
    )  # fmt: skip


def weights(net: sn.SortedNet) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.full.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_invariant_5_a_run_resumed_in_the_middle_of_an_epoch_takes_the_uninterrupted_trajectory(tmp_path) -> None:
    whole = weights(make_trainer(tmp_path / "whole").train())
    interrupted = make_trainer(tmp_path / "cut")
    interrupted.objective.sampler.draw = _stop_after(interrupted.objective.sampler.draw, calls=8)
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    resumed = weights(make_trainer(tmp_path / "cut").train())
    assert same(whole, resumed)


def test_invariant_5_the_resumed_run_draws_and_logs_what_the_uninterrupted_one_does(tmp_path) -> None:
    make_trainer(tmp_path / "whole").train()
    interrupted = make_trainer(tmp_path / "cut")
    interrupted.objective.sampler.draw = _stop_after(interrupted.objective.sampler.draw, calls=8)
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    make_trainer(tmp_path / "cut").train()
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    after = [[json.loads(line) for line in one if json.loads(line)["update"] > 6] for one in lines]
    assert after[0] == after[1]


def _stop_after(draw, calls: int):
    done = 0

    def stopping(count: int = 1):
        nonlocal done
        done += 1
        if done > calls:
            raise KeyboardInterrupt
        return draw(count)

    return stopping


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path) -> None:
    code = textwrap.dedent(
        """
        import os, signal, sys
        from tests.training.test_trainer import make_trainer, _stop_after
        trainer = make_trainer(sys.argv[1])
        draw, count = trainer.objective.sampler.draw, 0
        def dying(n=1):
            global count
            count += 1
            if count > 8:
                os.kill(os.getpid(), signal.SIGKILL)
            return draw(n)
        trainer.objective.sampler.draw = dying
        trainer.train()
        """
    )
    died = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "cut")], check=False)
    assert died.returncode == -signal.SIGKILL
    whole = weights(make_trainer(tmp_path / "whole").train())
    assert same(whole, weights(make_trainer(tmp_path / "cut").train()))


def test_the_trained_network_is_written_as_a_checkpoint(tmp_path) -> None:
    net = make_trainer(tmp_path).train()
    again = sn.load(tmp_path / "model", net.builder)
    assert same(weights(net), weights(again))


def test_training_lowers_the_loss_of_every_sub_model(tmp_path) -> None:
    make_trainer(tmp_path, replace(CONFIG, updates=150, learning_rate=0.03)).train()
    curves = read_curves(tmp_path)
    assert set(curves) == {str(setting) for setting in SPACE}
    for curve in curves.values():
        assert sum(loss for _, loss in curve[-3:]) < sum(loss for _, loss in curve[:3])


def test_only_the_last_checkpoints_are_kept(tmp_path) -> None:
    make_trainer(tmp_path, replace(CONFIG, checkpoint_every=3, keep=2)).train()
    found = sorted(path.name for path in (tmp_path / "checkpoints").glob("[!.]*"))
    assert found == ["update-00000009.safetensors", "update-00000012.safetensors"]


def test_no_checkpoint_is_a_pickle(tmp_path) -> None:
    make_trainer(tmp_path).train()
    assert {path.suffix for path in tmp_path.rglob("*.*") if path.is_file()} - {""} == {
        ".safetensors",
        ".json",
        ".jsonl",
    }


def test_a_checkpoint_of_another_run_is_refused(tmp_path) -> None:
    make_trainer(tmp_path).train()
    with pytest.raises(CheckpointError, match=r"another run: .*training\.learning_rate was .*another output"):
        make_trainer(tmp_path, replace(CONFIG, learning_rate=0.5)).train()


def flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["cut short", "a bit of the header", "a bit of the values", "empty"])
def test_where_the_last_checkpoint_is_damaged_the_one_before_is_taken(tmp_path, damage) -> None:
    whole = weights(make_trainer(tmp_path, replace(CONFIG, checkpoint_every=3, keep=2)).train())
    last = max((tmp_path / "checkpoints").glob("update-*"))
    if damage in ("cut short", "empty"):
        last.write_bytes(last.read_bytes()[: 200 if damage == "cut short" else 0])
    else:
        flip(last, 300 if "header" in damage else -3)
    trainer = make_trainer(tmp_path, replace(CONFIG, checkpoint_every=3, keep=2))
    said = io.StringIO()
    trainer.console = Console(file=said, width=1000)
    assert same(whole, weights(trainer.train()))
    assert re.search(r"update-00000012.safetensors is damaged or cut short .* The one before is taken", said.getvalue())
    names = {path.name for path in (tmp_path / "checkpoints").glob("update-*")}
    assert names == {f"update-{one}.safetensors{end}" for one, end in
                     (("00000009", ""), ("00000012", ""), ("00000012", ".damaged"))}  # fmt: skip


def test_where_every_checkpoint_is_damaged_the_run_is_refused(tmp_path) -> None:
    make_trainer(tmp_path, replace(CONFIG, checkpoint_every=3, keep=2)).train()
    for path in (tmp_path / "checkpoints").glob("update-*"):
        flip(path, -3)
    with pytest.raises(CheckpointError, match=r"update-00000009.*damaged or cut short.*earlier checkpoint"):
        make_trainer(tmp_path, replace(CONFIG, checkpoint_every=3, keep=2)).train()


def test_without_resuming_a_run_starts_anew(tmp_path) -> None:
    first = weights(make_trainer(tmp_path).train())
    assert same(first, weights(make_trainer(tmp_path).train(resume=False)))


def test_accumulation_gives_every_batch_draws_of_its_own(tmp_path) -> None:
    trainer = make_trainer(tmp_path, replace(CONFIG, updates=3, accumulate=2, log_every=1))
    trainer.train()
    assert trainer.objective.sampler.count == 3 * 2 * 2


def test_every_example_is_seen_once_a_pass(tmp_path) -> None:
    from sortednet.training.trainer import _Order

    batches = iter(_Order(length=24, batch_size=8, seed=0, start=0, rank=0, processes=1))
    first, second = (sorted(i for _ in range(3) for i in next(batches)) for _ in range(2))
    assert first == second == list(range(24))


def test_processes_share_a_batch_without_overlap() -> None:
    from sortednet.training.trainer import _Order

    shares = [next(iter(_Order(24, 8, seed=0, start=5, rank=rank, processes=2))) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(next(iter(_Order(24, 8, 0, 5, 0, 1))))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_sub_model(tmp_path) -> None:
    net = make_net()
    with torch.no_grad():
        net.full.head.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"The loss is nan, from depth=.*No weight was changed.*learning rate"):
        make_trainer(tmp_path, net=net).train()


def test_bf16_and_sgd_train(tmp_path) -> None:
    net = make_trainer(tmp_path, replace(CONFIG, precision="bf16", optimizer="sgd", schedule="linear")).train()
    assert all(torch.isfinite(p).all() for p in net.parameters())


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_a_run_in_the_precision_that_it_chooses(has, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("sortednet.training.device.has_bfloat16", lambda _: has)
    chosen = "bf16" if has else "float32"
    with pytest.warns(UserWarning, match="auto is float32") if not has else nullcontext():
        ours = weights(make_trainer(tmp_path / "auto", replace(CONFIG, precision="auto")).train())
    theirs = weights(make_trainer(tmp_path / "chosen", replace(CONFIG, precision=chosen)).train())
    assert all(torch.equal(one, theirs[name]) for name, one in ours.items())
    monkeypatch.setattr("sortednet.training.device.has_bfloat16", lambda _: True)
    other = make_trainer(tmp_path / "auto", replace(CONFIG, precision="float32" if has else "bf16"))
    with pytest.raises(CheckpointError, match=r"training\.precision was .* and is "):
        other.train()


def test_what_the_first_version_called_no_is_float32(tmp_path) -> None:
    assert replace(CONFIG, precision="no") == CONFIG


def test_the_touched_rule_reaches_the_trainer(tmp_path) -> None:
    small = sn.Cycle(SPACE, ["depth=1,width=4"])
    trainer = make_trainer(tmp_path, replace(CONFIG, update="touched"))
    trainer.objective = sn.Stochastic(small)
    before = weights(trainer.net)
    after = weights(trainer.train())
    assert torch.equal(before["head.weight"][:, 4:], after["head.weight"][:, 4:])
    assert not torch.equal(before["head.weight"][:, :4], after["head.weight"][:, :4])


def test_any_map_style_data_set_serves(tmp_path) -> None:
    class Mapping(Dataset):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"x": torch.full((6,), float(index)), "label": torch.tensor(index % 3)}

    class Labelled(torch.nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = MLP(1, width, inputs=6, classes=3)

        def forward(self, x, label):
            return self.body(x)

    space = sn.Space(width=[4, 8])
    net = sn.SortedNet(Labelled, space)
    trainer = Trainer(
        net,
        sn.Stochastic(sn.Uniform(space, seed=0)),
        lambda output, batch: functional.cross_entropy(output, batch["label"]),
        Mapping(),
        replace(CONFIG, updates=3),
        tmp_path,
        console=Console(quiet=True),
    )
    trainer.train()
    assert trainer.objective.sampler.count == 3


def test_tensorboard_events_are_written_if_asked(tmp_path) -> None:
    make_trainer(tmp_path, replace(CONFIG, tensorboard=True)).train()
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    config = TrainingConfig(updates=100, learning_rate=1.0, warmup_share=0.1)
    rates = [config.rate_at(update) for update in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[-1] < 0.001


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("updates", 0),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("warmup_share", 1.0),
        ("max_norm", -1.0),
        ("keep", 0),
    ],
)
def test_a_value_outside_its_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{name}={value}"):
        replace(CONFIG, **{name: value})


def test_tensorboard_that_is_not_installed_is_refused_with_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingPackageError, match=r"sortednet\[tensorboard\]"):
        replace(CONFIG, tensorboard=True)


def test_fewer_examples_than_a_batch_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"hold 30 examples, fewer than a batch of 64.*Lower training.batch_size"):
        make_trainer(tmp_path, replace(CONFIG, batch_size=64))


def test_tensors_of_unequal_length_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"lengths \[5, 6\]"):
        Trainer(
            make_net(),
            sn.Summation(SPACE),
            functional.cross_entropy,
            (torch.ones(5, 6), torch.ones(6)),
            CONFIG,
            tmp_path,
        )


def test_a_changed_description_is_refused_and_leaves_the_run_as_it_was(tmp_path) -> None:
    make_trainer(tmp_path, description={"data": "one"}).train()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"description\.data was 'one' and is 'two'"):
        make_trainer(tmp_path, description={"data": "two"}).train()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_starting_anew_leaves_nothing_of_the_run_before(tmp_path) -> None:
    make_trainer(tmp_path).train()
    interrupted = make_trainer(tmp_path)
    interrupted.objective.sampler.draw = _stop_after(interrupted.objective.sampler.draw, calls=2)
    with pytest.raises(KeyboardInterrupt):
        interrupted.train(resume=False)
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "model").exists()


def test_an_interrupted_run_is_saved_where_it_stands(tmp_path) -> None:
    import os

    trainer = make_trainer(tmp_path / "cut", replace(CONFIG, checkpoint_every=100))
    draw, calls = trainer.objective.sampler.draw, []

    def interrupting(count: int = 1):
        calls.append(count)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(count)

    trainer.objective.sampler.draw = interrupting
    with pytest.raises(KeyboardInterrupt, match="after update 4, which is saved"):
        trainer.train()
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").glob("[!.]*")] == ["update-00000004.safetensors"]
    whole = weights(make_trainer(tmp_path / "whole").train())
    assert same(whole, weights(make_trainer(tmp_path / "cut").train()))


def test_two_runs_in_one_folder_are_refused(tmp_path) -> None:
    from sortednet.files.processes import alone

    with alone(tmp_path), pytest.raises(CheckpointError, match=r"Another process writes in .*give another folder"):
        make_trainer(tmp_path).train()


def test_a_data_loader_is_refused(tmp_path) -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*digits_like()))
    with pytest.raises(DataError, match=r"DataLoader has an order of its own. Give its data set"):
        Trainer(make_net(), sn.Summation(SPACE), functional.cross_entropy, loader, CONFIG, tmp_path)


def test_a_list_of_examples_is_a_data_set(tmp_path) -> None:
    x, y = digits_like()
    trainer = make_trainer(tmp_path)
    pairs = Trainer(
        make_net(), trainer.objective, functional.cross_entropy, list(zip(x, y, strict=True)), CONFIG,
        tmp_path / "pairs", transform=trainer.transform, console=Console(quiet=True),
    )  # fmt: skip
    assert same(weights(pairs.train()), weights(make_trainer(tmp_path / "tensors").train()))


@pytest.mark.parametrize(
    ("name", "value"),
    [("optimizer", "foo"), ("schedule", "foo"), ("updates", 1.5), ("seed", 10**23), ("learning_rate", float("inf"))],
)
def test_a_value_that_is_none_of_its_kind_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{name}="):
        replace(CONFIG, **{name: value})


def test_a_finished_network_without_checkpoints_is_not_replaced_unasked(tmp_path) -> None:
    net = make_trainer(tmp_path).train()
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match=r"holds a trained network, but no checkpoint is left.*starting anew"):
        make_trainer(tmp_path).train()
    assert same(weights(sn.load(tmp_path / "model", net.builder)), weights(net))


def test_a_checkpoint_of_another_precision_is_refused(tmp_path) -> None:
    config = replace(CONFIG, updates=5)
    make_trainer(tmp_path, config).train()
    (tmp_path / "model").rename(tmp_path / "kept")  # as where the run was cut before its end
    with pytest.raises(CheckpointError, match=r"holds .* in float32, and the network is in float64.*resume=False"):
        make_trainer(tmp_path, config, make_net().double()).train()


def test_an_optimisers_state_of_another_precision_is_refused(tmp_path) -> None:
    make_trainer(tmp_path, replace(CONFIG, updates=5)).train()
    file = max((tmp_path / "checkpoints").glob("*.safetensors"))
    tensors, metadata = checkpoint.read_file(file)
    other = {name: one.bfloat16() if name.endswith("|exp_avg") else one for name, one in tensors.items()}
    file.write_bytes(checkpoint.to_bytes(other, metadata))
    (tmp_path / "model").rename(tmp_path / "kept")
    with pytest.raises(CheckpointError, match=r"the optimiser's exp_avg of .* in bfloat16, and the network"):
        make_trainer(tmp_path, replace(CONFIG, updates=5)).train()
