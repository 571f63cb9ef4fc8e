"""What happened while decoding: tokens by exit, drafts accepted, layers run, seconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Emitted", "Statistics"]


@dataclass(frozen=True)
class Emitted:
    """One token, as it is known to belong to the text.

    Attributes:
        row: Of the batch.
        token: Its id.
        exit: The depth that chose it: an early exit's own, a drafted token's exit, 0 for a token of another model that
            drafts, else the row's whole depth.
        drafted: Whether it was drafted and accepted.
    """

    row: int
    token: int
    exit: int
    drafted: bool = False


@dataclass
class Statistics:
    """Counts of one call.

    Attributes:
        depth: Layers of the deepest row, L.
        texts: Rows of the batch.
        tokens: Tokens generated.
        by_exit: How many of them each depth chose.
        rounds: Times that something was verified.
        drafted: Tokens drafted, those behind the first rejected one included.
        accepted: Drafted tokens that became part of a text.
        layer_calls: Layers run, whatever the batch.
        layer_rows: Positions run through a layer, over all layers and rows.
        prompt_layer_calls: Those of the layer calls that ran the prompt.
        seconds: Time spent, from the first layer of the prompt to the last token.

    `acceptance`, `rejection_ratio`, `mean_exit`, `layer_calls_per_token`, `share_of_layers` and `tokens_per_second`
    follow from these.
    """

    depth: int = 0
    texts: int = 0
    tokens: int = 0
    by_exit: Counter[int] = field(default_factory=Counter)
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    layer_calls: int = 0
    layer_rows: int = 0
    prompt_layer_calls: int = 0
    seconds: float = 0.0

    def ran(self, layers: int, positions: int) -> None:
        """Count layers that ran on so many positions of all rows together."""
        self.layer_calls += layers
        self.layer_rows += layers * positions

    @property
    def acceptance(self) -> float:
        """Share of the drafted tokens that were accepted, in [0, 1]; nan where none was drafted."""
        return self.accepted / self.drafted if self.drafted else float("nan")

    @property
    def rejection_ratio(self) -> float:
        """Share of the drafted tokens that were not, as in table 4.4 of the thesis on Sorted LLaMA."""
        return 1 - self.acceptance

    @property
    def mean_exit(self) -> float:
        """Mean depth that chose a token; nan where there is none."""
        return sum(exit * count for exit, count in self.by_exit.items()) / self.tokens if self.tokens else float("nan")

    @property
    def layer_calls_per_token(self) -> float:
        """Layers run for each token behind a text's first, which the prompt gives; plain decoding of one text has L."""
        behind = self.tokens - self.texts
        return (self.layer_calls - self.prompt_layer_calls) / behind if behind > 0 else float("nan")

    @property
    def share_of_layers(self) -> float:
        """Layers run for each token behind a text's first, over those of plain decoding of one text."""
        return self.layer_calls_per_token / self.depth if self.depth else float("nan")

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all rows in each second."""
        return self.tokens / self.seconds if self.seconds else float("nan")
