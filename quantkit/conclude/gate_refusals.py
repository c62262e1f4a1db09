"""Why two results of one case, measured in two runs, cannot be compared: each reason with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from quantkit.records import Result

Refusal = tuple[str, str]  # what stands in the way, what to do
AGAIN = "measure the baseline again with this one's settings"


def order(now: Result, then: Result) -> Refusal | None:
    """Return why the two are in the wrong order; of what did not change, any order will do."""
    if unchanged(now, then):
        return None
    try:
        late = datetime.fromisoformat(then.created) > datetime.fromisoformat(now.created)
    except (ValueError, TypeError):  # not stored, or not a time: nothing can be said
        return None
    if not late:
        return None
    said = f"measured {now.created}, before its baseline ({then.created}): results and baseline are swapped, these"
    todo = "name the files the other way round, or measure again (--fresh), or, if this is meant, add --accept-older"
    return f"{said} results are stale, or a clock stepped back", todo


def quality(now: Result, then: Result) -> Refusal | None:
    """Return why their items cannot be paired."""
    for what, field in (("judged otherwise", "quality"), ("of other weights", "model"), ("of other data", "data")):
        new, old = _identity(now, field), _identity(then, field)
        if new != old:
            return f"the baseline is {what} ({_short(old)} there, {_short(new)} here)", _TODO[field]
    if len(now.outcomes) != len(then.outcomes):
        return f"{len(now.outcomes)} items here, {len(then.outcomes)} in the baseline", (
            "measure both with the same --profile and --items"
        )
    ids = now.context.get("item_ids"), then.context.get("item_ids")
    if all(ids) and ids[0] != ids[1]:
        return f"the items have other names than the baseline's ({_short(ids[1])} there, {_short(ids[0])} here)", AGAIN
    return None


_TODO = {
    "quality": AGAIN,
    "data": "measure the baseline again with these data",
    "model": "what training changed is no loss by quantization: measure the older code with these weights, or gate this"
    " run against its own full precision (quantkit gate, without --baseline)",
}


def machine(now: Result, then: Result) -> Refusal | None:
    """Return why time and memory of the two say nothing of each other."""
    new, old = now.fingerprint, then.fingerprint
    if new.get("id") != old.get("id"):
        return f"the baseline is of another machine ({_differences(old, new)})", (
            "measure the baseline on this machine, or name what can be compared: --checks quality,size"
        )
    threads = now.context.get("threads"), then.context.get("threads")
    if threads[0] != threads[1]:
        return f"{threads[0]} thread(s) here, {threads[1]} in the baseline", AGAIN
    return None


def disturbed(now: Result, then: Result) -> Refusal | None:
    """Return why a time of one of them is not to be trusted."""
    for result, where in ((now, "this run"), (then, "the baseline")):
        if result.status == "tainted":
            return (
                f"{where} was disturbed while it was timed ({result.reason})",
                "time it again (--fresh) on a quiet machine",
            )
    return None


def unchanged(now: Result, then: Result) -> bool:
    """Return whether both are of the same artifact run by the same code, on the same items."""
    key = now.context.get("answers")
    return bool(key) and key == then.context.get("answers")


def same_answers(now: Result, then: Result) -> bool:
    """Return whether every item was judged alike and the outputs that are kept agree bit for bit."""
    alike = now.outcomes == then.outcomes and now.sample == then.sample
    return alike and (bool(now.sample) or unchanged(now, then))


def _identity(result: Result, field: str) -> Any:
    if field == "quality":
        told = result.context["quality"]
        return [told["name"], told["outcome"], told["better"]]
    return (result.context.get(field) or {}).get("sha256")


def _short(identity: Any) -> str:
    """Return an identity as a reader can compare it: hashes by their first digits."""
    if isinstance(identity, Mapping):
        return ", ".join(f"{name} {str(value)[:10]}" for name, value in sorted(identity.items())) or "none"
    parts = identity if isinstance(identity, list | tuple) else [identity]
    return ", ".join(str(part)[:20] if len(str(part)) < 40 else str(part)[:10] for part in parts) or "none"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return what differs between two fingerprints, the versions one by one."""
    moved = [name for name in _FIELDS if old.get(name) != new.get(name)]
    parts = [f"{name} {old.get(name)} there, {new.get(name)} here" for name in moved] + versions(old, new)
    more = f", and {len(parts) - 3} more" if len(parts) > 3 else ""
    return ("; ".join(parts[:3]) or f"id {old.get('id')} there, {new.get('id')} here") + more


def versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return which libraries differ between two fingerprints, and how."""
    before, after = old.get("versions", {}), new.get("versions", {})
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    return [f"{name} {before.get(name, 'none')} there, {after.get(name, 'none')} here" for name in changed]


_FIELDS = ("system", "processor", "features", "cores", "memory_gib", "python")
