"""The gate as JUnit XML: one test case for each case and check, a suite for each model on each target.

`regression` is a failure; `refused` an error; `inconclusive` and `new` are skipped with their message. So a viewer that
colours by failures alone shows an undecided gate as green: the exit status (3) is what decides.
Attributes are those of the schema that Ant's JUnit task set, which Jenkins, GitLab and GitHub's viewers read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from xml.etree import ElementTree

from quantkit.conclude.gate import Check, Gate
from quantkit.records import Case

ELEMENT = {"regression": "failure", "refused": "error", "inconclusive": "skipped", "new": "skipped"}
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2
NO_TIME = "1970-01-01T00:00:00"


def junit(gate: Gate) -> bytes:
    """Return the document, UTF-8; a gate without any check has one suite whose one case says so."""
    root = ElementTree.Element("testsuites")
    key = lambda check: (check.case.model, check.case.target)  # noqa: E731 - used twice, here only
    checks = sorted(gate.checks, key=key)  # stable: the order within a suite stays
    for number, (place, suite) in enumerate(groupby(checks, key=key)):
        _suite(root, number, "{} on {}".format(*place), list(suite), gate)
    if not gate.checks:
        none = Check(Case("none", "none", "none", "none"), "run", "refused", "; ".join(gate.notes) or "nothing to gate")
        _suite(root, 0, "nothing", [none], gate)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _suite(root: ElementTree.Element, number: int, name: str, checks: Sequence[Check], gate: Gate) -> None:
    """Append one suite."""
    count = lambda kind: str(sum(ELEMENT.get(check.word) == kind for check in checks))  # noqa: E731
    told = {"name": f"quantkit gate: {_text(name)}", "tests": str(len(checks)), "failures": count("failure")}
    told |= {"errors": count("error"), "skipped": count("skipped"), "time": "0", "timestamp": _time(gate.created)}
    told |= {"hostname": "localhost", "id": str(number), "package": "quantkit.gate"}
    suite = ElementTree.SubElement(root, "testsuite", told)
    ElementTree.SubElement(suite, "properties")
    for check in checks:
        case = {"name": f"{_text(check.case.id)} {check.name}", "classname": f"quantkit.gate.{check.name}", "time": "0"}
        test = ElementTree.SubElement(suite, "testcase", case)
        if check.word in ELEMENT:
            attributes = {"message": _text(check.said), "type": check.word}
            ElementTree.SubElement(test, ELEMENT[check.word], attributes).text = _text(check.text)
    ElementTree.SubElement(suite, "system-out").text = _text("\n".join([f"gate: {gate.verdict}", *gate.notes]))
    ElementTree.SubElement(suite, "system-err")


def _text(text: str) -> str:
    """Return text without the characters that XML cannot hold (a crash message may have some)."""
    return NOT_XML.sub("?", text)


def _time(created: str) -> str:
    """Return the schema's form of a time: no zone, whole seconds."""
    try:
        return datetime.fromisoformat(created).strftime("%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return NO_TIME
