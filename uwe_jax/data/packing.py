"""Texts one after another in rows of a fixed number of tokens, so that little is computed for padding."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Int32

from uwe_jax.data.ranges import ranges

Array: TypeAlias = Any  # numpy or jax


class Rows(NamedTuple):
    """Packed texts, as the encoder takes them.

    Attributes:
      ids: token ids, <s> and </s> of every text included; 0 where there is no text.
      text: which text of its row a token belongs to, from 1; 0 where there is none.
      position: the place of a token in its text, from 0.
    """

    ids: Int32[Array, 'rows tokens']
    text: Int32[Array, 'rows tokens']
    position: Int32[Array, 'rows tokens']


def lay_out(length: Int[np.ndarray, ' texts'], tokens: int) -> tuple[Int32[np.ndarray, ' texts'], int]:
    """Finds a place for every text: the longest first, each in the fullest row that has room for it (best fit).

        >>> import numpy as np
        >>> from uwe_jax.data.packing import lay_out
        >>> lay_out(np.array([5, 3, 4, 2]), tokens=8)
        (array([ 0,  5,  8, 12], dtype=int32), 2)

    Args:
      length: tokens of each text, at most `tokens`; 0 for an empty slot.
      tokens: of a row.

    Returns:
      The first token of each text, counted over all rows; and the number of rows.
    """
    start = np.zeros(len(length), np.int32)
    free: list[list[int]] = [[] for _ in range(tokens + 1)]  # by room left: the next free token of each such row
    rows = 0
    order = np.argsort(-length, kind='stable')
    for text, size in zip(order.tolist(), length[order].tolist(), strict=True):
        if size == 0:
            break
        for room in range(size, tokens + 1):
            if free[room]:
                place = free[room].pop()
                break
        else:
            place, room = rows * tokens, tokens
            rows += 1
        start[text] = place
        free[room - size].append(place + size)
    return start, rows


def pack(texts: Sequence[np.ndarray], start: Int[np.ndarray, ' texts'], rows: int, tokens: int) -> Rows:
    """Writes texts to the places that `lay_out` found.

    Args:
      texts: the token ids of each, int32.
      start: the first token of each.
      rows: how many there are; more than are needed stay empty.
      tokens: of a row.
    """
    length = np.array([len(text) for text in texts], np.int32)
    place = ranges(start, length)
    position = place - np.repeat(start, length)
    packed = Rows(*np.zeros((3, rows * tokens), np.int32))
    packed.ids[place] = np.concatenate([*texts, np.zeros(0, np.int32)])
    packed.position[place] = position
    begins = np.zeros(rows * tokens, np.int32)
    begins[start[length > 0]] = 1
    number = begins.reshape(rows, tokens).cumsum(axis=1).reshape(-1)
    packed.text[place] = number[place]
    return Rows(*(x.reshape(rows, tokens) for x in packed))


def unpacked(
    embeddings: Float[Array, 'row_tokens d'], start: Int[Array, ' texts'], length: Int[Array, ' texts'], tokens: int
) -> Float[Array, 'texts {tokens} d']:
    """Takes texts out of their rows, and pads them with zeros to a length of `tokens`.

    Args:
      embeddings: of the tokens of all rows, one row after another.
      start, length: the first token of each text, counted over all rows, and the number of its tokens.
      tokens: the length of the longest text, or more.
    """
    position = jnp.arange(tokens)
    place = jnp.where(position < length[:, None], start[:, None] + position, len(embeddings))
    # Outside of the rows is nothing, and no token is in two texts: so the gradient need not add up.
    return embeddings.at[place].get(mode='fill', fill_value=0, unique_indices=True)
