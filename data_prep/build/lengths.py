"""How many tokens texts have, and to which lengths they are cut."""

from collections.abc import Mapping

import numpy as np

from uwe_jax.data.graph import MAX_TOKENS

STEP = 8  # lengths are multiples of it
WHOLE = 0.995  # share of texts that must fit without being cut
JOINED_WHOLE = 0.9  # share of sentences with a distractor that must fit without being cut
DISTRACTOR_PROBABILITY = 0.8  # what training uses by default (paper, section 4.1)


def choose_lengths(tokens: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The padded length of each side: the smallest multiple of 8 that holds 99.5 % of its texts, at most 64.

    In training, most sentences get a distractor, which is cut if it does not fit. The length of sentences holds 99.5 %
    of them alone, and 90 % of them with a distractor.

    Args:
      tokens: by side, the tokens of every text, <s> and </s> included.
    """
    lengths = {side: _shortest(np.bincount(count, minlength=1), WHOLE) for side, count in tokens.items()}
    joined = _shortest(joined_with_distractors(tokens['sentence']), JOINED_WHOLE)
    return lengths | {'sentence': max(lengths['sentence'], joined)}


def joined_with_distractors(tokens: np.ndarray) -> np.ndarray:
    """How likely each length of a sentence is in training, where most share <s> and </s> with a second one.

    Args:
      tokens: [sentences] int; the tokens of each sentence alone.

    Returns:
      [lengths] float; the probability of a text of 0, 1, 2, ... tokens, if nothing is cut.
    """
    alone = np.bincount(tokens) / len(tokens)
    pairs = np.convolve(alone, alone)[2:]  # a sum of two lengths, less the tokens that they share
    pairs[: len(alone)] = DISTRACTOR_PROBABILITY * pairs[: len(alone)] + (1 - DISTRACTOR_PROBABILITY) * alone
    pairs[len(alone) :] *= DISTRACTOR_PROBABILITY
    return pairs


def summary(likelihood: np.ndarray, length: int) -> dict[str, float]:
    """What the manifest says about the lengths of one side.

    Args:
      likelihood: [lengths]; of a text of 0, 1, 2, ... tokens, up to a factor.
      length: the padded one.

    Returns:
      Quantiles of the number of tokens, the share of texts that are cut, and the share of padding.
    """
    likelihood = likelihood / likelihood.sum()
    kept = np.minimum(np.arange(len(likelihood)), length)
    return {
        **{f'tokens_p{q}': _quantile(likelihood, q / 100) for q in (50, 90, 99)},
        'cut': round(float(likelihood[length + 1 :].sum()), 4),
        'padding': round(1 - float(likelihood @ kept) / length, 4),
    }


def _quantile(likelihood: np.ndarray, share: float) -> int:
    """The smallest number of tokens that this share of the texts does not exceed."""
    cumulative = np.cumsum(likelihood)
    return int(np.searchsorted(cumulative, share * cumulative[-1]))


def _shortest(likelihood: np.ndarray, share: float) -> int:
    if not likelihood.sum():  # a graph without targets
        return STEP
    return min(-(-_quantile(likelihood, share) // STEP) * STEP, MAX_TOKENS)
