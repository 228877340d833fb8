"""Gradient conflict of tasks in a vision tower: on common parameters, at equal micro-batches, with controls."""

from interp.conflict.alignment import DEFINITIONS, Aligned, Pairs, aligned, between, mean_cosine, pair, unit, within
from interp.conflict.distance import distance_summary, distances, weights_of
from interp.conflict.gradients import gradient_grams
from interp.conflict.places import Place, chosen_layers, common_places
from interp.conflict.settings import Arm, ConflictSettings
from interp.conflict.work import ConflictWork

__all__ = [
    "DEFINITIONS",
    "Aligned",
    "Arm",
    "ConflictSettings",
    "ConflictWork",
    "Pairs",
    "Place",
    "aligned",
    "between",
    "chosen_layers",
    "common_places",
    "distance_summary",
    "distances",
    "gradient_grams",
    "mean_cosine",
    "pair",
    "unit",
    "weights_of",
    "within",
]
