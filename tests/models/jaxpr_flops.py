"""Operations of a traced function, counted equation by equation: what the analytic count is measured by."""

import math

import jax


def count(function, *args) -> float:
    """Operations of ``function`` at these arguments or shapes; loops count as often as they run."""
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr) -> float:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _inner(equation):
    """The jaxprs inside an equation, one list per parameter."""
    for value in equation.params.values():
        values = value if isinstance(value, tuple | list) else [value]
        found = [getattr(one, "jaxpr", one) for one in values if hasattr(getattr(one, "jaxpr", one), "eqns")]
        if found:
            yield found


def _equation(equation) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = equation.params["dimension_numbers"].rhs_spec[0]
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / kernel[outputs]
    assert name != "while", "a loop whose length the trace does not say"
    inside = [[_count(jaxpr) for jaxpr in jaxprs] for jaxprs in _inner(equation)]
    # Of a cond's branches one runs: the dearest is counted.
    once = sum(max(counts) if name == "cond" else sum(counts) for counts in inside)
    if name == "scan":
        return once * equation.params["length"]
    if name == "shard_map":
        return once * equation.params["mesh"].size
    return once
