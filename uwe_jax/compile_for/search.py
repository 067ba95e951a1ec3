"""Finds the largest batch that fits, by compiling the step with one batch size after another."""

import dataclasses
import logging
import time
from collections.abc import Callable

import jax

from uwe_jax.compile_for.rehearsal import Rehearsal, Trial

PARTS = 8  # the result is within an eighth of the largest batch, because each trial compiles for a minute or more

logger = logging.getLogger(__name__)


def largest_batch(rehearsal: Rehearsal, known: Trial) -> tuple[Trial | None, Trial]:
    """Looks for the largest batch that fits, starting from a batch that was tried.

    Returns:
      The largest batch that fits, None if no batch does, and the smallest one that was tried and does not fit.
    """
    trials = {known.batch_size // rehearsal.devices: known}

    def fits(skills: int) -> bool:
        if skills not in trials:
            trials[skills] = without_program(timed_trial(rehearsal, skills * rehearsal.devices))
        return not trials[skills].refusal

    fitting, refused = largest(fits, first_guess(rehearsal, known))
    return trials.get(fitting), trials[refused]


def timed_trial(rehearsal: Rehearsal, batch_size: int) -> Trial:
    """Compiles the step and logs the outcome."""
    start = time.perf_counter()
    trial = rehearsal.trial(batch_size)
    outcome = trial.refusal or f'fits, peak {trial.peak} GiB'
    logger.info('batch %d: %s, compiled in %.0f s', batch_size, outcome, time.perf_counter() - start)
    return trial


def without_program(trial: Trial) -> Trial:
    """Frees the compiled program: it takes gigabytes for a pod, and JAX's caches would keep it."""
    jax.clear_caches()
    return dataclasses.replace(trial, program=None)


def first_guess(rehearsal: Rehearsal, trial: Trial) -> int:
    """Skills per device at which memory is full if everything but state and gradients grows with the batch.

    If the compiler refused the trial, half of its skills.
    """
    skills, arguments = trial.batch_size // rehearsal.devices, rehearsal.arguments(trial.batch_size)
    if not trial.memory:
        return max(1, skills // 2)
    fixed = 2 * arguments['parameters'] + arguments['optimizer state']  # gradients are as large as the parameters
    growing = max(1, trial.memory.needed - fixed)
    return max(1, skills * (rehearsal.usable - fixed) // growing)


def largest(fits: Callable[[int], bool], start: int) -> tuple[int, int]:
    """Finds the largest number that fits, approximately: doubling steps from a guess past the limit, then bisection.

    It assumes that if a number does not fit, no larger number does.

    Args:
      fits: called at most once per number; must be false for some number.
      start: the guess, at least 1. A good guess takes two calls.

    Returns:
      The largest number tried that fits, 0 if none does, and the smallest number tried that does not. They differ by
      1, or by at most an eighth.
    """
    fitting, refused, number, step = 0, None, start, max(1, start // PARTS)
    while refused is None or refused - fitting > max(1, fitting // PARTS):
        if fits(number):
            fitting = number
        else:
            refused = number
        if refused is None:
            number += step
        elif fitting == 0:
            number = max(refused - step, refused // 2)
        else:
            number = (fitting + refused) // 2
        step *= 2
    return fitting, refused
