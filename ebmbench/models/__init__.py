"""What gives p(y|x): an energy (`model=ebm`: a method, a proposal, a network), or a density by itself.

A file for each of the latter: `gaussian`, `mdn`, `histogram` and `flow` are heads on the encoders of the networks,
trained by exact likelihood. Libraries fit the others: trees (`ngboost`, `treeffuser`), quantiles from trees
(`quantile_forest`, `boosted_quantiles`, `conformal_quantiles`), and networks with weights of their authors that take
the training rows as context (`tabpfn`, `tabicl`).
"""
