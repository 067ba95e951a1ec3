"""How a program of this package runs: its log is on, and what is wrong with the input ends it with one line."""

import signal
import sys
from collections.abc import Callable

from absl import flags, logging

from uwe_jax.hub import FetchError
from uwe_jax.logs import own_lines_only
from uwe_jax.processes import AGAIN, NotJoinedError


def run_logged(work: Callable[[], None]) -> int:
    """Does the work; returns the exit status."""
    flags.FLAGS.mark_as_parsed()  # absl's logging waits for absl's flags, of which there are none
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    own_lines_only()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is half-written is removed
    try:
        work()
    except (ValueError, FetchError, NotJoinedError) as error:  # DataError is a ValueError
        print(f'error: {error}', file=sys.stderr)
        return AGAIN if isinstance(error, NotJoinedError) else 1
    return 0
