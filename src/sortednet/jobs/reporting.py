"""Write the report of a measured run: a page and a picture."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from ..files.run_folder import CONFIG, read_curves, writing
from ..imports.packages import needs
from .configurations import read_config
from .fine_tuning_config import FineTuningConfig
from .selection import chosen_in, in_run, table_of

with needs("A command", "cli"):
    from rich.console import Console

__all__ = ["report"]


def report(run: str, title: str | None, console: Console) -> None:
    """Write `report.html` and `report.png`.

    Args:
        run: The run's folder.
        title: Heading of the page; model and data where left out.
        console: Where it is told.

    Raises:
        ConfigError: If the run was not measured, or its table is of an earlier network.
    """
    table = table_of(run)
    config = read_config(in_run(run, CONFIG, "sortednet train"))
    title = title or config.title
    curves = read_curves(run)
    draws = f", {config.objective.draws} draws a batch" if config.objective.name == "stochastic" else ""
    tuned = config if isinstance(config, FineTuningConfig) else None
    sections = {
        "objective": f"{config.objective.name}{draws}",
        **({} if config.objective.name == "summation" else {"sampler": config.sampler.name}),
    }
    facts = {
        "updates": f"{max((curve[-1][0] for curve in curves.values()), default=0):,}",
        **(sections if config.recipe is None else {"recipe": config.recipe}),
        **({"update": tuned.update} if tuned and tuned.update != "standard" else {}),
        **({"adapter": f"r={tuned.adapter.r}"} if tuned and tuned.adapter else {}),
    }
    from ..evaluation.similarity import Similarity
    from ..report.report import write_picture, write_report

    page = Path(run) / "report.html"
    with writing(run) as save:
        write_report(
            save.beside / page.name, table, curves=curves, chosen=chosen_in(run), title=title, facts=facts,
            similarities=map(Similarity.from_json, sorted(Path(run).glob("similarity*.json"))),
            command=f"sortednet extract {quote(run)} {{setting}}",
        )  # fmt: skip
        write_picture(save.beside / "report.png", table, title=title)
    console.print(f"Wrote {page} and report.png; open the page in a browser.")
