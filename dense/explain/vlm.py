"""Attention of vision-language models of Hugging Face, for :mod:`dense.explain.carve`.

Needs ``transformers`` (``pip install pointsuite[vlm]``). The model generates as it always does, greedily,
with its cache and PyTorch's fused attention; of each step and layer only one row is computed besides, that of
the last position: softmax(q k^T) with the cached keys, the mean over heads.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from pointsuite.engine.errors import UsageError, one_line

from .carve import Attention

NAME = "sdpa_and_last_row"  # of the attention in transformers
QWEN_MAX_PIXELS = 256 * 28 * 28  # published: at most 256 tokens an image
Rows = dict[int, list[Tensor]]  # of layers: (1, keys) of each step
_RECORDING: ContextVar[Rows | None] = ContextVar("recording", default=None)


class HuggingFaceVLM:
    """A model of Hugging Face that takes images and text and writes text, as CARVE needs it.

    Args:
        model: as ``LlavaForConditionalGeneration`` or ``Qwen2_5_VLForConditionalGeneration``; its decoder
            must use transformers' exchangeable attention.
        processor: of the model: called with text and images it gives what the model takes.
        max_new_tokens: of an answer.
    """

    def __init__(self, model: nn.Module, processor: Any, max_new_tokens: int = 32):
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: found {max_new_tokens}, wanted at least 1")
        self.model, self.processor, self.max_new_tokens = model.eval(), processor, max_new_tokens

    @classmethod
    def from_pretrained(
        cls,
        folder: str | PathLike,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        max_new_tokens: int = 32,
        **processor_options: Any,
    ) -> "HuggingFaceVLM":
        """The model and processor that ``save_pretrained`` wrote to a folder; nothing is downloaded.

        Args:
            folder: with config.json, weights and the processor's files. Code in it is not run.
            device: where it computes.
            dtype: of the weights; None as the folder has them.
            max_new_tokens: of an answer.
            **processor_options: as ``max_pixels``; for Qwen models by default as published.

        Raises:
            UsageError: the folder holds no such model.
        """
        transformers = import_transformers()
        if not Path(folder).is_dir():
            raise UsageError(f"{folder}: found no folder, wanted that of a model of Hugging Face")
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **local)
            qwen = config.model_type.startswith("qwen2")
            if qwen:
                processor_options = {"max_pixels": QWEN_MAX_PIXELS, **processor_options}
            if qwen and not transformers.utils.is_torchvision_available():
                processor = QwenProcessor.from_pretrained(folder, **local, **processor_options)
            else:
                processor = transformers.AutoProcessor.from_pretrained(folder, **local, **processor_options)
            model = transformers.AutoModelForImageTextToText.from_pretrained(
                folder, dtype=dtype or "auto", **local
            )
        except (OSError, ImportError, ValueError, KeyError, RuntimeError) as error:
            raise UsageError(f"{folder}: {one_line(error)}") from error
        return cls(model.to(device), processor, max_new_tokens)

    def attention(self, image: Image.Image, prompt: str) -> Attention:
        """Answer a prompt and record attention to the image, see :class:`~dense.explain.carve.Attention`.

        Raises:
            ValueError: there are no tokens of the image, or the model's attention cannot be recorded.
        """
        inputs = self._prepare([image], prompt)
        config = self.model.config
        places = find_image_tokens(
            inputs["input_ids"][0].cpu(),
            _first(config, "image_token_id", "image_token_index"),
            _first(config, "vision_start_token_id"),
            _first(config, "vision_end_token_id"),
        )
        decoder = self.model.get_decoder()
        with recording(decoder) as rows:
            answer = self._generate(inputs)
        if not rows:
            raise ValueError(
                f"{type(decoder).__name__}: found no attention to record, wanted that of transformers"
            )
        maps = []
        for layer in sorted(rows):
            short = min(row.shape[1] for row in rows[layer])
            if short <= int(places[-1]):
                raise ValueError(
                    f"layer {layer}: found {short} keys, wanted all tokens of the image among them"
                )
            maps.append(torch.stack([row[0, places] for row in rows[layer]]))
        return Attention(answer, torch.stack(maps, 1), self._grid(inputs, len(places)))

    def answer(self, images: Sequence[Image.Image], prompt: str) -> str:
        """Answer a prompt about one or more images."""
        return self._generate(self._prepare(images, prompt))

    def _prepare(self, images: Sequence[Image.Image], prompt: str) -> dict[str, Tensor]:
        images = [image.convert("RGB") for image in images]
        if getattr(self.processor, "chat_template", None):
            content = [*({"type": "image"} for _ in images), {"type": "text", "text": prompt}]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        else:
            token = getattr(self.processor, "image_token", "<image>")
            text = f"USER: {token * len(images)}\n{prompt} ASSISTANT:"
        inputs = self.processor(text=[text], images=images, return_tensors="pt")
        return {
            name: x.to(self.model.device, self.model.dtype if x.is_floating_point() else x.dtype)
            for name, x in inputs.items()
            if isinstance(x, Tensor)
        }

    @torch.inference_mode()
    def _generate(self, inputs: dict[str, Tensor]) -> str:
        found = self.model.generate(
            **inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens, use_cache=True
        )
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        new = found[0, inputs["input_ids"].shape[1] :]
        return tokenizer.decode(new, skip_special_tokens=True).strip()

    def _grid(self, inputs: dict[str, Tensor], count: int) -> tuple[int, int] | None:
        """Rows and columns of the image's tokens; None where the model does not say."""
        vision = getattr(self.model.config, "vision_config", None)
        grid = None
        if "image_grid_thw" in inputs:
            merge = getattr(vision, "spatial_merge_size", 1)
            _, h, w = inputs["image_grid_thw"][0].tolist()
            grid = h // merge, w // merge
        elif isinstance(patch := getattr(vision, "patch_size", None), int):
            grid = tuple(side // patch for side in inputs["pixel_values"].shape[-2:])
        return grid if grid is not None and prod(grid) == count else None


class QwenProcessor:
    """Images and text to what Qwen2-VL and Qwen2.5-VL take, without videos, for which transformers' own
    processor needs torchvision.

    Args:
        image_processor, tokenizer: of the model.
        image_token: stands for an image in the text, and is repeated for each of its tokens.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, image_token: str = "<|image_pad|>"):
        self.image_processor, self.tokenizer, self.image_token = image_processor, tokenizer, image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self.chat_template = tokenizer.chat_template

    @classmethod
    def from_pretrained(
        cls, folder: str | PathLike, local_files_only: bool = True, **options
    ) -> "QwenProcessor":
        """Of a folder; options of the image processor."""
        transformers = import_transformers()
        trust = {"local_files_only": local_files_only, "trust_remote_code": False}
        options.pop("trust_remote_code", None)
        images = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False, **trust, **options)
        return cls(images, transformers.AutoTokenizer.from_pretrained(folder, **trust))

    def apply_chat_template(self, messages: list[dict], **options: Any) -> str:
        return self.tokenizer.apply_chat_template(messages, **options)

    def __call__(
        self, text: Sequence[str], images: Sequence[Image.Image], return_tensors: str = "pt"
    ) -> dict[str, Tensor]:
        """One text, in which the image token stands for each image.

        Raises:
            ValueError: there are more or fewer of them.
        """
        found = dict(self.image_processor(images=list(images), return_tensors=return_tensors))
        merge = self.image_processor.merge_size**2
        counts = [int(grid.prod()) // merge for grid in found["image_grid_thw"]]
        first, *parts = text[0].split(self.image_token)
        if len(parts) != len(counts):
            raise ValueError(
                f"text: found {len(parts)} image tokens, wanted {len(counts)}, one for each image"
            )
        whole = first + "".join(
            self.image_token * count + part for count, part in zip(counts, parts, strict=True)
        )
        words = self.tokenizer([whole], return_tensors=return_tensors)
        kinds = (words["input_ids"] == self.image_token_id).int()
        return {**found, **words, "mm_token_type_ids": kinds}


def find_image_tokens(
    ids: Tensor, image_token: int | None, vision_start: int | None = None, vision_end: int | None = None
) -> Tensor:
    """Where in a prompt the first image's tokens are.

    Args:
        ids: (n,) integers.
        image_token: the token that stands for each of them.
        vision_start, vision_end: of models that have them: tokens around an image.

    Returns:
        (N,) int64.

    Raises:
        ValueError: there are none; the published code then goes on with the whole image.
    """
    if vision_start is not None and vision_end is not None:
        starts, ends = (torch.nonzero(ids == token)[:, 0] for token in (vision_start, vision_end))
        wanted = f"some between the tokens {vision_start} and {vision_end}"
        ends = ends[ends > starts[0]] if len(starts) else starts
        places = torch.arange(int(starts[0]) + 1, int(ends[0])) if len(ends) else ends
    else:
        wanted = f"the token {image_token}"
        places = torch.nonzero(ids == image_token)[:, 0] if image_token is not None else ids.new_empty(0)
    if not len(places):
        raise ValueError(f"image tokens: found none in a prompt of {len(ids)} tokens, wanted {wanted}")
    return places


@contextmanager
def recording(decoder: nn.Module) -> Iterator[Rows]:
    """While it lasts, the last row of a decoder's attention is kept, of each layer and step."""
    modeling = import_transformers().modeling_utils
    masking = import_transformers().masking_utils
    if NAME not in modeling.ALL_ATTENTION_FUNCTIONS:
        modeling.AttentionInterface.register(NAME, attend)
        masking.AttentionMaskInterface.register(NAME, masking.sdpa_mask)
    rows: Rows = {}
    before, token = decoder.config._attn_implementation, _RECORDING.set(rows)
    try:
        decoder.set_attn_implementation(NAME)
        yield rows
    finally:
        decoder.set_attn_implementation(before)
        _RECORDING.reset(token)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """PyTorch's attention as transformers calls it; the last row goes to who is :func:`recording`.

    Args:
        query: (1, heads, n, d).
        key, value: (1, groups, m, d), where several heads may share one.
        attention_mask: (1, 1, n, m), bool or to be added; None lets the last position see all.
    """
    layer = getattr(module, "layer_idx", None)  # which layers of an encoder lack
    if (rows := _RECORDING.get()) is not None and layer is not None:
        found = last_row(query, key, attention_mask, kwargs.get("scaling"))
        rows.setdefault(layer, []).append(found.cpu())
    sdpa = import_transformers().modeling_utils.ALL_ATTENTION_FUNCTIONS["sdpa"]
    return sdpa(module, query, key, value, attention_mask, **kwargs)


def last_row(query: Tensor, key: Tensor, mask: Tensor | None = None, scaling: float | None = None) -> Tensor:
    """The last position's attention to all keys, the mean over heads: (B, m) float32; arguments as of
    :func:`attend`, ``scaling`` by default 1 / sqrt(d).
    """
    groups = key.shape[1]
    q = query[:, :, -1].unflatten(1, (groups, -1)).float()
    logits = (
        q @ key.float().mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    )  # (B, groups, h, m)
    logits = logits.flatten(1, 2)
    if mask is not None:
        mask = mask[:, :, -1, : key.shape[2]]
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.float()
    return logits.softmax(-1).mean(1)


def import_transformers() -> Any:
    """The library.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import transformers
        import transformers.masking_utils
        import transformers.modeling_utils
    except ImportError as error:
        raise UsageError("transformers: found none, wanted it: pip install pointsuite[vlm]") from error
    return transformers


def _first(config: Any, *names: str) -> int | None:
    return next((value for name in names if isinstance(value := getattr(config, name, None), int)), None)
