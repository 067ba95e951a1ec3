"""How a command reads its flags, and what it shows: log lines, progress, and one line for an error."""

import logging
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from absl import app
from absl import logging as absl_logging
from etils import epath
from tqdm import tqdm

from uwe_jax.io import paths
from uwe_jax.io.errors import DataError

OURS = ('uwe_jax', 'data_prep', '__main__')  # a command's own module is `__main__`

T = TypeVar('T')

logger = logging.getLogger(__name__)


class _Handler(logging.Handler):
    """Writes log lines to stderr, above a progress bar where one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(f'{self.format(record)}\n', file=sys.stderr, end='')
        except Exception:
            self.handleError(record)


def start_logging(level: int = logging.INFO) -> None:
    """Shows this project's log lines from `level` up, and warnings of the libraries."""
    sys.excepthook, sys.unraisablehook = _show_in_one_piece, _signal_again
    handler = _Handler()
    handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax and JAX log through absl
    # Of tasks that fail together, the first error is raised; asyncio would log the others, each with a traceback.
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # it logs the errors that it raises, too
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in OURS:
        logging.getLogger(package).setLevel(level)


def command(options: type[T], work: Callable[[T], None]) -> int:
    """Runs a command: reads its flags, then does its work with logging on.

    SIGTERM ends the process by SystemExit, so that temporary files are removed.

    Args:
      options: a dataclass; each field is a flag, and the string below a field is its help.
      work: the command.

    Returns:
      The exit status: 0; after a ValueError, an OSError or a platform that JAX does not find, which are printed as one
      line, the error's `exit_status` or 1.
    """
    chosen = parse(options)
    return run(lambda: work(chosen))


def parse(options: type[T], arguments: Sequence[str] | None = None, prog: str | None = None) -> T:
    """Reads flags into a dataclass; ends the program with a message and status 2 if they are wrong.

    `parse_some` does the same, and also returns the arguments that are none of these flags, as typed.

    Args:
      options: the dataclass. A field of the type `epath.Path` may be in a bucket; on this machine it is a
        `pathlib.Path`. One of the type `pathlib.Path` may not be in a bucket.
      arguments: by default those of the command line.
      prog: the command's name in its help; by default as it was called.
    """
    return _parse(options, arguments, prog, unknown=False)


def parse_some(options: type[T], arguments: Sequence[str], prog: str) -> tuple[T, list[str]]:
    """Reads those of the arguments that are flags of a dataclass, see `parse`."""
    return _parse(options, arguments, prog, unknown=True)


