"""The options of `report`."""

import dataclasses
import pathlib

from etils import epath

from uwe_jax.io.errors import DataError


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

    def check(self) -> None:
        """Raises DataError if a value cannot be used."""
        if self.batch_size < 1:
            raise DataError(f'--batch_size={self.batch_size}: expected 1 or more')
        if self.seed < 0:
            raise DataError(f'--seed={self.seed}: expected 0 or more')
