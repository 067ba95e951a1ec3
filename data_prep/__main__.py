"""Command line: python -m data_prep build | check | report | scrape | tag | enrich; each tells its flags by --help."""

import argparse
import shlex
import signal
import sys
from typing import NoReturn

from absl import flags, logging

from data_prep import build, check, enrich, report, scrape, tag
from data_prep.tables import DataError
from uwe_jax.hub import FetchError
from uwe_jax.logs import own_lines_only

COMMANDS = {'scrape': scrape, 'tag': tag, 'enrich': enrich, 'build': build, 'check': check, 'report': report}


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
        COMMANDS[arguments.what].run(arguments, shlex.join(['python', '-m', 'data_prep', *sys.argv[1:]]))
    except (DataError, FetchError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    whole = Parser(prog='python -m data_prep', description=__doc__)
    commands = whole.add_subparsers(dest='what', required=True)
    for name, command in COMMANDS.items():
        command.add_flags(commands.add_parser(name, help=command.HELP, description=command.HELP))
    return whole


if __name__ == '__main__':
    sys.exit(main())
