"""Bi-directional ConvTTrans + ConvLSTM: the middle frames of a clip from those before and after.

Shen, Ouyang, Lu, Yang and Sanchez, "Advancing Video Anomaly Detection: A Bi-Directional Hybrid Framework for
Enhanced Single- and Multi-Task Approaches", IEEE Transactions on Image Processing 33, 2024
(https://arxiv.org/abs/2504.14753). Code: https://github.com/SHENGUODONG19951126/-ConvTTrans-ConvLSTM, which
has no licence; nothing here is taken from it.

A transformer over whole frames (convolutions instead of linear maps, attention T x T) works at a quarter of
the resolution, convolutional LSTMs at all of it; one branch looks from the past, one from the future.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import count_parts, rename_keys, strip_prefix
from pointsuite.engine.network import Network

from ...layers import run_block
from ...ops import frame_logits, lstm_cell
from ...registry import MODELS, ZOO

NORMS = ("sample", "batch", "tracked")
TARGETS = ("all", "middle")
SLOPE = 0.2  # of every leaky ReLU
HIDDEN = -1e9  # logit of a masked frame; finite, so that a row without any visible frame becomes uniform


@ZOO.register_network("vad_hybrid", MODELS)
class VADHybrid(Network, nn.Module):
    """Predict the middle frames of a clip: (B, T, C, H, W) in [-1, 1] to (B, t, C, H, W).

    The clip has ``context`` frames of the past, t targets, and ``context`` frames of the future. Target i is
    predicted from all context, from the true frames before it (forward) and from those after it (backward).

    The published network has batch norms without running statistics: it always norms by the mean and variance
    of what is in the call, also in evaluation. ``norm`` says over which frames:

    - "sample": those of the one sample, so that its prediction does not depend on the rest of the batch. This
      is the published code with a batch of one, which is how it was trained.
    - "batch": those of the whole batch, as the published code with larger batches.
    - "tracked": as usual, those of the batch in training, running statistics in evaluation. Not as published.

    Args:
        arch: "base" (as published), "small" (our own), or a mapping with their keys: ``widths`` at full,
            half and quarter resolution, ``depth`` of the encoder and of each decoder, ``num_heads``,
            ``ffn_ratio``, ``kernel_size`` of the LSTMs.
        in_channels: C; published are 1 and 3.
        clip_length: T.
        context: frames of the past, and of the future.
        forward_weight: share of the forward branch in the features that make the frames, 0..1.
        dropout: of attention weights and of the output of each attention and feed-forward network.
        norm: see above.
        white_pixel_mask: hide context frames whose first value is exactly 1 from attention, and the i-th
            frame of each decoder where that of target i is, as the published code does (a left-over of
            padding texts).
        with_cp: save memory in training: keep only the inputs of layers and LSTM steps, and compute the rest
            anew. Excludes "tracked" statistics, which would be updated twice.

    Attributes:
        num_targets: t.
    """

    paper = (
        'Shen, Ouyang, Lu, Yang, Sanchez, "Advancing Video Anomaly Detection: A Bi-Directional Hybrid '
        'Framework for Enhanced Single- and Multi-Task Approaches", IEEE Transactions on Image Processing '
        "2024, arXiv 2504.14753"
    )
    code = "SHENGUODONG19951126/-ConvTTrans-ConvLSTM"
    licence = "none"
    archs = {
        "small": {"widths": (8, 16, 32), "depth": 2, "num_heads": 4, "ffn_ratio": 4, "kernel_size": 3},
        "base": {"widths": (16, 32, 64), "depth": 5, "num_heads": 8, "ffn_ratio": 4, "kernel_size": 5},
    }

    num_parameters = {"small": 851_137, "base": 8_468_673}  # grey
    example_sizes = ((16, 16), (24, 16))

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "base",
        in_channels: int = 1,
        *,
        clip_length: int = 9,
        context: int = 3,
        forward_weight: float = 0.85,
        dropout: float = 0.1,
        norm: str = "sample",
        white_pixel_mask: bool = False,
        with_cp: bool = False,
    ):
        super().__init__()
        spec = self.find_arch(arch)
        if context < 1 or clip_length <= 2 * context:
            raise ValueError(
                f"a clip must be longer than its 2 x {context} context frames (at least 2 x 1), "
                f"found clip_length {clip_length}"
            )
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {NORMS}, found {norm!r}")
        if norm == "tracked" and with_cp:
            raise ValueError("with_cp excludes norm 'tracked': running statistics would be updated twice")
        if not 0 <= forward_weight <= 1:
            raise ValueError(f"forward_weight must be in 0..1, found {forward_weight}")
        self.in_channels = in_channels
        self.clip_length = clip_length
        self.context = context
        self.num_targets = clip_length - 2 * context
        self.forward_weight = forward_weight
        self.norm = norm
        self.white_pixel_mask = white_pixel_mask
        self.with_cp = with_cp

        low, middle, high = spec["widths"]
        depth, ratio, options = spec["depth"], spec["ffn_ratio"], (spec["num_heads"], dropout, norm)
        self.low = ConvNorm(nn.Conv2d(in_channels, low, 3, padding=1), norm)
        self.middle = ConvNorm(nn.Conv2d(low, middle, 3, padding=1), norm)
        self.high = ConvNorm(nn.Conv2d(middle, high, 3, padding=1), norm)
        self.encoder = nn.ModuleList(EncoderLayer(high, ratio, *options) for _ in range(depth))
        self.memory_norm = FrameNorm(high, norm)
        self.past, self.future = (
            nn.ModuleDict(
                {
                    "decoder": nn.ModuleList(DecoderLayer(high, ratio, *options) for _ in range(depth)),
                    "alpha": ConvLSTM(low, low, spec["kernel_size"], with_cp),
                    "beta": ConvLSTM(low, low, spec["kernel_size"], with_cp),
                }
            )
            for _ in range(2)
        )
        self.decoder_norm = FrameNorm(high, norm)
        self.up_middle = ConvNorm(nn.ConvTranspose2d(high, middle, 2, stride=2), norm)
        self.up_low = ConvNorm(nn.ConvTranspose2d(middle, low, 2, stride=2), norm)
        self.head = nn.Conv2d(low, in_channels, 3, padding=1)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier's uniform weights, as published; biases and norms are PyTorch's."""
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, TemporalAttention):  # three layers in the published code
                for weight in module.qkv.weight.chunk(3):
                    nn.init.xavier_uniform_(weight)

    def example_inputs(self, batch: int = 2, size: tuple[int, int] = (256, 256)) -> tuple[Tensor]:
        """Random clips."""
        return (2 * torch.rand(batch, self.clip_length, self.in_channels, *size) - 1,)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' names of weights to ours; the convolutions of query, key and value become one.

        The network may be a part, of any name, of what the weights are of.
        """
        whole = (re.fullmatch(r"(\w+\.)conv_1\.weight", key) for key in state_dict)
        state_dict = strip_prefix(state_dict, next((match[1] for match in whole if match), ""))
        merged = {}
        for key, value in state_dict.items():
            if re.search(r"\.[kv]_conv\.", key):
                continue
            if ".q_conv." in key:
                value = torch.cat([state_dict[key.replace("q_conv", f"{name}_conv")] for name in "qkv"])
                key = key.replace("q_conv", "qkv")
            # layers count from 1 there
            key = re.sub(r"^conv_tsfm_(en|de)_(\d+)", lambda m: f"conv_tsfm_{m[1]}_{int(m[2]) - 1}", key)
            merged[key] = value
        return rename_keys(merged, OFFICIAL_NAMES)

    @classmethod
    def guess_options(
        cls, state_dict: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        """Variant and channels, and whether statistics were tracked; the rest of ``norm`` and how clips are
        divided are in no weight. Nor are the heads: of one's own widths, those of each variant may be meant.
        """
        shapes = {key: tuple(value.shape) for key, value in state_dict.items()}
        widths = tuple(shapes[f"{name}.conv.weight"][0] for name in ("low", "middle", "high"))
        spec = {
            "widths": widths,
            "depth": count_parts(state_dict, "encoder."),
            "ffn_ratio": shapes["encoder.0.ff.conv_1.weight"][0] // widths[2],
            "kernel_size": shapes["past.alpha.conv.weight"][2],
        }
        options = cls.drop_defaults(
            in_channels=shapes["low.conv.weight"][1],
            norm="tracked" if "low.norm.running_mean" in shapes else "sample",
        )
        own = {name: {**spec, "num_heads": known["num_heads"]} for name, known in cls.archs.items()}
        published = [name for name in own if own[name] == cls.archs[name]]
        for name in published or own:
            arch = {} if published else {"arch": own[name]}
            yield name, {**arch, **options}, dict(state_dict)

    def forward(self, clip: Tensor, targets: str = "all") -> Tensor:
        """Predict the target frames.

        Args:
            clip: (B, T, C, H, W) floating in [-1, 1], H and W multiples of 4.
            targets: "all", or "middle" for target t // 2 alone; what has no influence on it is not computed.

        Returns:
            (B, t, C, H, W) in (-1, 1), or (B, 1, C, H, W).

        Raises:
            ValueError: another shape, unknown ``targets``.
        """
        self._check(clip, targets)
        first, count = self.context, self.num_targets
        low = self.low(clip)
        high = _by_frame(F.max_pool2d, self.middle(low), 2)
        high = _by_frame(F.max_pool2d, self.high(high), 2)  # (B, T, D, H / 4, W / 4)

        visible = clip[:, :, 0, 0, 0] != 1 if self.white_pixel_mask else None  # (B, T)
        around = [*range(first), *range(first + count, self.clip_length)]
        memory, memory_mask = high[:, around], None
        if visible is not None:
            memory_mask = visible[:, None, None, around]  # (B, heads, queries, keys)
        for layer in self.encoder:
            memory = self._run(layer, memory, memory_mask)
        memory = self.memory_norm(memory)

        def look(branch: nn.ModuleDict, frames: list[int], steps: int) -> Tensor:
            """Features (B, steps, low, H, W) of targets, the nearest to ``frames[0]`` first."""
            if self.norm == "tracked" and not self.training:
                frames = frames[:steps]  # else the statistics depend on all of them
            mask = torch.ones(len(frames), len(frames), dtype=torch.bool, device=clip.device).tril()
            if visible is not None:
                mask = mask & visible[:, None, None, first : first + len(frames)]
            x = high[:, frames]
            for layer in branch["decoder"]:
                x = self._run(layer, x, memory, mask, memory_mask)
            x = self.up_low(self.up_middle(self.decoder_norm(x)))[:, :steps]
            return branch["beta"](x, branch["alpha"](low[:, frames[:steps]]))

        middle = count // 2
        every = targets == "all"
        past = list(range(first - 1, first + count - 1))
        future = list(range(first + count, first, -1))
        ahead = look(self.past, past, count if every else middle + 1)
        back = look(self.future, future, count if every else count - middle)
        if not every:
            ahead, back = ahead[:, -1:], back[:, -1:]
        features = self.forward_weight * ahead + (1 - self.forward_weight) * back.flip(1)
        return _by_frame(self.head, features).tanh()

    def _run(self, layer: nn.Module, *inputs: Tensor | None) -> Tensor:
        return run_block(layer, *inputs, with_cp=self.with_cp and self.training)

    def _check(self, clip: Tensor, targets: str) -> None:
        if clip.ndim != 5 or clip.shape[1:3] != (self.clip_length, self.in_channels):
            raise ValueError(
                f"clips must be (B, {self.clip_length}, {self.in_channels}, H, W), found {tuple(clip.shape)}"
            )
        height, width = clip.shape[3:]
        if height < 4 or width < 4 or height % 4 or width % 4:
            raise ValueError(f"height and width of clips must be multiples of 4, found {height} x {width}")
        if targets not in TARGETS:
            raise ValueError(f"targets must be one of {TARGETS}, found {targets!r}")


_NORMS = r"\.norm_(\d)\.norm\."
OFFICIAL_NAMES = [
    (r"conv_1\.(.*)", r"low.conv.\1"),
    (r"bn_1\.(.*)", r"low.norm.\1"),
    (r"conv_2\.(.*)", r"middle.conv.\1"),
    (r"bn_2\.(.*)", r"middle.norm.\1"),
    (r"conv_3\.(.*)", r"high.conv.\1"),
    (r"bn_3\.(.*)", r"high.norm.\1"),
    (r"bn_4\.(.*)", r"memory_norm.\1"),
    (r"bn_5\.(.*)", r"decoder_norm.\1"),
    (r"deconv_1\.(.*)", r"up_middle.conv.\1"),
    (r"bn_6\.(.*)", r"up_middle.norm.\1"),
    (r"deconv_2\.(.*)", r"up_low.conv.\1"),
    (r"bn_7\.(.*)", r"up_low.norm.\1"),
    (r"conv_4\.(.*)", r"head.\1"),
    (rf"conv_tsfm_en_(\d+){_NORMS}(.*)", r"encoder.\1.norm\2.\3"),
    (r"conv_tsfm_en_(\d+)\.(attn|ff)\.(.*)", r"encoder.\1.\2.\3"),
    *(
        rule
        for letter, branch in (("f", "past"), ("b", "future"))
        for rule in (
            (rf"conv_tsfm_de_(\d+)_{letter}{_NORMS}(.*)", rf"{branch}.decoder.\1.norm\2.\3"),
            (rf"conv_tsfm_de_(\d+)_{letter}\.attn_1\.(.*)", rf"{branch}.decoder.\1.self_attn.\2"),
            (rf"conv_tsfm_de_(\d+)_{letter}\.attn_2\.(.*)", rf"{branch}.decoder.\1.cross_attn.\2"),
            (rf"conv_tsfm_de_(\d+)_{letter}\.ff\.(.*)", rf"{branch}.decoder.\1.ff.\2"),
            (rf"convlstm_1{letter}\.conv\.0\.(.*)", rf"{branch}.alpha.conv.\1"),
            (rf"convlstm_1{letter}\.conv\.1\.(.*)", rf"{branch}.alpha.norm.\1"),
            (rf"convlstm_2{letter}\.conv\.0\.(.*)", rf"{branch}.beta.conv.\1"),
            (rf"convlstm_2{letter}\.conv\.1\.(.*)", rf"{branch}.beta.norm.\1"),
        )
    ),
]


# --------------------------------------------------------------------------------------------- transformer


class EncoderLayer(nn.Module):
    """Attention among frames, then a feed-forward network: (B, T, D, H, W) to the same."""

    def __init__(self, channels: int, ffn_ratio: int, num_heads: int, dropout: float, norm: str):
        super().__init__()
        self.norm1, self.norm2 = FrameNorm(channels, norm), FrameNorm(channels, norm)
        self.attn = TemporalAttention(channels, num_heads, dropout)
        self.ff = ConvFFN(channels, ffn_ratio, dropout)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x), mask=mask))
        return x + self.drop(self.ff(self.norm2(x)))


class DecoderLayer(nn.Module):
    """Attention among frames and to the memory, a feed-forward network: (B, t, D, H, W) to the same."""

    def __init__(self, channels: int, ffn_ratio: int, num_heads: int, dropout: float, norm: str):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (FrameNorm(channels, norm) for _ in range(3))
        self.self_attn = TemporalAttention(channels, num_heads, dropout)
        self.cross_attn = TemporalAttention(channels, num_heads, dropout)
        self.ff = ConvFFN(channels, ffn_ratio, dropout)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, memory: Tensor, mask: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        x = x + self.drop(self.self_attn(self.norm1(x), mask=mask))
        x = x + self.drop(self.cross_attn(self.norm2(x), memory, memory_mask))
        return x + self.drop(self.ff(self.norm3(x)))


class TemporalAttention(nn.Module):
    """Multi-head attention whose tokens are whole frames; ``qkv`` and ``out`` are 3 x 3 convolutions."""

    def __init__(self, channels: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"channels must be a multiple of num_heads {num_heads}, found {channels}")
        self.num_heads = num_heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 3, padding=1)
        self.out = nn.Conv2d(channels, channels, 3, padding=1)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Look from each frame of ``x`` at those of ``memory``, or of ``x`` itself.

        Args:
            x: (B, T, D, H, W).
            memory: (B, S, D, H, W).
            mask: bool, broadcast to (B, heads, T, S); False hides a frame.

        Returns:
            (B, T, D, H, W).
        """
        channels = x.shape[2]
        if memory is None:
            query, key, value = _by_frame(self.qkv, x).split(channels, 2)
        else:
            (query_weight, weight), (query_bias, bias) = (
                parameter.split([channels, 2 * channels]) for parameter in (self.qkv.weight, self.qkv.bias)
            )
            query = _by_frame(F.conv2d, x, query_weight, query_bias, padding=1)
            key, value = _by_frame(F.conv2d, memory, weight, bias, padding=1).split(channels, 2)
        scale = sqrt(query[0, 0].numel() / self.num_heads)
        logits = frame_logits(query, key, self.num_heads).float() / scale
        if mask is not None:
            logits = logits.masked_fill(~mask, HIDDEN)
        weights = self.drop(logits.softmax(-1)).to(value.dtype)
        y = torch.einsum("bhts,bshdyx->bthdyx", weights, value.unflatten(2, (self.num_heads, -1)))
        return _by_frame(self.out, y.flatten(2, 3))


