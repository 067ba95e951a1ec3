"""Kills a run at random moments, and checks that it ends as one that was left alone: the same numbers, bit for bit.

    python -m tests.soak [--kills=20] [--seed=0] [--ways=one,eight,two] [--in_bucket]      or: make soak

The data is the quickstart's, and the encoder is cut to two layers. Three ways are tried: one device, eight simulated
devices, and two processes, which are killed in turn. The moment of each kill is random, from the start of the program
to some steps later; every fifth kill waits until a checkpoint is being written. A run that ends before its kill is
compared, and the next one begins in a new workdir. The last run of each way is left to end.

With --in_bucket, the runs that are killed have their workdirs in a bucket, and the one left alone on the disk. The
bucket is that of a server on this machine, which answers every twentieth write with 503.
"""

import contextlib
import math
import os
import pathlib
import random
import signal
import tempfile
import time

from absl import app, flags

from tests.bucket_server import BucketServer
from tests.conftest import SAMPLE, build_dataset, small_config
from tests.runs import Run, assert_same, steps_logged, writing
from uwe_jax.io import paths
from uwe_jax.models import download

KILLS = flags.DEFINE_integer('kills', 20, 'Kills per way.', lower_bound=1)
SEED = flags.DEFINE_integer('seed', 0, 'Of the random moments.')
WAYS = flags.DEFINE_list('ways', 'one,eight,two', 'Which of one device, eight devices, two processes.')
IN_BUCKET = flags.DEFINE_bool('in_bucket', False, 'Whether the runs that are killed write into a bucket.')
WAY = {'one': {}, 'eight': {'devices': 8}, 'two': {'processes': 2}}
PEER_TIMEOUT = 10  # s


def main(argv):
    """Tries each way, and stops at the first difference."""
    if argv[1:]:
        raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = pathlib.Path(scratch)
        base = download.fetch(download.BASE_MODEL)
        build_dataset(SAMPLE, folder / 'data', base)
        changes = {'model.layers': 2, 'steps': 12, 'run.save_every': 3, 'run.keep': 2}
        workdirs = folder
        if IN_BUCKET.value:
            server = stack.enter_context(contextlib.closing(BucketServer()))
            os.environ.update(server.environment)
            server.make_bucket('soak')
            server.fault('POST /upload', 503, times=math.inf, every=20)
            workdirs = paths.parse('gs://soak/runs')
        for way in WAYS.value:
            config = small_config(folder / 'data', base, **changes, **{'mesh.fsdp': WAY[way].get('devices', 1)})
            soak(way, config, folder / way, workdirs / way)


def soak(way, config, folder, workdirs):
    """Compares runs that are killed, and have their workdirs in `workdirs`, with one that is not, in `folder`."""
    folder.mkdir()
    moments = random.Random(SEED.value)
    began = time.monotonic()
    statuses, _ = Run(config, folder / 'left_alone', **WAY[way]).end()
    assert set(statuses) == {0}, statuses
    whole = time.monotonic() - began
    print(f'{way}: left alone, the run takes {whole:.0f} s', flush=True)
    number, kills, in_writes, slowest = 0, 0, 0, 0.0
    while True:
        workdir = workdirs / f'killed_{number}'
        start = time.time()
        run = Run(config, workdir, **WAY[way], peer_timeout=PEER_TIMEOUT)
        delay = moments.uniform(1, 0.7 * whole)
        process = kills % len(run.processes)
        if kills == KILLS.value:
            killed = False
        elif kills % 5 == 4:
            killed = run.wait_until(lambda workdir, start=start: writing(workdir, start))
        else:
            killed = not run.ends_within(delay)
        killed_at = time.time()
        if killed:
            run.kill(process=process)
        began = time.monotonic()
        statuses, printed = run.end()
        if killed:
            kills += 1
            slowest = max(slowest, time.monotonic() - began)
            assert statuses[process] == -signal.SIGKILL, '\n'.join(printed)
            assert not {1, 2} & set(statuses), (statuses, *printed)  # each asks to be started again
            cut = writing(workdir, start)
            in_writes += bool(cut)
            where = f'while writing {", ".join(cut)}' if cut else f'{killed_at - start:.1f} s after its start'
            print(
                f'{way}: kill {kills}, process {process}, {where}, {steps_logged(workdir)} steps logged; '
                f'exit statuses {statuses}',
                flush=True,
            )
            continue
        assert set(statuses) == {0}, '\n'.join(printed)
        assert_same(workdir, folder / 'left_alone')
        print(f'{way}: the run that was killed ends as the one left alone, bit for bit', flush=True)
        number += 1
        if kills == KILLS.value:
            break
    assert in_writes, 'no kill fell into a write; another --seed, or more --kills'
    print(
        f'{way}: {kills} kills in {number} runs, {in_writes} of them in a write; processes whose peer was killed ended '
        f'within {slowest:.1f} s',
        flush=True,
    )


if __name__ == '__main__':
    app.run(main)
