"""What is known of a sequence of tokens and of how well it was predicted."""

from mmengine.structures import BaseDataElement

IGNORED = -100  # a target that is none


class SequenceSample(BaseDataElement):
    """A window of tokens.

    Attributes:
        targets: (n,) int64, the token that is wanted after each of the input; -100 where none is.
        nats: of a tested sample: the sum of -log p over the tokens that are wanted.
        tokens: how many these are.
        hits: for how many of these the most likely token is the target.
    """
