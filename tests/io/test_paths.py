"""What a path may be."""

import dataclasses
import pathlib
import subprocess
import sys

import pytest
from etils import epath

from data_prep import build, check, enrich, report, scrape, tag
from tests.conftest import ROOT
from uwe_jax import attention, export, rank, sweep
from uwe_jax.io import console, paths
from uwe_jax.io.errors import DataError
from uwe_jax.workbench import __main__ as workbench

COMMANDS = [
    *(command.Options for command in (build, check, enrich, report, scrape, tag)),
    *(command.Options for command in (attention, export, rank, sweep, workbench)),
]
FLAGS = [(options, field) for options in COMMANDS for field in dataclasses.fields(options)]
LOCAL = [(options, field.name) for options, field in FLAGS if field.type in (pathlib.Path, pathlib.Path | None)]
ANY = [(options, field.name) for options, field in FLAGS if field.type in (epath.Path, epath.Path | None)]


@pytest.mark.parametrize('words', ['data', '/tmp/data', 'a:b/c', '~/data', '.'])
def test_a_path_on_this_machine_is_what_pathlib_makes_of_it(words):
    assert paths.parse(words) == pathlib.Path(words)
    assert isinstance(paths.parse(pathlib.Path(words)), pathlib.Path)


def test_a_path_in_a_bucket_can_be_written_as_text_or_as_a_path():
    path = paths.parse('gs://bucket/run//checkpoints/')
    assert str(path) == 'gs://bucket/run/checkpoints'
    assert paths.parse(path) == path


@pytest.mark.parametrize(
    'words',
    ['s3://bucket/data', 'http://host/data', 'gs:/bucket/data', 'gs://', 'gs://bucket', 'gs://bucket/', 'gs:///data'],
)
def test_anything_else_is_refused_in_one_line(words):
    with pytest.raises(DataError) as refused:
        paths.parse(words)
    assert str(refused.value) == f'{words}: expected a local path or gs://BUCKET/NAME'


def test_a_path_that_lost_a_slash_is_refused_and_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from uwe_jax.io.files import whole_directory

    with pytest.raises(DataError, match='gs:/bucket/data: expected'), whole_directory(pathlib.Path('gs://bucket/data')):
        pass
    assert list(tmp_path.iterdir()) == []


def flags(options, chosen, value):
    """Flags with which a command starts: the required ones, and the chosen one."""
    required = [field.name for field in dataclasses.fields(options) if field.default is field.default_factory]
    return [f'--{name}={value if name == chosen else "1"}' for name in dict.fromkeys([*required, chosen])]


@pytest.mark.parametrize(('options', 'name'), LOCAL)
def test_a_command_that_expects_a_local_path_refuses_a_bucket_in_one_line(options, name, capsys):
    with pytest.raises(SystemExit, match='2'):
        console.parse(options, flags(options, name, 'gs://bucket/x'))
    assert capsys.readouterr().err.startswith(f'error: --{name}=gs:/bucket/x: expected a local path')


@pytest.mark.parametrize(('options', 'name'), ANY)
def test_other_commands_take_a_bucket(options, name):
    chosen = console.parse(options, flags(options, name, 'gs://bucket/x'))
    assert str(getattr(chosen, name)) == 'gs://bucket/x'


@pytest.mark.parametrize(('options', 'name'), ANY)
def test_no_command_takes_another_scheme(options, name, capsys):
    with pytest.raises(SystemExit, match='2'):
        console.parse(options, flags(options, name, 's3://bucket/x'))
    assert capsys.readouterr().err == f'error: --{name}=s3:/bucket/x: expected a local path or gs://BUCKET/NAME\n'


WITHOUT = """
import sys
sys.modules['gcsfs'] = None
from uwe_jax.io.paths import parse
parse(sys.argv[1])
"""


def test_without_the_extra_a_bucket_is_refused_with_the_way_to_install_it():
    ended = subprocess.run([sys.executable, '-c', WITHOUT, 'gs://b/x'], cwd=ROOT, capture_output=True, text=True)
    remedy = "pip install -c constraints.txt -e '.[gcs]'"
    assert ended.stderr.splitlines()[-1].endswith(f'gs://b/x: a bucket needs the extra gcs: {remedy}')


LOCAL_WORK = """
import sys
from uwe_jax.io import buckets, files, paths
with files.whole_directory(sys.argv[1]) as directory:
    (directory / 'x').write_text('x')
assert paths.exists(buckets.local_copy(paths.parse(sys.argv[1])) / 'x')
print(sorted({'aiohttp', 'fsspec', 'gcsfs', 'google.auth', 'requests'} & sys.modules.keys()))
"""


def test_work_on_this_machine_imports_nothing_for_buckets(tmp_path):
    command = [sys.executable, '-c', LOCAL_WORK, str(tmp_path / 'data')]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == '[]\n'
