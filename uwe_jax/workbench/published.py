"""Published numbers, to stand beside measured ones: from the paper (arXiv 2511.07969), measured by its authors."""

from typing import NamedTuple

WORKBENCH = 'mean of the six WorkBench tasks'


class Published(NamedTuple):
    """What a paper says of a model.

    Attributes:
      model: as the paper calls it.
      task: the task's name in the registry, or words where it is not one of its tasks.
      metrics: `map` and `rp@10`, as far as they were published, within [0, 1].
    """

    model: str
    task: str
    metrics: dict[str, float]


PUBLISHED = (
    Published('UWE', WORKBENCH, {'map': 0.402, 'rp@10': 0.577}),
    Published('ConTeXT-Match', WORKBENCH, {'map': 0.376, 'rp@10': 0.537}),
    Published('Qwen3-Embedding-8B', WORKBENCH, {'map': 0.358}),
    Published('Qwen3-Embedding-4B', WORKBENCH, {'map': 0.348}),
    Published('EmbeddingGemma', WORKBENCH, {'map': 0.344}),
    Published('all-mpnet-base-v2, mean-pooled', WORKBENCH, {'map': 0.323}),
    Published('Qwen3-Embedding-0.6B', WORKBENCH, {'map': 0.321}),
    Published('UWE', 'onet_job_to_skill', {'map': 0.329}),
    Published('UWE', 'onet_skill_to_job', {'map': 0.372}),
    Published('UWE', 'SkillsFuture, job to skill', {'map': 0.130}),
    Published('UWE', 'SkillsFuture, skill to job', {'map': 0.262}),
)
