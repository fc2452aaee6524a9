"""mmcv must find the portable operators when it is imported, so dense comes first."""

import dense  # noqa: F401
