"""What fine-tuning wrote into a model, compared without ever forming it.

    updates = read_updates(["runs/transfer_matrix/bundled"])        # or any folders with peft adapters
    comparison = compare(updates)
    similarity_table(comparison)                                    # long: measure, layer, projection, source, target

`places` names weights alike wherever they come from, `deltas` is the update of one weight, `lora` and `checkpoint` read
updates, `folders` finds them, `geometry` compares the updates of one weight, `comparison` pools weights, `tables` makes
tables of tasks and seeds, and `gains` and `states` ask what an update does to a loss and to hidden states.
"""

from interp.updates.comparison import Comparison, Measured, Part, compare
from interp.updates.deltas import Dense, LowRank, Singular, vector
from interp.updates.folders import read_updates
from interp.updates.geometry import Geometry, geometry
from interp.updates.places import Place, place
from interp.updates.tables import angle_table, ceiling_table, long_table, norm_table, similarity_table
from interp.updates.update import Name, Update

__all__ = [
    "Comparison",
    "Dense",
    "Geometry",
    "LowRank",
    "Measured",
    "Name",
    "Part",
    "Place",
    "Singular",
    "Update",
    "angle_table",
    "ceiling_table",
    "compare",
    "geometry",
    "long_table",
    "norm_table",
    "place",
    "read_updates",
    "similarity_table",
    "vector",
]
