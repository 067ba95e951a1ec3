"""The objects in JSON-LD as real pages have it: wrapped in comments or code, escaped, faulty, or cut short."""

import contextlib
import html
import json
import re
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder(strict=False)  # takes raw line breaks in strings
# What JavaScript allows and JSON does not, and values that a template left out. Strings are matched first, so that
# nothing in them is; in strings, the escapes that JSON does not have are mended.
_STRING = r'("(?:[^"\\]|\\.)*")'
_COMMENT = re.compile(rf'{_STRING}|//[^\n]*|/\*.*?(?:\*/|\Z)', re.DOTALL)
_LOOSE = re.compile(rf'{_STRING}|,(?=\s*[,}}\]])|:(?=\s*[,}}\]])|\bundefined\b', re.DOTALL)
_ESCAPE = re.compile(r'\\(?:(["\\/bfnrt]|u[0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))?')
# Limits of the search for whole objects in a broken text: it fails once for each object around a fault.
_FAILURES = 1000
_TIMES_READ = 20


def read_json_ld(text: str) -> tuple[list[dict[str, Any]], str | None]:
    """Reads the content of a script.

    What stands around the outermost objects is passed over. If one of them is broken, the whole objects within it are
    taken, and also what is whole once JavaScript's comments, commas and escapes are mended; so an object may be
    returned twice, the second time within another. A text without a whole object is read once more without its escapes.

    Returns:
      The objects, and a note on what was mended or left out; None if nothing was.
    """
    objects, whole = _outermost(text)
    if whole:
        return objects, None
    for reading in _readings(text):
        more, whole = _outermost(reading)
        objects = more + objects
        if whole and any(more):
            return objects, 'JSON-LD with faults, mended'
    return objects, 'broken JSON-LD, whole objects in it kept' if any(objects) else 'broken JSON-LD, left out'


def _readings(text: str) -> Iterator[str]:
    """The text without what JavaScript allows; if it has no quotes that JSON could read, without its escapes too."""
    yield _LOOSE.sub(_strict, _COMMENT.sub(r'\1', text))
    for _ in range(2):  # some pages escape twice
        if (unescaped := html.unescape(text)) != text:
            yield (text := unescaped)
    with contextlib.suppress(ValueError):  # JSON in a string of JSON
        yield json.loads(f'"{text.strip().strip(chr(34))}"', strict=False)


def _strict(match: re.Match[str]) -> str:
    """What JSON has in place of a match of `_LOOSE`."""
    if match[1]:
        return _ESCAPE.sub(lambda e: e[0] if e[1] else rf'\u00{e[2]}' if e[2] else '', match[1])
    return {':': ': null', 'undefined': 'null'}.get(match[0], '')


def _outermost(text: str) -> tuple[list[dict[str, Any]], bool]:
    """The whole objects that are not within other whole ones, and whether none is broken."""
    objects, failures, read = [], 0, 0
    start = text.find('{')
    while start >= 0 and failures < _FAILURES and read <= _TIMES_READ * len(text):
        try:
            value, end = _DECODER.raw_decode(text, start)
            objects.append(value)
        except (ValueError, RecursionError) as error:
            failures, end = failures + 1, start + 1
            read += error.pos - start if isinstance(error, json.JSONDecodeError) else len(text)
        start = text.find('{', end)
    return objects, not failures
