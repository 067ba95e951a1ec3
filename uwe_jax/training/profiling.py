"""Writes a profile of some steps into the workdir; `python -m uwe_jax.profile` says where their time went.

profile/plugins/profile/TIME/HOST.xplane.pb     the profile; TensorBoard and XProf show it as well
profile/plugins/profile/TIME/HOST.trace.json.gz the same for ui.perfetto.dev
profile/step.hlo.txt                            the compiled step, which says where each operation comes from
"""

import logging
from typing import Any

import jax
from etils import epath

from uwe_jax.io.generations import WorkingCopy
from uwe_jax.io.paths import Path, reaching

FOLDER = 'profile'
HLO = 'step.hlo.txt'
STEP = 'training step'  # the name of a step in the profile
SETTING = 'jax_compilation_cache_include_metadata_in_key'

logger = logging.getLogger(__name__)


class StepProfiler:
    """Profiles some steps of a run, on the devices of process 0. A newer profile replaces an older one.

    Args:
      workdir: where the profile goes.
      first: the first step to profile, from 1; 0 for none.
      steps: how many steps are profiled.
    """

    def __init__(self, workdir: Path, first: int, steps: int):
        self._folder, self._first, self._last = workdir / FOLDER, first, first + steps - 1
        self._running = False

    def __enter__(self) -> 'StepProfiler':
        # A program from the compilation cache has the names of the code that compiled it first, perhaps of an older
        # version; with this setting, only of code with the same names.
        self._setting = getattr(jax.config, SETTING)
        if self._first:
            jax.config.update(SETTING, True)
        return self

    def call(self, number: int, take_step: Any, *arguments: Any) -> Any:
        """Takes a step, inside the profile if it is one of those to profile, and returns what the step returns.

        Args:
          number: of the step, from 1.
          take_step: the compiled function.
          arguments: of it.
        """
        if number == self._first:
            self._start(take_step, arguments)
        with jax.profiler.StepTraceAnnotation(STEP, step_num=number):
            results = take_step(*arguments)
        if number == self._last and self._running:
            jax.block_until_ready(results)
            self._stop()
        return results

    def _start(self, take_step: Any, arguments: Any) -> None:
        text = take_step.lower(*arguments).compile().as_text()  # in all processes, since they may compile together
        if jax.process_index() > 0:
            return
        with reaching(self._folder):
            epath.Path(self._folder).rmtree(missing_ok=True)
        self._files = WorkingCopy(self._folder)
        self._files.folder.mkdir(exist_ok=True)
        (self._files.folder / HLO).write_text(text)
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # calls of Python functions would fill the profile
        jax.block_until_ready(arguments)  # the step before is not part of it
        jax.profiler.start_trace(self._files.folder, profiler_options=options)
        self._running = True

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            self._files.publish()
            logger.info('profile: %s; `python -m uwe_jax.profile --workdir=%s`', self._folder, self._folder.parent)

    def __exit__(self, *_: object) -> None:
        self._stop()
        jax.config.update(SETTING, self._setting)
