"""A target space, embedded once and ranked for any query."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from uwe_jax.data.graph import MAX_TOKENS
from uwe_jax.distributed import mesh
from uwe_jax.interaction import Score, late_interaction
from uwe_jax.interaction.packed import Layout, Packed, packed, packed_scores
from uwe_jax.io.files import whole_directory
from uwe_jax.ranking.embedded import DTYPES, Embedded

if TYPE_CHECKING:
    from uwe_jax.ranking.ranker import Ranker

SETTINGS = 'index.json'
TARGETS = 'targets.jsonl'
LENGTHS = (1, 2, 4, 8, 16, 24, 32, 48, MAX_TOKENS)  # queries are padded to one of these
BYTES_A_PAIR = 3 * 4  # of tokens: their product, and what becomes of it on the way to a score
MOST_QUERIES = 64  # scored at a time


class Hit(NamedTuple):
    """One ranked target.

    Attributes:
      id: its id; by default its position in the target space.
      text: its text.
      score: sim(query, target).
    """

    id: object
    text: str
    score: float


class TargetIndex:
    """A target space's vectors, ready to be ranked. Made by `Ranker.index` or `TargetIndex.load`.

    Args:
      ranker: embeds the queries.
      texts: the target space.
      ids: what to call each target.
      embedded: the vectors of the texts.
    """

    def __init__(self, ranker: 'Ranker', texts: Sequence[str], ids: Sequence, embedded: Embedded):
        self.texts, self.ids, self.embedded = texts, ids, embedded
        self._ranker = ranker

    @functools.cached_property
    def dtype(self) -> str:
        """What the vectors are stored as."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.embedded.tokens.dtype)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies what scores and hits depend on: the model, the dtype, the texts and their ids."""
        content = [self._ranker.fingerprint, self.dtype, list(self.ids), list(self.texts)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def score(self, queries: Sequence[str] | Embedded) -> np.ndarray:
        """sim(query, target) of all pairs: [queries, targets] float32."""
        scores = np.empty((len(queries), len(self.texts)), np.float32)
        for places, of_block in self._scored(queries):
            scores[places] = of_block
        return scores

    def rank(self, queries: Sequence[str], k: int = 10, shortlist: int | None = None) -> list[list[Hit]]:
        """The k best targets of each query, best first; equal scores in the targets' order.

        Args:
          queries: no blank ones.
          k: how many; all if there are fewer.
          shortlist: if given, only so many targets are scored, those with the largest cosines of mean-pooled vectors:
            faster, and not exact.

        Raises:
          ValueError: k or the shortlist is not above 0, or a query is blank or no string.
        """
        for name, value in (('k', k), ('shortlist', shortlist)):
            if value is not None and value < 1:
                raise ValueError(f'{name}: {value}, expected a whole number above 0')
        found: list[list[Hit]] = [[] for _ in queries]
        if shortlist is None:
            for places, of_block in self._scored(queries):
                for place, scores in zip(places, of_block, strict=True):
                    found[place] = self._hits(best(scores, k), scores)
            return found
        embedded = self._ranker.embedded(queries)
        for place, (targets, scores) in enumerate(self._shortlisted(embedded, shortlist)):
            of_all = np.full(len(self.texts), -np.inf, np.float32)
            of_all[targets] = scores
            found[place] = self._hits(best(of_all, min(k, len(targets))), of_all)
        return found

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the index as a directory, which appears when it is complete.

        Raises:
          OSError: it cannot be written, or is already there.
          TypeError: an id is nothing that JSON has.
        """
        settings = {
            'format': 1,
            'model': self._ranker.fingerprint,
            'dtype': self.dtype,
            'targets': len(self.texts),
            'vectors': list(self.embedded.tokens.shape),
        }
        lines = (json.dumps([i, text], ensure_ascii=False) for i, text in zip(self.ids, self.texts, strict=True))
        with whole_directory(pathlib.Path(path)) as partial:
            (partial / SETTINGS).write_text(json.dumps(settings, indent=2) + '\n')
            with open(partial / TARGETS, 'w', encoding='utf-8') as file:
                file.writelines(f'{line}\n' for line in lines)
            np.save(partial / 'place.npy', self.embedded.place)
            np.save(partial / 'length.npy', self.embedded.length)
            np.save(partial / 'tokens.npy', _plain(self.embedded.tokens))
            if self.embedded.scale is not None:
                np.save(partial / 'scale.npy', self.embedded.scale)

    @classmethod
    def load(cls, path: str | pathlib.Path, ranker: 'Ranker') -> 'TargetIndex':
        """Opens an index; its vectors are mapped into memory, not read.

        Args:
          path: what `save` wrote.
          ranker: the one that made it, or one with the same model and settings.

        Raises:
          ValueError: the directory is no index, not whole, or of another model.
        """
        directory = pathlib.Path(path)
        try:
            settings = json.loads((directory / SETTINGS).read_text())
            with open(directory / TARGETS, encoding='utf-8') as file:
                ids, texts = zip(*map(json.loads, file), strict=True)
            place, length = np.load(directory / 'place.npy'), np.load(directory / 'length.npy')
            scale = np.load(directory / 'scale.npy') if settings['dtype'] == 'int8' else None
            tokens = np.load(directory / 'tokens.npy', mmap_mode='r').view(DTYPES[settings['dtype']])
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{directory}: no whole index ({error}); expected what index.save made') from error
        if settings['model'] != ranker.fingerprint:
            raise ValueError(
                f'{directory}: an index of the model {settings["model"]}, expected {ranker.fingerprint}; '
                'give the model that made it, or make it again'
            )
        if not len(texts) == len(place) == settings['targets'] or list(tokens.shape) != settings['vectors']:
            raise ValueError(
                f'{directory}: {len(texts)} targets and {tokens.shape} vectors, expected {settings["targets"]} and '
                f'{tuple(settings["vectors"])}'
            )
        return cls(ranker, texts, ids, Embedded(place, length, tokens, scale))

    def _scored(self, queries: Sequence[str] | Embedded) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Scores some queries at a time: their places [n], and [n, targets] float32."""
        embedded = queries if isinstance(queries, Embedded) else self._ranker.embedded(queries)
        for rows, tokens in _by_length(embedded.length):
            most = self._queries_at_a_time(tokens)
            for start in range(0, len(rows), most):
                chosen = rows[start : start + most]
                q, q_len = embedded.padded(chosen, tokens)
                missing = self._filled(len(chosen), most) - len(chosen)
                q, q_len = np.pad(q, [(0, missing), (0, 0), (0, 0)]), np.pad(q_len, (0, missing))
                everywhere = None
                if device_mesh := self._ranker.mesh:
                    everywhere = mesh.replicated(device_mesh)
                    q, q_len = mesh.put((q, q_len), (mesh.rows(device_mesh),) * 2)
                score = self._ranker.pair_score
                parts = [score_block(q, q_len, y, layout, score, everywhere) for y, layout in self._blocks]
                scores = np.empty((len(chosen), len(self.texts)), np.float32)
                scores[:, self.embedded.place] = np.concatenate(
                    [np.asarray(part)[: len(chosen)] for part in parts], axis=1
                )
                yield embedded.place[chosen], scores

    @functools.cached_property
    def _blocks(self) -> list[tuple[Packed, Layout]]:
        """The vectors on the devices, cut so that one query's products with a block fit into the memory."""
        most = self._ranker.memory // (BYTES_A_PAIR * MAX_TOKENS + self._bytes_a_vector)
        blocks, start, put = [], 0, self._put
        for layout in layouts(self.embedded.length, most):
            part = slice(start, start + sum(length * texts for length, texts in layout))
            start = part.stop
            scale = None if self.embedded.scale is None else put(self.embedded.scale[part])
            blocks.append((packed(put(self.embedded.tokens[part]), scale), layout))
        return blocks

    @property
    def _bytes_a_vector(self) -> int:
        """What scoring makes of each vector beside products: int8 ones are widened to bfloat16."""
        return 0 if self.embedded.scale is None else 2 * self.embedded.tokens.shape[1]

    def _put(self, x: np.ndarray) -> jax.Array:
        if self._ranker.mesh is None:
            return jax.device_put(x, may_alias=True)  # on a CPU nothing is copied, nor read before it is needed
        return mesh.put(x, mesh.replicated(self._ranker.mesh))

    def _queries_at_a_time(self, tokens: int) -> int:
        """How many queries' products with the largest block fit into the memory."""
        largest = max(len(y.tokens) for y, _ in self._blocks)
        room = self._ranker.memory - largest * self._bytes_a_vector
        queries = max(room // max(largest * tokens * BYTES_A_PAIR, 1), 1)
        return min(1 << (queries.bit_length() - 1), MOST_QUERIES) * self._ranker.devices

    def _filled(self, queries: int, most: int) -> int:
        """The next power of two times the devices, so that few programs are compiled."""
        devices = self._ranker.devices
        return min(devices << (-(-queries // devices) - 1).bit_length(), most)

    def _shortlisted(self, queries: Embedded, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each query: the targets whose means are nearest, [count], ascending, and their scores."""
        row, tokens = self.embedded.row, padded_length(int(self.embedded.length.max()))
        for place, mean in zip(queries.row, queries.means(), strict=True):
            targets = np.sort(best(self._means @ mean, count))
            y, y_len = self.embedded.padded(row[targets], tokens)
            q, q_len = queries.padded([place], padded_length(int(queries.length[place])))
            yield targets, np.asarray(_score(q, q_len, y, y_len, self._ranker.stored_score))[0]

    @functools.cached_property
    def _means(self) -> np.ndarray:
        return self.embedded.means()

    def _hits(self, targets: np.ndarray, scores: np.ndarray) -> list[Hit]:
        return [Hit(self.ids[target], self.texts[target], float(scores[target])) for target in map(int, targets)]


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """The places of the k largest numbers, largest first; of equal ones the first: [n] -> [min(k, n)] int64."""
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        places = np.flatnonzero(scores >= least)
    else:
        places = np.arange(len(scores))
    return places[np.argsort(-scores[places], kind='stable')[:k]]


def layouts(length: np.ndarray, most: int) -> Iterator[Layout]:
    """Cuts texts into blocks of at most so many vectors, and one text at least.

    Args:
      length: [n], ascending; vectors of each text.
      most: vectors a block.

    Yields:
      The layout of each block.
    """
    layout, room = [], most
    for tokens, texts in zip(*map(np.ndarray.tolist, np.unique(length, return_counts=True)), strict=True):
        while texts:
            fit = texts if tokens == 0 else max(min(texts, room // tokens), 0)
            if not fit and layout:
                yield tuple(layout)
                layout, room = [], most
                continue
            fit = max(fit, 1)
            layout.append((tokens, fit))
            room, texts = room - tokens * fit, texts - fit
    yield tuple(layout)


def padded_length(length: int) -> int:
    """What a text of so many vectors is padded to: one of `LENGTHS`."""
    return LENGTHS[np.searchsorted(LENGTHS, length)]


def _by_length(length: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Groups texts that are padded to one length: where they lie [n], and that length."""
    padded = np.searchsorted(LENGTHS, length)
    for size, tokens in enumerate(LENGTHS):
        rows = np.flatnonzero(padded == size)
        if len(rows):
            yield rows, tokens


def _plain(tokens: np.ndarray) -> np.ndarray:
    """bfloat16, which numpy's files do not know, as the same bits."""
    return tokens.view(np.uint16) if tokens.dtype == DTYPES['bfloat16'] else tokens


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def score_block(
    q: jax.Array, q_len: jax.Array, y: Packed, layout: Layout, score: Score, sharding: jax.sharding.Sharding | None
) -> jax.Array:
    """The scores of some queries and one block, as `packed_scores`, with that sharding if one is given."""
    scores = packed_scores(q, q_len, y, layout, score)
    return scores if sharding is None else jax.lax.with_sharding_constraint(scores, sharding)


@functools.partial(jax.jit, static_argnums=4)
def _score(q, q_length, y, y_length, score):
    return late_interaction(q, q_length, y, y_length, score)[0]
