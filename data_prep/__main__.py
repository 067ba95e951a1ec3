"""Command line: python -m data_prep build --esco=DIR --output=DIR [--sentences=FILE]."""

import argparse
import pathlib
import shlex
import signal
import sys
from typing import NoReturn

from absl import flags, logging

from data_prep.build import Options, build
from data_prep.tables import DataError
from uwe_jax.hub import BASE_MODEL, FetchError
from uwe_jax.logs import own_lines_only


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
    arguments = vars(parser().parse_args())
    del arguments['what']
    try:
        build(Options(**arguments, command=shlex.join(['python', '-m', 'data_prep', *sys.argv[1:]])))
    except (DataError, FetchError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    whole = Parser(prog='python -m data_prep', description=__doc__)
    commands = whole.add_subparsers(dest='what', required=True)
    own = commands.add_parser('build', help='ESCO and sentences to shards of pairs')
    own.add_argument('--esco', type=pathlib.Path, required=True, help="the folder of an ESCO release's CSV files")
    own.add_argument('--output', type=pathlib.Path, required=True, help='the directory to make')
    own.add_argument('--sentences', type=pathlib.Path, help='CSV or JSONL of sentences with their skills')
    own.add_argument('--relations', choices=('all', 'essential'), default='all', help='which skills an occupation has')
    own.add_argument('--held_out_occupations', type=float, default=0.05, help='share kept for evaluation')
    own.add_argument('--held_out_alternatives', type=float, default=0.05, help='share kept for evaluation')
    own.add_argument('--seed', type=int, default=0, help='of what is held out')
    own.add_argument('--tokenizer', default=BASE_MODEL, help='a directory or a Hub name')
    return whole


if __name__ == '__main__':
    sys.exit(main())
