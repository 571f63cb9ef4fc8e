"""What may be named in a configuration, on the command line and in Python, and where it is."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias, final

from ..errors import ConfigError, SortedNetError

__all__ = [
    "EXPERIMENTS",
    "IMAGES",
    "MODELS",
    "OBJECTIVES",
    "OWN_BUILDER",
    "RECIPES",
    "SAMPLERS",
    "BufferPolicy",
    "Names",
    "Precision",
    "RankPattern",
    "Reduction",
    "Scale",
    "Scaling",
    "TextFormat",
    "UpdateRule",
]

BufferPolicy: TypeAlias = Literal["shared", "private", "reestimated"]
"""Whose the persistent buffers (the statistics of batch norm) are.

`shared`: all sub-models update and read the corner of the full model's. `private`: each has its own. `reestimated`:
shared in training; in evaluation each has its own, once `SortedNet.reestimate` has measured them.
"""
Precision: TypeAlias = Literal["auto", "float32", "bf16", "no"]
"""`auto`: `bf16` where the processor has instructions for it. `no` is what `float32` was called first."""
UpdateRule: TypeAlias = Literal["standard", "touched", "unique", "reference"]
"""What an optimiser step may change.

`standard`: everything, as in the papers; momentum and weight decay move weights that no drawn sub-model covered.
`touched`: only what a drawn sub-model covers, exactly Eq. 1 of the paper; elsewhere weights and the optimiser's own
tensors stay as they were. `unique`: only what a drawn sub-model has beyond the next smaller ones (DyLoRA's frozen
mode), and what an adapter's ranks all share, such as a classifier. `reference`: the same by the gradient alone, as
DyLoRA's first published code has it; momentum and weight decay go on moving the rest.
"""
Reduction: TypeAlias = Literal["mean", "sum"]
"""How losses or gradients are put together."""
RankPattern: TypeAlias = Literal["clip", "proportional"]
"""The rank of a layer whose own rank r_l a pattern names, at rank b: min(b, r_l), or b r_l / r rounded up."""
Scaling: TypeAlias = Literal["rank", "constant"]
"""What a rank b is multiplied by: alpha / b, the scaling of an adapter of that rank, or alpha / r at every rank.

With `use_rslora` these are alpha over the square root of b or r. With the constant scaling, smaller ranks are partial
sums of the largest one.
"""
TextFormat: TypeAlias = Literal["jsonl", "tsv", "csv", "text"]
"""Of text files of one's own."""
Scale: TypeAlias = Literal["cpu", "gpu"]
"""`cpu`: a small version that ends within 15 minutes on two cores. `gpu`: the papers' size, on one large GPU."""


@final
class Names(Mapping[str, Any]):
    """What may be named, by name; a value is imported when it is asked for.

    Args:
        what: What is named, for messages.
        places: By name the module and the attribute, such as `package.module:attribute`.

    Example:
        >>> SAMPLERS["uniform"]
        <class 'sortednet.training.sampling.Uniform'>
        >>> SAMPLERS.check("unifrom")
        Traceback (most recent call last):
        sortednet.errors.ConfigError: sampler='unifrom' is unknown. Did you mean uniform? Choose one of stratified, ...
    """

    def __init__(self, what: str, places: Mapping[str, str]) -> None:
        self.what, self.places = what, dict(places)

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = self.places[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def check(
        self, name: object, key: str | None = None, *, kind: type[SortedNetError] = ConfigError, also: str = ""
    ) -> str:
        """Refuse a name that is unknown; nothing is imported.

        Args:
            name: The name.
            key: What a message calls it; what is named where left out.
            kind: The class of the error.
            also: What else may be given, as the end of a sentence.

        Returns:
            The name.

        Raises:
            ConfigError: If the name is unknown; of the class `kind`.
        """
        if isinstance(name, str) and name in self.places:
            return name
        close = difflib.get_close_matches(str(name), self.places, n=2)
        meant = f"Did you mean {' or '.join(close)}? " if close else ""
        raise kind(f"{key or self.what}={name!r} is unknown. {meant}Choose one of {', '.join(self.places)}{also}.")


OWN_BUILDER = "; or name a builder of your own as 'package.module:function'"

MODELS = Names(
    "model",
    {
        "mlp": "sortednet.models:MLP",
        "preresnet": "sortednet.models:PreResNet",
        "transformer": "sortednet.models:Transformer",
        "mobilenet_v2": "sortednet.huggingface.families:mobilenet_v2",
    },
)
IMAGES = Names(
    "data",
    {
        "digits": "sortednet.data.images:load_digits",
        "cifar10": "sortednet.data.images:load_cifar10",
        "npz": "sortednet.data.images:load_npz",
        "image_folder": "sortednet.data.images:load_image_folder",
    },
)
SAMPLERS = Names(
    "sampler",
    {
        "stratified": "sortednet.training.sampling:Stratified",
        "uniform": "sortednet.training.sampling:Uniform",
        "weighted": "sortednet.training.sampling:Weighted",
        "per_dimension": "sortednet.training.sampling:PerDimension",
        "geometric": "sortednet.training.sampling:Geometric",
        "cycle": "sortednet.training.sampling:Cycle",
    },
)
OBJECTIVES = Names(
    "objective",
    {
        "stochastic": "sortednet.training.objectives:Stochastic",
        "per_example": "sortednet.training.objectives:PerExample",
        "stochastic_summation": "sortednet.training.objectives:StochasticSummation",
        "summation": "sortednet.training.objectives:Summation",
    },
)
RECIPES = Names(
    "recipe",
    {
        "sorted": "sortednet.training.recipes:sorted_",
        **{
            name: f"sortednet.training.recipes:{name}"
            for name in (
                "sortednet", "slimmable", "universally_slimmable", "lcs_p", "lcs_l", "matformer", "early_exit",
                "sft_ict", "extracted", "layer_drop", "layer_skip", "dynabert", "once_for_all",
            )
        },
    },
)  # fmt: skip
EXPERIMENTS = Names(
    "experiment",
    {
        "fig4.2": "sortednet.experiments.mobilenet:SUB_MODELS",
        "fig4.3": "sortednet.experiments.mobilenet:BEST_RETRAINED",
        "fig4.5": "sortednet.experiments.mobilenet:THRESHOLD",
        "table4.2": "sortednet.experiments.widths:TABLE_4_2",
        "table4.5": "sortednet.experiments.widths:ACCUMULATION",
        "time-per-epoch": "sortednet.experiments.widths:TIME_PER_EPOCH",
        "table4.3": "sortednet.experiments.encoder:TABLE_4_3",
        "tableC.3": "sortednet.experiments.encoder:TABLE_C_3",
        "order-dependency": "sortednet.experiments.order_dependency:ORDER_DEPENDENCY",
        "node-control": "sortednet.experiments.node_control:NODE_CONTROL",
        "symbolic": "sortednet.experiments.formulas.formulas:SYMBOLIC",
    },
)
