"""Compiles the training step for a pod that need not exist, and says what it would hold, compute and send.

    python -m uwe_jax.compile_for --config=configs/uwe.py --topology=v5e:16x16 [--config.FIELD=VALUE ...]

It runs on a CPU; TPUs need the extra `tpu`, GPUs the extra `cuda`. The step is not run, and no weights are read. The
number of rows that a batch fills is measured with the dataset at `config.data.dir`. Without one, texts are as long as
those of ESCO 1.2.0 with SkillSkape's sentences, and every skill of a batch has a target of each kind. The reports are
followed by a table in Markdown.
"""

import jax
from absl import app, flags
from ml_collections import config_flags

from uwe_jax.compile_for.rehearsal import Rehearsal, tokens_of
from uwe_jax.compile_for.report import examine, table
from uwe_jax.compile_for.topology import pod_mesh, usable_memory
from uwe_jax.io import console
from uwe_jax.models import download
from uwe_jax.training.config import Config

CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment.', lock_config=True)
TOPOLOGY = flags.DEFINE_list(
    'topology',
    None,
    'TPUs by shape in chips (v5e:16x16) or GPUs (h100:8, h100:2x8); separate several by commas.',
    required=True,
)
SEARCH = flags.DEFINE_bool('search', True, 'Also look for the largest batch that fits, which compiles twice or more.')


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status."""
    del argv
    jax.config.update('jax_platforms', 'cpu')  # leaves this machine's accelerators to others
    return console.run(compile_for_all)


def compile_for_all() -> None:
    """Prints the report of every topology, and a table of them."""
    config = Config.of(CONFIG.value.to_dict())
    tokens = tokens_of(config)
    rows = []
    for topology in TOPOLOGY.value:
        device_mesh = pod_mesh(topology, config.mesh.data, config.mesh.fsdp)
        chip = device_mesh.devices.flat[0]
        base = download.fetch(config.init, [download.CONFIG])
        rehearsal = Rehearsal(config, base, tokens, device_mesh, usable_memory(chip))
        print(f'{topology}: {device_mesh.size} x {chip.device_kind}, mesh {dict(device_mesh.shape)}')
        print(
            f'{tokens.per_slot:.1f} tokens of the rows per skill with its targets, texts cut to {dict(tokens.longest)}'
        )
        rows.append(examine(topology, rehearsal, config.data.batch_size, search=SEARCH.value))
    print('\n'.join(table(rows)))


if __name__ == '__main__':
    flags.mark_flag_as_required('config')
    app.run(main, flags_parser=console.parse_config_flags)
