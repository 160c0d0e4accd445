"""Many small cases of one test: a loop that names the case in which it failed."""

import functools
import inspect

import pytest
import torch


def looped(**parameter):
    """As ``pytest.mark.parametrize``, but all values in one test.

    For values that say little by themselves (a dtype, a sparsity); parts are parametrised, so that
    each is a test of its own. Every case starts from the same seed, and one that is skipped skips
    only itself.

    Args:
        parameter: the one parameter's name and its values.
    """
    ((name, values),) = parameter.items()
    values = list(values)
    assert values, f"no value of {name}"

    def decorate(test):
        @functools.wraps(test)
        def all_cases(**given):
            skipped = 0
            for value in values:
                torch.manual_seed(0)
                try:
                    test(**given, **{name: value})
                except pytest.skip.Exception:
                    skipped += 1
                except BaseException as error:
                    error.add_note(f"with {name} = {value!r}")
                    raise
            if skipped == len(values):
                pytest.skip(f"for every {name}")

        signature = inspect.signature(test)
        others = [p for p in signature.parameters.values() if p.name != name]
        assert len(others) < len(signature.parameters), f"no parameter {name}"
        all_cases.__signature__ = signature.replace(parameters=others)
        return all_cases

    return decorate
