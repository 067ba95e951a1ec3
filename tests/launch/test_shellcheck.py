"""The scripts of launch/ as texts."""

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
def test_a_script_says_at_its_head_what_it_is_for_and_how_it_is_used(script):
    head = script.read_text().split('\nset ')[0]
    assert script.name in head or script.name == 'steps.sh'


@pytest.mark.parametrize('script', SCRIPTS, ids=NAMES)
def test_what_is_started_by_its_name_may_be_executed(script):
    assert os.access(script, os.X_OK) == (script.suffix == '.sh' and script.name != 'steps.sh')
