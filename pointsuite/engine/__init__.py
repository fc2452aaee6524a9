"""What every run needs, 2-D or 3-D.

Import from the files: ``checkpoint``, ``zoo`` and ``registry`` are light; ``runner``, ``hooks`` and
``command`` bring in MMEngine's runner.
"""
