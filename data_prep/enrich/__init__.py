"""Job titles that a model proposes for skills that have few: `python -m data_prep enrich`."""

import dataclasses
import importlib.util
import os
import pathlib
from typing import Annotated

from tyro.conf import arg

from data_prep.enrich import recipe
from data_prep.enrich.estimate import Prices
from data_prep.vacancies import Columns
from uwe_jax.io.errors import DataError
from uwe_jax.models.download import BASE_MODEL

BASE_URL = 'https://api.openai.com/v1'
MODEL = 'gpt-4o-mini'  # the paper's; any model behind a chat-completions endpoint serves


@dataclasses.dataclass(frozen=True)
class Options:
    """Titles that a language model proposes for skills that have few.

    The key has no flag: it would stand in the shell's history and in the manifest.
    """

    esco: pathlib.Path
    """The folder of an ESCO release's CSV files."""
    output: pathlib.Path
    """The directory to make, or to go on with."""
    vacancies: Annotated[tuple[str, ...], arg(metavar='GLOB')] = ()
    """CSV, JSONL or Parquet of vacancies with skills, as for build: their titles count too."""
    columns: Columns = dataclasses.field(default_factory=Columns)
    titles: int = 20
    """How many distinct titles a skill should have."""
    rounds: int = 3
    """How often to ask for one skill at most."""
    base_url: Annotated[str | None, arg(metavar='URL')] = None
    """Of an OpenAI-compatible endpoint. By default OPENAI_BASE_URL in the environment, else OpenAI's."""
    model: Annotated[str | None, arg(metavar='NAME')] = None
    """By default OPENAI_MODEL in the environment, else gpt-4o-mini."""
    key_variable: str = 'OPENAI_API_KEY'
    """The environment variable that holds the key."""
    concurrency: int = 8
    """Calls under way at once."""
    attempts: int = 6
    """How many failed calls in a row, or unusable answers, end the work."""
    timeout: float = 60
    """Seconds for a call."""
    max_wait: float = 60
    """Seconds between two calls at most."""
    seed: int = 0
    """Of the waits between calls."""
    limit: Annotated[int | None, arg(metavar='INT')] = None
    """This many skills at most, for a first look."""
    skills: Annotated[pathlib.Path | None, arg(metavar='FILE')] = None
    """A file of skills, one URI or preferred label per line."""
    dry_run: bool = False
    """Say what would be asked and what it costs; ask nothing."""
    input_price: Annotated[float | None, arg(metavar='DOLLARS')] = None
    """US dollars for a million tokens sent."""
    output_price: Annotated[float | None, arg(metavar='DOLLARS')] = None
    """US dollars for a million tokens received."""
    encoder: str = BASE_MODEL
    """A directory or a Hub name; says which titles are alike."""


def run(options: Options, command: str) -> None:
    """Runs the command.

    Args:
      options: the flags.
      command: what the user typed, for the manifest.

    Raises:
      DataError: a flag, the environment or an input cannot be used, or the endpoint fails for good.
      FetchError: the encoder cannot be had.
    """
    sent, received = options.input_price, options.output_price
    if (sent is None) != (received is None):
        raise DataError('--input_price and --output_price: expected both or neither')
    if not options.key_variable.isidentifier():  # not shown: it may be the key itself
        raise DataError('--key_variable: expected the name of an environment variable')
    key = os.environ.get(options.key_variable, '').strip()
    if not options.dry_run:
        if importlib.util.find_spec('openai') is None:
            raise DataError("enrich needs the openai client; install it: pip install -c constraints.txt -e '.[enrich]'")
        if not key:
            raise DataError(
                f'no key: the environment variable {options.key_variable} is empty; '
                'set it (to any word if the endpoint needs none), or name another by --key_variable'
            )
    names = {field.name for field in dataclasses.fields(recipe.Options)}
    recipe.enrich(
        recipe.Options(
            **{name: value for name, value in vars(options).items() if name in names - {'base_url', 'model'}},
            base_url=options.base_url or os.environ.get('OPENAI_BASE_URL', BASE_URL),
            model=options.model or os.environ.get('OPENAI_MODEL', MODEL),
            key=key or None,
            prices=None if sent is None or received is None else Prices(sent, received),
            command=command,
        )
    )
