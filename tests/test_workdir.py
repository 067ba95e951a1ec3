"""A workdir belongs to one config and one dataset."""

import json

import pytest

from configs.uwe import get_config
from uwe_jax.workdir import claim


def test_a_run_may_be_continued_by_the_same_config_and_data(tmp_path):
    claim(tmp_path, get_config(), 'data')
    claim(tmp_path, get_config(), 'data')
    assert json.loads((tmp_path / 'config.json').read_text())['steps'] == 10_000


@pytest.mark.parametrize(
    ('field', 'value'), [('steps', 7), ('optimizer.peak_lr', 1.0), ('seed', 1), ('score.kind', 'maxsim')]
)
def test_another_experiment_is_refused_by_the_name_of_the_field(tmp_path, field, value):
    claim(tmp_path, get_config(), 'data')
    other = get_config()
    other.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=rf'config\.json: made with {field}=.*, but now {field}={value!r}'):
        claim(tmp_path, other, 'data')


def test_other_data_is_refused(tmp_path):
    claim(tmp_path, get_config(), 'data')
    with pytest.raises(ValueError, match=r"data\.json: made with fingerprint='data', but now fingerprint='other'"):
        claim(tmp_path, get_config(), 'other')


@pytest.mark.parametrize(('field', 'value'), [('mesh.fsdp', 2), ('run.log_every', 7), ('data.dir', '/elsewhere')])
def test_how_and_where_a_run_goes_on_may_change(tmp_path, field, value):
    claim(tmp_path, get_config(), 'data')
    other = get_config()
    other.update_from_flattened_dict({field: value})
    claim(tmp_path, other, 'data')
