"""`python -m data_prep report`: how balanced a dataset is, as numbers and plots."""

import json
import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from data_prep.report.options import Options
from uwe_jax.io.errors import DataError, writing
from uwe_jax.io.files import check_absent, check_writable, whole_directory

logger = logging.getLogger(__name__)


def run(options: Options, command: str) -> None:
    """Writes the report, a directory that appears under its name when it is complete.

    Args:
      options: of which dataset.
      command: what the user typed, for the report.

    Raises:
      DataError: an option does not fit, matplotlib is not installed, the dataset cannot be used or has fewer skills
        than a batch, or the output exists or cannot be written.
    """
    options.check()
    output = options.output
    if find_spec('matplotlib') is None:
        raise DataError("the plots need matplotlib; install it: pip install -c constraints.txt -e '.[plot]'")
    check_absent(output)
    with writing(output):
        check_writable(output)
    from data_prep.report import plots  # slow import; keep --help fast
    from data_prep.report.balance import balance
    from uwe_jax.data.graph import open_dataset

    dataset = open_dataset(options.shards)
    numbers = {'command': command, **balance(dataset, options.batch_size, options.seed)}
    with writing(output), whole_directory(output) as partial:
        content = json.dumps(numbers, indent=1, ensure_ascii=False)
        (partial / 'report.json').write_text(content + '\n', encoding='utf-8')
        for name, figure in plots.figures(numbers).items():
            figure.savefig(partial / f'{name}.png', dpi=plots.DPI)
    for line in _summary(numbers):
        logger.info('%s', line)
    logger.info('%s is complete: %s', output, ', '.join(sorted(path.name for path in output.iterdir())))


def _summary(numbers: Mapping[str, Any]) -> list[str]:
    """The report in a few lines."""
    lines, sources = [], []
    titles, epoch = numbers['titles_per_skill'], numbers['epoch']
    for name, counts in titles['by_source'].items():
        sources.append(name)
        skills = sum(count for _, count in counts['skills'])
        fewer = f'{counts["fewer"]} of {skills} skills have fewer than {titles["wanted"]}'
        lines.append(f'titles from {" and ".join(sources)}: {fewer}')
    for side, tokens in numbers['tokens'].items():
        lines.append(f'{side} texts at {tokens["length"]} tokens: {tokens["cut_texts"]:.2%} are cut')
    filled = f'{epoch["batch_size"]} skills and their targets fill {epoch["rows"]} rows of 64 tokens'
    return [*lines, f'{filled}, {numbers["batch"]["padding"]:.1%} of them padding']
