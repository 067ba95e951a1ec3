"""The machine that is measured, and how calls on it are timed."""

import concurrent.futures
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from tests.benchmarks.data import processor


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> str:
    """The processor, the accelerator if there is one, and the versions that matter."""
    device = jax.devices()[0]
    accelerator = '' if device.platform == 'cpu' else f'{len(jax.devices())} x {device.device_kind}, '
    return f'{accelerator}{processor()}, {cores()} cores; jax {jax.__version__}'


def seconds_of_turns(calls: Mapping[str, Callable], turns: int) -> dict[str, np.ndarray]:
    """The seconds that each call takes in each turn; in a turn, one is called after another. Nothing warms up."""
    took = {name: np.zeros(turns) for name in calls}
    for turn in range(turns):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            took[name][turn] = time.perf_counter() - start
    return took


def medians(calls: Mapping[str, Callable], turns: int, warm_up: int = 1) -> dict[str, float]:
    """The median seconds of each call, after turns that do not count."""
    seconds_of_turns(calls, warm_up)
    return {name: float(np.median(took)) for name, took in seconds_of_turns(calls, turns).items()}


def alone(call: Callable, *arguments: Any) -> Any:
    """What a call returns in a process of its own, since memory that another program has used slows a CPU down.

    On an accelerator it is called here: its memory is this process's.
    """
    if jax.default_backend() != 'cpu':
        return call(*arguments)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as process:
        return process.submit(call, *arguments).result()
