"""The miniature of the CoVFT study (Zhou et al. 2026): strategies on mixtures of tasks, and the paper's orderings."""
