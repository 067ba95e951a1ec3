"""Texts to token ids, with MPNet's word pieces. Needs no JAX."""

import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tokenizers

from uwe_jax.data.text import truncated


class Tokenizer:
    """Texts to token ids. Holds no state that encoding changes, so threads may share it.

    Attributes:
      bos, eos, pad: the ids of <s>, </s> and <pad>.
      fingerprint: sha256 of tokenizer.json, in hex: two tokenizers with one fingerprint make the same ids.
    """

    def __init__(self, tokenizer_json: bytes):
        self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        # The file asks for 128 tokens, always: our batches have other shapes.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.fingerprint = hashlib.sha256(tokenizer_json).hexdigest()
        self.bos, self.eos, self.pad = (self._tokenizer.token_to_id(token) for token in ('<s>', '</s>', '<pad>'))

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> 'Tokenizer':
        """Reads `tokenizer.json` of a Hugging Face directory.

        Raises:
          ValueError: the file is not that of a tokenizer.
        """
        path = pathlib.Path(directory) / 'tokenizer.json'
        try:
            return cls(path.read_bytes())
        except Exception as error:  # the library raises no narrower type
            raise ValueError(f'{path}: not a tokenizer that can be read ({error})') from error

    def encode(self, texts: Sequence[str], max_tokens: int | None = None) -> list[np.ndarray]:
        """Token ids of each text, [L] int32, from <s> to </s>, not padded.

        Args:
          texts: any strings; the empty one is <s> </s>.
          max_tokens: longer texts lose what precedes </s>; None keeps them whole.

        Raises:
          ValueError: `max_tokens` leaves no room for <s> and </s>.
        """
        if max_tokens is not None and max_tokens < 2:
            raise ValueError(f'max_tokens: {max_tokens}, expected at least 2, for <s> and </s>')
        encoded = [np.asarray(e.ids, dtype=np.int32) for e in self._tokenizer.encode_batch_fast(list(texts))]
        if max_tokens is None:
            return encoded
        return [truncated(ids, max_tokens) for ids in encoded]

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The token that each id stands for, to look at."""
        return [self._tokenizer.id_to_token(int(i)) or '' for i in ids]
