"""The command line: it parses, and calls a job. Only what a command runs is imported."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from ._version import __version__
from .errors import ConfigError, SortedNetError
from .imports.packages import needs

__all__ = ["main"]

_CHANGE = re.compile(r"[A-Za-z_]\w*(\.\w+)*=")
_WITH_LISTS = (["train"], ["symbolic", "train"], ["select"])  # commands that take a list of words
_INTERRUPTED = 130
_PATIENCE_S = 0.5  # for an interruption to end the command, before it is raised again


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words behind `sortednet`; those of the process where left out.

    Returns:
        The exit status: 0; 2 after an error, and 130 after an interruption, each told in one line without a traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with _interruptions() as received:
        try:
            return _run(words)
        except BrokenPipeError:  # whoever reads the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or received:  # packages turn it into errors of their own
                saved = " The same command goes on from what is saved." if _trains(words) else ""
                print(f"Interrupted.{saved}", file=sys.stderr)
                return _INTERRUPTED
            if isinstance(error, OSError):
                of_file = f"{error.filename}: {error.strerror}. Correct the path or its permissions."
                _tell(of_file if error.filename else str(error) or type(error).__name__)
                return 2
            if isinstance(error, (SortedNetError, ImportError)):
                _tell(str(error))
                return 2
            raise


def _tell(message: str) -> None:
    message = "".join(one if one.isprintable() or one in "\n\u00a0" else repr(one)[1:-1] for one in message)
    try:
        from rich.text import Text

        from .jobs.terminal import error_console
    except ImportError:  # which is what the message is about
        print(f"error: {message}", file=sys.stderr)
        return
    error_console().print(Text("error: ", style="bold red", end=""), message, sep="")


@contextlib.contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Note SIGINT before it is raised, and raise it once more where it was dropped, such as by an import in C.

    Yields:
        The signals received so far.
    """
    received: list[int] = []
    main_thread = threading.main_thread()
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as of what a script runs in the background
    if ignored or threading.current_thread() is not main_thread:
        yield received
        return

    def again() -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pthread_kill(main_thread.ident or 0, signal.SIGINT)

    def receive(number: int, _: object) -> None:
        received.append(number)
        if hasattr(signal, "pthread_kill"):  # not on Windows
            timer = threading.Timer(_PATIENCE_S, lambda: None if ended.is_set() else again())
            timer.daemon = True
            timer.start()
        raise KeyboardInterrupt

    def dropped(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            hook(unraisable)

    ended = threading.Event()
    handler, hook = signal.signal(signal.SIGINT, receive), sys.unraisablehook
    sys.unraisablehook = dropped
    try:
        yield received
    finally:
        ended.set()
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, handler)


def _trains(words: Sequence[str]) -> bool:
    return list(words[:1]) == ["train"] or list(words[:2]) == ["symbolic", "train"]


def _run(words: list[str]) -> int:
    with needs("The command line", "cli"):
        from jsonargparse import ArgumentError

    from .jobs.config_file import detail_of

    parser = _parser()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            parsed = parser.parse_args(_options_first(words))
    except ArgumentError as error:
        raise ConfigError(f"{detail_of(error)}. See sortednet --help.") from None
    if parsed.command is None:
        parser.print_help()
        return 2
    given = parsed[parsed.command]
    if parsed.command == "symbolic":
        if given.command is None:
            raise ConfigError("symbolic does nothing alone. Add train, fit or report; see sortednet symbolic --help.")
        _run_symbolic(given.command, given[given.command])
    else:
        _run_command(parsed.command, given)
    return 0


def _options_first(words: list[str]) -> list[str]:
    """Move options before the words of a list, and changes behind the other words, so that all may stand anywhere."""
    command = next((one for one in _WITH_LISTS if words[: len(one)] == one), None)
    if command is None:
        return words
    options: list[str] = []
    others: list[str] = []
    changes: list[str] = []
    rest = iter(words[len(command) :])
    for word in rest:
        if word in ("-h", "--help"):
            options.append(word)
        elif word.startswith("--"):
            options.append(word)
            if "=" not in word:
                options += [value for value in [next(rest, None)] if value is not None]
        elif _CHANGE.match(word) and not Path(word).is_file():
            changes.append(word)
        else:
            others.append(word)
    return [*command, *options, *others, *changes]


