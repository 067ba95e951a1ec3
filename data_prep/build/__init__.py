"""`python -m data_prep build`: from ESCO, vacancies and synthetic titles to shards of pairs."""

from data_prep.build.options import Options


def run(options: Options, command: str) -> None:
    """Makes a dataset, which appears under its name when it is complete.

    Args:
      options: what to read, and what to make of it.
      command: what the user typed, for the manifest.

    Raises:
      DataError: an option or input cannot be used, an evaluation set reaches training, or the output cannot be written;
        nothing is left behind.
      FetchError: the tokenizer cannot be downloaded.
    """
    options.check()
    from data_prep.build.recipe import build  # slow import; keep --help fast

    build(options, command)
