"""Regression graphs over commits, in a real browser without network: from stored results to what a person sees.

A git repository of eight commits is made; simulated results of each are bridged to asv with a step at one of them;
`asv publish` makes the page; our function replaces what it takes from elsewhere; Chromium draws it.
"""

import base64
import functools
import hashlib
import http.server
import re
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from quantkit.errors import CorruptFile, NothingMeasured, Unsupported
from quantkit.files import ASSETS
from quantkit.history import page
from quantkit.history.asv_files import export
from quantkit.history.page import SCRIPTS, offline
from tests.history_stand import CASE, repository, run

pytest.importorskip("asv", reason="needs asv: pip install 'quantkit[history]'")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
browser = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)} is installed")
COMMITS, STEP_AT = 8, 5
CONFIG = """{"version": 1, "project": "stand", "repo": ".", "branches": ["main"], "dvcs": "git",
"environment_type": "existing", "benchmark_dir": ".", "results_dir": "results", "html_dir": "html"}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The published folder, made to work offline, and the hash of the commit that has the step."""
    folder, hashes = repository(tmp_path_factory.mktemp("site") / "repo", COMMITS)
    results = [run(n, latency_s=0.0036 if n >= STEP_AT else 0.003, noise=0.01) for n in range(COMMITS)]
    told = [{"commit": h, "committed": 1_700_000_000 + 86_400 * n, "dirty": False} for n, h in enumerate(hashes)]
    results = [replace(r, fingerprint=r.fingerprint | {"revision": t}) for r, t in zip(results, told, strict=True)]
    export(results, folder / "results")
    (folder / "asv.conf.json").write_text(CONFIG)
    words = [sys.executable, "-m", "asv", "publish", "--no-pull"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert offline(folder / "html") == len(SCRIPTS)
    return folder / "html", hashes[STEP_AT]


@pytest.fixture(scope="module")
def address(site):
    """A web server on this machine alone."""
    handler = functools.partial(Quiet, directory=str(site[0]))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_):
        """Nothing."""


def look(address, path, folder, *more):
    """What Chromium makes of a page: every name but this machine's resolves to nothing."""
    words = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--window-size=1200,800",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", f"--user-data-dir={folder}",
        "--virtual-time-budget=20000", *more, f"{address}/{path}",
    ]  # fmt: skip
    return subprocess.run(words, capture_output=True, text=True, timeout=120).stdout


def test_the_page_names_nothing_beyond_this_folder(site):
    """No script, style or font of the page comes from elsewhere, and each that it names is there."""
    text = (site[0] / "index.html").read_text()

    loaded = re.findall(r'<(?:script|link)\b[^>]*(?:src|href)="([^"]+)"', text)
    assert not [name for name in loaded if "//" in name]
    assert [name for name in loaded if name.startswith("vendor/")]
    assert all((site[0] / name).is_file() for name in loaded)
    assert offline(site[0]) == 0  # a second time there is nothing to do


def test_asv_found_the_step_where_it_was_injected(site):
    """Independent of the browser: the file that the page of regressions shows."""
    text = (site[0] / "regressions.json").read_text()

    assert f"speed.Speed.time_call('{CASE.id}')" in text.replace("\\u0027", "'")


def line(picture):
    """Where a line of flot's first colour is in a picture: columns and rows of its pixels.

    A PNG of 8 bits without interlace: rows, each with its filter (ISO 15948, section 9), in one zlib stream.
    """
    data, at, packed = picture.read_bytes(), 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body, at = data[at + 8 : at + 8 + size], at + 12 + size
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
        packed += body if kind == b"IDAT" else b""
    step = {2: 3, 6: 4}[colour]
    assert depth == 8
    raw, rows, above = zlib.decompress(packed), [], np.zeros(width * step, np.uint8)
    for number in range(height):
        start = number * (width * step + 1)
        above = unfiltered(raw[start], np.frombuffer(raw, np.uint8, width * step, start + 1), above, step)
        rows.append(above.reshape(width, step))
    image = np.array(rows).astype(int)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    found = (red < 100) & (green > 80) & (green < 170) & (blue > 130)
    return np.nonzero(found)[::-1]


