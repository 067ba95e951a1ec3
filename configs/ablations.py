"""Studies for `python -m uwe_jax.ablate`: which fields of the experiment take which other values.

A study is a list of variants, and a variant is the fields in which it differs from the experiment that --config names.
That experiment itself, as it is, is the reference of every study; a variant that equals it is not trained twice.
"""

STUDIES = {
    # Which tokens attend to which; see `configs/uwe.py`.
    'attend': [{'score.attend': attend} for attend in ('target', 'query', 'both', 'from_skill')],
    # Soft late interaction against MaxSim, a mean-pooled target, and mean pooling on both sides (paper, section 5).
    'score': [
        {'score.kind': 'soft', 'score.target': 'tokens'},
        {'score.kind': 'maxsim', 'score.target': 'tokens'},
        {'score.kind': 'soft', 'score.target': 'mean'},
        {'score.kind': 'mean', 'score.target': 'tokens'},
    ],
    # Every edge within the batch, or only the one that was drawn.
    'positives': [{'loss.positives': positives} for positives in ('graph', 'sampled')],
    'directions': [{'loss.directions': directions} for directions in ('both', 'forward')],
    'reduce': [{'score.reduce': reduce} for reduce in ('mean', 'sum')],
    # τ_a; the paper names 0.1 in its text and 0.5 in its appendix.
    'temperature': [{'score.temperature': temperature} for temperature in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)],
    # With and without the graph of skills and vacancy sentences.
    'sentences': [{'loss.weight.sentence': weight} for weight in (0.5, 0.0)],
    # With and without an unrelated sentence beside the sentence.
    'distractors': [{'data.distractor_probability': probability} for probability in (0.8, 0.0)],
    # Not in the paper.
    'dropout': [{'model.dropout': rate} for rate in (0.1, 0.0)],
    'learning_rate': [{'optimizer.peak_lr': rate} for rate in (3e-5, 8e-5, 2e-4)],
    # τ of the loss.
    'loss_temperature': [
        *({'loss.temperature.job': temperature} for temperature in (0.02, 0.05, 0.1)),
        *({'loss.temperature.sentence': temperature} for temperature in (0.01, 0.02, 0.05)),
    ],
}
