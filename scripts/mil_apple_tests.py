"""Run coremltools' own tests of the MIL operations on our reference executor instead of on a Mac.

coremltools installs its tests with the library. Each builds a program, converts it and, on a Mac, compares what Core ML
answers with values worked out by hand, NumPy, torch or TensorFlow. Here the converted model is saved, read back by
`quantkit.mil` and compared with the same values: an oracle that was held against real hardware. Run it outside the
repository (its pytest settings are not coremltools'). Failures to expect: tests that call `predict` themselves, or ask
for Core ML's own exceptions, or for times.

    python scripts/mil_apple_tests.py [--every 25] [--opsets iOS15,iOS18] [pytest arguments]

`--every n` takes one of n parameter sets of each test (there are tens of thousands), at least one per test.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest

OPSETS = ("iOS14", "iOS15", "iOS16", "iOS17", "iOS18", "coreml_dialect")


class OnTheReferenceExecutor:
    """A pytest plugin: thins the parameter sets, and puts our executor where coremltools asks Core ML."""

    def __init__(self, every: int):
        self.every = every
        self.compared = 0
        self.refused: dict[str, int] = {}

    def pytest_collection_modifyitems(self, config, items):
        seen: dict[str, int] = {}
        kept, dropped = [], []
        for item in items:
            name = item.nodeid.partition("[")[0]
            seen[name] = seen.get(name, -1) + 1
            usable = "neuralnetwork" not in item.nodeid
            # a checksum of the parameters: a fixed step would share factors with their periods
            chosen = seen[name] == 0 or zlib.crc32(item.nodeid.encode()) % self.every == 0
            (kept if usable and chosen else dropped).append(item)
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept

    def pytest_configure(self, config):
        import coremltools as ct
        from coremltools.converters.mil.mil.ops.tests import testing_utils

        testing_utils.compare_backend = self.compare
        ct.models.MLModel.make_state = lambda model: {}

    def compare(self, mlmodel, input_key_values, expected_outputs, dtype="fp32", atol=1e-4, rtol=1e-5, state=None, **_):
        from quantkit import mil
        from quantkit.errors import Unsupported

        if not mlmodel.is_package or expected_outputs is None:
            return pytest.skip("not an ML program, or no expected value")
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "model.mlpackage"
            mlmodel.save(str(package))
            try:
                program = mil.load(package)
                if program.states:
                    state = state.setdefault("state", program.new_state())
                feed = {t.name: shaped(input_key_values[t.name], t) for t in program.inputs}
                got = program.run(feed, state or None)
            except Unsupported as error:
                reason = str(error).rpartition("mlpackage")[2]
                self.refused[reason] = self.refused.get(reason, 0) + 1
                pytest.skip(f"unsupported: {error}")
        self.compared += 1
        # float32 at coremltools' own tolerance; float16 tighter (0.01 absolute where it allows 0.5)
        loose = 100 if dtype == "fp16" else 1
        for name, expected in expected_outputs.items():
            np.testing.assert_allclose(got[name], expected, atol=atol * loose, rtol=max(rtol * loose, 2e-5))
        return got


def shaped(value, tensor) -> np.ndarray:
    """Return a test's input in the declared type; some give a bare number for a tensor of one element."""
    array = np.asarray(value).astype(tensor.dtype)
    return array.reshape(tensor.shape) if array.ndim == 0 else array


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--opsets", default=",".join(OPSETS))
    options, rest = parser.parse_known_args()
    import coremltools.converters.mil.mil.ops.tests as tests

    places = [str(Path(tests.__file__).parent / opset) for opset in options.opsets.split(",")]
    plugin = OnTheReferenceExecutor(options.every)
    code = pytest.main(
        ["-q", "-p", "no:cacheprovider", "--no-header", "-W", "ignore", *rest, *places], plugins=[plugin]
    )
    print(f"{plugin.compared} answers compared")
    for reason, count in sorted(plugin.refused.items()):
        print(f"{count} x {reason}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
