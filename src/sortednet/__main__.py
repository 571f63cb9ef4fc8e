"""`python -m sortednet` is the command `sortednet`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
