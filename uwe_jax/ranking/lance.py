"""A target space in LanceDB: on disk or in a bucket, changed in place, ranked by an approximate shortlist."""

import contextlib
import datetime
import hashlib
import logging
import os
import pathlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from uwe_jax.io.console import Progress
from uwe_jax.io.errors import DataError
from uwe_jax.io.paths import BUCKET, EXPECTED
from uwe_jax.ranking.embedded import DTYPES, Embedded
from uwe_jax.ranking.embedder import Embedder
from uwe_jax.ranking.index import Hit, best, check_counts
from uwe_jax.ranking.scoring import score_few, shapes

logger = logging.getLogger(__name__)

PREFIX = 'lance:'
TABLE = 'targets'
MISSING = 'no index in LanceDB there; `python -m uwe_jax.update_index` makes one'
FORMAT = '1'
SHORTLIST = 256  # targets that are scored exactly, unless a caller says otherwise
TARGETS_AT_A_TIME = 2048  # embedded, then written together
INDEX_FROM = 20_000  # targets; fewer are compared one by one
TARGETS_PER_GRAPH = 2_000_000
GRAPHS_SEARCHED = 64  # of each part of the approximate index, at most
CANDIDATES = 1024  # that a search in a graph keeps, at least
MOST_PARTS = 8  # of the approximate index, to which each `optimize` adds one
IDS_AT_A_TIME = 1000
NEWS_EVERY = datetime.timedelta(seconds=5)  # a reader sees what others have written after so long
KEEP_OLD = datetime.timedelta(hours=1)  # versions, for readers that have not seen the news yet


