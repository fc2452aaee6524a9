"""Dense matching: for each place of the target image, where it is in the source image.

A network maps two batches of normalised images (B, 3, H, W) to a list of flows, coarse to fine, each
(B, 2, g, g) on the target's grid, x and y in cells, pointing to the source; its ``match(source, target)`` is
``(flow, confidence)``. Import from the files: the networks (``ufc``, ``cats``, ``baselines``) need PyTorch,
the data sets also MMEngine, Pillow and, as all image pipelines, mmcv.
"""
