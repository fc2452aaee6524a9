"""One module a published system, named as the folder of its packs.

Each has `adapt(pack)`, which builds what a :class:`~tests.parity.adapt.Pack` describes, by its words and the
shapes of its weights, and returns the :class:`~tests.parity.adapt.Case` that the runner runs.
"""
