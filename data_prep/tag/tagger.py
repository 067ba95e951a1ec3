"""Ranks ESCO skills for sentences, and keeps those with a high score."""

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.skill_names import SkillNames
from data_prep.tag.options import Options
from uwe_jax.data.text import normalise
from uwe_jax.io.errors import DataError
from uwe_jax.io.esco import read_esco
from uwe_jax.io.files import sha256
from uwe_jax.io.repairs import Repairs
from uwe_jax.models import download, pretrained
from uwe_jax.ranking import Ranker

SENTENCES_PER_CALL = 2048  # their scores against all skills are in memory together


class Tagger:
    """Ranks all skills for sentences.

    Creating one embeds the skills, which takes long; threads may share it.

    Args:
      options: name the release, the model, and which scores are kept.

    Raises:
      DataError: the release or the model cannot be used.
    """

    def __init__(self, options: Options):
        skills = read_esco(options.esco, Repairs(), normalise, languages=[options.language]).skills
        labels = [skill.label for skill in skills.values()]
        self._names = SkillNames(skills, {label: node for node, label in enumerate(labels)})
        self._threshold, self._k = options.threshold, options.k
        try:
            ranker = Ranker.from_pretrained(options.model, options.pooling)
        except ValueError as error:
            raise DataError(f'--model={options.model}: {error}') from error
        self._index = ranker.facing('target').index(labels, list(skills))

    def knows_any(self, names: Sequence[str]) -> bool:
        """Whether any of the names is a skill's URI or label."""
        return bool(self._names.nodes(names))

    def tag(self, sentences: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
        """Finds the best skills of sentences.

        Returns:
          By sentence, for those that have any: `skills`, the URIs of at most k, best first; and their `scores`, none
          below the threshold.
        """
        tags = {}
        for first in range(0, len(sentences), SENTENCES_PER_CALL):
            block = sentences[first : first + SENTENCES_PER_CALL]
            for sentence, scores in zip(block, self._index.score(block), strict=True):
                enough = np.flatnonzero(scores >= self._threshold)
                best = enough[np.argsort(-scores[enough], kind='stable')[: self._k]]
                if len(best):
                    tags[sentence] = {
                        'skills': [self._index.ids[skill] for skill in best],
                        'scores': [round(score, 6) for score in scores[best].tolist()],
                    }
        return tags


def model_fingerprint(directory: pathlib.Path, pooling: str) -> str:
    """Identifies what scores depend on: a model's files, and the pooling."""
    names = (download.CONFIG, *download.weight_files(directory), download.TOKENIZER)
    files = {name: sha256(directory / name) for name in names}
    if (directory / pretrained.SETTINGS).exists():
        files[pretrained.SETTINGS] = sha256(directory / pretrained.SETTINGS)
    return hashlib.sha256(json.dumps([files, pooling], sort_keys=True).encode()).hexdigest()[:16]
