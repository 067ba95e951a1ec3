"""Texts to token ids, with MPNet's word pieces. Needs no JAX.

The tokenizers library is ready after 0.1 s of CPU time; transformers' AutoTokenizer takes 1.1 s (2.4 s where torch is
installed), encodes more slowly and cannot be shared by threads.
"""

import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tokenizers

from uwe_jax.data.text import truncated
from uwe_jax.io.tables import SURROGATE


class Tokenizer:
    """Texts to token ids. Encoding changes no state, so threads may share a tokenizer.

    Attributes:
      fingerprint: sha256 of tokenizer.json, in hex. Tokenizers with the same fingerprint make the same ids.
    """

    def __init__(self, tokenizer_json: bytes):
        self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        # The file pads and truncates every text to 128 tokens; our batches have other shapes.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.fingerprint = hashlib.sha256(tokenizer_json).hexdigest()

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> 'Tokenizer':
        """Reads `tokenizer.json` from a Hugging Face directory.

        Raises:
          ValueError: the file is missing, or does not describe a tokenizer.
        """
        path = pathlib.Path(directory) / 'tokenizer.json'
        try:
            return cls(path.read_bytes())
        except Exception as error:  # the library raises no narrower type
            raise ValueError(f'{path}: not a readable tokenizer ({error})') from error

    def encode(self, texts: Sequence[str], max_tokens: int | None = None) -> list[np.ndarray]:
        """Returns the token ids of each text, [L] int32, from <s> to </s>, not padded.

        Args:
          texts: any strings; the empty string becomes <s> </s>.
          max_tokens: longer texts lose their last tokens before </s>; None keeps them whole.

        Raises:
          ValueError: `max_tokens` leaves no room for <s> and </s>, or a text holds half of a surrogate pair.
        """
        if max_tokens is not None and max_tokens < 2:
            raise ValueError(f'max_tokens: {max_tokens}, expected at least 2, for <s> and </s>')
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts))
        except TypeError as error:
            if (wrong := next(filter(SURROGATE.search, texts), None)) is None:
                raise
            raise ValueError(f'{wrong[:60]!r}: half of a surrogate pair, expected text') from error
        encoded = [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]
        if max_tokens is None:
            return encoded
        return [truncated(ids, max_tokens) for ids in encoded]

    def visible(self, text: str, max_tokens: int) -> str:
        """The part of a text that is left when it is cut to `max_tokens`, <s> and </s> included."""
        offsets = self._tokenizer.encode(text).offsets
        return text if len(offsets) <= max_tokens else text[: offsets[max_tokens - 2][1]]

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The token of each id, for display."""
        return [self._tokenizer.id_to_token(int(i)) or '' for i in ids]
