"""launch/Dockerfile."""

import shlex
import tomllib

import pytest

from tests.launch.stand_ins import LAUNCH

ROOT = LAUNCH.parent
# All that a Dockerfile can say.
INSTRUCTIONS = shlex.split(
    'ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL ONBUILD RUN SHELL STOPSIGNAL USER VOLUME WORKDIR'
)


@pytest.fixture(scope='module')
def instructions():
    """The instructions, each with what follows it, in order."""
    lines = [line for line in (LAUNCH / 'Dockerfile').read_text().splitlines() if line and not line.startswith('#')]
    joined = '\n'.join(lines).replace('\\\n', ' ')
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


def test_it_consists_of_known_instructions_and_begins_with_a_base(instructions):
    assert {name for name, _ in instructions} <= {*INSTRUCTIONS}
    assert instructions[0][0] == 'FROM'


def test_all_that_it_copies_is_there(instructions):
    copied = [source for name, rest in instructions if name == 'COPY' for source in rest.split()[:-1]]
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_all_that_the_package_consists_of_is_copied(instructions):
    copied = {source for name, rest in instructions if name == 'COPY' for source in rest.split()[:-1]}
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
    packages = {name.rstrip('*') for name in project['tool']['setuptools']['packages']['find']['include']}
    assert packages | {'configs', project['project']['readme'], *project['project']['license-files']} <= copied


def test_the_extras_that_it_names_exist():
    extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
    assert {'tpu', 'cuda'} <= {*extras}


def test_nothing_stands_between_a_signal_and_the_program(instructions):
    assert 'ENTRYPOINT' not in dict(instructions)
    assert dict(instructions)['CMD'].startswith('["python"')
