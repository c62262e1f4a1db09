"""Writes docs/methods.md: what the methods reach on models of the zoo, each section measured by a script of its own.

    python scripts/methods.py                 every section that has not been measured, then the page (`make methods`)
    python scripts/methods.py qat mixed       these sections measured again, then the page
    python scripts/methods.py --page          the page alone, from sections measured before

A section is kept in .quantkit/methods/ with the machine and the versions that it was measured on. Timed on whatever
machine this is; run nothing beside it.
"""

import argparse
import importlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from quantkit.environment import fingerprint
from quantkit.files import write_atomic

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".quantkit" / "methods"
TOPICS = ("retention", "calibration", "rewrites", "qat", "mixed", "adaptive")
HEAD = """# What the methods reach

Written by `make methods`, section by section, from artifacts that were built and executed on the machine named below
each; nothing is copied from elsewhere. Verdicts are paired non-inferiority tests on the same items (`pass`,
`regression`, `inconclusive`), intervals are at 95 % unless a table says otherwise.
"""


def measure(topic: str) -> None:
    """Run one section and keep it with what it was measured on."""
    print(f"measuring {topic}", file=sys.stderr, flush=True)
    text = importlib.import_module(f"methods_{topic}").section()
    kept = {"text": text, "created": datetime.now(UTC).date().isoformat(), "machine": machine()}
    write_atomic(KEPT / f"{topic}.json", json.dumps(kept).encode())


def machine() -> str:
    """Return machine and versions in one sentence."""
    found = fingerprint()
    versions = ", ".join(f"{name} {version}" for name, version in sorted(found["versions"].items()))
    hardware = (
        f"{found['processor']} ({', '.join(found['features'])}), {found['cores']} cores, {found['memory_gib']} GiB"
    )
    return f"{found['system']}, {hardware}, Python {found['python']}; {versions}"


def page() -> str:
    """Return the page: every section that was measured, and the names of those that were not."""
    parts = [HEAD]
    for topic in TOPICS:
        file = KEPT / f"{topic}.json"
        if not file.is_file():
            parts.append(f"## {topic}\n\nNot measured yet: `python scripts/methods.py {topic}`.\n")
            continue
        kept = json.loads(file.read_text())
        where = f"`python scripts/methods.py {topic}`, {kept['created']}, {kept['machine']}."
        parts.append(f"{kept['text'].strip()}\n\n{where}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topics", nargs="*", choices=[*TOPICS, []], help="sections to measure again")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    missing = [topic for topic in TOPICS if not (KEPT / f"{topic}.json").is_file()]
    for topic in [] if options.page else options.topics or missing:
        measure(topic)
    write_atomic(ROOT / "docs" / "methods.md", page().encode())
    print("written: docs/methods.md")


if __name__ == "__main__":
    main()
