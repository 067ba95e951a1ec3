"""The command line that ranks."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ('name', 'content', 'flags'),
    [
        ('skills.txt', 'bake bread\n\nSQL\n', []),
        ('skills.csv', 'id,label\n1,bake bread\n2,SQL\n', ['--column=label']),
        ('skills.jsonl', '{"text": "bake bread"}\n{"text": "SQL"}\n', []),
    ],
)
def test_the_command_line_ranks_targets_of_a_file(tmp_path, base_model, name, content, flags):
    (tmp_path / name).write_text(content)
    command = [sys.executable, '-m', 'uwe_jax.rank', f'--model={base_model}', f'--targets={tmp_path / name}', *flags]
    done = subprocess.run([*command, 'baker'], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = done.stdout.split('baker\n')[1].splitlines()
    assert first.endswith('bake bread')
    assert second.endswith('SQL')


def test_the_command_line_refuses_a_file_without_the_column(tmp_path, base_model):
    (tmp_path / 'skills.csv').write_text('id,label\n1,bake bread\n')
    command = [sys.executable, '-m', 'uwe_jax.rank', f'--model={base_model}', f'--targets={tmp_path / "skills.csv"}']
    done = subprocess.run([*command, 'baker'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "skills.csv, row 1: no text in 'text'; name the right one with --column" in done.stderr
