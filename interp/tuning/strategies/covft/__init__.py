"""Context-aware visual fine-tuning, CoVFT (Zhou, Wang, Zheng and Huang 2026, arXiv 2603.21077): the question reaches
the vision tower, whose late blocks choose among experts by it.

`context` makes one vector an image of what the block sees and what is asked, `mixture` weighs experts by it in the
place of the block's feed-forward part, `tower` hands the question down to them, and `strategy` trains them.
"""

from interp.tuning.strategies.covft.options import CoVFTOptions
from interp.tuning.strategies.covft.strategy import CoVFT

__all__ = ["CoVFT", "CoVFTOptions"]
