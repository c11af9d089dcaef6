"""What Qwen2.5-VL and Qwen3-VL have in common.

An image isn't cut. It is resized, so that both sides are whole numbers of tokens and its pixels stay between two
limits, and every patch of it goes through the tower. A merger then makes one visual token of each block of 2 x 2
patches. So crops are one image, [1, 3, H, W], of whatever size, and images of several sizes go through the tower as one
sequence, in which each attends to itself only. What the processor does behind resizing is done on the device: pixels
are normalised, and put in the order of patches and blocks, twice, as if the image were a film of two frames.

**Saliency.** The tower has no [CLS]. What a patch is worth to the others stands in its column of the attention matrix:
the mean of the attention that it receives from all patches of its image, itself among them, over all heads. A token's
is the mean over its four patches. The layer is the last one in which every patch sees the whole image: it is nearest to
what the language model gets, and attention within a window doesn't compare what is in different windows. `keys` are
averaged over the four patches as well; `hidden` are the four patches' states side by side, as the merger takes them.

**Text relevance** is every family's: similarity of the question's input embeddings and the merger's tokens.

**Positions** have three numbers, time, row and column (M-RoPE). A kept token keeps its own; the text behind the image
goes on where it would without pruning, behind the larger of the image's sides. They come from the model's own code.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids

from adafv.counting import Sizes
from adafv.models.adapter import Adapter, Encoded
from adafv.models.geometry import Geometry, Panel
from adafv.models.packing import pack
from adafv.models.vision_attention import capture
from adafv.uploading import uploaded


@dataclass(frozen=True, slots=True, eq=False)
class TowerInputs:
    """Arguments of the tower that it would work out of the images' sizes on the device, and wait for; made on the host.

    Attributes:
        tensors: by name, for the device.
        lengths: by name, to stay on the host, which makes lists of them.
        order: int64 [N], where among the tower's tokens each visual token stands; None where it is the same place.
    """

    tensors: dict[str, Tensor]
    lengths: dict[str, Tensor]
    order: Tensor | None = None


class QwenAdapter(Adapter):
    """A Qwen-VL model with a tower that takes images of any size."""

    image_processors: ClassVar[tuple[Any, ...]] = (Qwen2VLImageProcessorPil,)
    inner_class: ClassVar[Any]  # transformers' model without its head, whose code tells where tokens lie
    sizes_vary: ClassVar[bool] = True
    plain_positions: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel, normalisation: Tensor) -> None:
        super().__init__(model, normalisation)
        self._vision: Any = cast(Any, model.config).vision_config
        self._tower: Any = cast(Any, model).model.visual
        self._tower.patch_embed = _linear(self._tower.patch_embed.proj)
        self._attention = self._tower.blocks[self.saliency_layer(model.config)].attn
        capture(self._tower, self._attention, leading=0, one_size=False)
        pack(model)

    @classmethod
    @abstractmethod
    def saliency_layer(cls, config: PretrainedConfig) -> int:
        """The last layer of the tower in which every patch sees the whole image.

        Raises:
            ValueError: there is none.
        """

    def tower_inputs(self, grid: Tensor) -> TowerInputs:
        """For images of which `grid`, int64 [n, 3], has the frames, rows and columns of patches."""
        positions = get_vision_position_ids(grid, self._vision.spatial_merge_size)
        return TowerInputs({"position_ids": positions}, {"cu_seqlens": get_vision_cu_seqlens(grid)})

    @classmethod
    def geometry(cls, config: PretrainedConfig, image_processor: Any, image_size: tuple[int, int]) -> Geometry:
        cls.saliency_layer(config)
        _refuse_mismatch(config, image_processor)
        merge, side = image_processor.merge_size, image_processor.patch_size * image_processor.merge_size
        height, width = smart_resize(
            *image_size,
            factor=side,
            min_pixels=image_processor.size.shortest_edge,
            max_pixels=image_processor.size.longest_edge,
        )
        rows, columns = height // side, width // side
        grid = torch.tensor([1, rows * merge, columns * merge])
        return Geometry(
            crops=1,
            source=np.arange(rows * columns),
            panels=(Panel(rows=rows, columns=columns),),  # the image was stretched by half a token at most
            positions=cls.inner_class.get_vision_position_ids(None, 0, grid, 1, merge).numpy(),
        )

    @classmethod
    def crops(cls, image_processor: Any, image: Image.Image) -> np.ndarray:
        pixels = image_processor.process_image(image, do_convert_rgb=True)
        side = image_processor.patch_size * image_processor.merge_size
        return image_processor.resize(pixels, image_processor.size, image_processor.resample, factor=side)[None]

    @classmethod
    def sizes(cls, config: PretrainedConfig) -> Sizes:
        return Sizes.of(config, [config.vision_config.depth])

    def encode(self, crops: Tensor, also: Collection[str] = ()) -> Encoded:
        return self.encode_packed([crops], also)[0]

    @torch.inference_mode()
    def encode_packed(self, images: Sequence[Tensor], also: Collection[str] = ()) -> list[Encoded]:
        patch = self._vision.patch_size
        grid = torch.tensor([[1, *(side // patch for side in image.shape[2:])] for image in images])
        tokens = (grid.prod(dim=1) // self._vision.spatial_merge_size**2).tolist()
        inputs = self.tower_inputs(grid)
        tensors = {name: self._moved(value) for name, value in inputs.tensors.items()}
        self._attention.captured, self._attention.returns_keys = [], "keys" in also
        out = self._tower(torch.cat([self.patches(each) for each in images]), grid, **tensors, **inputs.lengths)
        captured, self._attention.captured = self._attention.captured, None
        values = {"saliency": self._blocks(torch.cat([each.saliency[0] for each in captured])).mean(dim=1)}
        if "keys" in also:
            values["keys"] = self._blocks(torch.cat([each.keys[0] for each in captured])).mean(dim=1)
        if "hidden" in also:
            values["hidden"] = self._blocks(out.last_hidden_state).flatten(1)
        if inputs.order is not None:
            order = self._moved(inputs.order)
            values = {name: value[order] for name, value in values.items()}
        values |= {"tokens": out.pooler_output} | self.deepstack(out)
        parts = {name: value[None].split(tokens, dim=1) for name, value in values.items()}
        return [Encoded(**{name: part[number] for name, part in parts.items()}) for number in range(len(images))]

    def _blocks(self, patches: Tensor) -> Tensor:
        """[tokens, patches of a token, …] of [patches, …]."""
        return patches.unflatten(0, (-1, self._vision.spatial_merge_size**2))

    def _moved(self, value: Tensor) -> Tensor:
        return uploaded(value, self.model.device)

    def patches(self, crops: Tensor) -> Tensor:
        """[patches, values]: an image, uint8 [1, 3, H, W], as the processor hands it to the tower."""
        patch, merge, frames = (
            self._vision.patch_size,
            self._vision.spatial_merge_size,
            self._vision.temporal_patch_size,
        )
        blocks = self.normalise(crops)[0].unflatten(2, (-1, merge, patch)).unflatten(1, (-1, merge, patch))
        # Axes: channel, row of blocks, row in the block, y, column of blocks, column in the block, x.
        rows = blocks.permute(1, 4, 2, 5, 0, 3, 6).flatten(0, 3)
        return rows[:, :, None].expand(-1, -1, frames, -1, -1).flatten(1)

    def deepstack(self, out: Any) -> dict[str, Tensor]:
        """[N, S, D], under its name: what of the tower's output is added behind the language model's first S layers."""
        return {}

    @torch.inference_mode()
    def project(self, hidden: Tensor) -> Tensor:
        states = hidden.to(self.model.dtype).unflatten(-1, (-1, self._vision.hidden_size))
        return self._tower.merger(states.flatten(0, -2)).view(*hidden.shape[:-1], -1)


def _linear(patches: nn.Conv3d) -> nn.Linear:
    """What is a product of one matrix and each patch, as such: convolutions in three dimensions are slow at it."""
    linear = nn.Linear(patches.weight[0].numel(), patches.out_channels, bias=patches.bias is not None, device="meta")
    linear.weight = nn.Parameter(patches.weight.detach().flatten(1), requires_grad=False)
    if patches.bias is not None:
        linear.bias = nn.Parameter(patches.bias.detach(), requires_grad=False)
    return linear


def _refuse_mismatch(config: PretrainedConfig, image_processor: Any) -> None:
    """Raise a ValueError for an image processor that makes other patches than the tower takes, or doesn't resize."""
    vision = config.vision_config
    wanted = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    made = image_processor.patch_size, image_processor.merge_size, image_processor.temporal_patch_size
    if made != wanted:
        raise ValueError(
            f"the image processor has patch_size, merge_size and temporal_patch_size {made}, and the vision tower "
            f"{wanted}; the files are of two models"
        )
    if not image_processor.do_resize:
        raise ValueError("the image processor doesn't resize; images of most sizes can't be cut into whole tokens then")
