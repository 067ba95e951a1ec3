"""The options of `check`."""

import dataclasses
import pathlib
from typing import Annotated

from etils import epath
from tyro.conf import arg

EvaluationSets = Annotated[
    tuple[str, ...],
    arg(
        name='eval',
        metavar='FILE[:QUERY[:TARGET]]',
        help='An evaluation set to look for: a table of pairs, with the columns query and target, or of queries alone. '
        'FILE:QUERY and FILE:QUERY:TARGET name other columns.',
    ),
]


@dataclasses.dataclass(frozen=True)
class Options:
    """Looks for evaluation texts and pairs among the training pairs of a dataset.

    Fails if a pair of an evaluation set is a training pair, or if a text that the dataset holds out is in one.
    """

    shards: epath.Path
    """The directory that build made. What it holds out is always looked for."""
    evaluations: EvaluationSets = ()
    output: Annotated[pathlib.Path | None, arg(metavar='FILE.json')] = None
    """A JSON file to write, with everything that was found."""
