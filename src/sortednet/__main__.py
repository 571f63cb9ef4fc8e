"""The command `sortednet`, also as `python -m sortednet`."""

import signal
import sys
from typing import NoReturn

__all__ = ["run"]


def run() -> NoReturn:
    """Run the command of this process, and end it with the command's exit status."""
    try:
        from .cli import main

        status = main()
    except KeyboardInterrupt:  # before the command had begun
        print("Interrupted.", file=sys.stderr)
        status = 130
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left that an interruption could be told by
    sys.exit(status)


if __name__ == "__main__":
    run()
