"""What a model is asked: the prompt, with its version, and the schema of the answer."""

import dataclasses
import hashlib
import importlib.resources
import string
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from uwe_jax.io.esco import Concept

PROMPT = 'titles-v1'
USER = '\n=== user ===\n'  # separates the system message from the user message
MOST_DESCRIPTION = 1500  # characters; the longest description of ESCO 1.2.0 has 692

# Not every endpoint supports minItems and maxLength in strict mode, so answers.py checks lengths.
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

FORMATS = (ANSWER, {'type': 'json_object'}, None)  # of an answer, the most binding first; None is plain text
IN_WORDS = 'Answer with a JSON object and nothing else: {"titles": ["...", "..."]}'


def in_format(messages: Sequence[Mapping[str, str]], answer: Mapping[str, Any] | None) -> dict[str, Any]:
    """The messages and the response format of a request; what is not a schema is also asked for in words."""
    if answer is ANSWER:
        return {'messages': messages, 'response_format': answer}
    system, *others = messages
    asked = [{**system, 'content': f'{system["content"]}\n\n{IN_WORDS}'}, *others]
    return {'messages': asked} | ({'response_format': answer} if answer else {})


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt of this package.

    Attributes:
      name: the name of its file, without the ending.
      sha256: the checksum of its file, in hexadecimal.
      system: the system message.
      user: the user message, with $name, $alternatives, $description, $titles and $count to be filled in.
    """

    name: str
    sha256: str
    system: str
    user: string.Template

    @classmethod
    def load(cls) -> 'Prompt':
        """Reads `prompts/titles-v1.md`."""
        data = (importlib.resources.files('data_prep.enrich') / 'prompts' / f'{PROMPT}.md').read_bytes()
        system, user = data.decode().split(USER)
        return cls(PROMPT, hashlib.sha256(data).hexdigest(), system.strip(), string.Template(user.strip()))

    @property
    def version(self) -> dict[str, str]:
        """Name and checksum, for manifests."""
        return {'name': self.name, 'sha256': self.sha256}

    def messages(self, skill: Concept, titles: Collection[str], count: int) -> list[dict[str, str]]:
        """The messages of one request: a pure function of the arguments that ignores the order of the titles.

        Args:
          skill: its name, alternatives and description ground the answer.
          titles: those that the skill has already, real or proposed.
          count: how many more to ask for.
        """
        user = self.user.substitute(
            name=skill.label,
            alternatives='; '.join(skill.alternatives) or 'none',
            description=' '.join(skill.description.split())[:MOST_DESCRIPTION] or 'none',
            titles='\n'.join(f'- {title}' for title in sorted(titles)) or 'none',
            count=count,
        )
        return [{'role': 'system', 'content': self.system}, {'role': 'user', 'content': user}]
