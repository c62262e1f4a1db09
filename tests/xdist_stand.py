"""A place in which `pytest benchmarks` is run as a user types it, and a toy toolchain that takes notes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from quantkit.pipeline.store import Store

ROOT = Path(__file__).resolve().parent.parent
METHODS = "fp32,int8_static,int8_weight_only"
TOY = ["--models", "tiny_plane", "--backends", "grid", "--targets", "cpu,simulated", "--items", "100", "--rounds", "2"]
LOGGED = '''
"""The toy toolchain; notes in a file when it builds and when it answers, and in whose name."""

import os
import time
import traceback
from contextlib import contextmanager

from quantkit.catalog import BACKENDS

toy = BACKENDS.get("grid")


@contextmanager
def noted(kind):
    start = time.monotonic_ns()
    yield
    with open(os.environ["NOTED"], "a") as file:
        file.write(f"{kind} {os.getpid()} {start} {time.monotonic_ns()}\\n")


class Session:
    load_s, compile_s = 0.001, 0.0

    def __init__(self, session, kind):
        self._session, self._kind = session, kind

    def feed(self, inputs):
        return self._session.feed(inputs)

    def run(self, fed):
        with noted(self._kind):
            return self._session.run(fed)

    def fetch(self, output):
        return self._session.fetch(output)

    def close(self):
        pass


class Logged(type(toy)):
    name, title = "logged", "grid that takes notes"
    targets = ("cpu", "simulated")
    run_modules = ("quantkit.numerics.grids",)

    def build(self, prepared, folder, threads):
        with noted("build"):
            time.sleep(float(os.environ.get("SLOW_BUILD", "0.05")))
            return super().build(prepared, folder, threads)

    def open(self, folder, target, threads):
        time.sleep(float(os.environ.get("SLOW_OPEN", "0")))
        asked_by = [frame.name for frame in traceback.extract_stack()]
        return Session(super().open(folder, target, threads), "trial" if "trial" in asked_by else "judge")


plugin = Logged()
'''


class Place:
    """A folder with its own cache, results, locks and plug-ins, in which `pytest benchmarks` is run."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "tmp").mkdir(parents=True)
        (folder / "plugins" / "backends").mkdir(parents=True)
        (folder / "plugins" / "backends" / "logged.py").write_text(LOGGED)
        self.results, self.notes = folder / "results.db", folder / "notes"

    def start(self, *arguments, **environment):
        plugins = os.pathsep.join([str(ROOT / "tests" / "plugins"), str(self.folder / "plugins")])
        settings = {"QUANTKIT_PLUGINS": plugins, "QUANTKIT_HOME": str(self.folder / "home"), "COLUMNS": "200"}
        settings |= {"QUANTKIT_RESULTS": str(self.results), "TMPDIR": str(self.folder / "tmp")}
        settings |= {"NOTED": str(self.notes), "QUANTKIT_DISTURBED": "keep"} | environment
        command = [sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider", *arguments]
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        # What a shell starts with `&` ignores Ctrl-C, and so would all that it starts; a terminal's programs do not.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(
                command, cwd=ROOT, env=ours | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
            )  # fmt: skip
        finally:
            signal.signal(signal.SIGINT, before)

    def bench(self, *arguments, **environment):
        process = self.start(*arguments, **environment)
        text = process.communicate(timeout=100)[0]
        return process.returncode, text

    def stored(self):
        return {result.case.id: result for result in Store(self.results).newest()}

    def left(self):
        """Return what is left of boards."""
        return list((self.folder / "tmp").glob("quantkit-*/run-*"))
