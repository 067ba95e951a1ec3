"""The training recipe: check, mesh, data, state, restore, step, evaluate, save."""

import json
import logging
import pathlib

import jax
from flax import nnx

from uwe_jax.data.graph import open_dataset
from uwe_jax.data.loader import batches, choose_lengths
from uwe_jax.data.plan import Plan
from uwe_jax.distributed import mesh
from uwe_jax.distributed.preemption import Preempted, Preemption
from uwe_jax.distributed.processes import agreed
from uwe_jax.distributed.stall import StallWatch
from uwe_jax.evaluation.evaluate import compare, evaluate_all, table
from uwe_jax.evaluation.tasks import held_out_tasks, sampled
from uwe_jax.interaction import Score
from uwe_jax.models import download, pretrained
from uwe_jax.models.tokenizer import Tokenizer
from uwe_jax.ranking import Ranker
from uwe_jax.training.checkpoint import Checkpoints
from uwe_jax.training.config import Config, check
from uwe_jax.training.metrics import Logs, Meter, check_finite, progress
from uwe_jax.training.optimizer import make_optimizer
from uwe_jax.training.state import abstract_state, first_state, shardings_of
from uwe_jax.training.step import make_step
from uwe_jax.training.workdir import claimed

logger = logging.getLogger(__name__)


def train(config: Config, workdir: pathlib.Path) -> None:
    """Trains from the first step, or from the newest checkpoint in the workdir, to the last.

    Args:
      config: see `configs/uwe.py`.
      workdir: an absolute directory for checkpoints and logs; made if it is not there.

    Raises:
      ValueError: the config, the dataset and the workdir do not fit together; nothing long has begun then.
      FloatingPointError: the loss or the gradient is no number any more; the message names the step.
      OSError: a checkpoint could not be written, for example because the disk is full.
      Preempted: the run was asked to stop early (SIGTERM), and has saved all that it did.
    """
    check(config)
    if config.data.dir is None:
        raise ValueError('data.dir: not given, expected what `python -m data_prep build --output` made')
    config.data.dir = str(pathlib.Path(config.data.dir).absolute())
    score = Score(**config.score)
    optimizer, schedule = make_optimizer(config.optimizer, config.steps)
    device_mesh = mesh.make_mesh(**config.mesh)
    mesh.check_divides(config.data.batch_size, device_mesh)

    dataset = open_dataset(config.data.dir)
    lengths = choose_lengths(dataset.manifest['lengths'], config.data.length)
    plan = Plan(
        dataset.graphs,
        batch_size=config.data.batch_size,
        seed=config.seed,
        distractor_probability=config.data.distractor_probability,
    )
    tasks = [sampled(task, config.run.evaluate_queries, config.seed) for task in held_out_tasks(dataset)]
    logger.info('mesh %s, %.1f steps an epoch, padded to %s', dict(device_mesh.shape), plan.steps_per_epoch, lengths)

    base = download.fetch(config.init)
    tokenizer = Tokenizer.from_pretrained(base)
    graphdef, params = nnx.split(pretrained.abstract_encoder(base, **config.model))
    like = abstract_state(params, optimizer, device_mesh)

    with (
        StallWatch(config.run.stall_timeout) as watch,  # first, as all that follows waits for other processes
        Preemption() as preemption,
        claimed(workdir, config, dataset.fingerprint),  # only now, so that what was refused above claims nothing
        Checkpoints(workdir, config.run.keep) as checkpoints,
        Logs(workdir, checkpoints.start or 0, writes=jax.process_index() == 0) as logs,
    ):
        if checkpoints.start is None:
            state = first_state(pretrained.load_params(base, params), optimizer, config.seed, like)
        else:
            state = checkpoints.restore(like)
            logger.info('continuing after step %d', state.step)
        first_step = int(state.step)

        def evaluate_now(step: int) -> None:
            ranker = Ranker(nnx.merge(graphdef, state.params), tokenizer, score, device_mesh)
            missing = tasks[agreed(len(logs.evaluated(step))) :]  # all, unless the run was stopped while evaluating
            for task, result in evaluate_all(ranker, missing):
                logs.evaluation(step, task.name, result)
                watch.got_on()
                if preemption.reached():
                    raise Preempted

        def save(step: int) -> None:
            checkpoints.save(step, state, {'config': json.loads(config.to_json()), 'data': dataset.fingerprint})

        if _due(first_step, config.run.evaluate_every, config.steps):
            with preemption.at_once():
                evaluate_now(first_step)
        take_step = make_step(graphdef, optimizer, schedule, config, device_mesh, shardings_of(like))
        steps = range(first_step, config.steps)
        meter = Meter()
        read_ahead = batches(dataset, plan, lengths, mesh.rows(device_mesh), steps, config.run.prefetch)
        for step, batch in zip(steps, meter.waiting(read_ahead), strict=True):
            state, metrics = take_step(state, batch)
            meter.add(step + 1, metrics)
            watch.got_on()
            stop = preemption.reached()
            due = {
                name: _due(step + 1, config.run[f'{name}_every'], config.steps) for name in ('log', 'evaluate', 'save')
            }
            if not any(due.values()) and not stop:
                continue
            lines = meter.read()
            logs.metrics(lines)
            check_finite(lines, config.optimizer.max_skips, checkpoints.latest)
            progress(step + 1, config.steps, lines[-1][1])
            if due['save'] or due['evaluate'] or stop:  # before evaluating, which takes long and may be cut short
                save(step + 1)
            if stop:
                raise Preempted
            if due['evaluate']:
                with preemption.at_once():
                    evaluate_now(step + 1)
                meter.restart()
        logger.info('held-out tasks:\n%s\n%s', table(logs.evaluations()), compare(logs.evaluations()))


def _due(step: int, every: int, steps: int) -> bool:
    return step == steps or step % every == 0
