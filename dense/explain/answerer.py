"""Attention of the suite's small vision-language models, for :mod:`dense.explain.carve`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..sequence.answering import END, Answerer
from ..sequence.mosaics import MosaicSample, Question
from ..sequence.networks.vision_remember import IMAGE
from .carve import Attention
from .vlm import last_row


class AnswererVLM:
    """An :class:`~dense.sequence.answering.Answerer` as CARVE needs it.

    It knows the words of its questions alone: nothing is added to a prompt, and the general one is of these
    words, too. It has learnt to look at one picture, so it is asked again about the refined one alone,
    resized to the size of the first.

    Args:
        answerer: whose network has a language model of softmax attention.

    Attributes:
        general, suffix: see :func:`~dense.explain.carve.ask`.
    """

    general = "what is ?"
    suffix = ""

    def __init__(self, answerer: Answerer):
        self.answerer, self.model = answerer, answerer.model

    def attention(self, image: Image.Image, prompt: str) -> Attention:
        """Answer a prompt and record attention to the image, see :class:`~dense.explain.carve.Attention`.

        Raises:
            ValueError: an unknown word, a size that the network does not take, or no softmax attention.
        """
        inputs, batch = self._prepare(image, prompt)
        network = self.model.network
        with recording(network.language.layers) as rows:
            ids = network.generate(inputs, **batch, max_tokens=2, stop=END)
        found = [row for row in rows if row]
        if not found:
            kind = type(network.language).__name__
            raise ValueError(f"{kind}: found no softmax attention to record, wanted a language model with it")
        places = torch.nonzero(batch["ids"][0] == IMAGE)[:, 0]
        maps = torch.stack([torch.stack([step[0, places] for step in row]) for row in found], 1)
        step = network.vision.strides[-1] * network.ratio
        grid = tuple(side // step for side in inputs.shape[2:])
        return Attention(self.model.vocabulary.decode(ids[0].tolist()), maps.cpu(), grid)

    def answer(self, images: Sequence[Image.Image], prompt: str) -> str:
        """Answer a prompt about the last image."""
        picture = images[-1].convert("RGB").resize(images[0].size, Image.Resampling.BICUBIC)
        return self.answerer(np.asarray(picture), question=prompt)

    def _prepare(self, image: Image.Image, prompt: str) -> tuple[Tensor, dict]:
        picture = torch.from_numpy(np.array(image.convert("RGB")).transpose(2, 0, 1).copy())
        sample = MosaicSample()
        sample.set_data({"questions": [Question("", prompt, "")]})
        inputs = self.model.data_preprocessor({"inputs": [picture], "data_samples": [sample]})["inputs"]
        tokens = self.model.network.count_tokens(inputs)
        return inputs, self.model.make_batch([sample], tokens, False, inputs.device)


class _LastRows(TorchFunctionMode):
    """Keeps the last row of softmax attention that is computed while :attr:`row` is a list."""

    row: list[Tensor] | None = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.row is not None:
            query, key, _, *rest = args
            mask = rest[0] if rest else kwargs.get("attn_mask")
            self.row.append(last_row(query, key, mask, kwargs.get("scale")))
        return func(*args, **kwargs)


@contextmanager
def recording(layers: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """While it lasts, the last rows of attention within each layer are kept, (B, keys), call by call."""
    mode, rows = _LastRows(), [[] for _ in layers]

    def enter(row: list[Tensor]) -> None:
        mode.row = row

    handles = []
    for layer, row in zip(layers, rows, strict=True):
        handles.append(layer.register_forward_pre_hook(lambda *_, row=row: enter(row)))
        handles.append(layer.register_forward_hook(lambda *_: enter(None), always_call=True))
    try:
        with mode:
            yield rows
    finally:
        for handle in handles:
            handle.remove()
