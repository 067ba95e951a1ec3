"""A release of ESCO small enough to draw, and what tests of data prep do with it."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.build import Options, run
from tests.conftest import write_csv
from uwe_jax.data.graph import SIDES, open_dataset

SKILL, JOB = 'http://esco/skill/', 'http://esco/occupation/'
SKILLS = [
    {'conceptUri': SKILL + uri, 'preferredLabel': label, 'altLabels': others, 'description': description}
    for uri, label, others, description in [
        ('sql', 'SQL', 'SQL\nquery languages\nstructured query', 'To ask a database.'),
        ('db', 'query  languages', 'QL\n\nQL', 'Languages. They query.'),
        ('bake', 'bake bread', 'make  loaves\nmake loaves', ''),
        ('alone', 'juggle', '', ''),
    ]
]
JOBS = [
    {'conceptUri': JOB + 'engineer', 'preferredLabel': 'data engineer', 'altLabels': 'engineer of data\nexpert'},
    {'conceptUri': JOB + 'baker', 'preferredLabel': 'baker', 'altLabels': 'expert'},
]
RELATIONS = [
    (JOB + 'engineer', 'optional', SKILL + 'sql'),
    (JOB + 'engineer', 'essential', SKILL + 'sql'),
    (JOB + 'engineer', 'optional', SKILL + 'db'),
    (JOB + 'baker', 'essential', SKILL + 'bake'),
]
SENTENCES = [
    ('You write SQL.', SKILL + 'sql'),
    ('You bake and query.', 'bake bread\nquery languages'),
    ('Call us.', ''),
]


def write_jsonl(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def esco(tmp_path):
    directory = tmp_path / 'esco'
    directory.mkdir()
    write_csv(directory / 'skills_en.csv', SKILLS)
    write_csv(directory / 'occupations_en.csv', JOBS)
    columns = ('occupationUri', 'relationType', 'skillUri')
    write_csv(directory / 'occupationSkillRelations_en.csv', [dict(zip(columns, r, strict=True)) for r in RELATIONS])
    write_csv(directory / 'sentences.csv', [{'sentence': s, 'skills': k} for s, k in SENTENCES])
    return directory


@pytest.fixture
def build(esco, tokenizer_dir):
    """Builds a dataset of the small release, with other options than these if asked to, and opens it."""

    def build(**changes):
        usual = {
            'esco': esco,
            'output': esco.parent / 'out' / 'data',
            'vacancies': (str(esco / 'sentences.csv'),),
            'held_out_occupations': 0.0,
            'held_out_alternatives': 0.0,
            'tokenizer': str(tokenizer_dir),
        }
        options = Options(**(usual | changes))
        run(options, 'test')
        return open_dataset(options.output)

    return build


def pairs_by_text(dataset):
    texts = {side: [node['text'] for node in dataset.nodes(side)] for side in SIDES}
    return {
        name: {(texts['skill'][s], texts[name][t]) for s, t in zip(g.edge_skill, g.edge_target, strict=True)}
        for name, g in dataset.graphs.items()
    }