def _parse(options: type[T], arguments: Sequence[str] | None, prog: str | None, unknown: bool) -> Any:
    import tyro  # not before: importing a command's module needs no parser
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def _(field):
        if field.type is not epath.Path:
            return None
        read = paths.unchecked  # tyro would show an error in a box of many lines
        return PrimitiveConstructorSpec(
            1, 'PATH', lambda words: read(words[0]), lambda _: True, lambda path: [str(path)]
        )

    module = getattr(sys.modules['__main__'], '__spec__', None)
    name = module.name.removesuffix('.__main__') if module else sys.argv[0]
    parsed: Any = tyro.cli(
        options,
        prog=prog or f'python -m {name}',
        args=arguments,
        return_unknown_args=unknown,
        use_underscores=True,
        registry=registry,
        config=(tyro.conf.UseAppendAction, tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )
    for flag, value in vars(parsed[0] if unknown else parsed).items():
        try:
            if isinstance(value, pathlib.Path):
                paths.check_local(value)
            elif isinstance(value, pathlib.PurePath):
                paths.parse(value)
        except DataError as error:
            print(f'error: --{flag}={error}', file=sys.stderr)
            sys.exit(2)
    return parsed


def run(work: Callable[[], None]) -> int:
    """Does the work of a command as `command` does, and returns its exit status.

    With UWE_JAX_DEBUG=1 in the environment, the traceback of an error is shown as well.
    """
    start_logging(logging.DEBUG if os.environ.get('UWE_JAX_DEBUG') else logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        work()
    except Exception as error:
        message = explained(error, ValueError, OSError)
        if message is None:
            raise
        logger.debug('', exc_info=True)
        print_error(message)
        return getattr(error, 'exit_status', 1)
    return 0


def _signal_again(unraisable: 'sys.UnraisableHookArgs') -> None:
    """Sends a signal again whose exception was lost: Python ignores what is raised while JAX's garbage hook runs.

    Other exceptions that Python ignores are shown.
    """
    lost = {SystemExit: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}.get(unraisable.exc_type)
    if lost is None:
        where = f'Exception ignored in: {unraisable.object!r}\n'
        _show_in_one_piece(unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback, where)
        return
    again = threading.Timer(0.05, os.kill, (os.getpid(), lost))
    again.daemon = True
    again.start()


def print_error(message: object) -> None:
    """Prints what ends a command, by one write: `print` makes two, and Orbax's threads write in between."""
    sys.stderr.write(f'error: {message}\n')


def _show_in_one_piece(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, where: str = ''
) -> None:
    """Shows a traceback by one write; Python makes one for each of its lines."""
    sys.stderr.write(where + ''.join(traceback.format_exception(kind, error, trace)))


def explained(error: Exception, *expected: type[Exception]) -> str | None:
    """What to tell a user about an error, in one line; None if it needs a traceback.

    Args:
      error: an error that ended a command.
      expected: the types whose messages are made for users. JAX raises others where JAX_PLATFORMS names a platform that
        is not there, for "cuda" an AssertionError without a message.
    """
    if isinstance(error, expected):
        return str(error)
    jax = sys.modules.get('jax')
    if jax is not None and isinstance(error, AssertionError | RuntimeError):
        try:
            jax.devices()
        except (AssertionError, RuntimeError) as missing:
            reason = ' '.join(str(missing).split()) or 'JAX was installed without it'
            return (
                f'JAX_PLATFORMS={jax.config.jax_platforms}: not available ({reason}); install JAX for it, or unset it'
            )
    return None


def parse_config_flags(argv: list[str]) -> list[str]:
    """Reads absl's flags; an unknown config field and an argument that is not a flag end the program in one line."""
    try:
        remaining = app.parse_flags_with_usage(argv)
    except AttributeError as error:
        unknown = str(error).strip('"\'')
        overrides = [argument for argument in argv if argument.startswith('--config.') and unknown in argument]
        sys.exit(f'error: {", ".join(overrides)}: no field {unknown!r} there; the config file shows those that exist')
    if len(remaining) > 1:
        sys.exit(f'error: unexpected arguments: {" ".join(remaining[1:])}')
    return remaining


def hide_progress() -> None:
    """Shows no progress from now on, for a process whose work another process shows as well."""
    logger.setLevel(logging.WARNING)


class Progress:
    """Shows how far long work has come: a bar on a terminal, and elsewhere a log line now and then.

        with Progress('embedding', len(texts), 'texts') as progress:
            for batch in batches:
                ...
                progress.advance(len(batch))

    Both say how much time is left. Nothing is shown in a program that does not log this project's INFO lines.

    Args:
      what: the work, for example `embedding`.
      total: how many units there are.
      unit: their plural, for example `texts`.
      done: how many were done before.
      every: seconds between two log lines; with infinity, only `report` writes them.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0, every: float = 30.0):
        self._what, self._total, self._unit, self._done, self._every = what, total, unit, done, every
        self._first, self._start = done, time.monotonic()
        self._said = self._start
        self._bar = tqdm(
            desc=what,
            total=total,
            initial=done,
            bar_format='{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} ' + unit + ', {remaining} left{postfix}',
            disable=not (logger.isEnabledFor(logging.INFO) and sys.stderr.isatty()),
            leave=False,
            dynamic_ncols=True,
        )

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Counts finished units; `note` holds the numbers that matter now; the bar keeps the last one."""
        self._done += count
        if note is not None:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        if time.monotonic() - self._said >= self._every:
            self._log(note or '')

    def report(self, note: str, details: str = '') -> None:
        """Shows numbers at once: the bar the note, a log line the details as well."""
        self._bar.set_postfix_str(note)
        self._log(f'{note} ({details})' if details else note)

    def _log(self, note: str) -> None:
        self._said = time.monotonic()
        if not self._bar.disable:
            return
        done, to_do = self._done - self._first, self._total - self._done
        left = f', {tqdm.format_interval((self._said - self._start) / done * to_do)} left' if done and to_do else ''
        logger.info(
            '%s: %d of %d %s%s%s', self._what, self._done, self._total, self._unit, left, f', {note}' if note else ''
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
