"""Choosing training data for a target by a measured transfer matrix (Sachdeva et al. 2025, Figure 8)."""
