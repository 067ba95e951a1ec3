"""Texts in rows, for tests: several per row, or each alone in its own row, which is the plain form of packing."""

import numpy as np

from uwe_jax.data.packing import Rows, lay_out, pack


def alone(texts, tokens=None):
    """One row per text, as long as the longest text, or `tokens`; [i, : len(texts[i])] are the tokens of text i."""
    tokens = tokens or max(map(len, texts))
    return pack(texts, np.arange(len(texts)) * tokens, len(texts), tokens)


def together(texts, tokens):
    """As few rows as possible, and the first token of each text, counted over all rows."""
    start, rows = lay_out(np.array([len(text) for text in texts]), tokens)
    return pack(texts, start, rows, tokens), start


def from_row(rows: Rows, number: int):
    """The token ids of the texts in one row."""
    return [rows.ids[number][rows.text[number] == text] for text in range(1, rows.text[number].max() + 1)]
