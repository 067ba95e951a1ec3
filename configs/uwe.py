"""The experiment of the paper "Unified Work Embeddings" (arXiv 2511.07969), and smaller versions of it.

    --config=configs/uwe.py               the paper's recipe, scored from both sides, for GPUs or a TPU pod
    --config=configs/uwe.py:paper         the same with the published score
    --config=configs/uwe.py:quickstart    the small version, for a laptop's CPU, in minutes
    --config=configs/uwe.py:public        what `make public` trains on public data: two CPU cores, some three hours

Every field can be overridden: --config.optimizer.peak_lr=1e-4. "Paper" marks a published value, "ours" one that the
paper leaves open or where we differ. `uwe_jax/training/config.py` checks the value of each field.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(variant: str = '') -> Any:
    """Returns the experiment, or a variant: `paper`, `quickstart` or `public`."""
    config: Any = ConfigDict()  # its fields have no static types
    config.seed = 0  # of skills, edges, distractors and dropout
    config.steps = 10_000  # optimizer steps (ours)
    config.init = 'sentence-transformers/all-mpnet-base-v2'  # a directory or a Hub name (paper, section 4.2)

    config.model = ConfigDict()
    config.model.dtype = 'bfloat16'  # of the encoder's matrix products; parameters and scores are float32 (ours)
    config.model.dropout = 0.1  # as in MPNet's own training (ours)
    config.model.layers = placeholder(int)  # keep only the first N layers; for tests

    config.data = ConfigDict()
    config.data.dir = placeholder(str)  # what `python -m data_prep build --output` made; required
    config.data.batch_size = 512  # skills, and as many titles, sentences and alternatives (paper)
    config.data.distractor_probability = 0.8  # that a sentence gets an unrelated one beside it (paper)
    # Tokens that texts are cut to; 0 takes what data prep chose from the lengths of the texts. 64 at most (paper).
    config.data.length = ConfigDict({'skill': 0, 'job': 0, 'sentence': 0, 'alternative': 0})

    config.score = ConfigDict()
    config.score.kind = 'soft'  # soft late interaction; maxsim, mean: ablations (paper)
    config.score.temperature = 0.1  # τ_a, of the softmax over tokens (paper)
    config.score.reduce = 'mean'  # over the attending tokens; sum: the formula taken literally (ours)
    # Over whose tokens the softmax runs: target, the query's tokens attend to the target's (paper); query, the reverse;
    # both, the mean of the two (ours); from_skill, the skill's tokens attend to the other text's in both directions.
    config.score.attend = 'both'
    config.score.target = 'tokens'  # mean: one vector per target, ablation (paper)
    config.score.special_tokens = True  # whether <s> and </s> take part (ours)

    config.interaction = ConfigDict()
    config.interaction.dtype = 'bfloat16'  # of its inputs; products accumulate in float32 (ours)

    config.loss = ConfigDict()
    config.loss.weight = ConfigDict({'job': 1.0, 'sentence': 0.5, 'alternative': 0.5})  # α (paper)
    config.loss.temperature = ConfigDict({'job': 0.05, 'sentence': 0.02, 'alternative': 0.02})  # τ (paper)
    config.loss.positives = 'graph'  # every edge within the batch; sampled: plain InfoNCE, ablation (paper)
    config.loss.denominator = 'all'  # includes the other positives; negatives: leaves them out (ours)
    config.loss.directions = 'both'  # forward: ablation (paper)

    config.optimizer = ConfigDict()
    config.optimizer.peak_lr = 8e-5  # (paper, section 4.2; its appendix says 8e-4)
    config.optimizer.warmup = 0.1  # share of the steps (paper)
    config.optimizer.decay = 'linear'  # to 0; or cosine, constant (ours)
    config.optimizer.weight_decay = 0.01  # of matrices, not of biases and norms (ours)
    config.optimizer.clip = 1.0  # largest global norm of the gradient; inf: no clipping (ours)
    config.optimizer.max_skips = 0  # consecutive non-finite updates to skip before stopping (ours)
    config.optimizer.b1 = 0.9  # (AdamW's default)
    config.optimizer.b2 = 0.999  # (AdamW's default)

    # From here on: how and where it runs. These fields may change when a run is continued.
    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices with different rows and the same parameters; -1: all that are left
    config.mesh.fsdp = 1  # devices with different rows and different parts of the parameters

    config.interaction.form = 'blockwise'  # kernel: Pallas, on TPUs; reference: a few lines, to check against
    config.interaction.exchange = 'gather'  # of queries on a mesh; ring: less memory, more traffic
    config.interaction.block_entries = 0  # token pairs per block of the blockwise form, at most; 0: suits the devices

    config.run = ConfigDict()
    config.run.log_every = 50  # steps
    config.run.evaluate_every = 1_000  # steps; also before the first and after the last one; 0: never
    config.run.evaluate_queries = 500  # per held-out task at most, drawn by the seed; against all targets
    config.run.save_every = 500  # steps; also after the last one
    config.run.keep = 3  # checkpoints, the newest
    # Seconds for a step, or for the embedding or one task of an evaluation; then all processes end, if several run.
    config.run.stall_timeout = 3_600
    config.run.prefetch = 4  # batches read ahead
    # Rows of 64 tokens that a device encodes at a time. If a device has more, the backward pass computes the
    # activations of each part again: a third more time, but memory does not grow with the batch. 0: all rows at once.
    config.run.rows_at_once = 128
    config.run.profile_first = 0  # first step of a profile, for `python -m uwe_jax.profile`; 0: none
    config.run.profile_steps = 3  # steps in the profile

    if variant == 'paper':
        _score_as_published(config)
    elif variant == 'quickstart':
        _make_small(config)
    elif variant == 'public':
        _fit_two_cores(config)
    elif variant:
        raise ValueError(f'configs/uwe.py:{variant}: unknown variant, expected nothing, paper, quickstart or public')
    return config.lock()


def _score_as_published(config: Any) -> None:
    """The score of the paper's section 3.2; `reduce` stays the mean, which ranks a query's targets as the sum does."""
    config.score.kind = 'soft'
    config.score.temperature = 0.1
    config.score.attend = 'target'
    config.score.target = 'tokens'


def _make_small(config: Any) -> None:
    """The same experiment on two cores: fewer and smaller steps, and a learning rate that suits so few of them."""
    config.steps = 32
    config.data.batch_size = 32
    config.model.dropout = 0.0  # it sees each text about once
    config.optimizer.peak_lr = 5e-5
    config.interaction.dtype = 'float32'
    config.run.log_every = 8
    config.run.evaluate_every = 1_000  # before the first and after the last step only
    config.run.evaluate_queries = 2_000  # all of the sample's
    config.run.save_every = 16
    config.run.keep = 1
    config.run.rows_at_once = 0


def _fit_two_cores(config: Any) -> None:
    """All of ESCO and SkillSkape's sentences, as much of it as two cores see in three hours: 3 epochs of skills."""
    config.steps = 700
    config.data.batch_size = 64
    config.data.length.sentence = 48
    config.model.dtype = 'float32'
    config.model.dropout = 0.0  # it sees most pairs once at most
    config.optimizer.peak_lr = 5e-5
    config.interaction.dtype = 'float32'
    config.run.log_every = 10
    config.run.evaluate_every = 350
    config.run.evaluate_queries = 500
    config.run.save_every = 25  # so that a stop by force costs minutes
    config.run.keep = 1
    config.run.rows_at_once = 0
