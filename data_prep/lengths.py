"""How long texts are, and to which lengths they are padded."""

from collections.abc import Mapping

import numpy as np

from uwe_jax.data.graph import MAX_TOKENS

STEP = 8  # lengths are multiples of it
WHOLE = 0.995  # share of texts that must fit without being cut
JOINED_WHOLE = 0.9  # share of sentences with a distractor whose distractor must fit whole
DISTRACTOR_PROBABILITY = 0.8  # what training uses by default (paper, section 4.1)


def choose_lengths(tokens: Mapping[str, np.ndarray], seed: int) -> dict[str, int]:
    """The padded length of each side: the smallest multiple of 8 that holds 99.5 % of its texts, at most 64.

    Sentences get a distractor in training, which is cut where it does not fit: their length holds 99.5 % of the
    sentences, and nine tenths of the joined ones whole.

    Args:
      tokens: by side, the tokens of every text, <s> and </s> included.
      seed: of the trial in which distractors are joined.
    """
    lengths = {side: _shortest(count, WHOLE) for side, count in tokens.items()}
    joined = joined_with_distractors(tokens['sentence'], seed)
    lengths['sentence'] = max(lengths['sentence'], _shortest(joined, JOINED_WHOLE))
    return lengths


def joined_with_distractors(tokens: np.ndarray, seed: int) -> np.ndarray:
    """The sentences' tokens as training sees them: most with a second sentence, under one <s> and one </s>."""
    rng = np.random.default_rng(seed)
    added = np.where(rng.random(len(tokens)) < DISTRACTOR_PROBABILITY, rng.permutation(tokens) - 2, 0)
    return np.minimum(tokens + added, MAX_TOKENS)


def summary(tokens: np.ndarray, length: int) -> dict[str, float | int]:
    """What the manifest says of one side: quantiles, what is cut, and the share of padding."""
    kept = np.minimum(tokens, length)
    return {
        **{f'tokens_p{q}': int(np.quantile(tokens, q / 100, method='higher')) for q in (50, 90, 99, 100)},
        'cut': int(np.sum(tokens > length)),
        'padding': round(1 - float(kept.mean()) / length, 4),
    }


def _shortest(tokens: np.ndarray, share: float) -> int:
    needed = int(np.quantile(tokens, share, method='higher'))
    return min(-(-needed // STEP) * STEP, MAX_TOKENS)