class ConvFFN(nn.Module):
    """Two 3 x 3 convolutions with a leaky ReLU between them: (B, T, D, H, W) to the same."""

    def __init__(self, channels: int, ratio: int, dropout: float = 0.0):
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, ratio * channels, 3, padding=1)
        self.conv_2 = nn.Conv2d(ratio * channels, channels, 3, padding=1)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(_by_frame(self.conv_1, x), SLOPE, inplace=True)
        return _by_frame(self.conv_2, self.drop(x))


# ---------------------------------------------------------------------------------------------------- LSTM


class ConvLSTM(nn.Module):
    """A convolutional LSTM with group norm, which may listen to the hidden states of another one.

    Alpha is one that does not. Beta gets the hidden state of alpha of the same step. Groups are of 32
    channels of the four gates.

    Args:
        in_channels: of the frames.
        features: of the states.
        kernel_size: odd.
        with_cp: keep only the inputs of steps for the gradient.
    """

    def __init__(self, in_channels: int, features: int, kernel_size: int = 5, with_cp: bool = False):
        super().__init__()
        if features % 8:
            raise ValueError(f"features of a ConvLSTM must be a multiple of 8, found {features}")
        self.parts = [in_channels, features, features]
        self.with_cp = with_cp
        self.conv = nn.Conv2d(sum(self.parts), 4 * features, kernel_size, padding=kernel_size // 2)
        self.norm = nn.GroupNorm(features // 8, 4 * features)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """All hidden states.

        Args:
            x: (B, T, in_channels, H, W).
            extra: hidden states (B, T, features, H, W) of another LSTM; zeros by default.

        Returns:
            (B, T, features, H, W).
        """
        # what is known beforehand is convolved for all steps at once
        weight, hidden_weight, extra_weight = self.conv.weight.split(self.parts, 1)
        if extra is not None:
            x, weight = torch.cat([x, extra], 2), torch.cat([weight, extra_weight], 1)
        known = _by_frame(F.conv2d, x, weight, self.conv.bias, padding=self.conv.padding)
        hidden = cell = None
        outputs = []
        for gates in known.unbind(1):
            hidden, cell = run_block(
                self._step, gates, hidden, cell, hidden_weight, with_cp=self.with_cp and self.training
            )
            outputs.append(hidden)
        return torch.stack(outputs, 1)

    def _step(
        self, gates: Tensor, hidden: Tensor | None, cell: Tensor | None, hidden_weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        if hidden is not None:
            gates = gates + F.conv2d(hidden, hidden_weight, padding=self.conv.padding)
        return lstm_cell(self.norm(gates), cell)


# -------------------------------------------------------------------------------------------------- shared


class ConvNorm(nn.Module):
    """Convolution, norm and leaky ReLU of frames (B, T, C, H, W)."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, norm: str):
        super().__init__()
        self.conv = conv
        self.norm = FrameNorm(conv.out_channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(_by_frame(self.conv, x)), SLOPE, inplace=True)


class FrameNorm(nn.BatchNorm2d):
    """Batch norm of frames (B, T, C, H, W) over those of each sample, or of all; see :class:`VADHybrid`."""

    def __init__(self, channels: int, norm: str = "sample"):
        super().__init__(channels, track_running_stats=norm == "tracked")
        self.by_sample = norm == "sample"

    def forward(self, x: Tensor) -> Tensor:
        if self.by_sample and len(x) > 1:
            affine = self.weight, self.bias
            normed = [F.batch_norm(sample, None, None, *affine, True, eps=self.eps) for sample in x]
            return torch.cat(normed).unflatten(0, x.shape[:2])
        return _by_frame(super().forward, x)


def _by_frame(function: Callable[..., Tensor], x: Tensor, *args, **kwargs) -> Tensor:
    """Call a function of images (N, C, H, W) on frames (B, T, C, H, W), channels-last in memory."""
    images = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return function(images, *args, **kwargs).unflatten(0, x.shape[:2])
