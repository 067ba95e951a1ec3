"""The paper's numbers (arXiv 2511.07969), measured by its authors, to stand beside measured ones."""

from typing import NamedTuple

WORKBENCH = 'mean of the six WorkBench tasks'
# The tasks behind that mean: skill extraction is one task with three sets of annotations.
SIX = (
    ('job_to_skill',),
    ('skill_to_job',),
    ('job_normalisation',),
    ('skill_normalisation',),
    ('house', 'tech', 'techwolf'),
    ('skill_similarity',),
)


class Published(NamedTuple):
    """Published numbers of one model on one task.

    Attributes:
      model: its name in the paper.
      task: its name in the registry, or a description of a task that is not there.
      metrics: `map` and `rp@10` as fractions, as far as they were published.
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
