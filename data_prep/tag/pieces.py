"""Long work over many rows, cut into pieces: each appears when it is complete, says what made it, and is made once."""

import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from uwe_jax.data.graph import MANIFEST
from uwe_jax.io.errors import DataError, writing
from uwe_jax.io.files import check_writable, whole_file


class Piece(NamedTuple):
    """Consecutive rows of the input.

    Attributes:
      number: its index among the pieces.
      file, row: where it begins: the index of the file, and of the row in it.
      rows: how many.
      sha256: the checksum of the rows.
    """

    number: int
    file: int
    row: int
    rows: int
    sha256: str

    @property
    def name(self) -> str:
        """The name of its files, without their suffix."""
        return f'piece-{self.number:05d}'


class Input:
    """Files of rows, cut into pieces of a fixed number of rows; a piece may continue in the next file.

    Where a piece begins depends only on the files, their order and the number of rows: every process and every later
    run cuts the same pieces.

    Args:
      paths: the files, in order.
      read: yields the rows of a file, tuples of JSON values, and raises DataError for a bad one.
      rows: per piece.

    Attributes:
      pieces: all of them. Finding them reads the input once, so that a bad row is refused before any work.
    """

    def __init__(self, paths: Sequence[pathlib.Path], read: Callable[[pathlib.Path], Iterator[Any]], rows: int):
        self._paths, self._read, self._rows = paths, read, rows
        self.pieces = []
        for number, chunk in enumerate(_chunks(self._stream(0), rows)):
            _, file, row = chunk[0]
            sha256 = _sha256(content for content, _, _ in chunk)
            self.pieces.append(Piece(number, file, row, len(chunk), sha256))

    def rows_of(self, pieces: Collection[Piece]) -> Iterator[tuple[Piece, list[Any]]]:
        """Reads pieces in one pass, in the order of their numbers.

        Raises:
          DataError: the input has changed since it was cut.
        """
        if not pieces:
            return
        wanted = {piece.number: piece for piece in pieces}
        first = wanted[min(wanted)]
        stream = itertools.islice(self._stream(first.file), first.row, None)
        for number, chunk in enumerate(_chunks(stream, self._rows), start=first.number):
            if number not in wanted:
                continue
            rows = [content for content, _, _ in chunk]
            piece = wanted.pop(number)
            if _sha256(rows) != piece.sha256:
                raise self._changed(piece)
            yield piece, rows
            if not wanted:
                return
        raise self._changed(wanted[min(wanted)])

    def _changed(self, piece: Piece) -> DataError:
        return DataError(f'{self._paths[piece.file]}: changed while it was being read; start again')

    def _stream(self, file: int) -> Iterator[tuple[Any, int, int]]:
        """The rows from one file on, each with the index of its file and its own index there."""
        for n, path in enumerate(self._paths[file:], start=file):
            for row, content in enumerate(self._read(path)):
                yield content, n, row


def check_output(directory: pathlib.Path) -> None:
    """Checks that a directory for `Output` is there or can be made, and makes nothing.

    Raises:
      DataError: it is a file, or it or the directory above it may not be written.
    """
    if directory.exists() and not directory.is_dir():
        raise DataError(f'{directory}: is a file, expected a directory')
    with writing(directory):
        check_writable(next(path for path in (directory, *directory.absolute().parents) if path.exists()) / MANIFEST)


class Output:
    """A directory that fills with pieces: `piece-00017.jsonl`, and `piece-00017.json`, which says what made it.

    The latter is written first, so that every piece has one. Processes may write different pieces, or even the same
    one, at the same time.

    Args:
      directory: made if it does not exist.
      settings: everything besides the rows that the pieces depend on: JSON values by name.

    Raises:
      DataError: the directory cannot be made.
    """

    def __init__(self, directory: pathlib.Path, settings: Mapping[str, Any]):
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        self.directory, self._settings = directory, settings

    def missing(self, pieces: Sequence[Piece]) -> list[Piece]:
        """The pieces that do not exist yet.

        Raises:
          DataError: a piece was made with other settings or from other rows, is damaged, or is not part of the input.
        """
        missing = [piece for piece in pieces if not self._finished(piece)]
        known = {piece.name for piece in pieces}
        for path in sorted(self.directory.glob('piece-*.jsonl')):
            if path.stem not in known:
                raise DataError(f'{path}: beyond the {len(pieces)} pieces of this input; choose another --output')
        return missing

    def _finished(self, piece: Piece) -> bool:
        path = self._path(piece)
        if not path.exists():
            return False
        description, now = self.describe(piece), self._made_with(piece)
        made_with, expected = description['made_with'], description['bytes']
        different = [name for name in {**now, **made_with} if made_with.get(name) != now.get(name)]
        if different:
            then, today = (', '.join(f'{name}={values.get(name)}' for name in different) for values in (made_with, now))
            raise DataError(f'{path}: made with {then}, but now {today}; choose another --output or remove the piece')
        if path.stat().st_size != expected:
            raise DataError(f'{path}: {path.stat().st_size} bytes, but {expected} were written; remove it')
        return True

    def write(self, piece: Piece, lines: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> None:
        """Writes a piece, which appears when it is complete.

        Raises:
          DataError: the directory cannot be written.
        """
        content = ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines).encode()
        description = {
            'made_with': self._made_with(piece),
            'counts': counts,
            'bytes': len(content),
            'sha256': hashlib.sha256(content).hexdigest(),
        }
        _write(self._path(piece).with_suffix('.json'), _pretty(description))
        _write(self._path(piece), content)

    def describe(self, piece: Piece) -> dict[str, Any]:
        """What made a piece (`made_with`), its `counts`, `bytes` and `sha256`.

        Raises:
          DataError: its description cannot be read.
        """
        path = self._path(piece).with_suffix('.json')
        try:
            return json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f'{path}: cannot be read ({error}); remove {self._path(piece).name} too') from error

    def write_manifest(self, pieces: Sequence[Piece], content: Mapping[str, Any]) -> dict[str, int]:
        """Describes the directory when all pieces exist; returns the sums of their counts."""
        descriptions = {self._path(piece).name: self.describe(piece) for piece in pieces}
        counts = {'pieces': len(pieces), 'rows': sum(piece.rows for piece in pieces)}
        for description in descriptions.values():
            for name, count in description['counts'].items():
                counts[name] = counts.get(name, 0) + count
        files = {name: {k: description[k] for k in ('bytes', 'sha256')} for name, description in descriptions.items()}
        manifest = {'format': 1, 'counts': counts, 'made_with': self._settings, **content, 'files': files}
        _write(self.directory / MANIFEST, _pretty(manifest))
        return counts

    def _made_with(self, piece: Piece) -> dict[str, Any]:
        return {**self._settings, 'rows': piece.rows, 'sha256_of_rows': piece.sha256}

    def _path(self, piece: Piece) -> pathlib.Path:
        return self.directory / f'{piece.name}.jsonl'


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def _sha256(rows) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b'\n')
    return digest.hexdigest()


def _pretty(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + '\n').encode()


def _write(path: pathlib.Path, content: bytes) -> None:
    with writing(path), whole_file(path) as partial:
        partial.write_bytes(content)
