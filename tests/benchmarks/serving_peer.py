"""What the benchmark of the service compares with: a plain FastAPI service around sentence-transformers.

    python -m tests.benchmarks.serving_peer --model=DIR --targets=FILE --vectors=FILE.npy --port=PORT

One vector per text, one product per request, nothing batched: as such services are usually written.
"""

import pathlib

import fastapi
import numpy as np
import pydantic
import sentence_transformers
import uvicorn
from absl import app, flags

from uwe_jax.data.graph import MAX_TOKENS

MODEL = flags.DEFINE_string('model', None, 'The directory of a model.', required=True)
TARGETS = flags.DEFINE_string('targets', None, 'A file with one target per line.', required=True)
VECTORS = flags.DEFINE_string('vectors', None, 'A file that keeps the vectors of the targets.', required=True)
PORT = flags.DEFINE_integer('port', None, 'The port to listen on.', required=True)


class Query(pydantic.BaseModel):
    """The fields of our own service's request that the benchmark sends."""

    queries: list[str]
    k: int = 10


def main(_: list[str]) -> None:
    """Serves."""
    model = sentence_transformers.SentenceTransformer(MODEL.value, device='cpu')
    model.max_seq_length = MAX_TOKENS
    texts = pathlib.Path(TARGETS.value).read_text().splitlines()
    vectors = pathlib.Path(VECTORS.value)
    if not vectors.exists():
        np.save(vectors, model.encode(texts, normalize_embeddings=True, show_progress_bar=False))
    targets = np.load(vectors)
    service = fastapi.FastAPI()

    @service.post('/rank')
    def rank(query: Query) -> dict:
        vectors = model.encode(query.queries, normalize_embeddings=True, show_progress_bar=False)
        results = []
        for text, scores in zip(query.queries, vectors @ targets.T, strict=True):
            best = np.argsort(-scores)[: query.k].tolist()
            hits = [{'id': place, 'text': texts[place], 'score': float(scores[place])} for place in best]
            results.append({'query': text, 'targets': hits})
        return {'results': results}

    @service.get('/readyz')
    def ready() -> dict:
        return {'ready': True}

    uvicorn.run(service, port=PORT.value, log_level='warning')


if __name__ == '__main__':
    app.run(main)
