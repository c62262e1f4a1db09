"""Does one method give the same network through two toolchains? Each toolchain beside the most faithful one.

Three independent looks at a pair. Fidelity: signal to noise against the PyTorch original, where one bit of every code
is worth 20·log10(2) = 6.02 dB. Quality: the same items judged by both, with the paired interval of the difference. Two
questions are asked of it: is it proved to lie within ±margin (both one-sided tests, Schuirmann 1987), and is it proved
not to be zero? The answers are yes and no (agree), yes and yes (close), no and yes (differ), or neither. Outputs:
signal to noise between the two. Noise powers 10^(-a/10) and 10^(-b/10) of independent roundings add up; roundings that
are the same cancel, and the two are then closer to each other than to the original. The chance of a false word is held
over all pairs of one model (Holm).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from quantkit.conclude.compare import Comparison, retained
from quantkit.conclude.folding import fold
from quantkit.conclude.wording import measured
from quantkit.numerics.fidelity import sqnr_db
from quantkit.records import Result
from quantkit.stats.multiplicity import holm
from quantkit.stats.retention import Retention

BIT_DB = 20 * math.log10(2)
FLOAT_DB = 100.0  # both above: codes have no part in it, only the order of sums in float32 (2^-24 is -144 dB)
ROUGH_DB = 1.0  # what 256 sampled outputs leave uncertain about a ratio
FIGURES = (  # metric, in words, scale, unit, and the largest difference that counts as none
    ("coverage", "weights kept as codes:", 100, " %", 0.005),
    ("bits_per_weight", "bits a weight, scales included:", 1, "", 0.1),
)
WORST_FIRST = ("differ", "not proved", "close", "agree")
Word = Literal["differ", "not proved", "close", "agree"]


def label(backend: str, targets: Sequence[str]) -> str:
    """Return e.g. `onnxruntime` for the CPU alone, `coreml (cpu, ane)` for more: the CPU first."""
    ordered = sorted(targets, key=lambda target: (target != "cpu", target))
    return backend if ordered == ["cpu"] else f"{backend} ({', '.join(ordered)})"


@dataclass(frozen=True)
class Row:
    """One artifact as one executor answers it; it may stand for several targets that give equal answers."""

    result: Result
    targets: tuple[str, ...]

    @property
    def label(self) -> str:
        """The backend, and the targets where they are more than the CPU."""
        return label(self.result.case.backend, self.targets)

    @property
    def sqnr(self) -> float | None:
        """Fidelity to the original, dB; infinite where the outputs are equal, None where it cannot be had."""
        found = self.result.measurements.get("sqnr_db")
        if found is None:
            return None
        return found.values[0] if found.values else math.inf if "equal" in found.reason else None


@dataclass(frozen=True)
class Pair:
    """A toolchain beside the reference toolchain of the same method.

    Args:
        gap_db: how much less faithful it is than the reference, None where one of them has no figure.
        mutual_db: signal to noise between the two on sampled outputs; None where the samples are not of equal items.
        independent_db: what that would be if their errors had nothing in common.
        quality: the paired comparison, the reference toolchain as the reference: its drop is positive where the other
            is worse and its interval is the two-sided 95 % one of this pair alone; None with `reason`.
        p_apart: of "the difference is at least the margin", the larger of both directions.
        p_equal: of "there is no difference", two-sided.
        unequal: whether that is refused, all pairs of the model together.
    """

    reference: Row
    other: Row
    gap_db: float | None
    mutual_db: float | None
    independent_db: float | None
    quality: Retention | None
    reason: str = ""
    p_apart: float = 1.0
    p_equal: float = 1.0
    unequal: bool = False
    word: Word = "not proved"

    @property
    def bit_apart(self) -> bool:
        """Whether their fidelity differs by more than a bit."""
        return self.gap_db is not None and self.gap_db > BIT_DB


@dataclass(frozen=True)
class Check:
    """All toolchains of one method: the most faithful one, and the others beside it, worst first."""

    method: str
    reference: Row
    pairs: tuple[Pair, ...]


def crosscheck(rows: Iterable[Row], alpha: float = 0.05) -> list[Check]:
    """Return a check for each method that more than one row of this model has, baselines first."""
    ordered = sorted(rows, key=lambda row: (not row.result.context["baseline"], row.result.case.method))
    groups = [list(group) for _, group in groupby(ordered, key=lambda row: row.result.case.method)]
    faithful = {group[0].result.case.method: max(group, key=_fidelity) for group in groups if len(group) > 1}
    pairs = [
        pair_of(faithful[row.result.case.method], row)
        for row in ordered
        if row.result.case.method in faithful and row is not faithful[row.result.case.method]
    ]
    words = _worded(pairs, alpha)
    return [
        Check(method, reference, tuple(sorted((p for p in words if p.reference is reference), key=_badness)))
        for method, reference in faithful.items()
    ]


def pair_of(reference: Row, other: Row) -> Pair:
    """Return the two side by side, not yet judged."""
    ours, theirs = reference.sqnr, other.sqnr
    gap = independent = None
    if ours is not None and theirs is not None:
        negligible = min(ours, theirs) >= FLOAT_DB
        gap, independent = (0.0 if negligible else ours - theirs), independent_db(ours, theirs)
    mutual = mutual_db(reference.result, other.result)
    both = [  # alpha on each side of an interval that holds 95 %
        paired(other.result, reference.result, 0.025),
        paired(reference.result, other.result, 0.025),
    ]
    there, back = (comparison.retention for comparison in both)
    if there is None or back is None:
        return Pair(reference, other, gap, mutual, independent, None, both[0].reason or both[1].reason)
    return Pair(
        reference, other, gap, mutual, independent, there,
        p_apart=max(there.p_not_inferior, back.p_not_inferior),
        p_equal=min(1.0, 2 * min(there.p_worse, back.p_worse)),
    )  # fmt: skip


def paired(candidate: Result, reference: Result, alpha: float) -> Comparison:
    """Return the comparison of quality of two cases of one model, or the reason why there is none."""
    pair = Comparison(candidate, reference, "unavailable")
    if candidate.context["model"]["sha256"] != reference.context["model"]["sha256"]:
        return replace(pair, reason="they were measured with other weights: measure both again")
    return retained(pair, None, alpha)


def mutual_db(first: Result, second: Result) -> float | None:
    """Return the signal to noise ratio between the sampled outputs of two cases, dB; `first` is the signal.

    None where their samples are not of the same places on the same items, or hold no signal.
    """
    places = [(r.context["items"], r.context["fidelity_items"], r.context["data"]["sha256"]) for r in (first, second)]
    if not first.sample or len(first.sample) != len(second.sample) or places[0] != places[1]:
        return None
    ratio = sqnr_db(first.sample, second.sample)
    return None if ratio == -math.inf else ratio


def independent_db(a: float, b: float) -> float:
    """Return the signal to noise ratio between two whose errors have nothing in common: their powers add.

    >>> round(independent_db(30.0, 30.0), 2)  # half as good: 30 - 10·log10(2)
    26.99
    """
    power = 10 ** (-a / 10) + 10 ** (-b / 10)
    return -10 * math.log10(power) if power else math.inf


def errors_in_common(pair: Pair) -> str:
    """Return what the distance of the two outputs says of their roundings; empty where it can say nothing.

    Where one is noisier by more than a bit, its noise alone makes the distance.
    """
    if pair.mutual_db is None or pair.independent_db is None or pair.bit_apart:
        return ""
    ours, theirs = pair.reference.sqnr, pair.other.sqnr
    assert ours is not None
    assert theirs is not None
    if pair.mutual_db >= max(ours, theirs):
        return "mostly the same roundings"
    if pair.mutual_db > pair.independent_db + ROUGH_DB:
        return "partly the same roundings"
    if pair.mutual_db < pair.independent_db - ROUGH_DB:
        return "errors in opposite directions"
    return "independent roundings"


def apart(first: Result, second: Result) -> list[str]:
    """Return the stored facts in which two cases of one method differ and that may move outputs."""
    names = first.case.backend, second.case.backend
    facts = []
    schemes = first.context["scheme"], second.context["scheme"]
    if schemes[0] != schemes[1]:
        facts.append(f"{schemes[0]} in {names[0]}, {schemes[1]} in {names[1]}")
    for metric, text, scale, unit, least in FIGURES:
        found = measured(first, metric), measured(second, metric)
        if found[0] and found[1] and abs(found[0].values[0] - found[1].values[0]) > least:
            told = [f"{m.values[0] * scale:.3g}{unit} in {name}" for m, name in zip(found, names, strict=True) if m]
            facts.append(f"{text} {', '.join(told)}")
    left = left_in_float(first), left_in_float(second)
    for only, name in ((left[0] - left[1], names[0]), (left[1] - left[0], names[1])):
        if only:
            facts.append(f"only {name} leaves in float {', '.join(fold(sorted(only)))}")
    return facts


def left_in_float(result: Result) -> set[str]:
    """Return the names of the layers that stayed in float although the scheme asked otherwise."""
    return {line.partition(": ")[0] for line in result.context["left_in_float"]}


def _fidelity(row: Row) -> tuple[float, bool, float]:
    """Order rows by fidelity; where nothing but the order of sums is left, PyTorch is the reference."""
    sqnr = -math.inf if row.sqnr is None else row.sqnr
    return min(sqnr, FLOAT_DB), row.result.case.backend == "pytorch", sqnr


def _badness(pair: Pair) -> tuple[int, float]:
    return WORST_FIRST.index(pair.word), -(pair.gap_db or 0.0)


def _worded(pairs: Sequence[Pair], alpha: float) -> list[Pair]:
    """Return the pairs with adjusted p-values and the word that follows."""
    judged = [pair for pair in pairs if pair.quality is not None]
    apart_p = iter(holm([pair.p_apart for pair in judged]).tolist())
    equal_p = iter(holm([pair.p_equal for pair in judged]).tolist())
    words = []
    for pair in pairs:
        if pair.quality is not None:
            pair = replace(pair, p_apart=next(apart_p), p_equal=(equal := next(equal_p)), unequal=equal < alpha)
        words.append(replace(pair, word=_word(pair, alpha)))
    return words


def _word(pair: Pair, alpha: float) -> Word:
    fidelity_only = pair.reference.result.context["quality"]["outcome"] == "none"
    within = pair.p_apart < alpha or fidelity_only
    if pair.bit_apart or (pair.unequal and not within):
        return "differ"
    if pair.gap_db is None or not within:
        return "not proved"
    return "close" if pair.unequal else "agree"
