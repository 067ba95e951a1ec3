"""The options of `enrich`, and what it takes from the environment."""

import dataclasses
import os
import pathlib
import urllib.parse
from typing import Annotated

from tyro.conf import arg

from data_prep.enrich.estimate import Prices
from data_prep.vacancies import Columns
from uwe_jax.io.errors import DataError
from uwe_jax.models.download import BASE_MODEL

BASE_URL = 'https://api.openai.com/v1'
MODEL = 'gpt-4o-mini'  # as in the paper; any model behind a chat-completions endpoint will do


@dataclasses.dataclass(frozen=True)
class Options:
    """Asks a language model for job titles for skills with few known titles.

    The key comes from an environment variable: as a flag, it would be in the shell's history and in the manifest.
    The same command continues a killed run; no question is asked twice.
    """

    esco: pathlib.Path
    """The folder with the CSV files of an ESCO release."""
    output: pathlib.Path
    """The directory to make, or to continue."""
    vacancies: Annotated[tuple[str, ...], arg(metavar='GLOB')] = ()
    """CSV, TSV, JSON or Parquet files of vacancies with skills, as for build; their titles count too."""
    columns: Columns = dataclasses.field(default_factory=Columns)
    titles: int = 20
    """How many distinct titles a skill should have."""
    rounds: int = 3
    """How often to ask about one skill, at most."""
    base_url: Annotated[str | None, arg(metavar='URL')] = None
    """An OpenAI-compatible endpoint; by default OPENAI_BASE_URL in the environment, else OpenAI's."""
    model: Annotated[str | None, arg(metavar='NAME')] = None
    """By default OPENAI_MODEL in the environment, else gpt-4o-mini."""
    key_variable: Annotated[str, arg(metavar='NAME')] = 'OPENAI_API_KEY'
    """The environment variable that holds the key."""
    concurrency: int = 8
    """How many calls run in parallel."""
    attempts: int = 6
    """The run ends after this many failed calls in a row; a skill is given up after this many unusable answers."""
    timeout: float = 60
    """The longest that a call may take, in seconds."""
    limit: Annotated[int | None, arg(metavar='INT')] = None
    """Ask about the first LIMIT skills only, for a first look."""
    skills: Annotated[pathlib.Path | None, arg(metavar='FILE')] = None
    """A file of skills to ask about, one URI or preferred label per line; by default all."""
    dry_run: bool = False
    """Say how much would be asked and what it would cost, but ask nothing."""
    input_price: Annotated[float | None, arg(metavar='DOLLARS')] = None
    """US dollars per million tokens sent."""
    output_price: Annotated[float | None, arg(metavar='DOLLARS')] = None
    """US dollars per million tokens received."""
    encoder: str = BASE_MODEL
    """A directory or a Hub name; its vectors say which titles are similar."""

    @property
    def endpoint(self) -> str:
        """The base URL; its query may hold a token."""
        return self.base_url or os.environ.get('OPENAI_BASE_URL') or BASE_URL

    @property
    def model_name(self) -> str:
        """The endpoint's name for the model."""
        return self.model or os.environ.get('OPENAI_MODEL') or MODEL

    @property
    def key(self) -> str:
        """The endpoint's key; empty if there is none."""
        return os.environ.get(self.key_variable, '').strip()

    @property
    def prices(self) -> Prices | None:
        """What tokens cost, if known."""
        if self.input_price is None or self.output_price is None:
            return None
        return Prices(self.input_price, self.output_price)

    def check(self) -> None:
        """Checks the values and the environment before any work. No message shows the key or a token.

        Raises:
          DataError: something cannot be used.
        """
        for name in ('titles', 'rounds', 'concurrency', 'attempts', 'limit'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f'--{name}={value}: expected at least 1')
        if not 0 < self.timeout < float('inf'):
            raise DataError(f'--timeout={self.timeout}: expected seconds, more than 0')
        if (self.input_price is None) != (self.output_price is None):
            raise DataError('--input_price and --output_price: expected both or neither')
        url = urllib.parse.urlsplit(self.endpoint)
        if url.scheme not in ('http', 'https') or not url.hostname:
            raise DataError('--base_url: not the URL of an endpoint; expected http://HOST/v1 or https://HOST/v1')
        if url.username or url.password:  # the client would send them instead of the key
            raise DataError('--base_url: a user or password in it; expected none, the key is all that is needed')
        if not self.key_variable.isidentifier():  # it may be the key itself
            raise DataError('--key_variable: expected the name of an environment variable')
        if self.key and not (self.key.isascii() and self.key.isprintable() and ' ' not in self.key):
            raise DataError(f'the key in {self.key_variable}: expected visible ASCII characters only')
        if not self.key and not self.dry_run:
            raise DataError(
                f'no key: the environment variable {self.key_variable} is empty; '
                'set it (to any word if the endpoint needs none), or name another one by --key_variable'
            )
