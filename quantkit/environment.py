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

from quantkit.extras import INSTRUMENTS, TABLE, version

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
    deciding = {distribution for distribution, extra in TABLE.values() if extra not in INSTRUMENTS}
    distributions = sorted(deciding | set(CORE))
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


def revision(folder: Path | None = None) -> dict[str, Any]:
    """Return the git revision of a folder (default: the working directory), or nothing where there is none.

    `commit` is the full hash; `committed` its committer's time, seconds since 1970; `dirty` says whether a tracked file
    differs from it, so that what was measured is not what the commit holds. Asked once in a process: its code is what
    was imported, whatever happens to the files later.
    """
    return _revision(folder or Path.cwd())


@cache
def _revision(where: Path) -> dict[str, Any]:
    told = _git(where, "show", "--no-patch", "--format=%H %ct", "HEAD").split()
    if len(told) != 2:
        return {}
    dirty = bool(_git(where, "status", "--porcelain", "--untracked-files=no"))
    return {"commit": told[0], "committed": int(told[1]), "dirty": dirty}


def _git(where: Path, *words: str) -> str:
    """Return what git says, or nothing where it is missing or refuses."""
    try:
        done = subprocess.run(["git", "-C", str(where), *words], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
