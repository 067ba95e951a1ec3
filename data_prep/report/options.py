"""The options of `report`."""

import dataclasses
import pathlib

from etils import epath


@dataclasses.dataclass(frozen=True)
class Options:
    """Reports how balanced a dataset is, as numbers and plots."""

    shards: epath.Path
    """The directory that build made."""
    output: pathlib.Path
    """The directory to make, with report.json and the plots."""
    batch_size: int = 512
    """Skills per batch, as in training."""
    seed: int = 0
    """Seed of the epoch that is shown."""
