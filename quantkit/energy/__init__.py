"""Energy: joules of a workload above idle, by whatever counter the machine has.

`meter` has the interface and finds the one that fits a target, `rapl`, `apple` and `nvml` read the counters that exist,
`simulated` is told its power by a test, `procedure` measures. Why no umbrella package is used: docs/decisions.
"""
