"""Command line: python -m data_prep build | check | report | scrape | tag | enrich; each tells its flags by --help."""

import argparse
import importlib
import shlex
import signal
import sys
from typing import Any, NoReturn

from absl import flags, logging

from data_prep.tables import DataError
from uwe_jax.hub import FetchError
from uwe_jax.logs import own_lines_only

# What each module of this name does. The one that is asked for is imported alone.
COMMANDS = {
    'scrape': 'web pages (WARC, HTML, addresses, sitemaps) to the vacancies in them',
    'tag': 'ESCO skills for the sentences of vacancies without skills, from a model',
    'enrich': 'titles that a language model proposes for skills that have few',
    'build': 'ESCO, vacancies and synthetic titles to shards of pairs',
    'check': 'look for evaluation texts and pairs among the training pairs of a dataset',
    'report': 'how balanced a dataset is, as numbers and plots',
}


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the flags."""

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        sys.exit(f'error: {message}; see {self.prog} --help')


def main() -> int:
    """Runs one command, and turns what is wrong with the input into one line."""
    flags.FLAGS.mark_as_parsed()  # absl's logging waits for absl's flags, of which there are none
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    own_lines_only()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is half-written is removed
    arguments = parser().parse_args()
    try:
        module(arguments.what).run(arguments, shlex.join(['python', '-m', 'data_prep', *sys.argv[1:]]))
    except (DataError, FetchError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands, and the flags of the one that is asked for."""
    whole = Parser(prog='python -m data_prep', description=__doc__)
    commands = whole.add_subparsers(dest='what', required=True)
    for name, what in COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what)
        if name in sys.argv[1:2]:
            module(name).add_flags(command)
    return whole


def module(command: str) -> Any:
    """The module of a command, which has `add_flags` and `run`."""
    return importlib.import_module(f'data_prep.{command}')


if __name__ == '__main__':
    sys.exit(main())
