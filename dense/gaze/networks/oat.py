"""OAT: a transformer over objects that predicts which of them are looked at, one after another.

"OAT: Object-Level Attention Transformer for Gaze Scanpath Prediction", ECCV 2024. Published code:
HKUST-NISL/oat_eccv24, which has no licence; nothing here is taken from it.

Objects stand in a grid and are numbered row by row. An encoder sees each of them and, once more, the target
that is searched for; a decoder sees the path so far and points at the next object, or at the target's second
token: that ends the path.
"""

from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import count_parts, rename_keys, strip_prefix
from pointsuite.engine.network import Network

from ...layers import Linear
from ...registry import MODELS, ZOO

POSITIONS = ("learned", "sinusoidal")
FREQUENCIES = ("linear", "exp1", "exp2")
NO_TARGET = -1  # in place of the target's number, where people just look
BLANK_ROWS = 4  # of zeros below the learned table
BLANK_ROW = 3  # whose sinusoids are zeros
PICTURE_SIZE = (150, 93)  # height and width
KeyValue = tuple[Tensor, Tensor]


class Scene(NamedTuple):
    """What decoding a path needs of the objects; constant over its steps."""

    pictures: Tensor  # (B, K + 3, C / 2): of the objects, and of the end, padding and start
    codes: Tensor  # (2, K + 3, C / 2): of positions, of what is not the target, and of what is
    target: Tensor  # (B,)
    tokens: Tensor  # (B, K + 1, C): the encoder's
    memory: list[KeyValue]  # keys and values of the tokens, of each layer of the decoder
    keys: list[Tensor]  # (B, K + 1, C) of each head of the read-out


