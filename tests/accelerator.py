"""Everything that needs an accelerator, in eight minutes and without network: prints one report in Markdown.

    python -m tests.accelerator [--model=DIR] [--wheels=DIR] [--data=DIR] [--minutes=8] [--rehearse] | tee report.md

On any GPU or TPU: late interaction against the reference in float64; on a TPU, the kernel's tests with the kernel
compiled, not interpreted; 100 training steps of 512 x 4 and a few of 4,096 x 4; the benchmarks of speed (against
sentence-transformers where it is installed) and of late interaction.
Each part is a process with a time limit of its own. One that fails is reported with the end of its output, and the
others go on; the exit status is then 1.

What is missing on such machines comes from beside: --wheels names a folder with the wheels of packages that are not
installed, and --model the directory of all-mpnet-base-v2. Of the latter config.json and tokenizer.json are enough:
random weights take as long as trained ones. Without --data, a dataset is made of the sample. --rehearse makes every
part small enough for a CPU. This module itself needs only the standard library, so that there is always a report.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[1]
MODEL = pathlib.Path('~/.cache/uwe_jax/sentence-transformers--all-mpnet-base-v2').expanduser()
LEAST_S = 10  # a part with less time left is not started
ENDS_S = 5  # kept for ending the last part and printing
TAIL = 25  # lines of output shown of a part that failed
KERNEL_TESTS = 'equal_the_float64_reference or longer_targets or add_up or nan'

DEVICES = """
import os, sys, jax
devices, platform = jax.devices(), jax.default_backend()
print(f'{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} cores, Python {sys.version}, jax {jax.__version__}')
print(platform)
"""
PREPARE = """
import pathlib, sys
from tests.benchmarks.speed import data
model, work = map(pathlib.Path, sys.argv[1:])
model = data.with_weights(model, work / 'model')
print('dataset:', data.build_full_dataset(data.SAMPLE, work / 'full', str(model)))
"""


@dataclasses.dataclass(frozen=True)
class Part:
    """A process.

    Attributes:
      name: its heading in the report.
      command: arguments of Python.
      limit: seconds.
      report: what to print after it has run, by default its output.
    """

    name: str
    command: list[str]
    limit: float
    report: Callable[[str], str] | None = None


class Runner:
    """Runs parts one after another, within a time limit for all, and prints what comes of them.

    Args:
      seconds: for all parts together.
      environment: of the processes.
    """

    def __init__(self, seconds: float, environment: dict[str, str]):
        self._end = time.monotonic() + seconds - ENDS_S
        self._environment = environment
        self.failed: list[str] = []

    def run(self, part: Part) -> str | None:
        """Runs a part and prints its section; returns its standard output, or None if it failed."""
        start = time.monotonic()
        limit = min(part.limit, self._end - start)
        if limit < LEAST_S:
            self._print(part, 'Not run: no time is left.', failed=True)
            return None
        status, output, log = self._finish(part, limit)
        took = f'_{time.monotonic() - start:.0f} s_'
        if status != 0:
            end = f'ended with status {status}' if status is not None else f'not done after {limit:.0f} s'
            last = '\n'.join(f'{output}\n{log}'.strip().splitlines()[-TAIL:])
            self._print(part, f'FAILED: {end}\n\n```\n{last}\n```', failed=True)
            return None
        try:
            text = part.report(output) if part.report else output.strip()
        except Exception as error:  # whatever a part left unwritten must not end the report
            self._print(part, f'FAILED: no result ({type(error).__name__}: {error})', failed=True)
            return None
        self._print(part, f'{text}\n\n{took}')
        return output

    def _finish(self, part: Part, limit: float) -> tuple[int | None, str, str]:
        """The exit status, or None if the time was up, and what was written to stdout and stderr."""
        with tempfile.TemporaryFile('w+') as output, tempfile.TemporaryFile('w+') as log:
            process = subprocess.Popen(
                [sys.executable, *part.command],
                cwd=ROOT,
                env=self._environment,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
                process.wait()
                status = None
            output.seek(0)
            log.seek(0)
            return status, output.read(), log.read()

    def _print(self, part: Part, text: str, failed: bool = False) -> None:
        if failed:
            self.failed.append(part.name)
        print(f'## {part.name}\n\n{text}\n', flush=True)


def main() -> int:
    """Prints the report; returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m tests.accelerator', description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--model', type=pathlib.Path, default=MODEL, help='the directory of the base model')
    parser.add_argument('--wheels', type=pathlib.Path, help='a folder with wheels of packages that are missing here')
    parser.add_argument('--data', type=pathlib.Path, help='a dataset, instead of one made of the sample')
    parser.add_argument('--minutes', type=float, default=8.0, help='for all parts together')
    parser.add_argument('--rehearse', action='store_true', help='small parts, for a CPU')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = pathlib.Path(scratch)
        runner = Runner(60 * options.minutes, environment(work, options.model.absolute()))
        print('# Accelerator report\n', flush=True)
        if options.wheels:
            wheels = sorted(map(str, options.wheels.absolute().glob('*.whl')))
            pip = ['-m', 'pip', 'install', '--quiet', '--no-index', '--no-deps', '--no-compile', '--upgrade']
            runner.run(Part('Packages', [*pip, f'--target={work / "site"}', *wheels], 60, lambda _: f'{len(wheels)}'))
        devices = runner.run(Part('Devices', ['-c', DEVICES], 60, lambda output: output.splitlines()[-2]))
        platform = devices.split()[-1] if devices else 'cpu'
        for part in parts(options, work, platform):
            runner.run(part)
    if runner.failed:
        print(f'Failed: {", ".join(runner.failed)}')
    return 1 if runner.failed else 0


