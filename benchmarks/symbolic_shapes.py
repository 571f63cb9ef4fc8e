"""Write what stands for the shapes of published benchmarks, which the generator leaves out of training.

    python benchmarks/symbolic_shapes.py FILE.csv ... > src/sortednet/symbolic/excluded.txt

Each file has the columns `expression` and `variables`, names separated by spaces.
"""

import csv
import sys

from sortednet.symbolic.expressions import fingerprint, parse, scale_free, skeleton_of


def main() -> None:
    found = set()
    for path in sys.argv[1:]:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                formula = parse(row["expression"], row["variables"].split())
                found.add(fingerprint(scale_free(skeleton_of(formula))))
    print("\n".join(sorted(found)))


if __name__ == "__main__":
    main()
