"""The command, as a process."""

import subprocess
import sys

from tests.conftest import ROOT


def run(*flags):
    command = [sys.executable, '-m', 'uwe_jax.compile_for', '--config=configs/uwe.py', *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_wrong_topology_is_an_error_of_one_line():
    ended = run('--topology=h100:many')
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: topology 'h100:many', expected h100:GPUS or h100:HOSTSxGPUS, for example h100:8 or h100:2x8\n"
    )


def test_an_unknown_field_is_an_error_of_one_line():
    ended = run('--topology=v5e:2x4', '--config.model.width=3')
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: --config.model.width=3: no field 'width' there; the config file shows those that exist\n"
    )
