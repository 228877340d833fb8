"""Measured transfer: what fine-tuning on one task does to the accuracy on others, and what of it is more than noise.

`names` knows the thirteen published tasks, `tables` reads every form of a measured matrix and states the schema of our
own, `pgf` turns accuracies into Perfection Gap Factors, `scores` and `cliques` are the published summaries, and the
rest is what they should be held against: variance shares, nulls, paired tests, constant answers, dose.

(Transfer of task vectors by patching is `interp.protocol.transfer`.)
"""
