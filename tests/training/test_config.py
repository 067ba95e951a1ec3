"""The experiment's config: what it refuses, by the name of the field."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import pytest

from configs.uwe import get_config
from tests.conftest import ROOT, experiment
from uwe_jax.distributed.mesh import check_divides, make_mesh
from uwe_jax.interaction import Score
from uwe_jax.train import train
from uwe_jax.training.config import Config


def changed(fields, name, value):
    """Nested fields with another value for one of them."""
    first, _, rest = name.partition('.')
    return fields | {first: changed(fields[first], rest, value) if rest else value}


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('seed', -1),
        ('steps', 0),
        ('steps', 1.5),
        ('steps', True),
        ('init', 7),
        ('model.dtype', 'float16'),
        ('model.dropout', 1.0),
        ('run.rows_at_once', 0.5),
        ('model.layers', 0),
        ('data.batch_size', 0),
        ('data.distractor_probability', 1.5),
        ('data.length.job', 2),
        ('data.length.job', 65),
        ('score.kind', 'dot'),
        ('score.temperature', -0.1),
        ('score.temperature', 'low'),
        ('interaction.dtype', 'int8'),
        ('interaction.form', 'fast'),
        ('interaction.exchange', 'post'),
        ('interaction.block_entries', -1),
        ('loss.weight.sentence', -0.5),
        ('loss.weight.sentence', float('inf')),
        ('loss.temperature.job', 0.0),
        ('loss.positives', 'some'),
        ('optimizer.peak_lr', 0.0),
        ('optimizer.peak_lr', float('nan')),
        ('optimizer.peak_lr', float('inf')),
        ('optimizer.warmup', 1.0),
        ('optimizer.decay', 'step'),
        ('optimizer.weight_decay', -1.0),
        ('optimizer.b2', 1.0),
        ('optimizer.max_skips', -1),
        ('mesh.data', 0),
        ('mesh.fsdp', 0),
        ('run.log_every', 0),
        ('run.save_every', -1),
        ('run.prefetch', -1),
        ('run.profile_first', -1),
        ('run.profile_steps', 0),
    ],
)
def test_a_value_that_a_field_cannot_have_is_refused_by_the_name_of_the_field(field, value):
    with pytest.raises(ValueError, match=re.escape(f'{field}: {value!r}, expected ')):
        Config.of(changed(get_config().to_dict(), field, value))


def test_clipping_is_switched_off_by_inf():
    config = experiment(**{'optimizer.clip': float('inf')})
    assert Config.of(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_a_field_that_is_missing_is_named():
    fields = get_config().to_dict()
    del fields['loss']['weight']['job']
    with pytest.raises(ValueError, match=r'^loss\.weight\.job: missing'):
        Config.of(fields)


def test_an_unknown_field_is_named_with_those_that_exist():
    fields = get_config().to_dict() | {'mesh': {'data': 1, 'fsdp': 1, 'tensor': 2}}
    with pytest.raises(ValueError, match=r'^mesh\.tensor: 2, an unknown field; expected data, fsdp'):
        Config.of(fields)


def test_a_value_where_fields_belong_is_refused():
    with pytest.raises(ValueError, match=r'^run: 3, expected the fields log_every, '):
        Config.of(get_config().to_dict() | {'run': 3})


@pytest.mark.parametrize('variant', ['', 'paper', 'quickstart', 'public'])
def test_json_gives_the_same_experiment_back(variant):
    config = experiment(variant, **{'data.dir': '/data'})
    assert Config.of(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_a_relative_path_of_the_dataset_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert experiment(**{'data.dir': 'data'}).data.dir == str(tmp_path / 'data')


def test_a_relative_path_of_the_base_model_becomes_absolute_and_a_name_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'base').mkdir()
    assert experiment(init='base').init == str(tmp_path / 'base')
    assert experiment(init='some/model').init == 'some/model'


def test_a_path_of_the_dataset_in_a_bucket_stays_as_it_is():
    assert experiment(**{'data.dir': 'gs://bucket/data'}).data.dir == 'gs://bucket/data'


def test_a_missing_dataset_is_refused():
    with pytest.raises(ValueError, match=r'data\.dir: not given, expected what `python -m data_prep build --output`'):
        train(experiment(), pathlib.Path('nowhere'))


def test_a_mesh_that_the_devices_do_not_fill_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'mesh\.fsdp: 3, expected a divisor of the 8 devices'):
        train(experiment(**{'mesh.fsdp': 3, 'data.dir': '/data'}), tmp_path)


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r'data\.batch_size: 30, expected a multiple of the 8 devices'):
        check_divides(30, make_mesh())


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match='unknown variant, expected nothing, paper, quickstart or public'):
        get_config('quick')


def test_the_paper_scores_as_published():
    score = Score(kind='soft', temperature=0.1, attend='target', target='tokens', special_tokens=True)
    assert experiment('paper').score == score


def test_the_quickstart_changes_sizes_and_not_the_method():
    paper, small = experiment(), experiment('quickstart')
    assert paper.score == small.score
    assert paper.loss == small.loss


def test_the_command_refuses_in_one_line_and_leaves_no_workdir(tmp_path):
    command = [sys.executable, '-m', 'uwe_jax.main', '--config=configs/uwe.py', f'--workdir={tmp_path / "run"}']
    ended = subprocess.run([*command, '--config.data.dir=/nowhere'], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith('error: /nowhere: not a dataset')
    assert 'Traceback' not in ended.stderr
    assert not (tmp_path / 'run').exists()
