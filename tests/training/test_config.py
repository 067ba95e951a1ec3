"""The experiment's config: what it refuses, by the name of the field."""

import pathlib
import re
import subprocess
import sys

import pytest

from configs.uwe import get_config
from uwe_jax.distributed.mesh import check_divides, make_mesh
from uwe_jax.train import train
from uwe_jax.training.config import check
from uwe_jax.training.optimizer import make_optimizer


def refuse(config):
    """Looks at a config as training does."""
    check(config)
    make_optimizer(config.optimizer, config.steps)
    make_mesh(**config.mesh)


def refused(field, value):
    config = get_config()
    config.data.dir = 'somewhere'
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=re.escape(f'{field}: ')) as caught:
        refuse(config)
    assert 'expected' in str(caught.value)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('steps', 0),
        ('run.log_every', 0),
        ('run.save_every', -1),
        ('run.prefetch', -1),
        ('model.dtype', 'float16'),
        ('model.dropout', 1.0),
        ('interaction.form', 'fast'),
        ('loss.temperature.job', 0.0),
        ('loss.weight.sentence', -0.5),
        ('loss.positives', 'some'),
        ('score.kind', 'dot'),
        ('score.temperature', -0.1),
        ('optimizer.decay', 'step'),
        ('optimizer.peak_lr', 0.0),
        ('optimizer.warmup', 1.0),
        ('mesh.fsdp', 3),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field, value):
    refused(field, value)


def test_a_missing_dataset_is_refused():
    with pytest.raises(ValueError, match=r'data\.dir: not given, expected what `python -m data_prep build --output`'):
        train(get_config(), pathlib.Path('nowhere'))


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r'data\.batch_size: 30, expected a multiple of the 8 devices'):
        check_divides(30, make_mesh())


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match='unknown variant, expected nothing or quickstart'):
        get_config('quick')


def test_the_quickstart_changes_sizes_and_not_the_method():
    paper, small = get_config(), get_config('quickstart')
    assert paper.score == small.score
    assert paper.loss == small.loss


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('--config.optimizer.lr=1', 'lr'),
        ('--config.steps=many', 'steps'),
        ('--config.data.dir=/nowhere', 'nowhere: not a dataset'),
    ],
)
def test_the_command_line_refuses_in_one_line_and_leaves_no_workdir(tmp_path, argument, message):
    command = [
        sys.executable,
        '-m',
        'uwe_jax.main',
        '--config=configs/uwe.py',
        f'--workdir={tmp_path / "run"}',
        argument,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'run').exists()
