"""The training recipe: mesh, data, state, restore, step, evaluate, save."""

import dataclasses
import logging
import math

import jax
from flax import nnx

from uwe_jax.data.graph import open_dataset
from uwe_jax.data.loader import batches, check_tokenizer
from uwe_jax.data.packed_plan import ROW
from uwe_jax.distributed import mesh
from uwe_jax.distributed.heartbeat import Heartbeat
from uwe_jax.distributed.preemption import Preempted, Preemption
from uwe_jax.distributed.processes import broadcast
from uwe_jax.evaluation.evaluate import evaluate_all
from uwe_jax.evaluation.tasks import held_out_tasks, sampled
from uwe_jax.io.console import Progress
from uwe_jax.io.paths import Path
from uwe_jax.models import download, pretrained
from uwe_jax.models.tokenizer import Tokenizer
from uwe_jax.ranking import Ranker
from uwe_jax.training.checkpoint import Checkpoints
from uwe_jax.training.config import Config
from uwe_jax.training.flops import peak_flops
from uwe_jax.training.metrics import Meter, MetricsLog, before_and_after, check_finite, losses, speed
from uwe_jax.training.optimizer import make_optimizer
from uwe_jax.training.profiling import StepProfiler
from uwe_jax.training.state import abstract_state, first_state
from uwe_jax.training.step import make_step
from uwe_jax.training.workdir import claimed

logger = logging.getLogger(__name__)


def train(config: Config, workdir: Path) -> None:
    """Trains to the last step, from the newest checkpoint in the workdir, or from the first step if there is none.

    Args:
      config: the experiment.
      workdir: for checkpoints and metrics: an absolute directory, made if it does not exist, or one in a bucket.

    Raises:
      ValueError: the config, the dataset and the workdir do not fit together; this is found before any long work.
      FloatingPointError: the loss or the gradient is non-finite; the message names the step.
      OSError: a checkpoint could not be written, for example because the disk is full.
      BucketError: the bucket of the workdir cannot be used.
      Preempted: the run was asked to stop early (SIGTERM); every step that it took is saved.
    """
    if config.data.dir is None:
        raise ValueError('data.dir: not given, expected what `python -m data_prep build --output` made')
    device_mesh = mesh.make_mesh(config.mesh.data, config.mesh.fsdp)
    mesh.check_divides(config.data.batch_size, device_mesh)

    dataset = open_dataset(config.data.dir)
    packed = config.packed_plan(dataset, device_mesh.size)
    tasks = [sampled(task, config.run.evaluate_queries, config.seed) for task in held_out_tasks(dataset)]
    logger.info('mesh %s, %.1f steps per epoch', dict(device_mesh.shape), packed.plan.steps_per_epoch)
    logger.info('%d rows of %d tokens per device, texts cut to %s', packed.rows, ROW, packed.lengths)

    base = download.fetch(config.init)
    tokenizer = Tokenizer.from_pretrained(base)
    check_tokenizer(dataset, tokenizer, config.init)
    graphdef, params_shape = nnx.split(pretrained.abstract_encoder(base, **dataclasses.asdict(config.model)))
    optimizer, schedule = make_optimizer(config.optimizer, config.steps)
    state_shape = abstract_state(params_shape, optimizer, device_mesh)

    with (
        Heartbeat(config.run.stall_timeout) as heartbeat,  # first, as all that follows waits for other processes
        Preemption() as preemption,
        claimed(workdir, config, dataset.manifest) as check,  # only now: a run that was refused above claims nothing
        Checkpoints(workdir, config.run.keep, check) as checkpoints,
        MetricsLog(workdir, checkpoints.start or 0, writes=jax.process_index() == 0) as log,
    ):
        if checkpoints.start is None:
            params = pretrained.load_params(base, params_shape)
            state = first_state(params, optimizer, config.seed, state_shape)
        else:
            state = checkpoints.restore(state_shape)
            logger.info('continuing after step %d', state.step)
        first_step = int(state.step)

        def evaluate(step: int) -> None:
            with jax.transfer_guard('allow'), preemption.interruptible():
                ranker = Ranker(nnx.merge(graphdef, state.params), tokenizer, config.score, device_mesh)
                done = broadcast(len(log.evaluated(step)))  # above 0 if the run was stopped while it evaluated
                for task, result in evaluate_all(ranker, tasks, done, heartbeat.beat):
                    log.write_evaluation(step, task.name, result)
                    if preemption.reached():
                        raise Preempted

        def save(step: int) -> None:
            check()
            log.publish()  # first: whoever continues from the checkpoint finds the lines of all steps before it
            with jax.transfer_guard('allow'):
                checkpoints.save(step, state, {'config': dataclasses.asdict(config), 'data': dataset.fingerprint})

        if 'evaluate' in _due(first_step, config):
            evaluate(first_step)
        take_step = make_step(
            graphdef, optimizer, schedule, config, packed.lengths, packed.chunks, device_mesh, state_shape
        )
        steps = range(first_step, config.steps)
        peak = peak_flops(device_mesh.devices.flat[0], config.model.dtype)
        meter = Meter(peak and peak * device_mesh.size)
        read_ahead = batches(dataset, packed, mesh.rows(device_mesh), steps, config.run.prefetch)
        with (
            jax.transfer_guard('disallow'),  # in the loop, data moves to and from the devices only by explicit calls
            Progress('training', config.steps, 'steps', done=first_step, every=math.inf) as progress,
            StepProfiler(workdir, config.run.profile_first, config.run.profile_steps) as profiler,
        ):
            for step, batch in zip(steps, meter.waiting(read_ahead), strict=True):
                state, metrics = profiler.call(step + 1, take_step, state, batch)
                meter.add(step + 1, metrics)
                heartbeat.beat()
                progress.advance()
                due = _due(step + 1, config)
                stop = preemption.reached()
                if due or stop:
                    lines = meter.read()
                    log.write_steps(lines)
                    check_finite(lines, config.optimizer.max_skips, checkpoints.latest)
                    progress.report(speed(lines), losses(lines))
                if stop or due & {'save', 'evaluate'}:  # before evaluating, which takes long and may be cut short
                    save(step + 1)
                if stop:
                    raise Preempted
                if 'evaluate' in due:
                    evaluate(step + 1)
                    meter.restart()
        if jax.process_index() == 0 and config.run.evaluate_every:
            logger.info('held-out tasks, before and after:\n%s', before_and_after(log.evaluations()))


def _due(step: int, config: Config) -> set[str]:
    """What is done after `step` steps: log, evaluate, save; all of it after the last step. A period of 0: never."""
    every = {'log': config.run.log_every, 'evaluate': config.run.evaluate_every, 'save': config.run.save_every}
    return {name for name, period in every.items() if period and (step == config.steps or step % period == 0)}
