"""The processes of a run: several that compute together, each with its own devices."""

import os

import jax


def join_processes() -> None:
    """Joins the other processes of the run where JAX_COORDINATOR_ADDRESS says that there are any.

    JAX_NUM_PROCESSES and JAX_PROCESS_ID then tell how many there are and which this is; on TPU pods and SLURM, JAX
    finds them out by itself.
    """
    if 'JAX_COORDINATOR_ADDRESS' not in os.environ:
        return
    if 'cpu' in os.environ.get('JAX_PLATFORMS', ''):
        jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    count, own = os.environ.get('JAX_NUM_PROCESSES'), os.environ.get('JAX_PROCESS_ID')
    jax.distributed.initialize(
        os.environ['JAX_COORDINATOR_ADDRESS'],
        num_processes=int(count) if count else None,
        process_id=int(own) if own else None,
    )
