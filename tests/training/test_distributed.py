"""Invariant 5: two processes take the single process's trajectory, under DDP and FSDP2."""

import os
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.console import Console
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import sortednet as sn
from sortednet.models import MLP, Transformer
from sortednet.training.trainer import Trainer, TrainingConfig

SPACE = sn.Space(depth=[1, 2, 3], width=[8, 16], heads=[1, 2], hidden=[8, 16])
BATCH, STEPS = 8, 8


class Checkpointed(Transformer):
    """The transformer with activation checkpointing of every block."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            if "wrapped" not in block.__dict__:
                plain = block.forward
                block.__dict__["wrapped"] = True
                block.forward = partial(checkpoint, plain, use_reentrant=False)
        return super().forward(tokens)


def make_net(checkpointing: bool) -> sn.SortedNet:
    torch.manual_seed(0)
    kind = Checkpointed if checkpointing else Transformer
    return sn.SortedNet(partial(kind, head_size=4, vocabulary=20, positions=8), SPACE)


def loss_fn(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def losses(wrap: str, checkpointing: bool, rank: int = 0, processes: int = 1) -> list[float]:
    net = make_net(checkpointing)
    model: nn.Module = net
    if wrap == "ddp":
        model = DistributedDataParallel(net, find_unused_parameters=True)
    elif wrap.startswith("fsdp"):
        for block in net.full.blocks if wrap == "fsdp per block" else ():
            fully_shard(block)
        fully_shard(net)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    objective = sn.Stochastic(sn.Stratified(SPACE, seed=None if processes > 1 and rank else 0), draws=2)
    data = torch.randint(0, 20, (STEPS, BATCH, 8), generator=torch.Generator().manual_seed(1))
    found = []
    for batch in data:
        share = batch[rank::processes]
        result = sn.step(net, objective, optimizer, (share, share), loss_fn, model=model)
        loss = torch.tensor(result.loss)
        if processes > 1:
            dist.all_reduce(loss)
        found.append(float(loss) / processes)
    return found


def work(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    result = {
        f"{wrap} {checkpointing}": losses(wrap, checkpointing, rank, 2)
        for wrap in ("ddp", "fsdp", "fsdp per block")
        for checkpointing in (False, True)
    }
    sharded = make_net(checkpointing=False)
    fully_shard(sharded)
    with pytest.raises(ValueError) as refused:
        sharded.extract(depth=1)
    weights = trained(Path(folder) / "both")
    if rank == 0:
        torch.save({"losses": result, "weights": weights, "refused": str(refused.value)}, Path(folder) / "result.pt")
    dist.destroy_process_group()


def trained(output: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    space = sn.Space(depth=[1, 2], width=[4, 8])
    net = sn.SortedNet(partial(MLP, inputs=6, classes=3), space)
    data = torch.randn(32, 6, generator=torch.Generator().manual_seed(2)), torch.arange(32) % 3
    config = TrainingConfig(updates=9, batch_size=8, checkpoint_every=4)
    objective = sn.Stochastic(sn.Stratified(space, seed=0), draws=2)
    trainer = Trainer(net, objective, functional.cross_entropy, data, config, output, console=Console(quiet=True))
    return trainer.train().full.state_dict()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(folder)), nprocs=2)
    return torch.load(folder / "result.pt", weights_only=True)


# Its blocks are checkpointed from outside, so that depths share no forward, which is said once.
@pytest.mark.filterwarnings("ignore:Checkpointed has no exits")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("wrap", ["ddp", "fsdp", "fsdp per block"])
def test_invariant_5_two_processes_give_the_single_process_losses(two_processes, wrap, checkpointing) -> None:
    assert two_processes["losses"][f"{wrap} {checkpointing}"] == pytest.approx(
        losses("single", checkpointing), abs=1e-5
    )


def test_extracting_from_sharded_parameters_says_how_to_gather_them(two_processes) -> None:
    assert "extract needs whole parameters" in two_processes["refused"]
    assert "full_state_dict=True" in two_processes["refused"]


def test_invariant_5_the_trainer_under_two_processes_gives_the_single_process_weights(two_processes, tmp_path) -> None:
    alone = trained(tmp_path)
    for name, tensor in two_processes["weights"].items():
        torch.testing.assert_close(tensor, alone[name], rtol=0, atol=1e-5)
