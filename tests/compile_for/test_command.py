"""The command, as a process."""

import subprocess
import sys

from tests.conftest import ROOT


def test_a_wrong_topology_is_an_error_of_one_line():
    flags = ['--config=configs/uwe.py', '--topology=h100:many']
    ended = subprocess.run(
        [sys.executable, '-m', 'uwe_jax.compile_for', *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: topology 'h100:many', expected h100:GPUS or h100:HOSTSxGPUS, for example h100:8 or h100:2x8\n"
    )
