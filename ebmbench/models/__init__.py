"""What gives p(y|x): an energy (`model=ebm`: a method, a proposal, a network), or a density by itself.

A file for each of the latter: `gaussian`, `mdn`, `histogram` and `flow` are heads on the encoders of the networks,
trained by exact likelihood; `ngboost` and `treeffuser` are fitted by their own libraries.
"""
