"""Speed and memory, each against a rival timed in the same run: `make bench`.

The two sides of a ratio take turns, so that a busy moment of the machine hits both; the best time of each counts.
"""
import os, subprocess, sys, tempfile
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from fastai.data.load import DataLoader
from PIL import Image

from mnist_sgd.data import load_pair, mnist_sample
from mnist_sgd.linear_model import BatchLoader, init_params, label_pair, linear1, skip_draws, train_epoch, validate_epoch
from mnist_sgd.replay import find_weights

COMMAND = Path(sys.executable).with_name('mnist_sgd_run')


def best(*sides, rounds):
    "The best time of each side, in seconds."
    times = [[] for _ in sides]
    for _ in range(rounds):
        for side, taken in zip(sides, times):
            start = perf_counter()
            side()
            taken.append(perf_counter() - start)
    return [min(taken) for taken in times]


def report(what, measured, target, reached):
    print(f"{'reached' if reached else 'MISSED ':8} {what:62} {measured:>9}   target {target}", flush=True)


def bench_data():
    path = mnist_sample(progress=False)
    folders = [path/split/digit for split in ('train', 'valid') for digit in '37']

    def opened(dtype):
        stacks = [torch.stack([torch.tensor(np.array(Image.open(o))) for o in sorted(f.iterdir())]) for f in folders]
        return stacks if dtype == torch.uint8 else [x.float()/255 for x in stacks]

    def loaded(dtype): return [*load_pair(3, 7, 'train', dtype), *load_pair(3, 7, 'valid', dtype)]

    for dtype in (torch.uint8, torch.float32):
        assert all(torch.equal(a, b) for a, b in zip(opened(dtype), loaded(dtype)))
        files, tensors = best(partial(opened, dtype), partial(loaded, dtype), rounds=9)
        name = str(dtype).removeprefix('torch.')
        report(f'14,434 PNGs opened / the same {name} tensors loaded', f'{files/tensors:.1f}x', '40x', files >= 40*tensors)
        if dtype == torch.float32: report('3s and 7s ready as floats', f'{1000*tensors:.0f} ms', '100 ms', tensors < .1)


def bench_epoch():
    x, y = label_pair(*load_pair(3, 7))
    valid_dl = BatchLoader(*label_pair(*load_pair(3, 7, split='valid')))
    notes_dl, our_dl = DataLoader(list(zip(x, y)), batch_size=256), BatchLoader(x, y)

    def start():
        skip_draws(4269, kept=1620)
        weights, bias = init_params((784, 1)), init_params(1)
        return (weights, bias), partial(linear1, weights=weights, bias=bias), []

    def notes_loss(predictions, targets):
        predictions = predictions.sigmoid()
        return torch.where(targets == 1, 1 - predictions, predictions).mean()

    (notes_params, notes_model, notes_accuracy), (our_params, our_model, our_accuracy) = start(), start()

    def notes_epoch():
        for xb, yb in notes_dl:
            notes_loss(xb@notes_params[0] + notes_params[1], yb).backward()
            for p in notes_params:
                p.data -= p.grad*1.
                p.grad.zero_()

    notes_times, our_times = [], []
    for _ in range(12):
        for epoch, model, taken, accuracy in (
                (notes_epoch, notes_model, notes_times, notes_accuracy),
                (partial(train_epoch, our_model, our_dl, our_params, 1.), our_model, our_times, our_accuracy)):
            start_time = perf_counter()
            epoch()
            taken.append(perf_counter() - start_time)
            accuracy.append(validate_epoch(model, valid_dl))
    assert notes_accuracy == our_accuracy, (notes_accuracy, our_accuracy)
    ratio = min(notes_times)/min(our_times)
    report("an epoch of the notes' loop over fastai's DataLoader / ours", f'{ratio:.1f}x', '2.5x', ratio >= 2.5)


def bench_search():
    x, _ = label_pair(*load_pair(3, 7))
    images, printed, million = x[:4], torch.tensor([-11.1002, 5.9263, 9.9627, -8.1484]), 1_000_000
    found = []

    def all_at_once(): found.append(find_weights(images, printed))

    def one_by_one():
        for k in range(300):
            skip_draws(k)
            images@torch.randn(784, 1) - printed

    together, single = best(all_at_once, one_by_one, rounds=3)
    assert found == [[(4269, -.1013)]]*3
    report('find_weights in a million places', f'{together:.1f} s', '3 s', together < 3)
    ratio = single/300*million/together
    report('a million places, the first 300 one by one / all at once', f'{ratio:.0f}x', '10x', ratio >= 10)


def bench_import():
    def run(*command): return partial(subprocess.run, command, check=True, capture_output=True)
    torch_, ours = best(run(sys.executable, '-c', 'import torch'),
                        run(sys.executable, '-c', 'import mnist_sgd.linear_model'), rounds=7)
    report('import mnist_sgd.linear_model / import torch', f'{ours/torch_:.2f}', '1.15', ours <= 1.15*torch_)
    help_, = best(run(COMMAND, '--help'), rounds=5)
    report('mnist_sgd_run --help', f'{help_:.2f} s', '0.30 s', help_ < .3)


def bench_run():
    with tempfile.TemporaryDirectory() as folder:
        start = perf_counter()
        process = subprocess.Popen([COMMAND], cwd=folder, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - start
    assert status == 0
    gigabytes = usage.ru_maxrss/(1e9 if sys.platform == 'darwin' else 1e6/1.024)
    report('mnist_sgd_run, from start to end', f'{seconds:.1f} s', '15 s', seconds < 15)
    report('peak memory of mnist_sgd_run', f'{gigabytes:.2f} GB', '1 GB', gigabytes < 1)


if __name__ == '__main__':
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads')
    bench_data()
    bench_epoch()
    bench_search()
    bench_import()
    bench_run()
