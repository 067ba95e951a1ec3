"""Late interaction at the size of a training step, on this machine's devices, against the reference in float64.

    python -m tests.interaction.on_accelerator [--texts=128]

Prints the largest error of values and of gradients for each form, dtype and length; the exit status is 1 if one exceeds
the tests' tolerance. Kernels may be right in a test's small tiles and wrong in the many steps of whole embeddings.
"""

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np

from tests.interaction.inputs import TOLERANCE, errors, in_float64, score_and_gradients, texts
from uwe_jax.interaction import Score

WIDTH = 768
TOKENS = (16, 16), (16, 64)  # of skills and of the other side
SCORES = Score(), Score(attend='both')
FORMS = ('blockwise', 'kernel') if jax.default_backend() == 'tpu' else ('blockwise',)


def main(count: int) -> int:
    """Prints the table; returns the exit status."""
    rng, exit_status = np.random.default_rng(0), 0
    print(
        '| form | dtype | tokens | attend | largest error of values | of gradients | |\n|---|---|---|---|---|---|---|'
    )
    for q_tokens, y_tokens in TOKENS:
        (q, q_len), (y, y_len) = (texts(rng, count, tokens, WIDTH) for tokens in (q_tokens, y_tokens))
        weights = jnp.asarray(rng.normal(size=(2, count, count)), jnp.float32)
        for score in SCORES:
            for dtype, tolerance in TOLERANCE.items():
                inputs = q.astype(dtype), q_len, y.astype(dtype), y_len, weights, score
                with jax.default_device(jax.devices('cpu')[0]):
                    exact = in_float64(*(jax.device_put(x, jax.devices('cpu')[0]) for x in inputs[:-1]), score)
                for form in FORMS:
                    found = errors(score_and_gradients(*inputs, form=form), exact)
                    of_values, of_gradients = max(found['s_qy'], found['s_yq']), max(found['dq'], found['dy'])
                    passed = max(of_values, of_gradients) <= tolerance
                    exit_status |= not passed
                    cells = form, jnp.dtype(dtype).name, f'{q_tokens} x {y_tokens}', score.attend
                    print(
                        f'| {" | ".join(cells)} | {of_values:.1e} | {of_gradients:.1e} | {"" if passed else "wrong"} |'
                    )
    return exit_status


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--texts', type=int, default=128, help='on each side')
    sys.exit(main(parser.parse_args().texts))
