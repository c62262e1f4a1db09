"""The fingerprint of a machine: what must be equal before two timings may be compared."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from quantkit.extras import TABLE, version

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimddp", "i8mm", "bf16")
CORE = ("torch", "torchao", "numpy", "scipy", "quantkit")


@cache
def processor() -> tuple[str, tuple[str, ...]]:
    """Return the processor's name and those of its features that decide the speed of quantized code."""
    if platform.system() == "Darwin":
        name = _sysctl("machdep.cpu.brand_string")
        flags = {"asimddp": _sysctl("hw.optional.arm.FEAT_DotProd"), "i8mm": _sysctl("hw.optional.arm.FEAT_I8MM")}
        return name, tuple(sorted(flag for flag, value in flags.items() if value == "1"))
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    have = set(fields.get("flags", fields.get("Features", "")).split())
    name = fields.get("model name", "") or platform.processor() or platform.machine()
    return name, tuple(feature for feature in FEATURES if feature in have)


def _sysctl(key: str) -> str:
    done = subprocess.run(["/usr/sbin/sysctl", "-n", key], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def apple_silicon() -> bool:
    """Return whether this is macOS on Apple silicon, where Core ML, Metal and the Neural Engine are."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def memory_bytes() -> int:
    """Return the memory that processes here may use: the machine's, or the container's where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    told = limit.read_text().strip() if limit.exists() else "max"
    return min(machine, int(told)) if told.isdigit() else machine


@cache
def fingerprint() -> dict[str, Any]:
    """Return machine and versions; `id` is equal exactly where timings may be compared."""
    name, features = processor()
    distributions = sorted({distribution for distribution, _ in TABLE.values()} | set(CORE))
    stable: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": name,
        "features": list(features),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(memory_bytes() / 2**30),
        "python": platform.python_version(),
        "versions": {d: version(d) for d in distributions if version(d) != "none"},
    }
    identity = hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()[:16]
    return stable | {"kernel": platform.release(), "id": identity}