def _parser() -> Any:
    """Return the parser of all commands; building it imports none of what they run."""
    from jsonargparse import ArgumentParser

    from .imports.names import EXPERIMENTS, Scale
    from .jobs.beginning import FIRST
    from .jobs.fit_config import FitConfig
    from .jobs.generation_config import GenerateConfig
    from .jobs.listing import LISTED

    parser = ArgumentParser(
        prog="sortednet", description="One trained network, every size.", exit_on_error=False, version=__version__
    )
    command = _commands_of(parser)
    run = "the run's folder"
    begin = command("init", "Write a commented first configuration.")
    begin.add_argument("kind", type=Literal[FIRST], help=f"for what: {', '.join(FIRST)}")
    begin.add_argument("--output", type=str | None, default=None, help="the file; KIND.yaml where left out")
    list_ = command("list", "Show what a configuration may name.")
    list_.add_argument("what", type=Literal[LISTED], help=f"one of {', '.join(LISTED)}")
    train = command("train", "Train or fine-tune a network as a YAML file says; goes on from the last checkpoint.")
    _add_training(train)
    _add_trust(train)
    evaluate = command("evaluate", "Measure every sub-model of a run; writes table.json and table.csv.")
    evaluate.add_argument("run", type=str, help=run)
    evaluate.add_argument(
        "--measure", type=str, default="flops,latency,memory", help="costs to measure, such as flops,latency; or []"
    )
    evaluate.add_argument(
        "--batch_size", type=int | None, default=None, help="examples in a batch: 256 images, 32 texts"
    )
    evaluate.add_argument("--cost_batch", type=int, default=1, help="examples that latency and memory are measured on")
    evaluate.add_argument(
        "--report_share", type=float, default=0.0,
        help="share of the examples that is reported on alone, such as 0.5; nothing is chosen by it",
    )  # fmt: skip
    _add_trust(evaluate)
    select = command("select", "Choose the best sub-model under budgets, such as: select RUN max_params=50000")
    select.add_argument("run", type=str, help=run)
    select.add_argument("budgets", nargs="*", type=str, help="max_COLUMN=number or min_COLUMN=number")
    select.add_argument(
        "--within_error", type=bool, default=False, help="the smallest that is not measurably worse than the best"
    )
    select.add_argument("--name", type=str | None, default=None, help="label in the report; the budgets where left out")
    extract = command("extract", "Write a sub-model as an ordinary model.")
    extract.add_argument("run", type=str, help=run)
    extract.add_argument("setting", type=str, help="such as depth=4,width=32, or the label of a selection")
    extract.add_argument("--output", type=str | None, default=None, help="folder; RUN/extracted/SETTING where left out")
    extract.add_argument("--onnx", type=bool, default=False, help="export to ONNX too, checked in onnxruntime")
    extract.add_argument(
        "--form", type=Literal["plain", "baked"], default="plain",
        help="of an adapter: as PEFT writes it, or its scaling multiplied into its weights",
    )  # fmt: skip
    extract.add_argument(
        "--server", type=Literal["vllm"] | None, default=None, help="warn where this server has no such rank"
    )
    _add_trust(extract)
    generate = command(
        "generate", "Continue a text with a causal language model; each token in the colour of its exit."
    )
    generate.add_argument("run", type=str, help=f"{run}, or one that SortedNet.save_pretrained wrote")
    generate.add_argument("prompt", type=str, help="the text, or - to read it from standard input")
    generate.add_class_arguments(GenerateConfig)
    report = command("report", "Write report.html and report.png of a measured run.")
    report.add_argument("run", type=str, help=run)
    report.add_argument("--title", type=str | None, default=None, help="heading of the page")
    formulas = _commands_of(command("symbolic", "Find formulas for tables of numbers, and train models that do."))
    _add_training(
        formulas("train", "Train a model that writes formulas, as a YAML file says; goes on where it was stopped.")
    )
    fit = formulas("fit", "Find a formula for the points of a CSV file; writes fit.json.")
    fit.add_argument("points", type=str, help="the CSV or TSV file, names in its first line")
    fit.add_argument("--columns", nargs="+", type=str, default=None, help="what y may depend on; all where left out")
    fit.add_class_arguments(FitConfig)
    page = formulas("report", "Write report.html and report.png of a formula that was found.")
    page.add_argument("folder", type=str, help="the folder that fit wrote to")
    page.add_argument("--title", type=str | None, default=None, help="heading of the page")
    reproduce = command("reproduce", "Repeat an experiment of the papers; goes on where it was stopped.")
    reproduce.add_argument("experiment", type=str, help=f"which one: {', '.join(EXPERIMENTS)}")
    reproduce.add_argument("--scale", type=Scale, default="cpu", help="a small version, or the papers' size on a GPU")
    reproduce.add_argument("--seed", type=int, default=0, help="of weights, of the order of the data, of what is drawn")
    reproduce.add_argument("--data", type=str | None, default=None, help="folder of CIFAR-10, or of the GLUE files")
    reproduce.add_argument("--model", type=str | None, default=None, help="folder or name of the pretrained encoder")
    reproduce.add_argument("--output", type=str, default="runs/reproduce", help="folder for all experiments")
    reproduce.add_argument("--workers", type=int | None, default=None, help="jobs at a time; one a core, one on a GPU")
    reproduce.add_argument("--minutes", type=float | None, default=None, help="save what runs after these, and stop")
    reproduce.add_argument("--job", type=str | None, default=None, help="do this job alone, in this process")
    return parser


