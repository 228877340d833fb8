"""What vision-language models have in common: the processor turns a picture into tensors and a run of placeholders.

Since version 5 transformers expands images in the processor, for every family here: ``replace_image_token`` is the text
that stands for a picture, and the model puts one feature vector at each placeholder. A family's own file says what its
processor does differently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image as Pillow
from torch import Tensor
from transformers import PreTrainedModel

from interp.errors import CrosstaskError
from interp.models.families.base import Family, ImageInputs

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from transformers import ProcessorMixin


class VisionFamily(Family):
    """A language model after a vision tower and a projector; images become tokens of the sequence."""

    image_placeholder = "<image>"
    continues_with_images = True
    said_by_the_text: ClassVar[frozenset[str]] = frozenset()
    """What the image processor returns for the text alone, and the model does not take."""

    def given(self, processor: ProcessorMixin | None) -> Any:
        """The processor.

        Raises:
            CrosstaskError: if there is none.
        """
        if processor is None:
            raise CrosstaskError(f"a {self.name} model needs its processor, and none was found beside the weights")
        return processor

    def check(self, module: PreTrainedModel, processor: ProcessorMixin | None) -> None:
        """The text that stands for a picture must hold the token at which the model puts the picture's features."""
        text = self.image(self.given(processor), Pillow.new("RGB", (64, 48))).text
        ids = self.given(processor).tokenizer(text, add_special_tokens=False).input_ids
        wanted = module.config.image_token_id
        if wanted not in ids:
            raise CrosstaskError(
                f"the processor writes a picture as {text[:40]!r}..., without the token {wanted} at which "
                f"{type(module).__name__} puts image features"
            )

    def image(self, processor: ProcessorMixin, picture: Picture, *, among: int = 1) -> ImageInputs:
        features = self.features(processor, picture, among)
        text = processor.replace_image_token(features, 0)
        unused = self.said_by_the_text.union(processor.unused_input_names)
        before, after = self.image_frame
        kept = {name: tensor for name, tensor in features.items() if name not in unused}
        assert all(isinstance(tensor, Tensor) for tensor in kept.values())
        return ImageInputs(text=before + text + after, features=kept)

    def features(self, processor: ProcessorMixin, picture: Picture, among: int) -> dict[str, Any]:
        """What the image processor returns for one picture, including what only the text depends on."""
        settings = getattr(processor, "images_kwargs", None) or {}
        return dict(processor.image_processor(images=[picture], return_tensors="pt", **settings))
