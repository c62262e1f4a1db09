"""Regressions over time: what stored results say about one commit after the other.

`figures` names what is followed, `series` lines up the results that may be compared, `changes` finds steps in them and
`report` says them; `asv_files` and `asv_check` are the bridge to airspeed velocity, `asv_checkout` its environment,
`page` makes its page work without network.
"""