@ZOO.register_network("oat", MODELS)
class OAT(Network, nn.Module):
    """Logits of the next object: pictures (B, K, 3, H, W), target (B,), path (B, T) to (B, T, K + 2).

    Of K objects, numbers 0 to K - 1 are the objects, K is the end, K + 1 padding and K + 2 the start, which
    only is an input. A path begins with the start; the logits at t are of what follows its entry t. The end
    is scored as the target's token is, padding by the read-out's bias (0 with one head).

    Where nothing is searched for, the target is :data:`NO_TARGET`: the token that ends a path then has the
    blank picture and the place of the start, marked as a target's, and no object of the path is so marked.

    Several paths of the same objects (B, S, T) share what the encoder makes of these: (B, S, T, K + 2).

    Args:
        arch: "wine", "yogurt" or "books" (as published), or a mapping with their keys: ``grid``, rows and
            columns of the objects; ``embed_dims`` C, half of it of the picture and half of the position;
            ``depth`` of encoder and decoder; ``num_heads``; ``ffn_dims``; ``readout_heads``; ``key_dims``, by
            whose square root their scores are divided; ``pyramid``, levels of
            pooling in place of the second max pooling, 0 or 2 to 4; ``table``, rows and columns of the
            learned table of positions.
        picture_size: height and width that a network without ``pyramid`` takes.
        positions: "learned" by :meth:`fit_positions`, once, before training, or "sinusoidal".
        frequency: exponents of the sinusoids' base of channel i of n: "linear", 2 i alpha / n; "exp1",
            (2 i)^alpha / n; "exp2", (2 i / n)^alpha. With alpha 1 they are one.
        alpha: see ``frequency``.
        sigma: of the similarity of rows of the learned table.
        dropout: of attention weights and of all that is added, in training.
        blank_zero_at_decode: end and padding have a black picture while paths are decoded, and one of ones
            in training, as published. As a path is cut where it ends, no path depends on it.
        reference_quirks: as published, the sinusoidal position of any row 3 is zeros. By default only that
            of what is below a grid of three rows is; a grid with more keeps its row.
    """

    paper = '"OAT: Object-Level Attention Transformer for Gaze Scanpath Prediction", ECCV 2024'
    code = "HKUST-NISL/oat_eccv24"
    licence = "none"
    _common = {
        "embed_dims": 512,
        "depth": 4,
        "num_heads": 4,
        "ffn_dims": 512,
        "readout_heads": 2,
        "key_dims": 512,
        "pyramid": 0,
    }
    archs = {
        "wine": {"grid": (2, 11), **_common, "table": (11, 86)},
        "yogurt": {"grid": (3, 9), **_common, "table": (11, 86)},
        "books": {"grid": (6, 14), **_common, "table": (14, 86)},
    }
    num_parameters = dict.fromkeys(archs, 18_255_843)  # of those published, what is used
    used_in_parts = ("decoder", "pointers")  # keys and values of the picture are computed once
    example_sizes = ((60, 48), (48, 52))
    example_arch = {
        "grid": (2, 3),
        "embed_dims": 48,
        "depth": 1,
        "num_heads": 2,
        "ffn_dims": 32,
        "key_dims": 16,
        "pyramid": 2,
        "table": (5, 8),
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "yogurt",
        *,
        picture_size: Sequence[int] = PICTURE_SIZE,
        positions: str = "learned",
        frequency: str = "linear",
        alpha: float = 1.0,
        sigma: float = 2.0,
        dropout: float = 0.1,
        blank_zero_at_decode: bool = True,
        reference_quirks: bool = False,
    ):
        super().__init__()
        spec = self.find_arch(arch)
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of {POSITIONS}, found {positions!r}")
        if frequency not in FREQUENCIES:
            raise ValueError(f"frequency must be one of {FREQUENCIES}, found {frequency!r}")
        self.grid = rows, columns = tuple(spec["grid"])
        self.num_objects = rows * columns
        self.end, self.padding, self.start = (self.num_objects + i for i in range(3))
        self.picture_size, self.pyramid = tuple(picture_size), spec["pyramid"]
        self.positions, self.frequency, self.alpha, self.sigma = positions, frequency, alpha, sigma
        self.blank_zero_at_decode, self.reference_quirks = blank_zero_at_decode, reference_quirks
        dims = spec["embed_dims"]
        if rows < 1 or columns < 1:
            raise ValueError(f"grid must have rows and columns, found {self.grid}")
        if dims % 2:
            raise ValueError(f"embed_dims must be even, found {dims}")

        numbers = torch.arange(self.num_objects + 2)
        places = torch.stack((numbers // columns, numbers % columns), 1)
        middle = torch.tensor([[rows // 2, columns // 2]])
        self.register_buffer("places", torch.cat((places, middle)), persistent=False)  # (K + 3, 2)
        if positions == "learned":
            size = tuple(spec["table"])
            most = max(columns - 1, (self.num_objects + 1) // columns, 1)  # of rows, columns and marks
            if size[0] + BLANK_ROWS <= most or 3 * size[1] < dims // 2:
                raise ValueError(
                    f"a table of positions of {size} has too few rows for a grid of {self.grid}, or columns "
                    f"for embed_dims {dims}"
                )
            self.register_buffer("table", torch.randn(size))
        self.cnn = PictureEncoder(dims // 2, self.pyramid, self.picture_size)
        layer = (dims, spec["num_heads"], spec["ffn_dims"], dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(spec["depth"]))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(spec["depth"]))
        self.drop = nn.Dropout(dropout)
        self.pointers = nn.ModuleList(Pointer(dims, spec["key_dims"]) for _ in range(spec["readout_heads"]))
        if spec["readout_heads"] > 1:
            self.mix = nn.Linear(spec["readout_heads"], 1)
        self._draw_weights()

    def _draw_weights(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def init_weights(self) -> None:
        """Xavier's uniform matrices, and the fitted table of positions: what training starts from."""
        self._draw_weights()
        if self.positions == "learned" and not self.table.is_meta:
            self.fit_positions()

    def fit_positions(self, steps: int = 10_000, lr: float = 0.01) -> float:
        """Fit the table of positions from a random start; it then stays as it is. Returns the loss."""
        table, loss = fit_position_table(*self.table.shape, self.sigma, steps, lr)
        self.table.copy_(table)
        return loss

    def example_inputs(self, batch: int = 2, size: Sequence[int] = PICTURE_SIZE) -> tuple[Tensor, ...]:
        """Random pictures, targets and paths; pictures are of ``size`` where any will do."""
        size = size if self.pyramid else self.picture_size
        path = torch.randint(self.num_objects, (batch, 6))
        path[:, 0] = self.start
        pictures = torch.rand(batch, self.num_objects, 3, *size)
        return pictures, torch.randint(self.num_objects, (batch,)), path

    # ------------------------------------------------------------------------------------- published weights

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' names of weights to ours; what their network has, but does not use, is left out.

        The table of positions is in no checkpoint of theirs, but in a file ``.npy``: add it, as the key
        "position_table".
        """
        state_dict = strip_prefix(state_dict, "model.")
        heads = count_parts(state_dict, "cross_attentions.")
        mix = (r"readout\.(.*)", None if heads == 1 else r"mix.\1")
        return rename_keys(state_dict, [*OFFICIAL_NAMES, mix])

    @classmethod
    def names_fit(cls, arch: str, state_dict: Mapping[str, Tensor]) -> bool:
        """By the classes of a layer that is not used, which are the objects, end and padding."""
        classes = strip_prefix(state_dict, "model.").get("generator.weight")
        return classes is None or len(classes) == prod(cls.archs[arch]["grid"]) + 2

    # ----------------------------------------------------------------------------------------------- forward

    def forward(self, pictures: Tensor, target: Tensor, path: Tensor, decoding: bool = False) -> Tensor:
        """Logits of what follows each entry of a path.

        Args:
            pictures: (B, K, 3, H, W), floating, the objects' in [0, 1].
            target: (B,) integer, 0 to K - 1 or :data:`NO_TARGET`.
            path: (B, T) or (B, S, T) integer, the start, then objects; the rest of a shorter one is the end
                and padding.
            decoding: blank pictures are as :meth:`decode` has them (see ``blank_zero_at_decode``).

        Returns:
            (B, T, K + 2) or (B, S, T, K + 2).

        Raises:
            ValueError: another shape, or numbers that are none of these objects'.
        """
        self._check_path(path, len(pictures))
        scene = self.encode(pictures, target, decoding)
        logits = self.read(scene, path if path.ndim == 3 else path[:, None])[0]
        return logits if path.ndim == 3 else logits[:, 0]

    def encode(self, pictures: Tensor, target: Tensor, decoding: bool = False) -> Scene:
        """All that paths depend on; each picture goes through the CNN once. Arguments of :meth:`forward`."""
        self._check_scene(pictures, target)
        none = target == NO_TARGET
        features = self.cnn(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])  # (B, K, C / 2)
        blank = [1, 1, 1]  # of the end, padding and start
        if decoding and self.blank_zero_at_decode:
            blank = [0, 0, 1]
        blanks = pictures.new_tensor(blank)[:, None, None, None].expand(-1, *pictures.shape[2:])
        blanks = self.cnn(blanks).expand(len(pictures), -1, -1)
        features = torch.cat((features, blanks), 1)
        codes = self.position_codes(features)

        where = torch.where(none, self.start, target)
        own = features[torch.arange(len(target), device=target.device), where]  # (B, C / 2)
        objects = torch.cat((features[:, : self.num_objects], own[:, None]), 1)
        places = codes[0, : self.num_objects].expand(len(target), -1, -1)
        tokens = torch.cat((objects, torch.cat((places, codes[1, where][:, None]), 1)), -1)
        for layer in self.encoder:
            tokens = layer(tokens)
        return Scene(
            features,
            codes,
            target,
            tokens,
            [layer.cross_attn.project_memory(tokens) for layer in self.decoder],
            [pointer.key(tokens) for pointer in self.pointers],
        )

    def position_codes(self, like: Tensor) -> Tensor:
        """Codes (2, K + 3, C / 2) of all tokens' places, without and with the mark of the target."""
        rows, columns = self.places.unbind(1)
        marks = torch.arange(2, device=rows.device)
        dims = like.shape[-1]
        if self.positions == "learned":
            table = F.pad(self.table, (0, 0, 0, BLANK_ROWS)).to(like.dtype)
            axes = table[rows], table[columns], table[marks]
        else:
            width = 2 * ceil(dims / 6)
            axes = [
                sinusoid(axis.to(like.dtype), width, self.frequency, self.alpha)
                for axis in (rows, columns, marks)
            ]
        count = len(rows)
        places = torch.cat(axes[:2], -1).expand(2, -1, -1)
        codes = torch.cat((places, axes[2][:, None].expand(-1, count, -1)), -1)[..., :dims]
        if self.positions == "sinusoidal" and (self.reference_quirks or self.grid[0] <= BLANK_ROW):
            codes = codes * (rows != BLANK_ROW)[:, None]
        return codes

    def read(
        self, scene: Scene, path: Tensor, past: Sequence[KeyValue] | None = None
    ) -> tuple[Tensor, list[KeyValue]]:
        """Logits of what follows each entry of paths (B, S, T), whose earlier entries ``past`` stands for.

        Args:
            past: keys and values of each layer, as the call with the earlier entries returned them. Paths
                that go on have no padding.

        Returns:
            Logits (B, S, T, K + 2), and keys and values of all entries so far.
        """
        batch = torch.arange(len(path), device=path.device)[:, None, None]
        marked = (path == scene.target[:, None, None]).long()
        x = torch.cat((scene.pictures[batch, path], scene.codes[marked, path]), -1)  # (B, S, T, C)
        before = past[0][0].shape[2] if past else 0
        steps = torch.arange(before, before + path.shape[2], device=path.device)
        x = self.drop(x + sinusoid(steps.to(x.dtype), x.shape[-1]))
        mask = None
        if not past:
            seen = (path != self.padding).flatten(0, 1)[:, None, None]  # (B * S, 1, 1, T)
            mask = seen & (steps[:, None] >= steps)
        states = []
        for i, layer in enumerate(self.decoder):
            x, state = layer(x, scene.memory[i], mask, past[i] if past else None)
            states.append(state)
        scores = [
            pointer(x.flatten(1, 2), keys) for pointer, keys in zip(self.pointers, scene.keys, strict=True)
        ]
        logits = scores[0] if len(scores) == 1 else self.mix(torch.stack(scores, -1)).squeeze(-1)
        return logits.unflatten(1, path.shape[1:]), states

    @torch.no_grad()
    def decode(
        self, pictures: Tensor, target: Tensor, max_length: int, draws: Tensor | None = None
    ) -> Tensor:
        """Paths of at least one object: the likeliest object at each step, or one that is drawn.

        Args:
            pictures, target: of :meth:`forward`.
            max_length: most objects of a path.
            draws: (B, S, max_length) floating in [0, 1), a random number for each step of S paths of each
                sample; None takes the likeliest.

        Returns:
            (B, S, L) integer, L at most ``max_length``, of objects; padding (K + 1) from where a path ends.
            S is 1 without ``draws``.

        Raises:
            ValueError: shapes or numbers that do not fit.
        """
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, found {max_length}")
        if draws is not None and (draws.ndim != 3 or draws.shape[::2] != (len(pictures), max_length)):
            wanted = f"({len(pictures)}, S, {max_length})"
            raise ValueError(f"draws must be {wanted}, found {tuple(draws.shape)}")
        scene = self.encode(pictures, target, decoding=True)
        count = 1 if draws is None else draws.shape[1]
        token = target.new_full((len(target), count, 1), self.start)
        done = torch.zeros_like(token[..., 0], dtype=torch.bool)
        states, paths = None, []
        for step in range(max_length):
            logits, states = self.read(scene, token, states)
            last = self.num_objects if step else self.num_objects - 1  # a path does not end where it begins
            chosen = choose(logits[..., 0, : last + 1].float(), None if draws is None else draws[..., step])
            done = done | (chosen == self.end)
            paths.append(chosen.masked_fill(done, self.padding))
            token = chosen.masked_fill(done, self.end)[..., None]
            if done.all():
                break
        return torch.stack(paths, -1)

    def _check_scene(self, pictures: Tensor, target: Tensor) -> None:
        if pictures.ndim != 5 or pictures.shape[1:3] != (self.num_objects, 3):
            raise ValueError(
                f"pictures must be (B, {self.num_objects}, 3, H, W), found {tuple(pictures.shape)}"
            )
        if not self.pyramid and tuple(pictures.shape[3:]) != self.picture_size:
            raise ValueError(
                f"pictures of a network without pyramid must be of {self.picture_size}, found "
                f"{tuple(pictures.shape[3:])}"
            )
        if target.shape != pictures.shape[:1]:
            raise ValueError(f"target must be ({len(pictures)},), found {tuple(target.shape)}")
        if not torch.compiler.is_compiling():
            check_numbers("target", target, NO_TARGET, self.num_objects - 1)

    def _check_path(self, path: Tensor, batch: int) -> None:
        if path.ndim not in (2, 3) or len(path) != batch or not path.numel():
            raise ValueError(f"path must be ({batch}, T) or ({batch}, S, T), found {tuple(path.shape)}")
        if torch.compiler.is_compiling():
            return
        check_numbers("path", path, 0, self.start)
        if (path[..., 0] != self.start).any():
            first = path[..., 0][path[..., 0] != self.start][0].item()
            raise ValueError(f"a path must begin with the start, {self.start}, found {first}")


OFFICIAL_NAMES = [
    *(
        (rf"transformer_{part}\.layers\.(\d+)\.{old}\.{key}(.*)", rf"{part}.\1.{new}.{layer}\2")
        for part, old, new in (
            ("encoder", "self_attn", "attn"),
            ("decoder", "self_attn", "self_attn"),
            ("decoder", "multihead_attn", "cross_attn"),
        )
        for key, layer in (("in_proj_", "qkv."), (r"out_proj\.", "proj."))
    ),
    (r"transformer_(en|de)coder\.layers\.(\d+)\.(linear\d|norm\d)\.(.*)", r"\1coder.\2.\3.\4"),
    (r"cnn_embedding\.cnn(\d)\.0\.(.*)", r"cnn.conv\1.\2"),
    (r"cnn_embedding\.fc\.(.*)", r"cnn.fc.\1"),
    (r"cross_attentions\.(\d+)\.decode_fc\.(.*)", r"pointers.\1.query.\2"),
    (r"cross_attentions\.(\d+)\.encode_fc\.(.*)", r"pointers.\1.key.\2"),
    (r"position_table", "table"),
    (r"(generator|LinearEmbedding|onedpositional_encoding)\..*", None),
]


def check_numbers(what: str, found: Tensor, least: int, most: int) -> None:
    """Raise a ValueError that names the first number below ``least`` or above ``most``."""
    wrong = found[(found < least) | (found > most)]
    if len(wrong):
        raise ValueError(f"{what}: found {wrong[0].item()}, wanted {least} to {most}")


def choose(logits: Tensor, draws: Tensor | None) -> Tensor:
    """The largest of logits (..., N), or by softmax the one that numbers (...) in [0, 1) fall on: (...)."""
    if draws is None:
        return logits.argmax(-1)
    total = logits.softmax(-1).cumsum(-1)
    below = (draws.to(total)[..., None] * total[..., -1:] >= total).sum(-1)
    return below.clamp(max=logits.shape[-1] - 1)  # a product may be rounded up to the whole


# ----------------------------------------------------------------------------------------------- positions


def sinusoid(positions: Tensor, dims: int, frequency: str = "linear", alpha: float = 1.0) -> Tensor:
    """Sine and cosine by turns of positions times 10000^-e: (...) to (..., dims).

    The exponents e of the i-th pair are those of :class:`OAT`.
    """
    double = torch.arange(0, dims, 2, device=positions.device, dtype=positions.dtype)
    exponents = {
        "linear": double * alpha / dims,
        "exp1": double**alpha / dims,
        "exp2": (double / dims) ** alpha,
    }[frequency]
    angles = positions[..., None] * 10000.0**-exponents
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)[..., :dims]


def position_table_loss(table: Tensor, sigma: float = 2.0) -> Tensor:
    """How far a table of positions is from being as similar as near: rows (n, d) to a scalar.

    [sum_ij (cos(W_i, W_j) - exp(-(i - j)^2 / (2 sigma^2)))^2 + mean_i (|W_i| - mean |W|)^2] / (n (n - 1)).

    Raises:
        ValueError: fewer than two rows, or sigma is not above 0.
    """
    if table.ndim != 2 or len(table) < 2:
        raise ValueError(f"a table of positions must be (n, d), n at least 2, found {tuple(table.shape)}")
    if sigma <= 0:
        raise ValueError(f"sigma must be above 0, found {sigma}")
    rows = torch.arange(len(table), device=table.device, dtype=table.dtype)
    wanted = _wanted_similarity(rows, sigma)
    length = table.norm(dim=1)
    unit = table / length.clamp(min=1e-8)[:, None]
    spread = (length - length.mean()).square().mean()
    return ((unit @ unit.T - wanted).square().sum() + spread) / (len(table) * (len(table) - 1))


def fit_position_table(
    rows: int, columns: int, sigma: float = 2.0, steps: int = 10_000, lr: float = 0.01
) -> tuple[Tensor, float]:
    """A table (rows, columns) that Adam fits from random normal numbers by :func:`position_table_loss`.

    Returns:
        The table, float32, and its loss.
    """
    table = torch.randn(rows, columns).numpy().astype(np.float64)
    mean, square = np.zeros_like(table), np.zeros_like(table)  # of gradients, as Adam keeps them
    wanted = _wanted_similarity(torch.arange(rows, dtype=torch.float64), sigma).numpy()
    for step in range(1, steps + 1):
        gradient = _table_gradient(table, wanted)
        mean += 0.1 * (gradient - mean)
        square += 0.001 * (gradient * gradient - square)
        table -= lr / (1 - 0.9**step) * mean / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    found = torch.from_numpy(table)
    return found.float(), position_table_loss(found, sigma).item()


def _wanted_similarity(rows: Tensor, sigma: float) -> Tensor:
    return torch.exp(-(rows[:, None] - rows).square() / (2 * sigma**2))


def _table_gradient(table: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The gradient of :func:`position_table_loss`: for so small arrays autograd takes ten times as long."""
    count = len(table)
    length = np.sqrt(np.einsum("ij,ij->i", table, table))[:, None]
    unit = table / length
    by_unit = 4 * (unit @ unit.T - wanted) @ unit
    along = np.einsum("ij,ij->i", by_unit, unit)[:, None]
    by_length = 2 * (length - length.mean()) / count
    return ((by_unit - along * unit) / length + by_length * unit) / (count * (count - 1))


# ------------------------------------------------------------------------------------------------ pictures


class PictureEncoder(nn.Module):
    """Two convolutions and a linear layer: pictures (N, 3, H, W) to (N, C).

    Args:
        dims: C.
        pyramid: levels of pooling that take pictures of any size; 0 has a max pooling, for one size.
        size: H and W, where ``pyramid`` is 0.
    """

    def __init__(self, dims: int, pyramid: int, size: Sequence[int]):
        super().__init__()
        if pyramid not in (0, 2, 3, 4):
            raise ValueError(f"pyramid must be 0, 2, 3 or 4 levels, found {pyramid}")
        self.pyramid = pyramid
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 5), nn.Conv2d(16, 32, 3)
        cells = sum(4**level for level in range(pyramid))
        if not pyramid:
            cells = prod(((side - 4) // 5 - 2) // 3 for side in size)
            if min(size) < 29:
                raise ValueError(f"pictures must have at least 29 x 29 pixels, found {tuple(size)}")
        self.fc = Linear(32 * cells, dims)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < 19:
            raise ValueError(f"pictures must have at least 19 x 19 pixels, found {tuple(x.shape[2:])}")
        x = F.max_pool2d(F.relu(self.conv1(x)), 5)
        x = F.relu(self.conv2(x))
        if not self.pyramid:
            return self.fc(F.max_pool2d(x, 3).flatten(1))
        levels = [pool_to_grid(x, 2**level).flatten(1) for level in range(self.pyramid)]
        return self.fc(torch.cat(levels, 1))


def pool_to_grid(x: Tensor, cells: int) -> Tensor:
    """The largest values (N, C, cells, cells) in equal parts of maps (N, C, H, W), with zeros around."""
    sides = [ceil(side / cells) for side in x.shape[2:]]
    extra = [cells * side - size for side, size in zip(sides, x.shape[2:], strict=True)]
    (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in extra)
    return F.max_pool2d(F.pad(x, (left, right, top, bottom)), sides)


# --------------------------------------------------------------------------------------------- transformer


class Attention(nn.Module):
    """Multi-head attention, of whose parts each can be asked for: queries, keys and values are one layer."""

    def __init__(self, dims: int, num_heads: int, dropout: float):
        super().__init__()
        if num_heads < 1 or dims % num_heads:
            raise ValueError(f"num_heads must divide embed_dims {dims}, found {num_heads}")
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv, self.proj = Linear(dims, 3 * dims), Linear(dims, dims)

    def _split(self, x: Tensor, count: int) -> Sequence[Tensor]:
        return x.unflatten(-1, (count, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (count, B, heads, N, d)

    def project(self, x: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values, (3, B, heads, N, d), of tokens (B, N, C)."""
        return self._split(self.qkv(x), 3)

    def project_memory(self, x: Tensor) -> KeyValue:
        """Keys and values, each (B, heads, M, d), of tokens (B, M, C)."""
        dims = x.shape[-1]
        key, value = self._split(F.linear(x, self.qkv.weight[dims:], self.qkv.bias[dims:]), 2)
        return key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, mask, rate)
        return self.proj(y.transpose(1, 2).flatten(2))

    def look(self, x: Tensor, memory: KeyValue) -> Tensor:
        """From tokens (B, N, C) at the memory."""
        dims = x.shape[-1]
        (query,) = self._split(F.linear(x, self.qkv.weight[:dims], self.qkv.bias[:dims]), 1)
        return self.attend(query, *memory)


class EncoderLayer(nn.Module):
    """Attention, then two linear layers, each added and normed: (B, N, C) to the same."""

    def __init__(self, dims: int, num_heads: int, ffn_dims: int, dropout: float):
        super().__init__()
        self.attn = Attention(dims, num_heads, dropout)
        self.linear1, self.linear2 = Linear(dims, ffn_dims), Linear(ffn_dims, dims)
        self.norm1, self.norm2 = nn.LayerNorm(dims), nn.LayerNorm(dims)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.drop(self.attn.attend(*self.attn.project(x))))
        return self.norm2(x + self.drop(self.linear2(self.drop(F.relu(self.linear1(x))))))


class DecoderLayer(nn.Module):
    """Attention to the path so far and to the memory, then two linear layers, each added and normed."""

    def __init__(self, dims: int, num_heads: int, ffn_dims: int, dropout: float):
        super().__init__()
        self.self_attn, self.cross_attn = (Attention(dims, num_heads, dropout) for _ in range(2))
        self.linear1, self.linear2 = Linear(dims, ffn_dims), Linear(ffn_dims, dims)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dims) for _ in range(3))
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, memory: KeyValue, mask: Tensor | None = None, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:
        """Tokens (B, S, T, C) to the same, and the keys and values (B * S, heads, T, d) of all so far.

        Args:
            memory: keys and values, (B, heads, M, d), which the S paths share.
            mask: bool, broadcast to (B * S, heads, T, T); False hides a token.
            past: keys and values of earlier tokens.
        """
        shape = x.shape
        query, *own = self.self_attn.project(x.flatten(0, 1))
        if past is not None:
            own = [torch.cat(parts, 2) for parts in zip(past, own, strict=True)]
        y = self.self_attn.attend(query, *own, mask)
        x = self.norm1(x + self.drop(y).view(shape))
        y = self.cross_attn.look(x.flatten(1, 2), memory)
        x = self.norm2(x + self.drop(y).view(shape))
        x = self.norm3(x + self.drop(self.linear2(self.drop(F.relu(self.linear1(x))))))
        return x, tuple(own)


class Pointer(nn.Module):
    """How well tokens (B, N, C) go with objects, of keys (B, K + 1, C): (B, N, K + 2), the last 0."""

    def __init__(self, dims: int, key_dims: int):
        super().__init__()
        self.query, self.key = Linear(dims, dims), Linear(dims, dims)
        self.scale = key_dims**-0.5

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        return F.pad(self.query(x) @ keys.mT * self.scale, (0, 1))
