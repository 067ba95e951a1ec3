"""What a model is asked: the prompt's file with its version, and the schema of the answer."""

import dataclasses
import hashlib
import importlib.resources
import string
from collections.abc import Collection

from uwe_jax.io.esco import Concept

PROMPT = 'titles-v1'
USER = '\n=== user ===\n'  # the line that parts the system's message from the user's
MOST_DESCRIPTION = 1500  # characters; the longest description of ESCO 1.2.0 has 692

# OpenAI's strict mode knows neither minItems nor maxLength on every endpoint, so lengths are checked by answers.py.
ANSWER = {
    'type': 'json_schema',
    'json_schema': {
        'name': 'job_titles',
        'strict': True,
        'schema': {
            'type': 'object',
            'properties': {'titles': {'type': 'array', 'items': {'type': 'string'}}},
            'required': ['titles'],
            'additionalProperties': False,
        },
    },
}


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt of this package.

    Attributes:
      name: of its file, without the ending.
      sha256: of its file, in hex.
      system: the system's message.
      user: the user's message, with $name, $alternatives, $description, $titles and $count to be filled in.
    """

    name: str
    sha256: str
    system: str
    user: string.Template

    @classmethod
    def load(cls, name: str = PROMPT) -> 'Prompt':
        """Reads `prompts/NAME.md`."""
        data = (importlib.resources.files('data_prep.enrich') / 'prompts' / f'{name}.md').read_bytes()
        system, user = data.decode().split(USER)
        return cls(name, hashlib.sha256(data).hexdigest(), system.strip(), string.Template(user.strip()))

    @property
    def version(self) -> dict[str, str]:
        """Name and checksum: what a manifest says of it."""
        return {'name': self.name, 'sha256': self.sha256}

    def messages(self, skill: Concept, titles: Collection[str], count: int) -> list[dict[str, str]]:
        """The messages of one request: a pure function of its arguments, whatever the order of the titles.

        Args:
          skill: name, alternatives and description ground the answer.
          titles: those that the skill has, and those that were proposed before.
          count: how many further ones are asked for.
        """
        user = self.user.substitute(
            name=skill.label,
            alternatives='; '.join(skill.alternatives) or 'none',
            description=' '.join(skill.description.split())[:MOST_DESCRIPTION] or 'none',
            titles='\n'.join(f'- {title}' for title in sorted(titles)) or 'none',
            count=count,
        )
        return [{'role': 'system', 'content': self.system}, {'role': 'user', 'content': user}]
