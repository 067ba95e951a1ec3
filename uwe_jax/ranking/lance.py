"""A target space in LanceDB: on disk or in a bucket, changed in place, ranked by an approximate shortlist."""

import datetime
import hashlib
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from uwe_jax.io.console import Progress
from uwe_jax.io.errors import DataError
from uwe_jax.io.paths import BUCKET
from uwe_jax.ranking.embedded import DTYPES, Embedded
from uwe_jax.ranking.embedder import Embedder
from uwe_jax.ranking.index import Hit, best
from uwe_jax.ranking.scoring import LENGTHS, score_few

logger = logging.getLogger(__name__)

PREFIX = 'lance:'
TABLE = 'targets'
MISSING = 'no index in LanceDB there; `python -m uwe_jax.update_index` makes one'
FORMAT = '1'
SHORTLIST = 512  # targets that are scored exactly, unless a caller says otherwise
TARGETS_AT_A_TIME = 4096  # embedded, then written together
INDEX_FROM = 20_000  # targets; fewer are compared one by one
TARGETS_PER_PARTITION = 4096
PARTITIONS_SEARCHED = 40
IDS_AT_A_TIME = 1000
NEWS_EVERY = datetime.timedelta(seconds=5)  # a reader sees what others have written after so long
KEEP_OLD = datetime.timedelta(hours=1)  # versions, for readers that have not seen the news yet


