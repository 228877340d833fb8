"""Perception tasks: the thirteen of BLINK (Fu et al. 2024) that Sachdeva et al. (2025) measure transfer between.

`procedural/` draws items with exact ground truth, one file a task; other modules read published or a user's own data.
"""
