"""Pairs to ArrayRecord shards, and the metadata with which TensorFlow Datasets opens them."""

import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import etils.epath
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from data_prep.pairs import Pairs
from uwe_jax.data.graph import NAME
from uwe_jax.io.console import Progress

RECORDS_PER_SHARD = 500_000
RECORDS_PER_UPDATE = 10_000  # of the progress bar
# Each record can be read alone, as batches do.
OPTIONS = 'group_size:1,uncompressed'
INTEGERS = ('edge', 'skill', 'target')
TEXTS = ('skill_text', 'target_text')
IDS = ('skill_ids', 'target_ids')


def write_shards(
    directory: pathlib.Path, graph: str, pairs: Pairs, skill_parts: Sequence[bytes], target_parts: Sequence[bytes]
) -> list[int]:
    """Writes a graph's pairs, one record each, in the order of their edges.

    A record is its parts' bytes, one after the other: a parser of protocol buffers merges messages that were serialised
    separately. So each node is serialised once, however many pairs it is in.

    Args:
      directory: where the shards go.
      graph: the split's name.
      pairs: sorted by skill, then target.
      skill_parts, target_parts: from `node_parts`, one per node.

    Returns:
      How many records each shard holds; none for a graph without pairs.

    Raises:
      OSError: a shard cannot be written.
    """
    edges = len(pairs.skill)
    shards = -(-edges // RECORDS_PER_SHARD)
    if not shards:
        return []
    bounds = [edges * shard // shards for shard in range(shards + 1)]
    with Progress(f'writing {graph}', edges, 'pairs') as progress:
        for shard, (first, last) in enumerate(itertools.pairwise(bounds)):
            name = f'{NAME}-{graph}.array_record-{shard:05d}-of-{shards:05d}'
            writer = ArrayRecordWriter(str(directory / name), OPTIONS)
            try:
                for start in range(first, last, RECORDS_PER_UPDATE):
                    stop = min(start + RECORDS_PER_UPDATE, last)
                    nodes = pairs.skill[start:stop].tolist(), pairs.target[start:stop].tolist()
                    for edge, skill, target in zip(edge_parts(start, stop), *nodes, strict=True):
                        writer.write(edge + skill_parts[skill] + target_parts[target])
                    progress.advance(stop - start)
                writer.close()
            except RuntimeError as error:  # ArrayRecord raises nothing narrower, even when the disk is full
                raise OSError(str(error)) from error
    return np.diff(bounds).tolist()


def node_parts(side: str, texts: Sequence[str], ids: Sequence[np.ndarray]) -> list[bytes]:
    """What each node contributes to the records that it is in: its number, its text and its token ids.

    Args:
      side: `skill` or `target`.
      texts, ids: of every node.
    """
    return [
        _serialised({side: [node], f'{side}_ids': tokens.tolist()}, {f'{side}_text': text.encode()})
        for node, (text, tokens) in enumerate(zip(texts, ids, strict=True))
    ]


def edge_parts(first: int, last: int) -> Iterator[bytes]:
    """What each edge from `first` to before `last` contributes to its record: its number.

    One message serves them all, because making one takes several times as long as serialising it.
    """
    example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]
    number = example.features.feature['edge'].int64_list.value
    number.append(first)
    for edge in range(first, last):
        number[0] = edge
        yield example.SerializeToString()


def _serialised(integers: Mapping[str, Sequence[int]], texts: Mapping[str, bytes]) -> bytes:
    example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]
    for name, values in integers.items():
        example.features.feature[name].int64_list.value.extend(values)
    for name, value in texts.items():
        example.features.feature[name].bytes_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def write_metadata(directory: pathlib.Path, shard_lengths: Mapping[str, Sequence[int]], description: str) -> None:
    """Writes dataset_info.json and features.json, for `tfds.builder_from_directory`.

    Args:
      directory: holds the shards.
      shard_lengths: records of each shard, by split.
      description: of the dataset.
    """
    features = tfds.features.FeaturesDict(
        dict.fromkeys(INTEGERS, np.int64)
        | {name: tfds.features.Text() for name in TEXTS}
        | {name: tfds.features.Sequence(np.int64) for name in IDS}
    )
    template = tfds.core.ShardedFileTemplate(
        etils.epath.Path(directory), dataset_name=NAME, filetype_suffix='array_record'
    )
    splits = []
    for split, lengths in shard_lengths.items():
        if not lengths:  # TFDS cannot open a split without records
            continue
        size = sum(path.stat().st_size for path in directory.glob(f'{NAME}-{split}.*'))
        splits.append(
            tfds.core.SplitInfo(name=split, shard_lengths=list(lengths), num_bytes=size, filename_template=template)
        )
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=features,
        split_infos=splits,
        filename_template=template,
        description=description,
        check_data=False,
    )