class LanceIndex:
    """A target space in LanceDB, for more targets than memory holds.

    Each target is a row: its id, its text, its mean vector in float16, and its token vectors as the index's dtype says.
    `rank` takes for each query a shortlist of the targets whose means have the largest cosine with the query's, found
    by an approximate index over the means (IVF, 8 bits), and scores these from their token vectors.

    Made by `create` or `open`. A reader sees the changes of another process after some seconds.
    """

    def __init__(self, table: Any, embedder: Embedder):
        self._table, self._embedder = table, embedder
        self.dtype = table.schema.metadata[b'dtype'].decode()

    @classmethod
    def create(cls, path: str, embedder: Embedder, dtype: str = 'int8') -> 'LanceIndex':
        """Makes an index without targets, or opens the one that is there.

        Args:
          path: a directory, here or `gs://BUCKET/NAME`.
          embedder: embeds the targets and the queries.
          dtype: of the stored token vectors: float32, bfloat16, or int8 with a scale for each.

        Raises:
          ValueError: the dtype is unknown, or the index has another one, or belongs to another model.
          DataError: LanceDB is not installed, or the path cannot be used.
        """
        if dtype not in DTYPES:
            raise ValueError(f'dtype: {dtype!r}, expected one of {", ".join(DTYPES)}')
        database = _connect(path)
        if not _has_table(database):
            schema = pa.schema(
                {
                    'id': pa.string(),
                    'text': pa.string(),
                    'mean': pa.list_(pa.float16(), embedder.d),
                    'tokens': pa.binary(),
                    'scale': pa.binary(),
                },
                {'format': FORMAT, 'model': embedder.vectors_fingerprint, 'dtype': dtype},
            )
            database.create_table(TABLE, schema=schema, exist_ok=True)
        index = cls.open(path, embedder)
        if index.dtype != dtype:
            raise ValueError(f'{path}: its vectors are stored in {index.dtype}, expected {dtype}')
        return index

    @classmethod
    def open(cls, path: str, embedder: Embedder) -> 'LanceIndex':
        """Opens an index.

        Raises:
          ValueError: there is none, or it belongs to another model.
          DataError: LanceDB is not installed, or the path cannot be used.
        """
        table = cls.check(path)
        about = table.schema.metadata or {}
        if about.get(b'format') != FORMAT.encode():
            raise ValueError(f'{path}: a table of LanceDB that is no index of targets; expected what update_index made')
        if (model := about[b'model'].decode()) != embedder.vectors_fingerprint:
            raise ValueError(
                f'{path}: an index of the model {model}, expected {embedder.vectors_fingerprint}; '
                'use the model that made it, or make another index'
            )
        return cls(table, embedder)

    @staticmethod
    def check(path: str) -> Any:
        """The table of an index, whatever its model.

        Raises:
          ValueError: there is none.
          DataError: LanceDB is not installed, or the path cannot be used.
        """
        if not path.startswith(BUCKET) and not pathlib.Path(path).exists():
            raise ValueError(f'{path}: {MISSING}')  # before LanceDB makes the directory
        database = _connect(path)
        if not _has_table(database):
            raise ValueError(f'{path}: {MISSING}')
        return database.open_table(TABLE)

    def __len__(self) -> int:
        return self._table.count_rows()

    @property
    def fingerprint(self) -> str:
        """Identifies what scores and hits depend on: the model, and the version of this table."""
        content = f'{self._embedder.fingerprint} {self._table.uri} {self._table.version}'
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def put(self, texts: Sequence[str], ids: Sequence[str] | None = None) -> int:
        """Adds targets. One whose id is there already is replaced if its text differs, and otherwise left alone.

        What is embedded is written every few thousand targets: after an interruption, the same call continues.

        Args:
          texts: not blank.
          ids: the name of each target; by default its text.

        Returns:
          How many targets were embedded.

        Raises:
          ValueError: an id comes twice, the numbers of texts and ids differ, or a text is blank or not a string.
        """
        ids = texts if ids is None else ids
        if len(ids) != len(texts):
            raise ValueError(f'put: {len(texts)} texts and {len(ids)} ids, expected as many of both')
        if len(set(ids)) < len(ids):
            seen: set[str] = set()
            twice = next(name for name in ids if name in seen or seen.add(name))
            raise ValueError(f'put: the id {twice!r} comes twice')
        known = self._table.search().select(['id', 'text']).to_arrow()
        text_of = dict(zip(known['id'].to_pylist(), known['text'].to_pylist(), strict=True))
        missing = [place for place, name in enumerate(ids) if text_of.get(name) != texts[place]]
        with Progress('embedding', len(texts), 'targets', done=len(texts) - len(missing)) as progress:
            for start in range(0, len(missing), TARGETS_AT_A_TIME):
                places = missing[start : start + TARGETS_AT_A_TIME]
                rows = self._rows([ids[place] for place in places], [texts[place] for place in places])
                by_id = self._table.merge_insert('id').when_matched_update_all().when_not_matched_insert_all()
                by_id.execute(rows)
                progress.advance(len(places))
        return len(missing)

    def delete(self, ids: Sequence[str]) -> int:
        """Deletes targets by their ids; those that are not there are passed over. Returns how many there were."""
        before = len(self)
        for start in range(0, len(ids), IDS_AT_A_TIME):
            quoted = ("'" + name.replace("'", "''") + "'" for name in ids[start : start + IDS_AT_A_TIME])
            self._table.delete(f'id IN ({", ".join(quoted)})')
        return before - len(self)

    def optimize(self) -> None:
        """Compacts the files, and brings the approximate index up to date.

        Until then, targets that it does not know yet are compared one by one. It is made anew when it knows less than
        half of the targets. Old versions are removed when no reader needs them any more.
        """
        name = 'mean_idx'
        count = len(self)
        stats = self._table.index_stats(name)
        if count >= INDEX_FROM and (stats is None or stats.num_indexed_rows < stats.num_unindexed_rows):
            logger.info('indexing the means of %d targets', count)
            from lancedb.index import IvfSq

            partitions = max(count // TARGETS_PER_PARTITION, 1)
            self._table.create_index('mean', config=IvfSq(distance_type='cosine', num_partitions=partitions), name=name)
        self._table.optimize(cleanup_older_than=KEEP_OLD)

    def rank(self, queries: Sequence[str] | Embedded, k: int = 10, shortlist: int | None = None) -> list[list[Hit]]:
        """The k best targets of each query, best first.

        Args:
          queries: not blank; or embedded by the index's model.
          k: how many; all if there are fewer.
          shortlist: how many targets are scored; by default `SHORTLIST`, or k if that is more.

        Raises:
          ValueError: k or the shortlist is not above 0, or a query is blank or not a string.
        """
        for name, value in (('k', k), ('shortlist', shortlist)):
            if value is not None and value < 1:
                raise ValueError(f'{name}: {value}, expected a whole number above 0')
        if not isinstance(queries, Embedded):
            queries = self._embedder.embed(queries)
        ranked = []
        for query, mean in enumerate(queries.means()):
            found = self._nearest(mean, shortlist or max(SHORTLIST, k))
            if not len(found):
                ranked.append([])
                continue
            targets = vectors_of(found, self._embedder.d, self.dtype)
            scores = score_few(queries[[query]], targets, self._embedder.stored_score)
            chosen = best(scores, k)
            names, texts = found['id'].take(chosen).to_pylist(), found['text'].take(chosen).to_pylist()
            ranked.append([Hit(*hit) for hit in zip(names, texts, scores[chosen].tolist(), strict=True)])
        return ranked

    def warm_up(self) -> Iterator[None]:
        """Compiles what ranking short texts needs; yields after each program."""
        of_queries = (1,) if self._embedder.pools('query') else LENGTHS[2:7]
        of_targets = (1,) if self._embedder.pools('target') else range(4, 13, 2)
        for q_tokens in of_queries:
            query = Embedded.empty(np.array([q_tokens]), self._embedder.d, 'float32')
            for y_tokens in of_targets:
                targets = Embedded.empty(np.full(SHORTLIST, y_tokens), self._embedder.d, self.dtype)
                score_few(query, targets, self._embedder.stored_score)
                yield

    def _nearest(self, mean: Float32[np.ndarray, ' d'], count: int) -> pa.Table:
        """The rows whose means have the largest cosine with this one."""
        columns = ['id', 'text', 'tokens', 'scale', '_distance']
        search = self._table.search(mean, vector_column_name='mean').distance_type('cosine')
        return search.nprobes(PARTITIONS_SEARCHED).limit(count).select(columns).to_arrow()

    def _rows(self, ids: Sequence[str], texts: Sequence[str]) -> pa.Table:
        """Targets as rows of the table."""
        embedded = self._embedder.embed(texts, 'target')
        means = embedded.means().astype(np.float16)
        stored = embedded.rounded(self.dtype)
        parts = [slice(first, first + length) for first, length in zip(stored.start, stored.length, strict=True)]
        parts = [parts[row] for row in stored.row]
        columns = [
            pa.array(ids, pa.string()),
            pa.array(texts, pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(means.ravel()), self._embedder.d),
            pa.array([stored.tokens[part].tobytes() for part in parts], pa.binary()),
            pa.array([None if stored.scale is None else stored.scale[part].tobytes() for part in parts], pa.binary()),
        ]
        return pa.table(columns, schema=self._table.schema)


def vectors_of(rows: pa.Table, d: int, dtype: str) -> Embedded:
    """The token vectors in some rows of the table, in their order.

    Args:
      rows: with the columns `tokens` and `scale`.
      d: the size of a vector.
      dtype: of the stored vectors.
    """
    tokens, scale = rows['tokens'].to_pylist(), rows['scale'].to_pylist()
    length = np.array([len(one) for one in tokens], np.int32) // (d * DTYPES[dtype].itemsize)
    place = np.argsort(length, kind='stable')
    vectors = np.frombuffer(b''.join(tokens[row] for row in place), DTYPES[dtype]).reshape(-1, d)
    scales = np.frombuffer(b''.join(scale[row] for row in place), np.float32) if dtype == 'int8' else None
    return Embedded(place, length[place], vectors, scales)


def lance_path(words: str) -> str | None:
    """The path in words of the form lance:PATH; None for others.

    Raises:
      ValueError: the path is empty.
    """
    if not words.startswith(PREFIX):
        return None
    if words == PREFIX:
        raise ValueError(f'{words}: expected {PREFIX}PATH')
    return words.removeprefix(PREFIX)


def _connect(path: str) -> Any:
    """The database in a directory.

    Raises:
      DataError: LanceDB is not installed, or the path cannot be used.
    """
    try:
        import lancedb
    except ImportError as error:
        raise DataError(f"{PREFIX}{path}: needs {error.name}: pip install -c constraints.txt -e '.[lance]'") from error
    if not path.startswith(BUCKET):
        path = str(pathlib.Path(path).expanduser())
    try:
        return lancedb.connect(path, read_consistency_interval=NEWS_EVERY)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f'{path}: LanceDB cannot use it: {" ".join(str(error).split())}') from error


def _has_table(database: Any) -> bool:
    return TABLE in database.list_tables().tables
