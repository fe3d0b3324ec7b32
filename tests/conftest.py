"""What several test files need: the images as tensors and in loaders, and a few trained runs, each made once.

Nothing heavy is imported on top, because the process that only hands out the tests reads this file, too.
"""
import os
import shutil

import pytest
from hypothesis import settings

os.environ.setdefault('MPLBACKEND', 'agg')
settings.register_profile('any machine', deadline=None) # a busy one needs more than 200 ms now and then
settings.load_profile('any machine')

WINDOWS = os.name == 'nt'
needs_links = pytest.mark.skipif(WINDOWS, reason='links need a permission on Windows')
needs_pipes = pytest.mark.skipif(WINDOWS, reason='Windows has no pipes among its files')
needs_signals = pytest.mark.skipif(WINDOWS, reason='Windows has no signals to end a worker with')


def pytest_collection_modifyitems(items):
    "What takes longest comes first, so that all cores end together."
    longest = 'test_notebooks', 'test_run', 'test_many_workers', 'test_replay', 'test_storage', 'test_misprints'
    items.sort(key=lambda item: (longest + (item.path.stem,)).index(item.path.stem))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "With `-n`: a file stays on one worker, for its fixtures; but notebooks are given out one by one."
    from xdist.scheduler import LoadScopeScheduling
    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition('::')[0]
            return nodeid if file.endswith('test_notebooks.py') else file
    config.option.loadscopereorder = False # keep our order
    return Scheduling(config, log)


def loader(pair):
    from mnist_sgd.linear_model import BatchLoader, label_pair
    return BatchLoader(*label_pair(*pair))


@pytest.fixture(scope='session')
def train():
    from mnist_sgd.data import load_pair
    return load_pair(3, 7)


@pytest.fixture(scope='session')
def valid():
    from mnist_sgd.data import load_pair
    return load_pair(3, 7, split='valid')


@pytest.fixture(scope='session')
def dl(train): return loader(train)


@pytest.fixture(scope='session')
def valid_dl(valid): return loader(valid)


@pytest.fixture(scope='session')
def result():
    from mnist_sgd.run import climb
    return climb(progress=False)


@pytest.fixture(scope='session')
def numbers():
    "Every number of the notes, computed anew."
    from ledger import compute, one_by_one
    return one_by_one(compute())


@pytest.fixture
def one_thread():
    import torch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_dl():
    "Two batches of two made-up images, for tests of messages rather than of numbers."
    import torch
    from mnist_sgd.linear_model import BatchLoader
    generator = torch.Generator().manual_seed(0)
    return BatchLoader(torch.rand(4, 784, generator=generator), torch.tensor([[1], [0], [1], [0]]), 2)


@pytest.fixture(scope='module')
def browser():
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not chromium: pytest.skip('there is no Chromium to try pages with')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'])
        yield browser
        browser.close()


def pytest_terminal_summary(terminalreporter):
    "What a test has recorded under the name 'count' is printed at the end."
    for report in terminalreporter.getreports('passed'):
        for name, text in report.user_properties:
            if name == 'count': terminalreporter.write_line(text)
