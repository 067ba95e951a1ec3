"""Ranking many queries into a file, in blocks, so that an interrupted run continues where it stopped."""

import hashlib
import itertools
import json
import logging
import pathlib
from collections.abc import Iterable, Sequence

from uwe_jax.io.claims import claim
from uwe_jax.io.files import check_absent
from uwe_jax.io.jsonl import ResumableJsonl, read_whole_lines
from uwe_jax.ranking.index import TargetIndex
from uwe_jax.ranking.lance import LanceIndex

logger = logging.getLogger(__name__)

QUERIES_AT_A_TIME = 256


def rank_into(
    output: pathlib.Path,
    index: TargetIndex | LanceIndex,
    queries: Iterable[str],
    k: int,
    settings: Sequence[str],
    total: int,
) -> None:
    """Writes the best targets of each query as a JSON line: `query`, and `targets` with `id`, `text` and `score`.

    Until all queries are ranked, the lines lie in a file beside the output; the same call continues behind them.

    Args:
      output: appears when it is complete.
      index: the target space.
      queries: not blank; the same in every call, in the same order.
      k: how many targets of each query.
      settings: what else the lines depend on; with other settings, the file begins anew.
      total: the number of queries.

    Raises:
      OSError: the output cannot be written.
      ValueError: the output exists, another process is at work on it, or the number of queries is not `total`.
    """
    key = hashlib.sha256(json.dumps([*settings, k]).encode()).hexdigest()[:16]
    partial = output.with_name(f'.{output.name}.{key}.partial')
    output.parent.mkdir(parents=True, exist_ok=True)
    with claim(output):
        check_absent(output)  # again, as another process may have made it since
        with ResumableJsonl(partial) as file:
            done = sum(1 for _ in read_whole_lines(partial))
            if done:
                logger.info('continuing after the %d queries in %s', done, partial)
            remaining = itertools.islice(queries, done, None)
            while block := list(itertools.islice(remaining, QUERIES_AT_A_TIME)):
                ranked = zip(block, index.rank(block, k), strict=True)
                file.append(*({'query': query, 'targets': [hit._asdict() for hit in hits]} for query, hits in ranked))
                done += len(block)
                logger.info('ranked %d of %d queries', done, total)
            if done != total:
                raise ValueError(f'{partial}: {done} queries in it, expected {total}; remove it')
            partial.rename(output)