class LanceIndex:
    """A target space in LanceDB, for more targets than memory holds.

    Each target is a row: its id, its text, its mean vector in float16, and its token vectors as the index's dtype says.
    `rank` takes for each query a shortlist of the targets whose means have the largest cosine with the query's, found
    by an approximate index over the means (HNSW, 8 bits), and scores these from their token vectors.

    Made by `create` or `open`. One process at a time should change an index; any number may read it meanwhile. All
    methods raise DataError if LanceDB cannot read or write its files.
    """

    def __init__(self, path: str, table: Any, embedder: Embedder):
        self._path, self._table, self._embedder = path, table, embedder
        about = table.schema.metadata
        self.dtype, self._made = about[b'dtype'].decode(), about[b'made']

    @classmethod
    def create(cls, path: str, embedder: Embedder, dtype: str | None = None) -> 'LanceIndex':
        """Makes an index without targets, or opens the one that is there.

        Args:
          path: a directory, here or `gs://BUCKET/NAME`.
          embedder: embeds the targets and the queries.
          dtype: of the stored token vectors: float32, bfloat16, or int8 with a scale for each; by default int8, or that
            of the index that is there.

        Raises:
          ValueError: the dtype is unknown, or the index has another one, or belongs to another model.
          DataError: LanceDB is not installed, or the path cannot be used.
        """
        if dtype not in (None, *DTYPES):
            raise ValueError(f'dtype: {dtype!r}, expected one of {", ".join(DTYPES)}')
        with _using(path):
            database = _connect(path, follow=True)
            if TABLE not in database.list_tables().tables:
                about = {'format': FORMAT, 'made': uuid.uuid4().hex, 'dtype': dtype or 'int8'}
                about['model'] = embedder.vectors_fingerprint
                database.create_table(TABLE, schema=_schema(embedder.d, about), exist_ok=True)
        index = cls.open(path, embedder)
        if dtype not in (None, index.dtype):
            raise ValueError(f'{path}: its vectors are stored in {index.dtype}, not in {dtype}; choose another --index')
        return index

    @classmethod
    def open(cls, path: str, embedder: Embedder, follow: bool = True) -> 'LanceIndex':
        """Opens an index.

        Args:
          path: a directory, here or `gs://BUCKET/NAME`.
          embedder: embeds the targets and the queries.
          follow: whether what others write is seen, after some seconds. Otherwise the index stays as it is now, for an
            hour at least.

        Raises:
          ValueError: there is none, or it belongs to another model.
          DataError: LanceDB is not installed, or the path cannot be used.
        """
        table = cls.check(path, follow)
        if (model := table.schema.metadata[b'model'].decode()) != embedder.vectors_fingerprint:
            raise ValueError(
                f'{path}: an index of the model {model}, expected {embedder.vectors_fingerprint}; '
                'use the model and the --pooling that made it, or make another index'
            )
        return cls(path, table, embedder)

    @staticmethod
    def check(path: str, follow: bool = False) -> Any:
        """The table of an index, whatever its model.

        Raises:
          ValueError: there is none.
          DataError: LanceDB is not installed, or the path cannot be used.
        """
        if not path.startswith(BUCKET) and not pathlib.Path(path).expanduser().exists():
            raise ValueError(f'{path}: {MISSING}')  # before LanceDB makes the directory
        with _using(path):
            database = _connect(path, follow)
            table = database.open_table(TABLE) if TABLE in database.list_tables().tables else None
        if table is None:
            raise ValueError(f'{path}: {MISSING}')
        about = table.schema.metadata or {}
        if about.get(b'format') != FORMAT.encode() or not {b'made', b'model', b'dtype'} <= about.keys():
            raise ValueError(f'{path}: a LanceDB table, but not an index of targets; expected what update_index made')
        return table

    def __len__(self) -> int:
        with _using(self._path):
            return self._table.count_rows()

    @property
    def fingerprint(self) -> str:
        """Identifies what scores and hits depend on: the model, and the version of this index."""
        with _using(self._path):
            content = f'{self._embedder.fingerprint} {self._made} {self._table.version}'
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
          ValueError: an id comes twice, the numbers of texts and ids differ, a text is blank, or one of them is not a
            string.
        """
        ids = texts if ids is None else ids
        if len(ids) != len(texts):
            raise ValueError(f'put: {len(texts)} texts and {len(ids)} ids, expected equal numbers')
        _check_strings('id', ids)
        _check_strings('text', texts)
        seen: set[str] = set()
        for name, text in zip(ids, texts, strict=True):
            if not text.strip():
                raise ValueError(f'put: the text of {name!r} is {text!r}, expected one that is not blank')
            if name in seen:
                raise ValueError(f'put: the id {name!r} comes twice')
            seen.add(name)
        text_of = self._texts_of(ids)
        missing = [place for place, name in enumerate(ids) if text_of.get(name) != texts[place]]
        with Progress('embedding', len(texts), 'targets', done=len(texts) - len(missing)) as progress:
            for start in range(0, len(missing), TARGETS_AT_A_TIME):
                places = missing[start : start + TARGETS_AT_A_TIME]
                rows = self._rows([ids[place] for place in places], [texts[place] for place in places])
                with _using(self._path):
                    by_id = self._table.merge_insert('id').when_matched_update_all().when_not_matched_insert_all()
                    by_id.execute(rows)
                progress.advance(len(places))
        return len(missing)

    def delete(self, ids: Sequence[str]) -> int:
        """Deletes targets by their ids; those that are not there are passed over. Returns how many there were.

        Raises:
          ValueError: an id is not a string.
        """
        _check_strings('id', ids)
        deleted = 0
        for start in range(0, len(ids), IDS_AT_A_TIME):
            with _using(self._path):
                deleted += self._table.delete(_one_of(ids[start : start + IDS_AT_A_TIME])).num_deleted_rows
        return deleted

    def optimize(self) -> None:
        """Compacts the files, and brings the approximate index up to date.

        Until then, targets that it does not know are compared one by one. Each call adds them to it as one more part;
        it is made anew when it has too many parts or knows less than half of the targets. Versions older than an hour
        are removed.
        """
        name, count = 'mean_idx', len(self)
        with _using(self._path):
            stats = self._table.index_stats(name)
            if count >= INDEX_FROM and (
                stats is None or stats.num_indices > MOST_PARTS or stats.num_indexed_rows < stats.num_unindexed_rows
            ):
                from lancedb.index import HnswSq

                logger.info('indexing the means of %d targets', count)
                config = HnswSq(distance_type='cosine', num_partitions=-(-count // TARGETS_PER_GRAPH))
                self._table.create_index('mean', config=config, name=name)
            self._table.optimize(cleanup_older_than=KEEP_OLD)

    def rank(self, queries: Sequence[str] | Embedded, k: int = 10, shortlist: int | None = None) -> list[list[Hit]]:
        """The k best targets of each query, best first.

        Args:
          queries: not blank; or embedded by the index's model.
          k: how many; all if there are fewer.
          shortlist: how many targets are scored; by default `SHORTLIST`, or k if that is more.

        Raises:
          ValueError: k or the shortlist is not above 0, or a query is blank or not a string.
          DataError: the index was made anew since it was opened.
        """
        check_counts(k, shortlist)
        if not isinstance(queries, Embedded):
            queries = self._embedder.embed(queries)
        with _using(self._path):
            if self._table.schema.metadata[b'made'] != self._made:
                raise DataError(f'{self._path}: the index was removed and made anew; open it again')
        count = min(shortlist or max(SHORTLIST, k), max(len(self), 1))
        return [self._rank_one(queries[[query]], mean, count, k) for query, mean in enumerate(queries.means())]

    def warm_up(self) -> Iterator[None]:
        """Compiles what ranking short texts needs; yields after each program."""
        fewest = self._embedder.fewest_tokens
        of_queries = (1,) if self._embedder.pools('query') else [n for n in shapes().lengths if fewest <= n <= 16]
        of_targets = (1,) if self._embedder.pools('target') else range(4, 13, 4)
        count = min(SHORTLIST, max(len(self), 1))
        for q_tokens in of_queries:
            query = Embedded.empty(np.array([q_tokens]), self._embedder.d, 'float32')
            for y_tokens in of_targets:
                targets = Embedded.empty(np.full(count, y_tokens), self._embedder.d, self.dtype)
                score_few(query, targets, self._embedder.stored_score)
                yield

    def _rank_one(self, query: Embedded, mean: Float32[np.ndarray, ' d'], count: int, k: int) -> list[Hit]:
        """The k best of the `count` targets whose means have the largest cosine with this one."""
        with _using(self._path):
            version = self._table.version
            search = self._table.search(mean, vector_column_name='mean').distance_type('cosine').limit(count)
            search = search.nprobes(GRAPHS_SEARCHED).ef(max(CANDIDATES, 2 * count))
            rows = search.select(['_rowid', 'tokens', 'scale', '_distance']).to_arrow()
        if not len(rows):
            return []
        scores = score_few(query, vectors_of(rows, self._embedder.d, self.dtype), self._embedder.stored_score)
        chosen = best(scores, k)
        named = self._named(rows['_rowid'].take(chosen).to_pylist(), version)
        if named is None:
            return self._rank_one(query, mean, count, k)
        return [Hit(*hit) for hit in zip(*named, scores[chosen].tolist(), strict=True)]

    def _named(self, rows: Sequence[int], version: int) -> tuple[list[str], list[str]] | None:
        """Ids and texts of rows; None if the table has another version by now, in which rows have other numbers.

        They are read for the best targets only; for a whole shortlist that takes as long as the token vectors do.
        """
        with _using(self._path):
            try:
                found = self._table.take_row_ids(list(rows)).with_row_id().select(['id', 'text']).to_arrow()
            except (OSError, RuntimeError):
                if self._table.version == version:
                    raise
                return None
            if self._table.version != version:
                return None
        place = {row: place for place, row in enumerate(found['_rowid'].to_pylist())}
        found = found.take([place[row] for row in rows])
        return found['id'].to_pylist(), found['text'].to_pylist()

    def _texts_of(self, ids: Sequence[str]) -> dict[str, str]:
        """The texts, by id, of those targets that are in the table. For few ids, no other rows are read."""
        if not ids:
            return {}
        with _using(self._path):
            rows = self._table.search().select(['id', 'text'])
            if len(ids) <= IDS_AT_A_TIME:
                rows = rows.where(_one_of(ids))
            found = rows.to_arrow()
        return dict(zip(found['id'].to_pylist(), found['text'].to_pylist(), strict=True))

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
      ValueError: the path is empty, or neither local nor in a bucket of Google's.
    """
    if not words.startswith(PREFIX):
        return None
    path = words.removeprefix(PREFIX)
    if not path.removeprefix(BUCKET).strip('/') or ('://' in path and not path.startswith(BUCKET)):
        raise ValueError(f'{words}: {EXPECTED}, after {PREFIX}')
    return path


