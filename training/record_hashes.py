"""Write the hash of every committed asset into the plug-in that names it: run after a training script has ended.

python training/record_hashes.py
"""

import re
from pathlib import Path

from quantkit.files import ASSETS, sha256_of

PACKAGE = Path(__file__).resolve().parents[1] / "quantkit"
NAMED = re.compile(r'("(?P<path>(?:weights|fashion_mnist|pydoc|speech)/[\w./-]+)"(?:,\s*(?:sha256=)?|:\s*))"[0-9a-f]*"')


def recorded(text: str) -> str:
    """Return a plug-in's source with the hash of each asset that is there."""

    def fill(match: re.Match) -> str:
        path = ASSETS / match["path"]
        return f'{match[1]}"{sha256_of(path)}"' if path.is_file() else match[0]

    return NAMED.sub(fill, text)


def main() -> None:
    for file in sorted([*(PACKAGE / "zoo").glob("*.py"), *(PACKAGE / "datasets").glob("*.py")]):
        before = file.read_text("utf-8")
        after = recorded(before)
        if after != before:
            file.write_text(after, "utf-8")
            print(f"recorded hashes in {file.relative_to(PACKAGE.parent)}")


if __name__ == "__main__":
    main()
