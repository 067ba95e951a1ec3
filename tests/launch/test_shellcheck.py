"""The scripts of launch/ as text."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.launch.stand_ins import LAUNCH

SCRIPTS = sorted([*LAUNCH.rglob('*.sh'), *LAUNCH.rglob('*.sbatch')])
NAMES = [str(script.relative_to(LAUNCH)) for script in SCRIPTS]


@pytest.mark.parametrize('script', SCRIPTS, ids=NAMES)
def test_shellcheck_finds_nothing(script):
    shellcheck = pathlib.Path(sys.executable).with_name('shellcheck')
    command = [shellcheck, '--external-sources', '--source-path=SCRIPTDIR', script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('script', SCRIPTS, ids=NAMES)
def test_the_head_of_a_script_explains_its_use(script):
    head = script.read_text().split('\nset ')[0]
    assert script.name in head or script.name == 'steps.sh'


@pytest.mark.parametrize('script', SCRIPTS, ids=NAMES)
def test_scripts_that_are_run_by_name_are_executable(script):
    assert os.access(script, os.X_OK) == (script.suffix == '.sh' and script.name != 'steps.sh')
