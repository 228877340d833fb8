"""Task vectors of perception tasks: read, compared, followed through fine-tuning, and patched."""

from interp.perception_vectors.moves import moves, moves_long
from interp.perception_vectors.settings import VectorSettings
from interp.perception_vectors.similarity import similarity
from interp.perception_vectors.states import most_reliable_layer, read_states, reliability
from interp.perception_vectors.transfer import chosen_layer, transfer_long, transfer_table
from interp.perception_vectors.work import VectorWork, read_vectors

__all__ = [
    "VectorSettings",
    "VectorWork",
    "chosen_layer",
    "most_reliable_layer",
    "moves",
    "moves_long",
    "read_states",
    "read_vectors",
    "reliability",
    "similarity",
    "transfer_long",
    "transfer_table",
]
