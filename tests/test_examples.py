"""The examples in docstrings print what they say."""

import doctest

import pytest

from uwe_jax.data.plan import Plan
from uwe_jax.interaction import late_interaction
from uwe_jax.loss import many_to_many_info_nce


@pytest.mark.parametrize('documented', [late_interaction, many_to_many_info_nce, Plan], ids=lambda x: x.__name__)
def test_the_example_prints_what_its_docstring_says(documented):
    [example] = doctest.DocTestFinder(recurse=False).find(documented, globs={})
    assert example.examples
    assert not doctest.DocTestRunner().run(example).failed
