"""`python -m data_prep scrape`: from web pages to the vacancies in them, as JSON lines."""

from data_prep.scrape.options import Options
from uwe_jax.io.errors import DataError


def run(options: Options, command: str) -> None:
    """Makes the output, and beside it OUTPUT.summary.json with the counts.

    OUTPUT.partial keeps what a killed run has read and fetched; the same command resumes from there.

    Args:
      options: what to read, and how to fetch.
      command: what the user typed, for the summary.

    Raises:
      DataError: an input cannot be used, the output cannot be written, or a library is not installed.
    """
    options.check()
    try:
        from data_prep.scrape.recipe import scrape
    except ModuleNotFoundError as error:
        raise DataError(f"scrape needs {error.name}: pip install -c constraints.txt -e '.[scrape]'") from error
    scrape(options, command)
