"""ListOps: nested lists of digits to be worked out, made by a grammar and a seed.

Nangia, Bowman, "ListOps: A Diagnostic Dataset for Latent Tree Learning", NAACL SRW 2018, arXiv 1804.06028;
the operators and bounds are those of Tay et al., "Long Range Arena: A Benchmark for Efficient Transformers",
ICLR 2021, arXiv 2011.04006. The generator is ours: expressions differ from theirs one by one.
"""

from random import Random
from statistics import median

import torch

from pointsuite.engine.errors import UsageError, nearest

from ..base.datasets import SeededDataset
from ..registry import DATASETS
from .sample import IGNORED, SequenceSample

OPERATORS = {"[MIN": min, "[MAX": max, "[MED": lambda x: int(median(x)), "[SM": lambda x: sum(x) % 10}
PADDING, QUESTION = "_", "="
TOKENS = (*"0123456789", *OPERATORS, "]", QUESTION, PADDING)
IDS = {token: i for i, token in enumerate(TOKENS)}
OPERATOR_RATE = 0.25  # of lists among the members of a list
TRIES = 10_000
SPLITS = ("train", "val", "test")


def draw_expression(random: Random, max_depth: int, max_arguments: int) -> tuple[list[str], int]:
    """The tokens of a list, and what it is worth.

    A list has an operator and 2 to ``max_arguments`` members, each a list with a probability of 1/4, up to
    ``max_depth`` lists within each other, else a digit.
    """
    operator = random.choice(list(OPERATORS))
    tokens, values = [operator], []
    for _ in range(random.randint(2, max_arguments)):
        if max_depth > 1 and random.random() < OPERATOR_RATE:
            inner, value = draw_expression(random, max_depth - 1, max_arguments)
        else:
            value = random.randrange(10)
            inner = [str(value)]
        tokens += inner
        values.append(value)
    return [*tokens, "]"], OPERATORS[operator](values)


def evaluate(tokens: list[str]) -> int:
    """What an expression is worth, read from its tokens.

    Raises:
        ValueError: it is no whole expression.
    """
    open_lists: list[list] = [[]]
    for token in tokens:
        if token in OPERATORS:
            open_lists.append([token])
        elif token == "]" and len(open_lists) > 1 and len(open_lists[-1]) > 1:
            operator, *values = open_lists.pop()
            open_lists[-1].append(OPERATORS[operator](values))
        elif len(token) == 1 and token in "0123456789":
            open_lists[-1].append(int(token))
        else:
            raise ValueError(f"found {token!r} in {' '.join(tokens)!r}, wanted a list of digits and lists")
    if len(open_lists) != 1 or len(open_lists[0]) != 1:
        raise ValueError(f"found {' '.join(tokens)!r}, wanted one whole expression")
    return open_lists[0][0]


@DATASETS.register_module()
class ListOps(SeededDataset):
    """Expressions as :data:`TOKENS`, then "=": the target of that is the digit that they are worth.

    Sample i of a split depends on the seed, the split and i alone; short expressions may be in two splits.
    The median of an even number of digits is the mean of the two in the middle, rounded down.

    Args:
        split: "train", "val" or "test".
        length: expressions.
        max_depth, max_arguments: lists within each other, and members of a list.
        min_tokens, max_tokens: of an expression; others are drawn anew. A sequence has ``max_tokens + 1``,
            padded in front.
        answers_only: the digit is the only target; else each token after the first of the expression, too.
        seed: of the expressions.
        **kwargs: of :class:`~dense.base.datasets.SeededDataset`.

    Raises:
        UsageError: no such split, bounds that exclude each other, or that hardly any expression keeps.
    """

    def __init__(
        self,
        split: str = "train",
        length: int = 96_000,
        max_depth: int = 10,
        max_arguments: int = 10,
        min_tokens: int = 500,
        max_tokens: int = 2000,
        answers_only: bool = True,
        seed: int = 0,
        **kwargs,
    ):
        if split not in SPLITS:
            raise UsageError(f"split must be one of {SPLITS}, found {split!r}{nearest(split, SPLITS)}")
        if length < 1 or max_depth < 1 or max_arguments < 2:
            found = f"{length}, {max_depth} and {max_arguments}"
            raise UsageError(f"length, max_depth and max_arguments must be from 1, 1 and 2, found {found}")
        if max_tokens < 4 or min_tokens > max_tokens:
            raise UsageError(
                f"max_tokens must be at least 4 and min_tokens, found {min_tokens} to {max_tokens}"
            )
        self.split, self.length = split, length
        self.bounds = (max_depth, max_arguments)
        self.min_tokens, self.max_tokens, self.answers_only = min_tokens, max_tokens, answers_only
        super().__init__(seed=seed, **kwargs)

    def load_data_list(self) -> list[dict]:
        self._metainfo["vocabulary"] = TOKENS
        return [{"number": i} for i in range(self.length)]

    def expression(self, number: int) -> tuple[list[str], int]:
        """Tokens and value of a sample."""
        random = Random(f"{self.seed} {self.split} {number}")
        for _ in range(TRIES):
            tokens, value = draw_expression(random, *self.bounds)
            if self.min_tokens <= len(tokens) <= self.max_tokens:
                return tokens, value
        depth, arguments = self.bounds
        raise UsageError(
            f"found no expression of {self.min_tokens} to {self.max_tokens} tokens among {TRIES} of at most "
            f"{depth} lists within each other and {arguments} members, wanted bounds that some keep"
        )

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        tokens, value = self.expression(info["number"])
        size = self.max_tokens + 1
        written = [*tokens, QUESTION, str(value)]
        window = torch.full((size + 1,), IDS[PADDING])
        window[-len(written) :] = torch.tensor([IDS[token] for token in written])
        targets = window[1:].clone()
        targets[: -1 if self.answers_only else size + 1 - len(written)] = IGNORED
        sample = SequenceSample(metainfo={"sample_idx": idx, "expression": " ".join(tokens)})
        sample.set_data({"targets": targets})
        return {"inputs": window[:-1], "data_samples": sample}
