"""Each private of another package that ARCHITECTURE.md lists, tried alone: what is gone is named, with its version."""

import contextlib
import copy
import inspect
import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sortednet.huggingface.trainer import SortedTrainer
from sortednet.imports.privates import accelerate as of_accelerate
from sortednet.imports.privates import gplearn as of_gplearn
from sortednet.imports.privates import peft as of_peft
from sortednet.imports.privates import torch as of_torch
from sortednet.imports.privates import transformers as of_transformers
from sortednet.imports.privates import trl as of_trl

TEXT = (Path(__file__).parents[3] / "ARCHITECTURE.md").read_text()
ROW = re.compile(r"^\| (\w+) \| (`.+?) \| [^|]+ \| `([\w.]+)` \| ([\d.]+) \|$", re.MULTILINE)
CASES: dict[tuple[str, str], Callable[[], object]] = {}


def table() -> dict[tuple[str, str], tuple[str, str]]:
    """Return, by package and private, where it is used and the version it was checked with."""
    text = TEXT.split("## Into other packages' privates")[1].split("\n## ")[0]
    return {
        (package, private): (where, checked)
        for package, privates, where, checked in ROW.findall(text)
        for private in re.findall(r"`([^`]+)`", privates)
    }


def case(package: str, private: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    def add(function: Callable[[], object]) -> Callable[[], object]:
        CASES[package, private] = function
        return function

    return add


@contextlib.contextmanager
def told(package: str, private: str) -> Iterator[None]:
    """Say which private has failed, of which version."""
    try:
        yield
    except Exception as error:
        where, checked = table()[package, private]
        raise AssertionError(
            f"{package} {version(package)} has broken its private {private}, which sortednet.{where} uses and which "
            f"was checked with {package} {checked} ({type(error).__name__}: {error})."
        ) from error


@pytest.mark.parametrize(("package", "private"), table())
def test_every_private_is_what_it_was(package: str, private: str) -> None:
    with told(package, private):
        CASES[package, private]()


def test_every_case_is_in_the_table_and_every_file_of_privates_too() -> None:
    assert CASES.keys() == table().keys()
    files = {path.stem for path in Path(of_torch.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {package for package, _ in CASES}


def test_what_is_gone_is_named_with_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(nn.Conv1d, "_conv_forward")
    message = (
        rf"torch {re.escape(version('torch'))} has broken its private _ConvNd._conv_forward, .* checked with torch 2"
    )
    with pytest.raises(AssertionError, match=message), told("torch", "_ConvNd._conv_forward"):
        CASES["torch", "_ConvNd._conv_forward"]()


def layer() -> nn.BatchNorm1d:
    return nn.BatchNorm1d(2)


@case("torch", "Module._parameters")
def parameters() -> None:
    one = nn.Linear(2, 2)
    held = of_torch.parameters_of(one)
    assert held["weight"] is one.weight
    held["weight"] = one.weight[:1]  # a view
    held["bias"] = one.bias[:1]
    assert one(torch.ones(3, 2)).shape == (3, 1)


@case("torch", "Module._buffers")
def buffers() -> None:
    one = layer()
    of_torch.buffers_of(one)["running_mean"] = torch.full((2,), 5.0)
    assert one.running_mean is not None
    assert one.running_mean[0] == 5


@case("torch", "Module._modules")
def children() -> None:
    twice = nn.Linear(1, 1)
    assert list(of_torch.children_of(nn.Sequential(twice, twice))) == ["0", "1"]


@case("torch", "Module._non_persistent_buffers_set")
def persistent() -> None:
    one = layer()
    one.register_buffer("own", torch.ones(1), persistent=False)
    assert [name for name, _ in of_torch.persistent_buffers(one)] == list(one.state_dict())[2:]


@case("torch", "Module._forward_hooks")
@case("torch", "Module._forward_hooks_with_kwargs")
def hooks() -> None:
    one, called = nn.Identity(), []
    one.register_forward_hook(lambda *given: called.append(len(given)), with_kwargs=True)
    one(1)
    ((key, _),) = of_torch.forward_hooks(one).items()
    of_torch.drop_hook(one, key)
    one(1)
    one.register_forward_hook(lambda *given: called.append(len(given)))
    one(1)
    assert called == [4, 3]
    assert copy.deepcopy(one)._forward_hooks_with_kwargs == {}


@case("torch", "Module._forward_pre_hooks")
def pre_hooks() -> None:
    one = nn.Identity()
    one.register_forward_pre_hook(print)
    assert list(of_torch.forward_pre_hooks(one).values()) == [print]


@case("torch", "Module._compiled_call_impl")
def compiled() -> None:
    one = nn.Identity()
    one.compile(backend=lambda *_: pytest.fail("it was compiled"))
    of_torch.uncompile(one)
    assert one(torch.ones(1)) == 1


@case("torch", "frames of checkpoint")
def frames() -> None:
    found: dict[bool, list[bool]] = {}
    for reentrant in (False, True):
        found[reentrant] = []

        def run(x: torch.Tensor, seen: list[bool] = found[reentrant]) -> torch.Tensor:
            seen.append(of_torch.is_checkpointed())
            return x.exp()

        checkpoint(run, torch.ones(1, requires_grad=True), use_reentrant=reentrant).backward()
    assert found == {False: [True, True], True: [True, True]}
    assert not of_torch.is_checkpointed()

    def below() -> bool:
        return of_torch.is_checkpointed(below)

    assert checkpoint(below, use_reentrant=False) is False


@case("torch", "frames of backward")
def inputs_of_checkpoints() -> None:
    given = torch.ones(1, requires_grad=True)
    for reentrant in (False, True):
        held: list[bool] = []

        def run(x: torch.Tensor, held: list[bool] = held) -> torch.Tensor:
            inputs = of_torch.tree_leaves(list(of_torch.checkpointed_inputs()))
            held.append(any(isinstance(one, torch.Tensor) and one.data_ptr() == given.data_ptr() for one in inputs))
            return x.exp()

        checkpoint(run, given, use_reentrant=reentrant).backward()
        assert held[1]
        # Beyond the backward pass lies what called it, such as another checkpoint.
        assert len(list(of_torch.checkpointed_inputs())) == 0


@case("torch", "_C._current_graph_task_id")
def passes() -> None:
    found: list[int] = []
    x = torch.ones(1, requires_grad=True)
    x.register_hook(lambda _: found.append(of_torch.backward_pass()))
    for _ in range(2):
        (2 * x).backward()
    assert of_torch.backward_pass() == -1
    assert len({-1, *found}) == 3


@case("torch", "Tensor._version")
def versions() -> None:
    x = torch.ones(1)
    before = of_torch.version_of(x)
    x.add_(1)
    assert of_torch.version_of(x) == before + 1


@case("torch", "UntypedStorage._cdata")
def storages() -> None:
    x = torch.ones(2)
    empty = [torch.empty(0) for _ in range(2)]
    keys = [of_torch.storage_key(one.untyped_storage()) for one in (x, x[1:], *empty)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


@case("torch", "_NormBase")
def norms() -> None:
    assert all(issubclass(one, of_torch.RunningNorm) for one in (nn.BatchNorm2d, nn.InstanceNorm1d, nn.SyncBatchNorm))
    assert not issubclass(nn.LayerNorm, of_torch.RunningNorm)


@case("torch", "_BatchNorm")
def batch_norms() -> None:
    assert all(issubclass(one, of_torch.BatchNorm) for one in (nn.BatchNorm1d, nn.SyncBatchNorm))
    assert not issubclass(nn.InstanceNorm1d, of_torch.BatchNorm)


@case("torch", "_ConvNd")
def convolutions() -> None:
    assert all(issubclass(one, of_torch.Convolution) for one in (nn.Conv1d, nn.Conv3d, nn.ConvTranspose2d))


@case("torch", "_ConvTransposeNd")
def transposed() -> None:
    assert issubclass(nn.ConvTranspose2d, of_torch.TransposedConvolution)
    assert not issubclass(nn.Conv2d, of_torch.TransposedConvolution)


@case("torch", "_ConvNd._conv_forward")
def convolve() -> None:
    one = nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular")
    x = torch.rand(1, 1, 5, generator=torch.Generator().manual_seed(0))
    assert one.bias is not None
    assert torch.allclose(of_torch.convolve(one, x) + one.bias[:, None], one(x))


@case("torch", "_dynamo.config")
@case("torch", "fx.experimental._config")
def compiler() -> None:
    from torch._dynamo import config
    from torch.fx.experimental import _config

    def now() -> list[bool]:
        return [
            config.force_nn_module_property_static_shapes,
            config.force_parameter_static_shapes,
            config.allow_unspec_int_on_nn_module,
            _config.use_duck_shape,
        ]

    before = now()
    with of_torch.unknown_sizes(), of_torch.unknown_sizes():
        assert now() == [False, False, True, False]
    assert now() == before != [False, False, True, False]


@case("torch", "OpOverload._schema")
def _schema_of_an_operator() -> None:
    schema = of_torch.schema_of(torch.ops.aten.add_.Tensor)
    assert schema.name == "aten::add_"
    assert [one.name for one in schema.arguments] == ["self", "other", "alpha"]
    assert schema.arguments[2].default_value == 1
    assert schema.is_mutable


@case("torch", "utils._pytree")
def trees() -> None:
    tree = {"a": (torch.ones(1), [2])}
    leaves, structure = of_torch.tree_flatten(tree)
    assert of_torch.tree_leaves(tree) == leaves
    assert of_torch.tree_unflatten(leaves, structure) == tree
    assert of_torch.tree_map(lambda _: 0, tree) == {"a": (0, [0])}
    paths = [of_torch.keystr(path) for path, _ in of_torch.tree_flatten_with_path(tree)[0]]
    assert paths == ["['a'][0]", "['a'][1][0]"]
    assert of_torch.tree_map_with_path(lambda path, _: of_torch.keystr(path), tree) == {"a": (paths[0], [paths[1]])}
    parameters = inspect.signature(of_torch.register_pytree_node).parameters
    assert list(parameters)[:3] == ["cls", "flatten_fn", "unflatten_fn"]


@case("torch", "utils._python_dispatch")
def dispatch() -> None:
    called: list[object] = []

    class Watching(of_torch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(function)
            return function(*args, **(kwargs or {}))

    with Watching():
        torch.ones(1).exp()
    assert called[-1] is torch.ops.aten.exp.default


@case("torch", "_subclasses.fake_tensor")
def fake() -> None:
    with of_torch.FakeTensorMode(allow_non_fake_inputs=True):
        assert torch.empty(10**9, 10**9).exp().shape == (10**9, 10**9)


def tiny():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=8, bos_token_id=1, eos_token_id=1, n_embd=4, n_layer=1, n_head=1, n_positions=8)
    )


@case("transformers", "_gradient_checkpointing_func")
def checkpoints() -> None:
    model = tiny().train()
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    holders = [one for one in model.modules() if set(of_transformers.CHECKPOINTING) <= vars(one).keys()]
    called: list[int] = []

    def wrap(own):
        def call(*args, **kwargs):
            called.append(1)
            return own(*args, **kwargs)

        return call

    before = [vars(one)[of_transformers.CHECKPOINTING[1]] for one in holders]
    with of_transformers.wrapped_checkpoints(model, wrap):
        model(torch.ones(1, 2, dtype=torch.long))
    assert called == [1]
    assert [vars(one)[of_transformers.CHECKPOINTING[1]] for one in holders] == before


@case("transformers", "_is_hf_initialized")
def kept_weights() -> None:
    model = tiny()
    for parameter in model.parameters():
        parameter.data.fill_(7)
        of_transformers.keep_weights(parameter)
    for module in model.modules():
        module.__dict__.pop("_is_hf_initialized", None)
    model.init_weights()
    assert all(bool((parameter == 7).all()) for parameter in model.parameters())


@case("transformers", "_init_weights")
def drawn_weights() -> None:
    model, part = tiny(), nn.Linear(4, 4)
    part.bias.data.fill_(7)
    of_transformers.draw_weights(model, part)
    assert bool((part.bias == 0).all())


@case("transformers", "config._attn_implementation")
def attention() -> None:
    model = tiny()
    model.set_attn_implementation("eager")
    assert of_transformers.attention_of(model.config) == "eager"


@case("transformers", "generation_config._mask_length")
def masks() -> None:
    found: list[int | None] = []

    def decode(model, input_ids, generation_config=None, **kwargs):
        found.append(kwargs.get("attention_mask") is None and of_transformers.mask_length(generation_config))
        return input_ids

    ids = torch.ones(1, 3, dtype=torch.long)
    tiny().eval().generate(
        ids, attention_mask=torch.ones_like(ids), custom_generate=decode, max_new_tokens=1, pad_token_id=0
    )
    assert found in ([3], [False])  # else the mask itself is passed on, as by older ones


@case("transformers", "_loss_function")
def loss_function() -> None:
    model = tiny()
    before = dict(vars(model))
    model.loss_function = len
    assert "loss_type" in before
    assert set(vars(model)) - set(before) == {of_transformers.LOSS[1]}
    assert vars(model)[of_transformers.LOSS[1]] is len


@case("transformers", "_model_mapping")
def mapping() -> None:
    from transformers import AutoModelForCausalLM

    model = tiny()
    assert of_transformers.class_for(AutoModelForCausalLM, model.config) is type(model)


OVERRIDDEN = {
    "_prepare_for_training": ["max_steps", "train_dataloader", "resume_from_checkpoint"],
    "_set_signature_columns_if_needed": [],
    "_get_dataloader": ["dataset", "description", "batch_size", "sampler_fn", "is_training", "dataloader_key"],
    "_save_checkpoint": ["model", "trial"],
    "_save_rng_state": ["output_dir"],
    "_save": ["output_dir", "state_dict"],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_load_best_model": [],
}


def overridden(name: str) -> None:
    from transformers import Trainer

    given = list(inspect.signature(getattr(Trainer, name)).parameters)[1:]
    assert given == OVERRIDDEN[name]
    assert name in vars(SortedTrainer.__mro__[1])
    assert f"self.{name}(" in inspect.getsource(Trainer), f"Trainer does not call {name} any more"


for _name in OVERRIDDEN:
    case("transformers", f"Trainer.{_name}")(lambda name=_name: overridden(name))


@case("transformers", "Trainer._get_output_dir")
def output_folder() -> None:
    from transformers import Trainer

    trainer = SimpleNamespace(hp_search_backend=None, args=SimpleNamespace(output_dir="here"))
    assert Trainer._get_output_dir(trainer, trial=None) == "here"


@case("transformers", "Trainer._signature_columns")
def columns() -> None:
    from transformers import Trainer

    trainer = SimpleNamespace(
        _signature_columns=None, model=tiny(), label_names=["labels"], args=SimpleNamespace(label_names=["labels"])
    )
    Trainer._set_signature_columns_if_needed(trainer)
    assert {"input_ids", "labels"} <= set(trainer._signature_columns)


@case("peft", "_disable_adapters")
def switched_off() -> None:
    model, x = adapted_linear(), torch.ones(1, 4)
    on, layer = model(x), model.get_submodule("base_model.model.layer")
    vars(layer)[of_peft.SWITCHES[0]] = True
    off = model(x)
    assert not torch.equal(on, off)
    with model.disable_adapter():
        vars(layer)[of_peft.SWITCHES[0]] = False
        assert torch.equal(model(x), on)


@case("peft", "_active_adapter")
def switched_over() -> None:
    model, x = adapted_linear(), torch.ones(1, 4)
    on, layer = model(x), model.get_submodule("base_model.model.layer")
    vars(layer)[of_peft.SWITCHES[1]] = []
    assert not torch.equal(on, model(x))


def adapted_linear() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    model = nn.Sequential()
    model.add_module("layer", nn.Linear(4, 3))
    return get_peft_model(model, LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False))


@case("peft", "Embedding._embed")
def embedding() -> None:
    from peft import LoraConfig, get_peft_model

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table(x)

    model = get_peft_model(Model(), LoraConfig(r=2, target_modules=["table"], init_lora_weights=False))
    x = torch.arange(5)
    changed = model(x)
    adapted = model.get_submodule("base_model.model.table")
    shapes: list[tuple[int, ...]] = []

    def change(read: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(read.shape))
        return 0 * read

    of_peft.change_embedded(adapted, change)
    assert torch.equal(model(x), adapted.base_layer(x))
    assert not torch.equal(changed, adapted.base_layer(x))
    assert shapes == [(5, 2)]


@case("accelerate", "AcceleratorState._shared_state")
@case("accelerate", "AcceleratorState._reset_state")
def state() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    before = dict(AcceleratorState._shared_state)
    with of_accelerate.own_state():
        assert Accelerator(mixed_precision="bf16", cpu=True).mixed_precision == "bf16"
        with of_accelerate.own_state():
            assert Accelerator(mixed_precision="no", cpu=True).mixed_precision == "no"
        assert Accelerator(cpu=True).mixed_precision == "bf16"
    assert AcceleratorState._shared_state == before


@case("trl", "_metrics")
def gathered() -> None:
    from trl import SFTTrainer

    assert 'self._metrics[mode]["' in inspect.getsource(SFTTrainer)
    held = {"train": {}, "eval": {"entropy": [1.0]}}
    assert of_trl.evaluation_metrics(SimpleNamespace(_metrics=held)) is held["eval"]
    assert of_trl.evaluation_metrics(SimpleNamespace()) == {}


@case("gplearn", "_program")
def program() -> None:
    genetic = pytest.importorskip("gplearn.genetic")
    x = np.arange(10.0)[:, None]
    found = genetic.SymbolicRegressor(population_size=20, generations=1, random_state=0).fit(x, x[:, 0])
    assert of_gplearn.program_of(found) == found._program.program
    assert len(of_gplearn.program_of(found)) >= 1
