"""What the speed benchmark reads: texts of ESCO, datasets built from them, and weights where there are none."""

import csv
import functools
import itertools
import json
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from data_prep import build
from tests.benchmarks.data import PAIRS_PER_RELATION, SEED, distinct_titles, drawn, generate, write_csv
from uwe_jax.data.text import normalise
from uwe_jax.io.esco import Esco, read_esco
from uwe_jax.io.repairs import Repairs
from uwe_jax.models import download, pretrained
from uwe_jax.models.mpnet import MPNet, MPNetConfig

SAMPLE = pathlib.Path('data_prep/sample')
TITLES = 3000


@functools.cache
def read(folder: pathlib.Path) -> Esco:
    """A release of ESCO."""
    return read_esco(folder, Repairs(), normalise)


def names_and_titles(folder: pathlib.Path, count: int = 0) -> list[str]:
    """The names of all skills and 3,000 titles of occupations in random order; `count` of them, if it is not 0."""
    rng, esco = np.random.default_rng(SEED), read(folder)
    names = [skill.label for skill in esco.skills.values()]
    texts = names + rng.permutation(titles_of(folder))[:TITLES].tolist()
    return rng.permutation(texts)[: count or None].tolist()


def titles_of(folder: pathlib.Path) -> list[str]:
    """All titles of all occupations."""
    return list(dict.fromkeys(title for job in read(folder).occupations.values() for title in job.labels))


def build_dataset(folder: pathlib.Path, vacancies: Sequence[str], output: pathlib.Path, model: str) -> pathlib.Path:
    """Builds a dataset once. Nothing is held out, so that training on it evaluates nothing."""
    if not output.exists():
        options = build.Options(
            folder, output, tuple(vacancies), held_out_occupations=0.0, held_out_alternatives=0.0, tokenizer=model
        )
        build.run(options, 'python -m tests.benchmarks.speed')
    return output


def build_full_dataset(folder: pathlib.Path, output: pathlib.Path, model: str) -> pathlib.Path:
    """A dataset of 14,000 skills with a title, a sentence and an alternative for each: hardly a slot stays empty."""
    if not output.exists():
        source = output.with_name(f'{output.name}_source')
        generate(read(folder), 300 * PAIRS_PER_RELATION, empty(source))  # a few relations; its vacancies are replaced
        path = source / 'skills_en.csv'
        with open(path, newline='', encoding='utf-8') as file:
            header, *rows = csv.reader(file)
        labels = [label for _, label, _ in rows]
        write_csv(path, header, ((uri, label, others or f'how to {label}') for uri, label, others in rows))
        others = drawn(labels, 2.0, np.random.default_rng(SEED))
        titles = distinct_titles(titles_of(folder), len(labels))
        with open(source / 'vacancies.jsonl', 'w', encoding='utf-8') as file:
            for label, title, more in zip(labels, titles, itertools.islice(others, len(labels)), strict=True):
                skills = list(dict.fromkeys([label, *more]))
                sentence = f'In this role you will {", and ".join(skills)} every day.'
                file.write(json.dumps({'title': title, 'skills': skills}) + '\n')
                file.write(json.dumps({'sentence': sentence, 'skills': skills}) + '\n')
        build_dataset(source, [str(source / 'vacancies.jsonl')], output, model)
    return output


def empty(folder: pathlib.Path) -> pathlib.Path:
    """An empty folder in place of what an interrupted run left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def with_weights(directory: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
    """The directory of a model, or a copy with random weights if it has none: they take as long as trained ones."""
    if (directory / download.WEIGHTS).exists():
        return directory
    shutil.copytree(directory, empty(output), dirs_exist_ok=True)
    config = MPNetConfig.read(output / download.CONFIG)
    params = nnx.to_pure_dict(nnx.state(MPNet(config, dtype='float32', rngs=nnx.Rngs(SEED)), nnx.Param))
    size = config.hidden_size
    pooler = {'pooler.dense.weight': np.eye(size, dtype=np.float32), 'pooler.dense.bias': np.zeros(size, np.float32)}
    save_file(pooler, output / download.WEIGHTS)
    settings = {'max_tokens': 64, 'score': {}}
    whole = output.with_name(f'{output.name}_whole')
    shutil.rmtree(whole, ignore_errors=True)
    pretrained.save_pretrained(whole, base=output, params=params, settings=settings, card='')
    shutil.rmtree(output)
    (whole / pretrained.SETTINGS).unlink()  # a plain model, not an export
    shutil.copyfile(directory / download.CONFIG, whole / download.CONFIG)
    return whole.rename(output)