def _schema(d: int, about: dict[str, str]) -> pa.Schema:
    # Two processes that add the same id at the same time are a conflict, which LanceDB solves by a second attempt.
    key = {'lance-schema:unenforced-primary-key': 'true'}
    return pa.schema(
        [
            pa.field('id', pa.string(), nullable=False, metadata=key),
            pa.field('text', pa.string()),
            pa.field('mean', pa.list_(pa.float16(), d)),
            pa.field('tokens', pa.binary()),
            pa.field('scale', pa.binary()),
        ],
        about,
    )


def _one_of(ids: Sequence[str]) -> str:
    """The condition that a row has one of these ids."""
    quoted = ("'" + name.replace("'", "''") + "'" for name in ids)
    return f'id IN ({", ".join(quoted)})'


def _check_strings(what: str, values: Sequence[str]) -> None:
    if isinstance(values, str):
        raise ValueError(f'{what}s: {values[:60]!r}, expected a list of strings')
    for place, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f'{what} {place}: {value!r}, expected a string')


def _connect(path: str, follow: bool) -> Any:
    """The database in a directory.

    Raises:
      DataError: LanceDB is not installed.
    """
    os.environ.setdefault('LANCEDB_LOG', 'error')  # it logs advice about small indexes
    try:
        import lancedb
    except ImportError as error:
        raise DataError(f"{PREFIX}{path}: needs {error.name}: pip install -c constraints.txt -e '.[lance]'") from error
    if not path.startswith(BUCKET):
        path = str(pathlib.Path(path).expanduser())
    return lancedb.connect(path, read_consistency_interval=NEWS_EVERY if follow else None)


@contextlib.contextmanager
def _using(path: str) -> Iterator[None]:
    """Turns what LanceDB raises within into a DataError: one line with the path."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = ' '.join(str(error).split()).split(', /')[0]  # without the place in LanceDB's sources
        raise DataError(f'{path}: LanceDB cannot use it ({reason})') from error
