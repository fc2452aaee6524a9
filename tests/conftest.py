"""Without a GPU, kernels run in Triton's interpreter; Triton reads this switch when it is first imported."""
# ruff: noqa: I001

import os

import pointsuite  # noqa: F401  before PyTorch: it sets how threads wait
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


# the longest files, which go first, so that no process is left alone with one at the end
LONG = ("test_contract.py", "test_all_runners.py", "test_packs.py", "test_tools.py")


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=0, help="of the random numbers that each test starts with")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before fixtures of any scope, that no test fails by chance; another seed looks for tests that could."""
    set_random_seed(item.config.getoption("--seed"))


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(autouse=True)
def default_scope():
    """Each run makes its scope the default of the process; a test must not leave that to the next."""
    yield
    DefaultScope._instance_dict.clear()
