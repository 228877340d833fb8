"""Do similarities of tasks explain measured transfer? Inference on pairs of task matrices, with tasks as the sample.

`matrices` reads similarities, transfer and covariates, `alignment` brings them to common tasks, `permutation` is the
null (tasks are permuted, not cells), `mantel` and `regression` are the symmetric and the adjusted form of it,
`prediction` ranks sources before any of them is trained on, and `study` puts all of it into tables:

    from interp.relation.study import relate
    found = relate(similarities, transfer, covariates=("format",))   # DataFrames or paths
    found.tables["relation"]
"""
