"""Every case of the matrix: model x method x backend x target.

Inside the clock: one call of the loaded artifact on one item, after a warm-up, in fresh processes that alternate with
the baseline's. Building, loading, compiling and the first call are measured apart and are never in it.
"""

from quantkit.pytest_benchmark_bridge import report


def test_case(quantkit_result, benchmark):
    """Measure one case; a loss of quality or speed is a finding in the table, not a failure (but see `--gate`)."""
    report(benchmark, quantkit_result)

    latency = quantkit_result.measurements["latency"]
    assert latency.values or latency.reason == quantkit_result.context["untimed"], "a case that ended well was timed"
