"""A directory that tests write to a bucket and copy from there; as a process, `up PATH` and `down PATH` do."""

import sys

from uwe_jax.io import buckets, console, paths
from uwe_jax.io.files import whole_directory

CONTENT = {
    'graph/job/length.npy': b'1' * 7_000_000,  # large enough to be uploaded in parts
    'nodes/job.jsonl': b'',
    'a shard': b'2' * 2000,
    'manifest.json': b'{}',
}


def write(path):
    with whole_directory(path, last='manifest.json') as directory:
        for name, content in CONTENT.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content)


if __name__ == '__main__':
    work = {'up': write, 'down': buckets.local_copy}[sys.argv[1]]
    sys.exit(console.run(lambda: work(paths.parse(sys.argv[2]))))
