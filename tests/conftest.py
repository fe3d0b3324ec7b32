"What several test files need: the images as tensors and in loaders, and a few trained runs, each made once."
import os

import pytest
import torch

os.environ.setdefault('MPLBACKEND', 'agg')

from mnist_sgd.data import load_pair
from mnist_sgd.linear_model import BatchLoader, label_pair


@pytest.fixture(scope='session')
def train(): return load_pair(3, 7)


@pytest.fixture(scope='session')
def valid(): return load_pair(3, 7, split='valid')


@pytest.fixture(scope='session')
def dl(train): return BatchLoader(*label_pair(*train))


@pytest.fixture(scope='session')
def valid_dl(valid): return BatchLoader(*label_pair(*valid))


@pytest.fixture(scope='session')
def result():
    from mnist_sgd.run import climb
    return climb(progress=False)


@pytest.fixture(scope='session')
def numbers(request):
    "Every number of the notes; what is counted here is printed at the end of the tests."
    from mnist_sgd.replay import replay_numbers
    request.config.numbers = replay_numbers()
    return request.config.numbers


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_dl():
    "Two batches of two made-up images, for tests of messages rather than of numbers."
    generator = torch.Generator().manual_seed(0)
    return BatchLoader(torch.rand(4, 784, generator=generator), torch.tensor([[1], [0], [1], [0]]), 2)


def pytest_terminal_summary(terminalreporter, config):
    if not hasattr(config, 'numbers'): return
    verdicts = [number['verdict'] for number in config.numbers]
    terminalreporter.write_line(f"{len(verdicts)} numbers in the notes: {verdicts.count('reproduced')} reproduced, "
                                f"{verdicts.count('misprint')} misprints")
