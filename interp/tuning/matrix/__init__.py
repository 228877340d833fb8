"""The measured transfer matrix: fine-tune on task i, test on task j, as resumable jobs.

`plan` says which jobs there are, `jobs` does one in its folder, `work` is what it does with models, `launch` runs jobs
one after another or on Slurm, `cost` foretells hours and disk, `calibration` sets the tasks' difficulties, and
`collect` makes the tables that the analysis (:mod:`interp.transfer`) reads.
"""
