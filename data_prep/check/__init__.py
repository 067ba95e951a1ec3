"""`python -m data_prep check`: whether evaluation sets reach the training pairs of a dataset."""

import json
import logging

from data_prep.check.options import Options
from uwe_jax.io.errors import writing
from uwe_jax.io.files import check_writable, write_whole

logger = logging.getLogger(__name__)


def run(options: Options, command: str) -> None:
    """Prints the report, and writes it if asked to.

    Args:
      options: what to look for, and where.
      command: what the user typed, for the report.

    Raises:
      DataError: an input cannot be used, or the check fails.
    """
    from data_prep.check import leaks, report
    from data_prep.check.evaluations import held_out_evaluations, read_evaluation
    from uwe_jax.data.graph import SIDES, open_dataset

    if options.output:
        with writing(options.output):
            check_writable(options.output)
    evaluations = [read_evaluation(argument) for argument in options.evaluations]
    dataset = open_dataset(options.shards)
    nodes = {side: {node['text']: tuple(node['ids']) for node in dataset.nodes(side)} for side in SIDES}
    edges = {name: (graph.edge_skill, graph.edge_target) for name, graph in dataset.graphs.items()}
    results = leaks.find_leaks(nodes, edges, [*held_out_evaluations(dataset, list(nodes['skill'])), *evaluations])
    print(report.text(results))
    if options.output:
        content = {'dataset': dataset.fingerprint, 'command': command, 'evaluations': report.summary(results, None)}
        with writing(options.output):
            write_whole(options.output, json.dumps(content, indent=2, ensure_ascii=False) + '\n')
    logger.info('checked %d pairs', sum(graph.edges for graph in dataset.graphs.values()))
    report.refuse_leaks(results)
