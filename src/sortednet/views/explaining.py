"""What is said of cuts: those that are no corners, and why; and which axes cannot be cut at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ..errors import LayoutError
from ..space import Setting
from .alignment.aligner import Alignment, Trouble
from .alignment.structure import Structure
from .alignment.tape import pattern_of
from .alignment.terms import Stretches, Term, is_fixed, leaves_of, stretches_of, text_of
from .layouts import Layout

__all__ = ["contradiction", "described", "notes", "undecidable"]

_MOST_SHOWN = 8


def described(structures: Mapping[Setting, Structure], noted: Mapping[Setting, Sequence[str]]) -> list[str]:
    """Return lines that show every axis that is not cut at its corner, and why, by patterns of names.

    Args:
        structures: What was watched, by setting.
        noted: What `notes` returned, by setting.
    """
    lines = [] if structures else ["Plain corners."]
    for setting, structure in structures.items():
        groups: dict[tuple[str, str, str], int] = defaultdict(int)
        for (name, axis), term in structure.terms.items():
            pieces = stretches_of(term)
            if len(pieces) > 1 or pieces[0][0]:
                groups[f"{pattern_of(name)}[{axis}]", text_of(term), _origin(term)] += 1
        lines.append(f"At {setting}: {'plain corners' if not groups else ''}".rstrip())
        for (where, text, why), count in groups.items():
            note = ", ".join([*([why] if why else []), *([f"{count} axes"] if count > 1 else [])])
            lines.append(f"  {where}: {text}{f' ({note})' if note else ''}")
        lines += noted.get(setting, [])
    return lines


def notes(found: Alignment) -> list[str]:
    """Say what is no matter of cuts: what the smaller model alone does, and what joins units by a statistic."""
    return [
        *(f"  only the smaller model does it: {where} ({count})" for where, count in _by_pattern(found.alone)),
        *(f"  only a statistic joins units: {where} ({count})" for where, count in _by_pattern(found.statistics)),
    ]


def _by_pattern(counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    joined: dict[str, int] = defaultdict(int)
    for where, count in counts.items():
        joined[pattern_of(where)] += count
    return joined.items()


def contradiction(setting: Setting, said: Layout, name: str, term: Term, pieces: Stretches) -> LayoutError:
    """Say that a declared layout is not what the model does.

    Args:
        setting: Where.
        said: The layout.
        name: The parameter.
        term: What its axis is as the model runs.
        pieces: Where the layout cuts it.
    """
    return LayoutError(
        f"At {setting}, {said} cuts axis {said.axis} of {name} at {_said(pieces)}. But as the model runs on the "
        f"example, it is {text_of(term)}, which is {_said(stretches_of(term))}. Leave the layout out, or correct it."
    )


def undecidable(setting: Setting, undecided: Mapping[tuple[str, int], Trouble]) -> LayoutError:
    """Say all at once which axes cannot be cut, by patterns of names, and why.

    Args:
        setting: Where.
        undecided: By axis, what stands against a cut.
    """
    groups: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
    for axis, trouble in undecided.items():
        groups[pattern_of(trouble.where), trouble.what].append(axis)
    lines = []
    for (where, what), axes in list(groups.items())[:_MOST_SHOWN]:
        names = list(dict.fromkeys(f"{pattern_of(name)}[{axis}]" for name, axis in axes))
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        lines.append(f"\n- {', '.join(names[:4])}{more}: {where} {what}")
    more = f"\n- and {len(groups) - _MOST_SHOWN} more" if len(groups) > _MOST_SHOWN else ""
    first, place = next(iter(undecided))
    return LayoutError(
        f"At {setting} these axes cannot be cut, as no part of them does what the smaller model's do:{''.join(lines)}"
        f"{more}\nSort another size, or say how each of these axes is made up: "
        f'layouts=[Layout("{first}", axis={place}, blocks=...)].'
    )


def _origin(term: Term) -> str:
    origins = dict.fromkeys(pattern_of(leaf.origin) for leaf in leaves_of(term) if leaf.origin and not is_fixed(leaf))
    return ", ".join(list(origins)[:2])


def _said(pieces: Stretches) -> str:
    shown = ", ".join(f"{start}:{start + length}" for start, length in pieces[:4])
    return shown + (", ..." if len(pieces) > 4 else "")
