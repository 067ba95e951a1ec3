"""`python -m data_prep enrich`: job titles from a language model for skills of which few titles are known."""

import importlib.util

from data_prep.enrich.options import Options
from uwe_jax.io.errors import DataError


def run(options: Options, command: str) -> None:
    """Fills the output directory. Answers are kept, and the same command resumes after an interruption.

    Args:
      options: what to ask whom.
      command: what the user typed, for the manifest.

    Raises:
      DataError: an option, the environment or an input cannot be used, the endpoint fails for good, or the output
        cannot be written.
      FetchError: the encoder cannot be downloaded.
    """
    options.check()
    if not options.dry_run and importlib.util.find_spec('openai') is None:
        raise DataError("enrich needs the openai client; install it: pip install -c constraints.txt -e '.[enrich]'")
    from data_prep.enrich.recipe import enrich  # slow import; keep --help fast

    enrich(options, command)
