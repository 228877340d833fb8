"""The perception model's vision tower: a CLIP transformer that reads EfficientNet-lite0 at three resolutions.

    pixels [I, 3, H, W] --stem--> stride 8 [40, H/8, W/8], stride 16 [112, H/16, W/16], stride 32 [320, H/32, W/32]
        --space to depth--> one vector a 32 x 32 cell [I, N, 16 * 40 + 4 * 112 + 320] --linear--> tokens + position
        --pre-norm--> transformer blocks --> [I, N, D]

Stride 32 alone says what is in a cell; the finer maps keep where in the cell an edge, a ring or a letter is, which
points, boxes and borders need. The stem keeps its ImageNet weights, so its maps can be computed once for a picture.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import nn
from transformers import AutoConfig, AutoModel, CLIPVisionConfig

from interp.models.bundled.tower import (
    STRIDE,
    ConvStemEmbeddings,
    ConvStemVisionConfig,
    ConvStemVisionModel,
)

LEVELS = {4: 8, 10: 16, 15: 32}
"""Index of the last stem block at a resolution -> its stride."""
CHANNELS = {8: 40, 16: 112, 32: 320}
CELL_FEATURES = sum(CHANNELS[stride] * (STRIDE // stride) ** 2 for stride in LEVELS.values())


class MultiScaleVisionConfig(ConvStemVisionConfig):
    """A CLIP vision configuration whose patch embedding reads the stem at three strides."""

    model_type = "multi_scale_clip_vision"


class MultiScaleEmbeddings(ConvStemEmbeddings):
    """Pixels to one token a 32 x 32 cell, in reading order, with learned positions added."""

    def __init__(self, config: CLIPVisionConfig):
        super().__init__(config)
        del self.head  # stride 32 is read before the head, whose 1280 channels are ImageNet's classes' own
        self.patch_embedding = nn.Linear(CELL_FEATURES, config.hidden_size, bias=False)  # type: ignore[assignment]

    def cells(self, pixel_values: Float[torch.Tensor, "I 3 H W"]) -> Float[torch.Tensor, "I N C"]:
        """The stem's maps, gathered for each cell; independent of everything that is trained."""
        x = nn.functional.relu6(self.stem(pixel_values))
        gathered = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in LEVELS:
                side = STRIDE // LEVELS[index]
                gathered.append(rearrange(x, "i c (h a) (w b) -> i (h w) (a b c)", a=side, b=side))
        return torch.cat(gathered, -1)

    def tokens(self, cells: Float[torch.Tensor, "I N C"]) -> Float[torch.Tensor, "I N D"]:
        """Cells to tokens."""
        return self.patch_embedding(cells.to(self.patch_embedding.weight.dtype)) + self.position_embedding.weight

    def forward(
        self, pixel_values: Float[torch.Tensor, "I 3 H W"], interpolate_pos_encoding: bool = False
    ) -> Float[torch.Tensor, "I N D"]:
        height, width = pixel_values.shape[-2:]
        if interpolate_pos_encoding or (height, width) != (self.image_size, self.image_size):
            raise ValueError(
                f"Input image size ({height}*{width}) doesn't match model ({self.image_size}*{self.image_size})."
            )
        return self.tokens(self.frozen_maps(pixel_values.to(self.stem.weight.dtype)))

    def stem_maps(self, pixel_values: Float[torch.Tensor, "I 3 H W"]) -> Float[torch.Tensor, "I N C"]:
        """All of the stem that is not trained."""
        return self.cells(pixel_values)


class MultiScaleVisionModel(ConvStemVisionModel):
    """CLIP's vision transformer on the stem's three resolutions; the pooled output is the mean over cells."""

    config: MultiScaleVisionConfig
    config_class = MultiScaleVisionConfig

    def __init__(self, config: MultiScaleVisionConfig):
        super().__init__(config)
        self.embeddings = MultiScaleEmbeddings(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, MultiScaleEmbeddings):
            nn.init.normal_(module.position_embedding.weight, std=self.config.initializer_range)
            nn.init.normal_(module.patch_embedding.weight, std=CELL_FEATURES**-0.5)
        else:
            super()._init_weights(module)


AutoConfig.register(MultiScaleVisionConfig.model_type, MultiScaleVisionConfig, exist_ok=True)
AutoModel.register(MultiScaleVisionConfig, MultiScaleVisionModel, exist_ok=True)
