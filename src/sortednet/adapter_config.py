"""The configuration of an adapter whose rank is sorted: what a YAML file may say under the key `adapter`."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from .errors import BuildError, ConfigError
from .lora import RankPattern, Scaling, check_ranks, largest_rank, lora_config
from .network import SortedNet
from .ranks import dylora, with_ranks
from .space import Space

__all__ = ["AdapterConfig"]

_ALL = "all-linear"


@dataclass(frozen=True)
class AdapterConfig:
    """Which adapter; most are fields of `peft.LoraConfig`.

    Args:
        r: The largest rank, at least 1.
        ranks: The ranks to train, from 1 to the largest, which must be among them; the powers of two and the largest
            where null.
        lora_alpha: A rank b is multiplied by alpha / b, above 0.
        lora_dropout: Of an adapted layer's input, in [0, 1).
        target_modules: Names of the layers to adapt, such as `[query, value]`; or `all-linear`. Those that PEFT chooses
            for this kind of model where null.
        modules_to_save: Names of the model's own modules that are trained and saved too, shared by all ranks. A
            classifier's head is among them anyway.
        use_rslora: Whether a rank b is multiplied by alpha over the square root of b.
        rank_pattern: The full rank of some layers, by name or pattern.
        alpha_pattern: The alpha of some layers, by name or pattern.
        rank_pattern_rule: The rank of the layers in `rank_pattern` at a smaller rank b: `clip`, min(b, their own); or
            `proportional`.
        scaling: Of smaller ranks: `rank`, each its own; or `constant`, that of the largest.
        init_lora_weights: How the adapter begins, as `peft.LoraConfig` names it.

    Raises:
        ConfigError: If a value is outside its range.
        SpaceError: If a rank is none of this adapter's.
    """

    r: int = 8
    ranks: list[int] | None = None
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    use_rslora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    rank_pattern_rule: RankPattern = "clip"
    scaling: Scaling = "rank"
    init_lora_weights: bool | str = True

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("r", self.r >= 1, "at least 1"),
            ("lora_alpha", self.lora_alpha > 0, "above 0"),
            ("lora_dropout", 0 <= self.lora_dropout < 1, "in [0, 1)"),
            ("rank_pattern", all(one >= 1 for one in self.rank_pattern.values()), "of ranks of at least 1"),
        ):
            if not fits:
                raise ConfigError(f"adapter.{name}={getattr(self, name)} must be {wanted}.")
        if isinstance(self.target_modules, str) and self.target_modules != _ALL:
            raise ConfigError(
                f"adapter.target_modules={self.target_modules!r} is no list. Give names, such as [query, value], or "
                f"{_ALL}."
            )
        self.sorted_ranks()

    def sorted_ranks(self) -> list[int]:
        """Return the ranks that are trained, increasing.

        Raises:
            SpaceError: If one is none of this adapter's.
        """
        return check_ranks(self.ranks, largest_rank(self, self.rank_pattern_rule))

    def make_space(self, inner: Space | None) -> Space:
        """Return the space of the network.

        Args:
            inner: The model's own dimensions, if some are sorted.
        """
        return with_ranks(inner, self.sorted_ranks())

    def make_network(self, model: nn.Module | SortedNet, *, task_type: str, path: str | None) -> SortedNet:
        """Put the adapter into a model.

        Args:
            model: The pretrained model, which is changed in place; or a network of it.
            task_type: What PEFT calls the task: `SEQ_CLS` or `CAUSAL_LM`.
            path: The folder or name of the pretrained model, which is saved with the adapter; None where it has none.

        Raises:
            ConfigError: If it cannot be cut to a rank.
            BuildError: If PEFT cannot put it into this model, or a layer cannot be cut.
        """
        fields = {
            "r": self.r,
            "lora_alpha": int(self.lora_alpha) if self.lora_alpha == int(self.lora_alpha) else self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "target_modules": self.target_modules,
            "modules_to_save": self.modules_to_save,
            "use_rslora": self.use_rslora,
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": dict(self.alpha_pattern),
            "init_lora_weights": self.init_lora_weights,
            "task_type": task_type,
            "base_model_name_or_path": path,
        }
        full = model.full if isinstance(model, SortedNet) else model
        self._check_names(full)
        return dylora(
            model,
            lora_config(fields),
            ranks=self.sorted_ranks(),
            rank_pattern=self.rank_pattern_rule,
            scaling=self.scaling,
        )

    def _check_names(self, full: nn.Module) -> None:
        """Refuse targets that no module of a model has, which PEFT would pass over where it finds others."""
        names = [name for name, _ in full.named_modules() if name]
        leaves = sorted({name.rpartition(".")[2] for name, one in full.named_modules() if _is_adaptable(one)})
        for one in self.target_modules if isinstance(self.target_modules, list) else []:
            if not any(name == one or name.endswith(f".{one}") for name in names):
                raise BuildError(
                    f"adapter.target_modules names {one!r}, which {type(full).__name__} does not have. Choose among "
                    f"{', '.join(leaves)}, or other names of its modules."
                )


def _is_adaptable(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)) or (
        type(module).__name__ == "Conv1D"
    )
