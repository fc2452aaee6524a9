import dense  # noqa: F401  before mmcv
