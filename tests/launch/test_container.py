"""launch/Dockerfile."""

import shlex
import tomllib

import pytest

from tests.launch.stand_ins import LAUNCH

ROOT = LAUNCH.parent
INSTRUCTIONS = shlex.split(
    'ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL ONBUILD RUN SHELL STOPSIGNAL USER VOLUME WORKDIR'
)


@pytest.fixture(scope='module')
def instructions():
    """The instructions in order, each with its arguments."""
    lines = [line for line in (LAUNCH / 'Dockerfile').read_text().splitlines() if line and not line.startswith('#')]
    joined = '\n'.join(lines).replace('\\\n', ' ')
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


def test_it_is_a_base_followed_by_known_instructions(instructions):
    assert {name for name, _ in instructions} <= {*INSTRUCTIONS}
    assert instructions[0][0] == 'FROM'


def test_everything_that_it_copies_exists(instructions):
    copied = [source for name, rest in instructions if name == 'COPY' for source in rest.split()[:-1]]
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_the_whole_package_is_copied(instructions):
    copied = {source for name, rest in instructions if name == 'COPY' for source in rest.split()[:-1]}
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
    packages = {name.rstrip('*') for name in project['tool']['setuptools']['packages']['find']['include']}
    assert packages | {'configs', project['project']['readme'], *project['project']['license-files']} <= copied


def test_the_extras_that_it_names_exist():
    extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
    assert {'tpu', 'cuda'} <= {*extras}


def test_a_signal_reaches_the_program_directly(instructions):
    assert 'ENTRYPOINT' not in dict(instructions)
    assert dict(instructions)['CMD'].startswith('["python"')
