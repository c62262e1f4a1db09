"""Every MIL operation that the reference executor has, against NumPy, torch or a sum by hand, through a saved file."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("coremltools")

from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function

from quantkit import mil
from quantkit.mil import package as packages
from tests import mil_cases_compute, mil_cases_move
from tests.mil_cases import OPSETS, as_output, draw, save, several

INPUTS = draw()
ARRAYS = SimpleNamespace(**INPUTS)
CASES = {f"{case.opset} {case.name}": case for case in mil_cases_compute.CASES + mil_cases_move.CASES}
NOT_CASES = {"const"}  # it is in every program
ELSEWHERE = {"read_state"}  # tests/test_mil.py


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Return a function: opset -> (answers of all its cases by name, the operations in the file)."""

    @cache
    def of(opset):
        chosen = {name: case for name, case in CASES.items() if case.opset == opset}
        counts = []

        def everything(*variables):
            inputs = SimpleNamespace(**dict(zip(INPUTS, variables)))
            outputs = [[as_output(var) for var in several(case.build(inputs))] for case in chosen.values()]
            counts.extend(len(group) for group in outputs)
            return tuple(var for group in outputs for var in group)

        package = save(everything, INPUTS, opset, tmp_path_factory.mktemp(opset))
        program = mil.load(package)
        values = iter(program.run(INPUTS).values())
        # the converter builds the function more than once: the last counts are those of the file
        results = {name: [next(values) for _ in range(n)] for name, n in zip(chosen, counts[-len(chosen) :])}
        spec, _ = packages.read(package)
        return results, {op.type for op in packages.operations(spec)}

    return of


@pytest.mark.parametrize("name", CASES)
def test_an_operation_gives_what_its_formula_says(name, answers):
    """Float cases allow a few float32 roundings relative to the largest value; moved values must be equal."""
    case = CASES[name]
    got = answers(case.opset)[0][name]
    expected = several_arrays(case.expected(ARRAYS))
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected):
        mine = mine.reshape(theirs.shape) if mine.size == theirs.size and theirs.ndim == 0 else mine
        assert mine.shape == theirs.shape
        atol = case.tolerance * max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=atol)


def several_arrays(value):
    if isinstance(value, tuple) or (isinstance(value, list) and not np.isscalar(value[0])):
        return [np.asarray(part) for part in value]
    return [np.asarray(value)]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.inferred])
def test_an_operation_agrees_with_coremltools_own_inference(name, answers):
    """coremltools folds constants in NumPy with code of its own; where it does, both must agree.

    It gets copies: its `thresholded_relu` writes into its argument.
    """
    case = CASES[name]
    with Function({}, opset_version=OPSETS[case.opset]):
        inferred = [
            var.val
            for var in several(case.build(SimpleNamespace(**{k: mb.const(val=v.copy()) for k, v in INPUTS.items()})))
        ]
    if any(value is None for value in inferred):
        pytest.skip("coremltools has no inference for it")
    for mine, theirs in zip(answers(case.opset)[0][name], inferred):
        atol = max(case.tolerance, 1e-6) * max(1.0, float(np.abs(np.asarray(theirs, float)).max()))
        np.testing.assert_allclose(mine.reshape(np.shape(theirs)), theirs, rtol=0, atol=atol)


def test_every_operation_that_is_listed_as_done_has_a_case(answers):
    """The table of coverage comes from coremltools' registry; run with -s to see it."""
    rows = mil.coverage()
    print("\n" + "\n".join(f"{name:40} {opset:6} {'done' if done else '-'}" for name, opset, done in rows))
    tested = set().union(*(answers(opset)[1] for opset in OPSETS))
    done = {name for name, _, yes in rows if yes and not name.startswith("constexpr_")}  # those: test_mil_constexpr.py
    assert done - tested - ELSEWHERE == set()
    assert len({name for name, _, _ in rows}) == 168  # a new coremltools with new operations should be looked at
