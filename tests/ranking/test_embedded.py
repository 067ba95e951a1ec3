"""Ragged embeddings: what is stored comes back, whole or in part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uwe_jax.ranking.embedded import DTYPES, Embedded

LENGTH = np.array([3, 0, 2, 3])
TOLERANCE = {'float32': 0, 'bfloat16': 0.02, 'int8': 0.02}


@pytest.fixture(scope='module')
def vectors():
    """Four texts, padded with zeros to three vectors each."""
    vectors = np.random.default_rng(0).standard_normal((4, 3, 8)).astype(np.float32)
    return np.where((np.arange(3) < LENGTH[:, None])[..., None], vectors, 0)


def stored(vectors, dtype):
    embedded = Embedded.empty(LENGTH, 8, dtype)
    for some in ([2, 0], [1, 3]):
        embedded.fill(embedded.row[some], np.concatenate([vectors[text, : LENGTH[text]] for text in some]))
    return embedded


@pytest.mark.parametrize('dtype', DTYPES)
def test_vectors_come_back_padded(vectors, dtype):
    embedded = stored(vectors, dtype)
    assert embedded.place.tolist() == [1, 2, 0, 3]
    padded, length = embedded.padded(embedded.row, 4)
    np.testing.assert_array_equal(length, LENGTH)
    np.testing.assert_allclose(padded, np.pad(vectors, [(0, 0), (0, 1), (0, 0)]), atol=TOLERANCE[dtype])


@pytest.mark.parametrize('dtype', DTYPES)
def test_means_have_unit_length_unless_there_is_no_vector(vectors, dtype):
    means = stored(vectors, dtype).means()
    np.testing.assert_allclose(np.linalg.norm(means, axis=1), [1, 0, 1, 1], atol=1e-6)
    mean = vectors[2, :2].mean(axis=0)
    np.testing.assert_allclose(means[2], mean / np.linalg.norm(mean), atol=TOLERANCE[dtype] + 1e-6)


@pytest.mark.parametrize('dtype', DTYPES)
@given(texts=st.lists(st.integers(0, 3)))
def test_a_part_holds_the_vectors_of_its_texts(vectors, dtype, texts):
    whole = stored(vectors, dtype)
    part = whole[texts]
    assert part.dtype == dtype
    assert part.length.tolist() == sorted(LENGTH[texts])
    expected, length = whole.padded(whole.row[texts], 3)
    padded, part_length = part.padded(part.row, 3)
    np.testing.assert_array_equal(padded, expected)
    np.testing.assert_array_equal(part_length, length)


def test_a_slice_is_a_part(vectors):
    whole = stored(vectors, 'float32')
    np.testing.assert_array_equal(whole[1:3].means(), whole.means()[1:3])
