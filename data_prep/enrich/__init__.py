"""Job titles that a model proposes for skills that have few: `python -m data_prep enrich`."""

import argparse
import importlib.util
import os
import pathlib

from data_prep.enrich.estimate import Prices
from data_prep.enrich.recipe import Options, enrich
from data_prep.vacancies import add_column_flags, columns_of
from uwe_jax.io.errors import DataError
from uwe_jax.models.download import BASE_MODEL

BASE_URL = 'https://api.openai.com/v1'
MODEL = 'gpt-4o-mini'  # the paper's; any model behind a chat-completions endpoint serves


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command. The key has none: it would stand in the shell's history and in the manifest."""
    parser.add_argument('--esco', type=pathlib.Path, required=True, help="the folder of an ESCO release's CSV files")
    parser.add_argument('--output', type=pathlib.Path, required=True, help='the directory to make, or to go on with')
    parser.add_argument(
        '--vacancies',
        action='append',
        default=[],
        metavar='GLOB',
        help='CSV, JSONL or Parquet of vacancies with skills, as for build: their titles count too',
    )
    add_column_flags(parser)
    parser.add_argument('--titles', type=int, default=20, help='how many distinct titles a skill should have')
    parser.add_argument('--rounds', type=int, default=3, help='how often to ask for one skill at most')
    parser.add_argument(
        '--base_url',
        default=os.environ.get('OPENAI_BASE_URL', BASE_URL),
        help=f'of an OpenAI-compatible endpoint; default: OPENAI_BASE_URL in the environment, else {BASE_URL}',
    )
    parser.add_argument(
        '--model',
        default=os.environ.get('OPENAI_MODEL', MODEL),
        help=f'default: OPENAI_MODEL in the environment, else {MODEL}',
    )
    parser.add_argument('--key_variable', default='OPENAI_API_KEY', help='the environment variable that holds the key')
    parser.add_argument('--concurrency', type=int, default=8, help='calls under way at once')
    parser.add_argument('--attempts', type=int, default=6, help='failed calls in a row, or unusable answers, to bear')
    parser.add_argument('--timeout', type=float, default=60, help='seconds for a call')
    parser.add_argument('--max_wait', type=float, default=60, help='seconds between two calls at most')
    parser.add_argument('--seed', type=int, default=0, help='of the waits between calls')
    parser.add_argument('--limit', type=int, help='so many skills at most, for a first look')
    parser.add_argument('--skills', type=pathlib.Path, help='a file of skills, one URI or preferred label a line')
    parser.add_argument('--dry_run', action='store_true', help='say what would be asked and what it costs; ask nothing')
    parser.add_argument('--input_price', type=float, help='US dollars for a million tokens sent')
    parser.add_argument('--output_price', type=float, help='US dollars for a million tokens received')
    parser.add_argument('--encoder', default=BASE_MODEL, help='a directory or a Hub name; says which titles are alike')


def run(arguments: argparse.Namespace, command: str) -> None:
    """Runs the command.

    Args:
      arguments: the values of the flags.
      command: what the user typed, for the manifest.

    Raises:
      DataError: a flag, the environment or an input cannot be used, or the endpoint fails for good.
      FetchError: the encoder cannot be had.
    """
    given = vars(arguments)
    names = Options.__dataclass_fields__
    prices = arguments.input_price, arguments.output_price
    if (prices[0] is None) != (prices[1] is None):
        raise DataError('--input_price and --output_price: expected both or neither')
    if not arguments.key_variable.isidentifier():  # not shown: it may be the key itself
        raise DataError('--key_variable: expected the name of an environment variable')
    key = os.environ.get(arguments.key_variable, '').strip()
    if not arguments.dry_run:
        if importlib.util.find_spec('openai') is None:
            raise DataError("enrich needs the openai client; install it: pip install -c constraints.txt -e '.[enrich]'")
        if not key:
            raise DataError(
                f'no key: the environment variable {arguments.key_variable} is empty; '
                'set it (to any word if the endpoint needs none), or name another by --key_variable'
            )
    enrich(
        Options(
            **{name: value for name, value in given.items() if name in names},
            columns=columns_of(arguments),
            key=key or None,
            prices=None if prices[0] is None else Prices(*prices),
            command=command,
        )
    )
