from .data_sample import PointDataSample
from .layout import Clouds, DatasetError, FileInfo, read_clouds, read_info, write_clouds
from .point_cloud_dataset import PointCloudDataset

__all__ = [
    "Clouds",
    "DatasetError",
    "FileInfo",
    "PointCloudDataset",
    "PointDataSample",
    "read_clouds",
    "read_info",
    "write_clouds",
]
