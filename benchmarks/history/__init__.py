"""Benchmarks for airspeed velocity: the cases of the matrix, one commit after the other (docs/history.md).

Each class has one parameter, the case, by the id that `pytest benchmarks` shows. The bridge (`quantkit history export
--asv`) writes stored results under the same names, so that what a nightly run measured is not measured again.
"""
