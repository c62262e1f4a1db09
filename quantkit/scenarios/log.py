"""Reads what LoadGen wrote: `mlperf_log_detail.txt`, a line `:::MLLOG {json}` for each fact."""

from __future__ import annotations

import json
import re
from typing import Any

from quantkit.errors import CaseFailed

PREFIX = ":::MLLOG "
WANTED = ("result_", "early_stopping", "loadgen_version", "generated_", "effective_")
PERCENTILE = re.compile(r"result_(\d+\.\d\d)_percentile_(per_query_)?latency_ns")
NANO = 1e-9


def facts(text: str) -> dict[str, Any]:
    """Return LoadGen's results and settings by key, and the texts of its errors under `errors`.

    Raises:
        CaseFailed: it ended without a result.
    """
    found: dict[str, Any] = {"errors": []}
    for line in text.splitlines():
        if not line.startswith(PREFIX):
            continue
        wanted = any(f'"key": "{name}' in line for name in WANTED)
        if not wanted and '"is_error": true' not in line:
            continue
        entry = json.loads(line.removeprefix(PREFIX))
        if entry["metadata"]["is_error"]:
            found["errors"].append(" ".join(str(entry["value"]).split()))
        else:
            found[entry["key"]] = entry["value"]
    if "result_validity" not in found:
        said = "; ".join(found["errors"]) or "its log has no result"
        raise CaseFailed(f"LoadGen ended without a result: {said}")
    return found


def percentiles(found: dict[str, Any]) -> dict[str, float]:
    """Return LoadGen's latencies by name, seconds: of queries where it tells those (multi stream), else of samples."""
    matches = [match for match in map(PERCENTILE.fullmatch, found) if match]
    per_query = any(match[2] for match in matches)
    chosen = [match for match in matches if bool(match[2]) == per_query]
    return {f"p{float(match[1]):g}": found[match[0]] * NANO for match in chosen}


def reasons(found: dict[str, Any]) -> tuple[str, ...]:
    """Return why a run is not valid, in LoadGen's words; nothing where it is."""
    if found["result_validity"] == "VALID":
        return ()
    said = [found.get("result_invalid_reason", "")]
    if found.get("result_min_duration_met") is False:
        said.append("the least duration was not reached")
    if found.get("result_min_queries_met") is False:
        said.append("the least number of queries was not reached")
    if found.get("early_stopping_met") is False:
        said.append(f"early stopping: {found.get('early_stopping_result', '')}")
    said += found["errors"]
    return tuple(" ".join(text.replace("*", "").split()) for text in said if text.strip())
