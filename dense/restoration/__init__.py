"""Image restoration: super-resolution, denoising, removal of compression artefacts.

Import from the files: ``restorer`` has ``Restorer``, which restores image files, and ``ImageRestorer``, which
trains and tests any network of the task; networks are in a file for each system.
"""
