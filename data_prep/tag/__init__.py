"""`python -m data_prep tag`: ESCO skills for the sentences of vacancies that have none."""

from data_prep.tag.options import Options


def run(options: Options, command: str) -> None:
    """Makes this process's share of the missing pieces; the process that finds none missing writes the manifest.

    Args:
      options: what to tag, and how.
      command: what the user typed, for the manifest.

    Raises:
      DataError: an option or input cannot be used, a piece was made by another run, or the output cannot be written.
      FetchError: the model cannot be downloaded.
    """
    options.check()
    from data_prep.tag.recipe import tag  # slow import; keep --help fast

    tag(options, command)
