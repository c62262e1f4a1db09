"""Write and check requirements.lock, the pinned set that `make setup` installs.

`write` resolves the core with the extras `all` and `dev` for every environment of `tool.uv.environments` at once, and
keeps one version per distribution. torch's Linux wheel on the index asks for CUDA packages, the CPU build for none:
they are left out of the lock, and an installer that meets the CUDA build adds them itself. Find-links are not used, so
the lock says `torch==2.13.0`, which also matches a local `2.13.0+cpu` wheel.

`check` resolves the project for each platform and Python, constrained to the lock and from wheels only. With `all` and
`dev` the result must be the lock, name by name: nothing missing, nothing left over, every pin has a wheel that fits.
With ALL extras (tensorflow too, which the lock leaves out) it must resolve beside the pins.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
CUDA = re.compile(r"^(nvidia-|cuda-|triton\b)")
HEADER = "# Pinned set for Linux and macOS, Python 3.11 to 3.13. Written by: make lock. Checked by: make lock-check\n"
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = {  # uv's name -> the markers it stands for
    "x86_64-manylinux_2_35": {"sys_platform": "linux", "platform_machine": "x86_64"},  # glibc 2.35: mlx's wheels
    "aarch64-apple-darwin": {"sys_platform": "darwin", "platform_machine": "arm64"},
}
DEFAULT = ("--extra", "all", "--extra", "dev")
MACOS = "14.0"  # the oldest that torch and mlx have wheels for


def compile_set(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `uv pip compile` on pyproject.toml with the plain index and return the finished process."""
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    environment = {k: v for k, v in os.environ.items() if k not in ("UV_FIND_LINKS", "PIP_FIND_LINKS")}
    environment["MACOSX_DEPLOYMENT_TARGET"] = MACOS
    command = [
        uv,
        "pip",
        "compile",
        "-q",
        "--no-header",
        "--no-annotate",
        "--python",
        sys.executable,
        *arguments,
        "pyproject.toml",
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def simplify(line: str) -> str:
    """Return a pinned line without the part of its marker that holds in every environment we serve.

    >>> simplify("numpy==2.3.5 ; sys_platform == 'darwin' or sys_platform == 'linux'")
    'numpy==2.3.5'
    """
    pin, _, text = (part.strip() for part in line.partition(";"))
    if not text:
        return pin
    marker = Marker(text)
    holds = {
        markers["sys_platform"]: {
            marker.evaluate({"python_version": v, "python_full_version": f"{v}.0", **markers}) for v in PYTHONS
        }
        for markers in PLATFORMS.values()
    }
    if holds == {"linux": {True}, "darwin": {True}}:
        return pin
    for system, other in (("linux", "darwin"), ("darwin", "linux")):
        if holds[system] == {True} and holds[other] == {False}:
            return f"{pin} ; sys_platform == '{system}'"
    return line.strip()


def write() -> int:
    """Resolve and write the lock."""
    options = ("--universal", "--python-version", PYTHONS[0], "--fork-strategy", "fewest", "--upgrade")
    done = compile_set(*options, *DEFAULT)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return 1
    lines = [simplify(line) for line in done.stdout.splitlines() if line.strip() and not CUDA.match(line)]
    LOCK.write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{LOCK.name}: {len(lines)} distributions")
    return 0


def check_one(platform: str, python: str) -> str:
    """Return why the lock does not serve this platform and Python; empty when it does."""
    options = ("--no-build", "--python-version", python, "--python-platform", platform, "--constraints", LOCK.name)
    everything, default = compile_set(*options, "--all-extras"), compile_set(*options, *DEFAULT)
    if everything.returncode or default.returncode:
        return (default.stderr or everything.stderr).strip()
    environment = {"python_version": python, "python_full_version": f"{python}.0", **PLATFORMS[platform]}
    pins = [Requirement(line) for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    pinned = {f"{pin.name}{pin.specifier}" for pin in pins if not pin.marker or pin.marker.evaluate(environment)}
    resolved = {line.strip() for line in default.stdout.splitlines() if not CUDA.match(line)}
    wrong = {"left over in the lock": pinned - resolved, "missing in the lock": resolved - pinned}
    return "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in wrong.items() if names)


def check() -> int:
    """Say for every platform and Python whether the lock resolves there."""
    combinations = [(platform, python) for platform in PLATFORMS for python in PYTHONS]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda combination: check_one(*combination), combinations))
    for (platform, python), conflict in zip(combinations, answers):
        print(f"{platform:22} python {python}: {conflict or 'ok'}")
    return 1 if any(answers) else 0


if __name__ == "__main__":
    sys.exit({"write": write, "check": check}[sys.argv[1]]())
