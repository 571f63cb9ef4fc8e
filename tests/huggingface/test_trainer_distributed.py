"""Two processes, launched by torchrun, fine-tune as one does: under DDP and FSDP2, killed and resumed.

Accelerate (1.15) shards on accelerators alone: on the CPU it takes DDP, whatever the arguments say. So the trainer here
tells it to shard all the same; all that follows is the code that runs on accelerators, over gloo.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from packaging.version import Version
from peft import LoraConfig
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
    TrainingArguments,
)

import sortednet as sn
from sortednet.errors import ConfigError
from sortednet.huggingface.trainer import SortedTrainer

STEPS, STOPPED = 6, 5  # saved every second step
WRAPS = ["ddp", "fsdp", "fsdp per block"]
CASES = {
    # the exits of a language model read a tied head in chunks
    "language model": {"objective": "summation"},
    # another sub-model at each step, with a classifier of its own
    "classifier": {"objective": "stochastic", "checkpointing": True},
    # another rank of an adapter at each step; sharded frozen weights beside trained ones
    "ranks": {"objective": "stochastic"},
}
SIZES = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


class ShardingTrainer(SortedTrainer.__mro__[1], SortedTrainer.__mro__[2]):
    """The trainer, sharding on the CPU too where it is asked to."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.fsdp and not self.is_fsdp_enabled:
            for state in (AcceleratorState, PartialState):
                state._shared_state["distributed_type"] = DistributedType.FSDP
            plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            if self.args.bf16:
                plugin.set_mixed_precision("bf16")
            self.accelerator.state.fsdp_plugin = plugin
            self.is_fsdp_enabled = True


class StopAt(TrainerCallback):
    """Ends a run after a step, before it is saved: by an error, or as the system ends a process."""

    def __init__(self, step: int, kill: bool) -> None:
        self.step, self.kill = step, kill

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt


def make_net(case: str) -> sn.SortedNet:
    torch.manual_seed(0)
    if case == "language model":
        config = LlamaConfig(**SIZES, initializer_range=0.2, tie_word_embeddings=True)
        return sn.SortedNet.from_pretrained(LlamaForCausalLM(config), num_hidden_layers=[1, 2, 3])
    config = BertConfig(
        **SIZES, max_position_embeddings=16, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model = BertForSequenceClassification(config)
    if case == "ranks":
        return sn.dylora(model, LoraConfig(r=4, target_modules=["query"], modules_to_save=["classifier"]))
    return sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2, 3], private="classifier.*")


def make_data(case: str, count: int) -> list[dict]:
    drawn = torch.randint(0, 20, (count, 6), generator=torch.Generator().manual_seed(0)).tolist()
    if case == "language model":
        return [{"input_ids": one, "labels": one} for one in drawn]
    return [{"input_ids": one, "label": one[0] % 3} for one in drawn]


def make_trainer(
    case: str,
    folder: Path,
    wrap: str = "",
    processes: int = 1,
    callbacks: tuple = (),
    use_reentrant: bool = False,
    objective: str | None = None,
    **given,
) -> ShardingTrainer:
    chosen, more = CASES[case], {}
    if chosen.get("checkpointing"):
        more = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": use_reentrant}}
    if wrap.startswith("fsdp"):
        policy = "TRANSFORMER_BASED_WRAP" if wrap == "fsdp per block" else "NO_WRAP"
        more |= {"fsdp": True, "fsdp_config": {"version": 2, "auto_wrap_policy": policy}}
    args = TrainingArguments(
        str(folder),
        **{
            "max_steps": STEPS, "save_steps": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2,
            "per_device_train_batch_size": 8 // processes, "per_device_eval_batch_size": 12 // processes,
            "logging_steps": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": True,
            "dataloader_pin_memory": False, **more, **given,
        },
    )  # fmt: skip
    return ShardingTrainer(
        make_net(case), args, train_dataset=make_data(case, 40), eval_dataset=make_data(case, 12),
        objective=objective or chosen["objective"], callbacks=list(callbacks),
    )  # fmt: skip


def losses(trainer: ShardingTrainer, after: int = 0) -> list[dict[str, float]]:
    lines = [line for line in trainer.state.log_history if "loss" in line and line["step"] > after]
    return [{name: value for name, value in line.items() if "loss" in name} for line in lines]


def run(case: str, folder: Path, wrap: str = "", processes: int = 1) -> dict:
    trainer = make_trainer(case, folder, wrap, processes)
    trainer.train()
    found = {name: value for name, value in trainer.evaluate().items() if name.endswith("loss")}
    trainer.save_model(str(folder / "saved"))
    return {"losses": losses(trainer), "evaluation": found}


def averages() -> bool:
    """Return whether torch's own sharding averages gradients over gloo; before 2.9 it adds them up."""
    torch.manual_seed(0)
    sharded, plain = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    plain.load_state_dict(sharded.state_dict())
    fully_shard(sharded, mesh=init_device_mesh("cpu", (2,)))
    for one in (sharded, plain):
        one(torch.ones(1, 2)).sum().backward()
    return torch.allclose(sharded.weight.grad.full_tensor(), plain.weight.grad)


