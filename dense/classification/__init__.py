"""Image classification.

Import from the files: ``classifier``, ``augment``, ``datasets`` and ``metrics`` need MMEngine and Pillow;
``transforms`` also mmcv (``pip install pointsuite[dense]``), whose transforms stand beside ours in configs.
"""