def unfiltered(kind, coded, above, step):
    """One row of a PNG: what is stored is the difference from the left, from above, from their mean, or Paeth's."""
    if kind == 2:
        return coded + above
    row = np.zeros(len(coded) + step, int)
    for i, value in enumerate(coded.tolist()):
        left, up, corner = int(row[i]), int(above[i]), int(above[i - step]) if i >= step else 0
        guess = left + up - corner
        paeth = min((left, up, corner), key=lambda near: abs(guess - near))
        row[i + step] = (value + (0, left, up, (left + up) // 2, paeth)[kind]) % 256
    return row[step:].astype(np.uint8)


@browser
@pytest.mark.slow
def test_the_browser_draws_the_graph(site, address, tmp_path):
    """Flot draws on a canvas: the axis is labelled up to the slower level, and the line is higher on the right."""
    where = "index.html#speed.Speed.time_call"

    dom = look(address, where, tmp_path / "a", "--dump-dom")
    look(address, where, tmp_path / "b", f"--screenshot={tmp_path / 'graph.png'}")

    graph = dom[dom.index('id="main-graph"') :]
    assert re.search(r'<canvas class="flot-base" width="\d{3,}"', graph)
    labels = [float(label) for label in re.findall(r"flot-tick-label[^>]*>([\d.]+)<", graph)]
    assert 3.5 <= max(labels) < 10  # milliseconds
    assert CASE.id in dom
    columns, rows = line(tmp_path / "graph.png")
    inside = (columns > 300) & (rows > 120) & (rows < 660)  # the main graph in a window of 1200 x 800
    left, right = (rows[inside & side].mean() for side in (columns < 600, columns > 1_000))
    assert left - right > 30


@browser
@pytest.mark.slow
def test_the_browser_lists_the_injected_step(site, address, tmp_path):
    dom = look(address, "index.html#regressions", tmp_path / "c", "--dump-dom")

    table = dom[dom.index('id="regressions-body"') :]
    assert "speed.Speed.time_call" in table
    assert CASE.id in table
    assert site[1][:8] in table
    factors = [float(x) for x in re.findall(r">(\d\.\d+)x<", table)]
    assert any(1.15 < factor < 1.25 for factor in factors), factors


def test_a_page_of_another_version_is_refused(tmp_path):
    (tmp_path / "index.html").write_text('<script src="https://elsewhere.example/new.js"></script>')

    with pytest.raises(Unsupported, match=r"elsewhere\.example/new\.js"):
        offline(tmp_path)


def test_no_page_is_said(tmp_path):
    with pytest.raises(NothingMeasured, match="asv publish"):
        offline(tmp_path)


def test_damaged_scripts_are_not_used(tmp_path, monkeypatch):
    address, (location, _) = next(iter(SCRIPTS.items()))
    monkeypatch.setitem(page.SCRIPTS, address, (location, "0" * 64))
    (tmp_path / "index.html").write_text(f'<script src="https://{address}"></script>')

    with pytest.raises(CorruptFile):
        offline(tmp_path)


def test_our_scripts_are_those_that_asvs_page_asks_for():
    """Every address of asv's own page is known; five files have the very hashes that the page has for them."""
    text = (files("asv") / "www" / "index.html").read_text()
    tags = re.findall(r'(?:src|href)="https://([^"]+)" integrity="(sha\d+)-([^"]+)"', text)

    assert {address for address, _, _ in tags} == set(SCRIPTS)
    same = set()
    for address, kind, expected in tags:
        digest = hashlib.new(kind, (ASSETS / SCRIPTS[address][0]).read_bytes()).digest()
        if base64.b64encode(digest).decode() == expected:
            same.add(Path(SCRIPTS[address][0]).name)
    others = {Path(location).name for location, _ in SCRIPTS.values()} - same
    assert others == {f"jquery.flot{part}.js" for part in ("", ".time", ".selection", ".categories")} | {
        "stupidtable.min.js"
    }
