"""What a recipe is: how a network is made, and what each part of its training does."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final, get_args

from torch import nn

from ...errors import ConfigError
from ...imports.names import BufferPolicy, Reduction
from ...imports.privates.torch import RunningNorm
from ...network.sorted_net import SortedNet
from ...space import Space
from ...views.layouts import Layout
from ..objectives import LossFunction, Objective, Stochastic
from ..sampling import Cycle
from .line import Line

__all__ = ["Part", "Recipe", "Stage", "depth_of", "full_only", "head_of", "norms"]

_HEADS = ("classifier.*", "score.*", "lm_head.*", "head.*", "fc.*")
Builder = Callable[..., nn.Module]
MakeObjective = Callable[[SortedNet, int, "nn.Module | None"], Objective]
Prepare = Callable[[SortedNet, Iterable[Any], LossFunction], object]


@final
@dataclass(frozen=True)
class Stage:
    """A part of a training, with an optimiser and a learning-rate schedule of its own.

    Args:
        objective: Makes the objective, given the network, a seed, and the teacher: a copy of the full model as it was
            at the end of the first stage, None in that stage.
        share: Its share of all updates, above 0.
        trained: Shell patterns of the full model's parameters that are trained, given that model; all where left out.
            Private ones always are.
        setup: Changes the network whenever the stage starts or goes on, such as by layer dropout, and returns what
            undoes that at its end.
        prepare: Changes the weights once, before the first update, given some batches and the loss.
        accumulation: Whether the gradients of accumulated batches are averaged or summed.

    Raises:
        ConfigError: If `accumulation` is neither.
    """

    objective: MakeObjective
    share: float = 1.0
    trained: Callable[[nn.Module], Sequence[str]] | None = None
    setup: Callable[[SortedNet], Callable[[], object]] | None = None
    prepare: Prepare | None = None
    accumulation: Reduction = "mean"

    def __post_init__(self) -> None:
        if self.accumulation not in get_args(Reduction):
            raise ConfigError(f"accumulation={self.accumulation!r} is unknown. Choose mean or sum.")

    @contextmanager
    def applied(self, net: SortedNet) -> Iterator[None]:
        """Freeze what the stage does not train, and set the network up; at the end all is as before.

        Normalisation layers of which nothing is trained keep their statistics.
        """
        before = [(parameter, parameter.requires_grad) for parameter in net.full.parameters()]
        hook = undo = None
        modes: list[tuple[nn.Module, bool]] = []
        try:
            if self.trained is not None:
                patterns = self.trained(net.full)
                for name, parameter in net.full.named_parameters():
                    wanted = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
                    parameter.requires_grad_(parameter.requires_grad and wanted)
                hook = net.register_forward_pre_hook(_keep_statistics)
                modes = [(module, module.training) for module in net.full.modules()]
            undo = None if self.setup is None else self.setup(net)
            yield
        finally:
            if undo is not None:
                undo()
            if hook is not None:
                hook.remove()
            for module, mode in modes:
                module.training = mode
            for parameter, was_trained in before:
                parameter.requires_grad_(was_trained)


@final
@dataclass(frozen=True)
class Part:
    """A stage of a training that is under way.

    Attributes:
        stage: The stage.
        number: Which one it is, from 1.
        share: Its share of all updates, in (0, 1].
        folder: Where it keeps its checkpoints: below `stages`, or for the last stage the training's own folder.
        teacher: The full model as it was at the end of the first stage; None in that stage.
        is_last: Whether it is the last.
    """

    stage: Stage
    number: int
    share: float
    folder: Path
    teacher: nn.Module | None
    is_last: bool


@final
@dataclass(frozen=True)
class Recipe:
    """A method of training a many-in-one network, as parts of this library put together.

    Args:
        name: Its name.
        space: The sub-models.
        stages: The parts of the training, in order.
        buffers: Whose the running statistics are.
        private: What every sub-model has for itself, as shell patterns of names, given the full model.
        wrap: Changes the builder.
        options: What its maker was given beside the space, as plain JSON values; a run is continued with the same.

    Example:
        >>> import torch, sortednet as sn
        >>> from torch.nn import functional
        >>> recipe = sn.recipes.slimmable(sn.Space(width=[4, 8]))
        >>> net = recipe.network(sn.models.PreResNet)
        >>> objective = recipe.stages[0].objective(net, 0, None)
        >>> batch = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> [str(term.setting) for term in objective.terms(net, batch, functional.cross_entropy)]
        ['width=4', 'width=8']
    """

    name: str
    space: Space
    stages: tuple[Stage, ...]
    buffers: BufferPolicy = "shared"
    private: Callable[[nn.Module], Sequence[str]] = field(default=lambda model: ())
    wrap: Callable[[Builder], Builder] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def network(
        self, build: Builder, model: nn.Module | None = None, layouts: Layout | Iterable[Layout] = ()
    ) -> SortedNet:
        """Make the network that the recipe trains.

        Args:
            build: Makes the model from one keyword argument per dimension.
            model: The full model, if it exists already; it must be one of the wrapped builder's.
            layouts: Layouts of fused parameters that torch's own modules do not explain.

        Returns:
            The network.
        """
        wrapped = build if self.wrap is None else self.wrap(build)
        full = wrapped(**self.space.full) if model is None else model
        net = SortedNet(
            wrapped, self.space, model=full, layouts=layouts, buffers=self.buffers, private=self.private(full)
        )
        net.cuts.trained = model is not None
        return net

    def parts(self, net: SortedNet, output: str | Path) -> Iterator[Part]:
        """Yield the stages in order, to be trained one after another.

        Args:
            net: The network that each of them trains before the next is asked for.
            output: Folder of the training.

        Raises:
            ConfigError: If the network was made for another space or recipe.
        """
        self.check(net)
        teacher: nn.Module | None = None
        shares, last = sum(stage.share for stage in self.stages), len(self.stages)
        for number, stage in enumerate(self.stages, 1):
            folder = Path(output) if number == last else Path(output) / "stages" / str(number)
            yield Part(stage, number, stage.share / shares, folder, teacher, number == last)
            if number == 1 and last > 1:
                teacher = net.extract().requires_grad_(False)

    def check(self, net: SortedNet) -> None:
        """Refuse a network that was made for another space or recipe.

        Raises:
            ConfigError: If it was.
        """
        remedy = f"Make it by the recipe: {self.name}(space).network(build)."
        if net.space != self.space:
            raise ConfigError(f"The network is of {net.space!r}, recipe {self.name} of {self.space!r}. {remedy}")
        private = tuple(self.private(net.full))
        if net.private.policy != self.buffers or set(net.private.patterns) != set(private):
            raise ConfigError(
                f"The network has buffers={net.private.policy!r} and private={list(net.private.patterns)[:3]}, recipe "
                f"{self.name} needs {self.buffers!r} and {list(private)[:3]}. {remedy}"
            )
        if self.wrap is not None and not isinstance(net.full, Line):
            raise ConfigError(f"The network holds {type(net.full).__name__}, recipe {self.name} a Line. {remedy}")

    def updates(self, total: int) -> list[int]:
        """Part a number of updates among the stages, each at least 1.

        Raises:
            ConfigError: If there are fewer updates than stages.
        """
        if total < len(self.stages):
            raise ConfigError(
                f"{total} updates are too few for the {len(self.stages)} stages of recipe {self.name}. Give more."
            )
        shares = sum(stage.share for stage in self.stages)
        parts = [max(1, int(total * stage.share / shares)) for stage in self.stages[:-1]]
        while sum(parts) >= total:
            parts[parts.index(max(parts))] -= 1
        return [*parts, total - sum(parts)]


def _keep_statistics(net: SortedNet, args: object) -> None:
    for module in net.full.modules():
        if isinstance(module, RunningNorm) and not any(parameter.requires_grad for parameter in module.parameters()):
            module.eval()


def norms(model: nn.Module) -> list[str]:
    """Return patterns of the names of all that lies in a model's normalisation layers, torch's own or by their name."""
    return [
        f"{name}.*"
        for name, module in model.named_modules()
        if re.search(r"(Batch|Instance|Group|Layer|RMS)Norm\w*$", type(module).__name__)
        and any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
    ]


def head_of(model: nn.Module, head: str | None) -> str:
    """Return the pattern of a model's head.

    Args:
        model: The model.
        head: Its pattern; where left out, that of the first of the usual names which the model has.

    Raises:
        ConfigError: If no parameter matches.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for pattern in _HEADS if head is None else (head,):
        if fnmatch.filter(names, pattern):
            return pattern
    raise ConfigError(
        f"head={head!r} matches no parameter. The last of the model are {names[-3:]}; give a pattern of the head's, "
        "such as head='classifier.*'."
    )


def full_only(space: Space) -> MakeObjective:
    """Return what makes the objective that trains the full model alone."""
    return lambda net, seed, teacher: Stochastic(Cycle(space, [space.full]))


def depth_of(space: Space, depth: str | None) -> str:
    """Return the dimension that counts blocks.

    Args:
        space: The sub-models.
        depth: Its name; where left out, the only one whose name holds "layer" or "depth".

    Raises:
        ConfigError: If there is none, or the name is not in the space.
    """
    names = list(space.supports)
    found = [name for name in names if "layer" in name.lower() or "depth" in name.lower()] if depth is None else [depth]
    if len(found) != 1 or found[0] not in names:
        raise ConfigError(
            f"depth={depth!r} is not the dimension that counts blocks: the space has {', '.join(names)}. Give "
            "depth='NAME' of one of these, or sort the depth too."
        )
    return found[0]
