"""Names and literals of generated code: an identifier is made valid, a name of the artifact stays as it is, escaped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

KEYWORDS = """
as async await break case catch class const continue data default defer deinit delete do double else enum extension
false fileprivate final float for fun func guard if import in init inout int interface internal is let long new nil not
null object open operator or override package private protocol public repeat rethrows return self short signed static
struct sub subscript super switch template this throw throws true try typealias typeof union unsigned using val value
values var virtual void when where while input output inputs outputs model state result from lambda pass del global
nonlocal with yield assert except finally raise def and features array call golden
"""  # of Swift, Kotlin, C++ and Python, and the names that the templates use themselves
CONTROL = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
UNICODE = {"swift": "\\u{{{:x}}}", "kotlin": "\\u{:04x}", "cpp": "\\{:03o}", "python": "\\u{:04x}"}


def words(text: str) -> list[str]:
    """Return the words of a name, plain letters and digits only.

    >>> words("my-net 2:make_é")
    ['my', 'net', '2', 'make', 'e']
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", plain)


def type_name(text: str) -> str:
    """Return a name for a type or a module, valid in every language of the templates.

    >>> type_name("fmnist_cnn"), type_name("3d model"), type_name("§")
    ('FmnistCnnModel', 'Net3DModel', 'NetModel')
    """
    name = "".join(word[0].upper() + word[1:] if word[0].isalpha() else word for word in words(text))
    name = name.removesuffix("Model") or "Net"
    return ("Net" if name[0].isdigit() else "") + name + "Model"


def variables(names: Iterable[str]) -> list[str]:
    """Return a variable for each name: valid, different from each other and from every keyword.

    >>> variables(["input_ids", "in", "1", "x", "x"])
    ['inputIds', 'inValue', 'input2', 'x', 'x2']
    """
    made: list[str] = []
    for position, name in enumerate(names):
        first, *rest = words(name) or [""]
        variable = first.lower() + "".join(word[0].upper() + word[1:].lower() for word in rest)
        if not variable or variable[0].isdigit():
            variable = f"input{position}"
        variable += "Value" * (variable.lower() in KEYWORDS.split())
        count = 2
        while variable in made:
            variable, count = f"{re.sub(r'(?<=[a-zA-Z])[0-9]+$', '', variable)}{count}", count + 1
        made.append(variable)
    return made


def literal(text: str, language: str) -> str:
    """Return a string literal of Swift, Kotlin, C++ or Python.

    >>> print(literal('a "$b"', "kotlin"), literal("line\\nend", "swift"))
    "a \\"\\$b\\"" "line\\nend"
    """
    escaped = ""
    for letter in text:
        if letter in '"\\' or (letter == "$" and language == "kotlin"):
            escaped += "\\" + letter
        elif ord(letter) < 32 or ord(letter) == 127:
            escaped += CONTROL.get(letter) or UNICODE[language].format(ord(letter))
        else:
            escaped += letter
    return f'"{escaped}"'


def one_line(text: str) -> str:
    """Return text that may stand in a comment or a docstring: one line, no end of a comment, no quotes, no escapes."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(plain.replace("*/", "* /").replace("\\", "/").replace('"', "'").split())
