import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads only slow down networks as small as these; and runs are equal for equal numbers of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