def environment(work: pathlib.Path, model: pathlib.Path) -> dict[str, str]:
    """Nothing is downloaded, and what one part compiles the others find."""
    cache = work / 'cache'
    cache.mkdir()
    (cache / MODEL.name).symlink_to(model)
    paths = [str(work / 'site'), str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    return os.environ | {
        'PYTHONPATH': os.pathsep.join(paths),
        'PYTHONUNBUFFERED': '1',
        'HF_HUB_OFFLINE': '1',
        'UWE_JAX_CACHE': str(cache),
        'JAX_COMPILATION_CACHE_DIR': str(work / 'compiled'),
        'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',  # PyTorch needs memory on the same card
    }


def parts(options: argparse.Namespace, work: pathlib.Path, platform: str) -> list[Part]:
    """All parts, the most important ones first."""
    small = options.rehearse
    model = options.model.absolute()
    prepare = Part('Weights and data', ['-c', PREPARE, str(model), str(work)], 120)
    if not (model / 'model.safetensors').exists():
        model = work / 'model'
    data = options.data.absolute() if options.data else work / 'full'
    steps = {512: 100, 4096: 12} if not small else {8: 5, 16: 3}
    # tests/conftest.py would make JAX use the CPU.
    pytest = ['-m', 'pytest', '-q', '-o', 'addopts=', '-p', 'no:cacheprovider', '--import-mode=importlib']
    tests = ['--confcutdir=tests/interaction', '-k', KERNEL_TESTS, 'tests/interaction/test_tpu.py']
    form = 'kernel' if platform == 'tpu' else 'blockwise'
    speed = ['-m', 'tests.benchmarks.speed', f'--model={model}', f'--work={work}']
    return [
        prepare,
        Part(
            'Late interaction, errors',
            ['-m', 'tests.interaction.on_accelerator', f'--texts={16 if small else 128}'],
            120,
        ),
        *([Part('Tests of the kernel', [*pytest, *tests], 120, last_line)] if platform == 'tpu' else []),
        *(training(skills, count, form, model, data, work, small) for skills, count in steps.items()),
        Part(
            'Embedding and titles, against sentence-transformers',
            [*speed, '--parts=title,embed', f'--texts={40 if small else 0}'],
            90,
        ),
        Part(
            'Late interaction',
            [
                *('-m', 'tests.benchmarks.interaction', '--pods=', '--dtype=bfloat16', '--tokens=16', '--limit=10'),
                f'--texts={32 if small else "512,2048"}',
            ],
            100,
            lambda output: f'```\n{output.strip()}\n```',
        ),
        Part(
            'Training steps, against sentence-transformers',
            [*speed, '--parts=growth' if small else '--parts=train,growth', *(['--skills=8'] if small else [])],
            120,
        ),
    ]


def training(
    skills: int, steps: int, form: str, model: pathlib.Path, data: pathlib.Path, work: pathlib.Path, small: bool
) -> Part:
    """Some steps of the paper's recipe."""
    workdir = work / f'train_{skills}'
    changes = {
        'init': model,
        'data.dir': data,
        'data.batch_size': skills,
        'interaction.form': form,
        'steps': steps,
        'run.log_every': max(steps // 10, 1),
        'run.evaluate_queries': 1,
        'run.save_every': steps,
    }
    command = ['-m', 'uwe_jax.main', '--config=configs/uwe.py', f'--workdir={workdir}']
    command += [f'--config.{name}={value}' for name, value in changes.items()]
    command += ['--config.model.layers=1'] if small else []
    return Part(
        f'{steps} training steps of {skills:,} x 4, bfloat16', command, 150, lambda _: training_table(workdir, steps)
    )


def training_table(workdir: pathlib.Path, steps: int) -> str:
    """The metrics of a run: medians of its second half, in which nothing is compiled, and the loss."""
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    names = [name for name in lines[-1] if name.startswith(('time/', 'speed/', 'mfu')) or name in ('texts', 'padding')]
    late = lines[steps // 2 :]
    rows = [f'| {name} | {statistics.median(line[name] for line in late):,.4g} |' for name in names]
    rows.append(f'| loss of the first and the last step | {lines[0]["loss"]:.4f}, {lines[-1]["loss"]:.4f} |')
    return '\n'.join(['| median | |', '|---|---|', *rows])


def last_line(output: str) -> str:
    """What pytest sums up."""
    return output.strip().splitlines()[-1]


if __name__ == '__main__':
    sys.exit(main())
