"""Long lists of names made short without losing one: names that differ in numbers only become one name with ranges.

`layers.0.out`, `layers.1.out`, `layers.2.out` fold to `layers.0-2.out (3)`. A folded name with several ranges stands
for every combination of their numbers, and the count in brackets says how many names that is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

NUMBER = re.compile(r"(?<!\d)(0|[1-9]\d*)(?!\d)")  # 01 is text: as a number it would come back as 1
Parts = tuple[str | frozenset[int], ...]  # text and numbers by turns, text first


def fold(names: Iterable[str]) -> list[str]:
    """Return the names folded, in the order in which the first of each was given; repeated names count once.

    >>> fold(["a.0.q", "a.0.k", "a.1.q", "a.1.k", "head", "a.3.q"])
    ['a.0-1,3.q (3)', 'a.0-1.k (2)', 'head']
    """
    folded: list[Parts] = [_parts(name) for name in dict.fromkeys(names)]
    longest = max((len(parts) for parts in folded), default=0)
    for place in range(1, longest, 2):
        folded = _merged(folded, place)
    return [_written(parts) for parts in folded]


def _parts(name: str) -> Parts:
    pieces = NUMBER.split(name)
    return tuple(frozenset([int(piece)]) if i % 2 else piece for i, piece in enumerate(pieces))


def _merged(names: list[Parts], place: int) -> list[Parts]:
    """Return the names with those made one that differ in the number at this place only."""
    groups: dict[Parts, Parts] = {}
    for parts in names:
        if place >= len(parts):
            groups[parts] = parts
            continue
        rest = (*parts[:place], frozenset[int](), *parts[place + 1 :])
        groups[rest] = _with(groups.get(rest, rest), parts, place)
    return list(groups.values())


def _with(into: Parts, parts: Parts, place: int) -> Parts:
    held, more = into[place], parts[place]
    assert isinstance(held, frozenset)
    assert isinstance(more, frozenset)
    return (*into[:place], held | more, *into[place + 1 :])


def _written(parts: Parts) -> str:
    count = 1
    for part in parts:
        count *= len(part) if isinstance(part, frozenset) else 1
    text = "".join(part if isinstance(part, str) else _ranges(sorted(part)) for part in parts)
    return f"{text} ({count})" if count > 1 else text


def _ranges(numbers: list[int]) -> str:
    """Return e.g. `0-2,5` for 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
