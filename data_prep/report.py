"""How balanced a dataset is: what skills have, what an epoch shows of it, and what padding and truncation cost."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from data_prep.balance import balance
from uwe_jax.data.graph import DatasetError, open_dataset
from uwe_jax.io.errors import DataError, writing
from uwe_jax.io.files import check_writable, whole_directory

logger = logging.getLogger(__name__)


NUMBERS = 'report.json'


@dataclasses.dataclass(frozen=True)
class Options:
    """Reports how balanced a dataset is, as numbers and plots."""

    shards: pathlib.Path
    """What build --output made."""
    output: pathlib.Path
    """A directory to make, with report.json and the plots."""
    batch_size: int = 512
    """Skills per batch, as in training."""
    seed: int = 0
    """Of the epoch that is looked at."""


def run(options: Options, command: str) -> None:
    """Writes the report; it appears under its name when it is complete.

    Raises:
      DataError: matplotlib is not installed, the dataset cannot be used or has fewer skills than a batch, or the output
        is there or cannot be written.
    """
    if find_spec('matplotlib') is None:
        raise DataError("the plots need matplotlib; install it: pip install -c constraints.txt -e '.[plot]'")
    output = options.output
    if output.exists():
        raise DataError(f'{output}: already there; choose another --output or remove it')
    with writing(output):
        check_writable(output)
    try:
        dataset = open_dataset(options.shards)
    except DatasetError as error:
        raise DataError(str(error)) from error
    numbers = {'command': command, **balance(dataset, options.batch_size, options.seed)}
    write(numbers, output)
    for line in summary(numbers):
        logger.info('%s', line)
    logger.info('%s is complete: %s', output, ', '.join(sorted(path.name for path in output.iterdir())))


def write(numbers: Mapping[str, Any], output: pathlib.Path) -> None:
    """Writes numbers and plots into a directory, which appears when it is complete.

    Raises:
      DataError: it cannot be written.
    """
    from data_prep import report_plots  # here, since only the plots need matplotlib

    with writing(output), whole_directory(output) as partial:
        (partial / NUMBERS).write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
        for name, figure in report_plots.figures(numbers).items():
            figure.savefig(partial / f'{name}.png', dpi=report_plots.DPI)


def summary(numbers: Mapping[str, Any]) -> list[str]:
    """The report in a few lines."""
    lines, sources = [], []
    titles = numbers['titles_per_skill']
    for name, found in titles['by_source'].items():
        sources.append(name)
        skills = sum(count for _, count in found['skills'])
        fewer = f'{found["fewer"]} of {skills} skills have fewer than {titles["wanted"]}'
        lines.append(f'titles from {" and ".join(sources)}: {fewer}')
    for side, found in numbers['tokens'].items():
        share = numbers['padding']['sides'][side]['padding']
        lines.append(
            f'{side} texts at {found["length"]} tokens: {found["cut_texts"]:.2%} are cut, {share:.1%} is padding'
        )
    whole = numbers['padding']
    return [*lines, f'padding in all: {whole["padding"]:.1%}; {whole["padding_at_64"]:.1%} if all had 64 tokens']
