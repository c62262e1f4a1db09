"""A page of headings, paragraphs, lists and tables, as Markdown or as plain text for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

SPECIAL = re.compile(r"([\\<*|`])")  # what Markdown would take for its own within a sentence or a cell


@dataclass
class Page:
    """Blocks in the order in which they were added."""

    markdown: bool
    blocks: list[str] = field(default_factory=list)

    def heading(self, text: str, level: int) -> None:
        """Add a heading; level 1 is the title of the page."""
        line = "" if level > 2 else "\n" + ("=" if level == 1 else "-") * len(text)
        self.blocks.append(f"{'#' * level} {self._safe(text)}" if self.markdown else text + line)

    def paragraph(self, text: str) -> None:
        """Add a paragraph; an empty one adds nothing."""
        if text:
            self.blocks.append(self._safe(text))

    def bullets(self, title: str, lines: Sequence[str]) -> None:
        """Add a list under its title; an empty list adds nothing."""
        if lines:
            self.paragraph(title)
            self.blocks.append("\n".join(f"- {self._safe(line)}" for line in lines))

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
        """Add a table whose first `left` columns are flush left and the others flush right."""
        alignment = ["left"] * left + ["right"] * (len(headers) - left)
        cells = [[self._safe(cell) for cell in row] for row in rows]
        style = "pipe" if self.markdown else "simple"
        self.blocks.append(tabulate(cells, headers, tablefmt=style, disable_numparse=True, colalign=alignment))

    def text(self) -> str:
        """Return the whole page, ending in a newline."""
        return "\n\n".join(self.blocks) + "\n"

    def _safe(self, text: str) -> str:
        line = " ".join(text.split())
        return SPECIAL.sub(r"\\\1", line) if self.markdown else line
