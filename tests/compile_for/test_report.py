"""What is printed about a topology."""

import pytest

from tests.compile_for.conftest import GIB
from uwe_jax.compile_for import compiled
from uwe_jax.compile_for.compiled import Memory
from uwe_jax.compile_for.rehearsal import Rehearsal, Trial
from uwe_jax.compile_for.report import describe, examine, table


def test_the_report_says_what_a_step_holds_computes_and_sends(rehearsal, trial):
    lines = list(describe(rehearsal, trial))
    numbers = {line[:22].strip(): line[22:].split() for line in lines if line.startswith('  ')}
    assert lines[0] == 'batch 16, per chip 1 rows of 64 tokens, 1 at a time'
    assert float(numbers['parameters'][0]) == pytest.approx(rehearsal.arguments(16)['parameters'] / 2**20, abs=0.05)
    assert float(numbers['peak'][0]) == pytest.approx(trial.memory.needed / 2**20, abs=0.05)
    assert float(numbers['all'][0]) == pytest.approx(compiled.sent(trial.program) / 2**20, abs=0.05)
    assert '  fits' in lines
    assert {one.kind for one in compiled.collectives(trial.program)} <= numbers.keys()


def test_the_report_of_a_refused_step_gives_the_reason_and_what_follows_from_formulas(rehearse):
    lines = list(describe(rehearse(), Trial(16, None, None, 'RESOURCE_EXHAUSTED: Used 20G of 15.75G hbm.')))
    assert '  does not fit: RESOURCE_EXHAUSTED: Used 20G of 15.75G hbm.' in lines
    assert any(line.startswith('  by formula') for line in lines)
    assert not any('collectives' in line for line in lines)


def test_several_topologies_make_a_table():
    rows = [{'topology': 'v5e:2x4', 'chips': '8'}, {'topology': 'v5e:8x8', 'chips': '64'}]
    assert list(table(rows)) == ['| topology | chips |', '|---|---|', '| v5e:2x4 | 8 |', '| v5e:8x8 | 64 |']


class TenSkills(Rehearsal):
    """Its compiler, which takes no time, refuses more than 10 skills per device."""

    def trial(self, batch_size):
        skills = batch_size // self.devices
        return Trial(
            batch_size, None, Memory(0, 0, 0, 0, skills * GIB), '' if skills <= 10 else f'needs {skills:.2f} GiB'
        )


@pytest.mark.parametrize('search', [False, True])
def test_a_topology_is_one_row_of_the_table(rehearse, capsys, search):
    row = examine('v5e:2x4', rehearse(usable=10 * GIB, kind=TenSkills), 16, search=search)
    expected = {'topology': 'v5e:2x4', 'chips': '8', 'memory': '10.00', 'peak, batch 16': '2.00', 'TFLOP': '0.00'}
    searched = {'largest batch': '80', 'its peak': '10.00'} if search else {}
    assert row == expected | {'MiB sent': '-'} | searched
    assert ('largest batch: 80; 88 does not fit' in capsys.readouterr().out) == search