def _commands_of(parser: Any) -> Callable[[str, str], Any]:
    """Return what adds a command to a parser."""
    from jsonargparse import ArgumentParser

    commands = parser.add_subcommands(dest="command", required=False)

    def command(name: str, purpose: str) -> ArgumentParser:
        one = ArgumentParser(description=purpose, exit_on_error=False)
        commands.add_subcommand(name, one, help=purpose)
        return one

    return command


def _add_training(parser: Any) -> None:
    parser.add_argument("config", type=str, help="the YAML file; sortednet init writes a first one")
    parser.add_argument("changes", nargs="*", type=str, help="values to change, such as training.updates=100")
    parser.add_argument("--output", type=str | None, default=None, help="the run's folder, instead of the file's")
    parser.add_argument("--resume", type=bool, default=True, help="go on from the last checkpoint in the folder")


def _add_trust(parser: Any) -> None:
    parser.add_argument(
        "--trust", type=str, default="",
        help="packages that the configuration may name besides modules of your own, such as torchvision,timm",
    )  # fmt: skip


def _run_command(command: str, given: Any) -> None:
    """Import what a command runs, and run it."""
    from .jobs.terminal import error_console

    console = error_console()
    trust = [one.strip() for one in str(given.get("trust") or "").split(",") if one.strip()]
    if command == "init":
        from .jobs.beginning import begin

        begin(given.kind, given.output, console)
    elif command == "list":
        from .jobs.listing import show

        show(given.what)
    elif command == "train":
        from .files.processes import keep_memory
        from .jobs.training import train

        keep_memory()
        train(given.config, given.changes, given.output, given.resume, console, trust)
    elif command == "evaluate":
        from .jobs.evaluation import evaluate

        measure = [one.strip() for one in given.measure.strip("[] ").split(",") if one.strip()]
        evaluate(
            given.run, console,
            measure=measure, batch_size=given.batch_size, cost_batch=given.cost_batch,
            report_share=given.report_share, trust=trust,
        )  # fmt: skip
    elif command == "select":
        from .jobs.selection import select

        select(given.run, given.budgets, given.name, within_error=given.within_error)
    elif command == "extract":
        from .jobs.extraction import extract

        extract(
            given.run, given.setting, console,
            output=given.output, onnx=given.onnx, form=given.form, server=given.server, trust=trust,
        )  # fmt: skip
    elif command == "generate":
        from .jobs.generation_config import GenerateConfig

        config = GenerateConfig(**{one.name: given[one.name] for one in fields(GenerateConfig)})
        from .jobs.generation import generate

        generate(given.run, given.prompt, config, console)
    elif command == "report":
        from .jobs.reporting import report

        report(given.run, given.title, console)
    else:
        from .imports.names import EXPERIMENTS

        EXPERIMENTS.check(given.experiment)
        from .experiments.command import reproduce

        reproduce(
            given.experiment, console, scale=given.scale, seed=given.seed, data=given.data, model=given.model,
            output=given.output, workers=given.workers, minutes=given.minutes, job=given.job,
        )  # fmt: skip


def _run_symbolic(command: str, given: Any) -> None:
    """Import what a command of formulas runs, and run it."""
    from .jobs import formulas as symbolic_commands
    from .jobs.terminal import error_console

    console = error_console()
    if command == "train":
        from .files.processes import keep_memory

        keep_memory()
        symbolic_commands.train(given.config, given.changes, given.output, given.resume, console)
    elif command == "fit":
        from .jobs.fit_config import FitConfig

        config = FitConfig(**{one.name: given[one.name] for one in fields(FitConfig)})
        symbolic_commands.fit(given.points, given.columns, config, console)
    else:
        symbolic_commands.report(given.folder, given.title, console)