def work(mode: str, folder: Path) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    results = {}
    if mode == "train":
        for case in CASES:
            for wrap in WRAPS:
                os.environ.pop("ACCELERATE_USE_FSDP", None)
                results[f"{case} {wrap}"] = run(case, folder / f"{case} {wrap}", wrap, 2)
        rough = make_trainer(
            "language model", folder / "rough", "fsdp per block", 2, objective="per_example", bf16=True,
            per_device_train_batch_size=13, max_steps=1,
        )  # fmt: skip
        rough.train()
        results["bfloat16"] = losses(rough)
        os.environ.pop("ACCELERATE_USE_FSDP", None)
        with pytest.raises(ConfigError) as refused:
            make_trainer("classifier", folder / "refused", "ddp", 2, use_reentrant=True)
        results["refused"] = str(refused.value)
        results["averages"] = averages()
    for kill, wrap in enumerate(("fsdp per block", "ddp")):  # the last is killed
        os.environ.pop("ACCELERATE_USE_FSDP", None)
        stop = (StopAt(STOPPED, kill=bool(kill)),) if mode == "train" else ()
        trainer = make_trainer("classifier", folder / f"cut {wrap}", wrap, 2, stop)
        if mode == "train":
            (folder / f"train-{os.environ['RANK']}.json").write_text(json.dumps(results))
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        else:
            trainer.train(resume_from_checkpoint=True)
            results[wrap] = losses(trainer, after=4)
    (folder / f"{mode}-{os.environ['RANK']}.json").write_text(json.dumps(results))
    # A process that is gone while the other one still takes leave of it makes that one fail.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def launch(mode: str, folder: Path) -> int:
    # A machine's own name need not be known to it, and then the processes would wait for each other.
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone",
               "--local-addr=127.0.0.1", "--nproc-per-node=2"]  # fmt: skip
    paths = [str(Path(__file__).parent.parent.parent / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [*command, __file__, mode, str(folder)], env=environment, capture_output=True, text=True, timeout=600
    )
    if not (folder / f"{mode}-1.json").is_file() or (done.returncode and mode == "resume"):
        raise AssertionError(done.stdout[-3000:] + done.stderr[-6000:])
    return done.returncode


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("two")
    assert launch("train", made) != 0  # the last run is killed
    return made


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, dict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.filters", [("ignore", None, FutureWarning, None, 0)])
        return {case: run(case, tmp_path_factory.mktemp("one")) for case in CASES}


def read(folder: Path, mode: str) -> dict:
    results = [json.loads((folder / f"{mode}-{rank}.json").read_text()) for rank in (0, 1)]
    assert results[0] == results[1]
    return results[0]


def skip_where_torch_adds_up(folder: Path, wrap: str) -> None:
    if wrap != "ddp" and not read(folder, "train")["averages"]:
        pytest.skip("torch's own FSDP2 adds gradients up over gloo, where it should average them")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("wrap", WRAPS)
def test_invariant_5_two_processes_give_the_single_process_losses(folder, alone, case, wrap) -> None:
    skip_where_torch_adds_up(folder, wrap)
    found = read(folder, "train")[f"{case} {wrap}"]
    for one, other in zip(found["losses"], alone[case]["losses"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)  # their names are the settings drawn
    assert found["evaluation"] == pytest.approx(alone[case]["evaluation"], abs=1e-5)


def test_weights_that_bfloat16_rounds_are_those_announced(folder) -> None:
    # of 13 examples 5, 4 and 4 train a sub-model each; FSDP's mixed precision casts the losses
    (line,) = read(folder, "train")["bfloat16"]
    assert 2 < line["loss"] < 4


@pytest.mark.parametrize("wrap", WRAPS)
def test_checkpoints_of_two_processes_open_whole(folder, alone, wrap) -> None:
    skip_where_torch_adds_up(folder, wrap)
    for case in CASES:
        for name in ("saved", f"checkpoint-{STEPS}"):
            base = {"model": make_net(case).full.unload()} if case == "ranks" else {}
            net = sn.load(folder / f"{case} {wrap}" / name, **base).eval()
            batch = {key: torch.tensor([one[key] for one in make_data(case, 12)]) for key in ("input_ids",)}
            key = "labels" if case == "language model" else "label"
            batch["labels"] = torch.tensor([one[key] for one in make_data(case, 12)])
            with torch.no_grad():
                for setting in net.space:
                    loss = net.extract(setting)(**batch).loss
                    expected = alone[case]["evaluation"][f"eval_{setting}_loss"]
                    assert float(loss) == pytest.approx(expected, abs=1e-5), (case, name, setting)
    plain = AutoModelForCausalLM.from_pretrained(folder / f"language model {wrap}" / "saved")
    assert plain.lm_head.weight is plain.model.embed_tokens.weight


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.18"), reason="transformers opens no optimiser of a shard on the CPU"
)
def test_a_killed_run_of_two_processes_resumes(folder, alone) -> None:
    assert launch("resume", folder) == 0
    found = read(folder, "resume")
    for wrap in ("fsdp per block", "ddp"):
        for one, other in zip(found[wrap], alone["classifier"]["losses"][4:], strict=True):
            assert one == pytest.approx(other, abs=1e-5), wrap


def test_reentrant_checkpointing_under_ddp_is_refused(folder) -> None:
    text = "use_reentrant=True under DDP cannot be used with sub-models. It marks parameters ready twice"
    assert text in read(folder, "train")["refused"]


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
