"""Trains: python -m uwe_jax.main --config=configs/uwe.py --workdir=DIR [--config.FIELD=VALUE ...]."""

import logging

import jax
from absl import app, flags
from ml_collections import config_flags

from uwe_jax.distributed.preemption import Preempted
from uwe_jax.distributed.processes import RESTART, NotJoinedError, exit_after, join_processes
from uwe_jax.io import console, paths
from uwe_jax.train import train
from uwe_jax.training.config import Config

logger = logging.getLogger(__name__)

CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment.', lock_config=True)
WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'Where checkpoints and metrics go: a directory, or gs://BUCKET/NAME. An existing run is resumed.',
    required=True,
)
JOIN_TIMEOUT = flags.DEFINE_integer(
    'join_timeout', 300, 'Seconds to wait for the other processes of the run.', lower_bound=1
)
PEER_TIMEOUT = flags.DEFINE_integer(
    'peer_timeout', 100, 'Seconds without a sign of life after which another process counts as lost.', lower_bound=1
)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status, which `launch/README.md` explains."""
    del argv
    console.start_logging(logging.DEBUG if flags.FLAGS.verbosity > 0 else logging.INFO)
    try:
        workdir = paths.parse(WORKDIR.value)
        if not paths.in_bucket(workdir):
            workdir = workdir.absolute()
        config = Config.of(CONFIG.value.to_dict())
        join_processes(workdir, JOIN_TIMEOUT.value, PEER_TIMEOUT.value)
        logger.info('process %d of %d, devices: %s', jax.process_index(), jax.process_count(), jax.local_devices())
        if jax.process_index() > 0:
            console.hide_progress()
        keep_compiled_programs(workdir)
        train(config, workdir)
    except NotJoinedError as error:
        console.print_error(error)
        return RESTART
    except Preempted:
        logger.warning('stopped early, as asked; every step is saved, and the same command continues')
        return RESTART
    except Exception as error:
        message = console.explained(error, ValueError, OSError, FloatingPointError, jax.errors.JaxRuntimeError)
        if message is None:
            raise
        logger.debug('', exc_info=True)  # the traceback, with --verbosity=1
        console.print_error(message)
        if jax.distributed.is_initialized():  # asking how many there are would wait for them
            exit_after(error, PEER_TIMEOUT.value)
        return getattr(error, 'exit_status', 1)
    return 0


def keep_compiled_programs(workdir: paths.Path) -> None:
    """Lets a restart on accelerators load the programs that an earlier start has compiled.

    JAX_COMPILATION_CACHE_DIR, where it is set, says where they are kept. Otherwise one process uses the user's cache,
    which all runs share. Several processes use the workdir, the only place that all of them are known to share: GPUs
    tune a program together, so either all processes must find it or none. Only process 0 writes.

    On CPUs nothing is kept unless the variable is set: a program suits only CPUs with the same features, and on some
    machines XLA rejects even its own, with a long error for each (jax-ml/jax#38445).
    """
    chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if chosen is None and jax.default_backend() != 'cpu':
        shared = paths.cache_root() if jax.process_count() == 1 else workdir
        jax.config.update('jax_compilation_cache_dir', str(shared / 'compiled'))


if __name__ == '__main__':
    flags.mark_flag_as_required('config')
    jax.config.config_with_absl()
    app.run(main, flags_parser=console.parse_config_flags)
