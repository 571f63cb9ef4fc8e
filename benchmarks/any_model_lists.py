"""The models of `any_model.py`, by rule from the registries of timm and transformers.

    python benchmarks/any_model_lists.py  # writes any_model_lists.json

timm: modules in the order of `timm.list_modules()`. Of each, names in the order of their number of parameters, at most
six; of a name, its class's first argument of `timm_models.WIDTHS`, at most three. The first of these that timm itself
builds and runs at all of it and at half of it is on the list; with the first argument of `timm_models.DEPTHS` at which
it builds and runs with at most 1 and at most 2 blocks in each stage. A smaller model must be the same one, smaller: its
modules are of the same classes at the same names. (This was put in after the first run: 12 of the 80 rows were models
that at half of an argument have another layer, such as a projection in a shortcut, or another kind of block first in a
stage. No part of the full one is that model, and the library refuses them; 55 of 80 were right then.) The first 80;
where the modules are fewer, they are gone through once more for a second name of each.

transformers: the model types of its `CONFIG_MAPPING` that have a class for causal, masked, sequence or image
classification, every fourth, then those behind them, and so on; with the sizes of `hf_models.SIZES`. On the list are
those that transformers builds and runs so, with each size (`hf_models.FIELDS`) that it builds and runs at half, where
that changes a parameter. The first 60.

What this library makes of them is not asked.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import hf_models
import timm_models
import torch
from torch import nn

LISTS = Path(__file__).with_suffix(".json")
COUNTS = {"timm": 80, "transformers": 60}
_MOST_NAMES, _MOST_WIDTHS = 6, 3


def _parameters(name: str) -> int:
    with torch.device("meta"):
        model = timm_models.timm().create_model(name, num_classes=10)
    return sum(one.numel() for one in model.parameters())


def _timm_runs(name: str, width: Any, depth: Any) -> bool:
    """Whether timm builds and runs a model at all sizes, of modules that the largest has too."""
    try:
        whole = _kinds_of(timm_models.build(name, width, depth, timm_models.SHARES[-1], timm_models.CAPS[-1]))
        for share in timm_models.SHARES:
            for cap in timm_models.CAPS if depth else timm_models.CAPS[-1:]:
                model = timm_models.build(name, width, depth, share, cap).eval()
                if not _kinds_of(model).items() <= whole.items():
                    return False
                with torch.no_grad():
                    model(torch.zeros(1, *timm_models.image_size(name)))
    except Exception:  # whatever timm raises
        return False
    return True


def _kinds_of(model: nn.Module) -> dict[str, type]:
    modules = {name: type(one) for name, one in model.named_modules()}
    return modules | {name: type(one) for name, one in model.named_parameters()}


def _of_module(module: str, taken: Collection[str]) -> dict[str, Any] | None:
    counted = []
    for name in sorted({*timm_models.timm().list_models(module=module)} - {*taken}):
        try:
            counted.append((_parameters(name), name))
        except Exception:  # some do not build without numbers
            continue
    for _, name in sorted(counted)[:_MOST_NAMES]:
        _, arguments = timm_models.taken(name)
        for width in timm_models.paths(arguments, timm_models.WIDTHS, whole=False)[:_MOST_WIDTHS]:
            for depth in [*timm_models.paths(arguments, timm_models.DEPTHS, whole=True)[:1], None]:
                if _timm_runs(name, width, depth):
                    return {"module": module, "name": name, "width": width, "depth": depth}
    return None


def timm_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for module in [*timm_models.timm().list_modules()] * 2:
        if len(rows) == COUNTS["timm"]:
            break
        row = _of_module(module, [one["name"] for one in rows])
        print(module, row, flush=True)
        rows += [row] if row else []
    return rows


def _kinds() -> list[str]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kinds = [kind for kind in CONFIG_MAPPING_NAMES if hf_models.model_class(kind) is not None]
    return [kind for first in range(4) for kind in kinds[first::4]]


def _of_kind(kind: str) -> dict[str, Any] | None:
    try:
        config = hf_models.config(kind)
        shapes = hf_models.runs(kind, config)
    except Exception:  # whatever transformers raises
        return None
    found = {}
    for what, (name, small, full) in hf_models.pairs(config).items():
        # Where the heads are to keep their size, their number follows.
        heads = {"num_attention_heads": getattr(config, "num_attention_heads", 0)}
        with_heads = {name: small, **{one: n // 2 for one, n in heads.items() if isinstance(n, int)}}
        for changes in [{name: small}, with_heads] if what == "hidden" else [{name: small}]:
            try:
                if hf_models.runs(kind, hf_models.smaller(config, changes)) != shapes:
                    found[what] = name, small, full
                    break
            except Exception:  # whatever transformers raises
                continue
    return {"kind": kind, "pairs": found} if found else None


def hf_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for kind in _kinds():
        if len(rows) == COUNTS["transformers"]:
            break
        with hf_models.quiet():
            row = _of_kind(kind)
        print(kind, row, flush=True)
        rows += [row] if row else []
    return rows


def read() -> dict[str, list[dict[str, Any]]]:
    """Return both lists."""
    return json.loads(LISTS.read_text())


def main() -> None:
    import transformers

    torch.manual_seed(0)
    found = {"transformers": hf_rows(), "timm": timm_rows()}
    versions = {"timm": timm_models.timm().__version__, "transformers": transformers.__version__}
    lines = [f'"versions": {json.dumps(versions)}']
    for name, rows in found.items():
        body = ",\n  ".join(json.dumps(row) for row in rows)
        lines.append(f'"{name}": [\n  {body}\n ]')
    LISTS.write_text("{\n " + ",\n ".join(lines) + "\n}\n")
    print({name: len(rows) for name, rows in found.items()})


if __name__ == "__main__":
    main()
