"""How a command ends: what is wrong with the input is one line, and the exit status says so."""

import sys
from collections.abc import Callable, Sequence

from absl import app

from uwe_jax.hub import FetchError
from uwe_jax.logs import own_lines_only


def refuse_arguments(argv: Sequence[str]) -> None:
    """Raises UsageError if anything but flags was given."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')


def parse(argv: list[str]) -> list[str]:
    """Parses flags; an override of a field that the config does not have is one line too."""
    try:
        return app.parse_flags_with_usage(argv)
    except AttributeError as error:
        unknown = str(error).strip('"\'')
        given = [argument for argument in argv if argument.startswith('--config.') and unknown in argument]
        sys.exit(f'error: {", ".join(given)}: no field {unknown!r} there; the config file shows those that exist')


def exit_status(work: Callable[[], None]) -> int:
    """Does the work with our own lines alone in the log; returns the exit status."""
    own_lines_only()
    try:
        work()
    except (ValueError, OSError, FetchError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0
