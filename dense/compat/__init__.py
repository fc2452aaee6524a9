"""What lets mmcv, mmdet and mmseg run from wheels."""
