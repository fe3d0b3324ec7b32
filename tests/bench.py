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
from torch import nn
from torch.utils.data import DataLoader as TorchLoader

from mnist_sgd.basic_optim import BasicOptim, train_epoch as optim_epoch
from mnist_sgd.data import load_pair, mnist_sample
from mnist_sgd.linear_model import BatchLoader, init_params, label_pair, linear1, mnist_loss, train_epoch, validate_epoch
from mnist_sgd.replay import find_weights, skip_draws
from mnist_sgd.run import climb
from mnist_sgd.speed import fast_epoch, mnist_grad, take_turns

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


def notes_epoch(loader, params):
    "An epoch as the notes write it."
    for xb, yb in loader:
        predictions = (xb@params[0] + params[1]).sigmoid()
        torch.where(yb == 1, 1 - predictions, predictions).mean().backward()
        for p in params:
            p.data -= p.grad*1.
            p.grad.zero_()


def start():
    "The weights and the bias that the notes start from."
    skip_draws(4269, kept=1620)
    return init_params((784, 1)), init_params(1)


def model_of(params): return partial(linear1, weights=params[0], bias=params[1])


def bench_epoch():
    x, y = label_pair(*load_pair(3, 7))
    valid_dl = BatchLoader(*label_pair(*load_pair(3, 7, split='valid')))
    notes_dl, our_dl = DataLoader(list(zip(x, y)), batch_size=256), BatchLoader(x, y)

    notes_params, our_params, notes_accuracy, our_accuracy = start(), start(), [], []
    notes_times, our_times = [], []
    for _ in range(12):
        for epoch, model, taken, accuracy in (
                (partial(notes_epoch, notes_dl, notes_params), model_of(notes_params), notes_times, notes_accuracy),
                (partial(train_epoch, model_of(our_params), our_dl, our_params, 1.), model_of(our_params), our_times, our_accuracy)):
            start_time = perf_counter()
            epoch()
            taken.append(perf_counter() - start_time)
            accuracy.append(validate_epoch(model, valid_dl))
    assert notes_accuracy == our_accuracy, (notes_accuracy, our_accuracy)
    ratio = min(notes_times)/min(our_times)
    report("an epoch of the notes' loop over fastai's DataLoader / ours", f'{ratio:.1f}x', '2.5x', ratio >= 2.5)


def bench_doors():
    x, y = label_pair(*load_pair(3, 7))
    our_dl, (with_doors, without) = BatchLoader(x, y), (start(), start())
    bare = partial(linear1.__wrapped__, weights=without[0], bias=without[1])
    ours, bodies = best(partial(train_epoch, model_of(with_doors), our_dl, with_doors, 1.),
                        partial(train_epoch.__wrapped__, bare, our_dl, without, 1., mnist_loss.__wrapped__), rounds=200)
    assert torch.equal(with_doors[0], without[0])
    report("an epoch by hand / the same with the bodies alone, without doors", f'{ours/bodies:.3f}', '1.05', ours <= 1.05*bodies)

    layer = nn.Linear(784, 1)
    opt = BasicOptim(layer.parameters(), 1.)
    ours, bodies = best(partial(optim_epoch, layer, our_dl, opt),
                        partial(optim_epoch.__wrapped__, layer, our_dl, opt, mnist_loss.__wrapped__), rounds=200)
    report("an epoch of nn.Linear and BasicOptim / the same without doors", f'{ours/bodies:.3f}', '1.05', ours <= 1.05*bodies)


def bench_speed():
    x, y = label_pair(*load_pair(3, 7))
    valid_dl = BatchLoader(*label_pair(*load_pair(3, 7, split='valid')))
    dset, our_dl = list(zip(x, y)), BatchLoader(x, y)
    threads = torch.get_num_threads()
    torch.set_num_threads(1) # the programs are compared, not the moment's number of free cores

    def formula_epoch(params):
        for xb, yb in our_dl:
            _, *grads = mnist_grad(xb, yb, *params)
            for p, grad in zip(params, grads): p.data -= grad

    rungs = [partial(notes_epoch, DataLoader(dset, batch_size=256)), partial(notes_epoch, TorchLoader(dset, batch_size=256)),
             partial(notes_epoch, our_dl), formula_epoch, lambda params: fast_epoch(x, y, *params, 1.)]

    def accuracies(rung):
        params, found = start(), []
        for _ in range(21):
            rung(params)
            found.append(validate_epoch(model_of(params), valid_dl))
        return found

    first, *others = [accuracies(rung) for rung in rungs]
    assert all(found == first for found in others), (first, others)

    weights, gradient = torch.randn(784), torch.empty(784)
    prepared = [(xb, xb.T, torch.empty(len(xb)), torch.randn(len(xb))) for xb in x.split(256)]

    def two_products():
        for xb, xb_t, preds, g in prepared:
            torch.mv(xb, weights, out=preds)
            torch.mv(xb_t, g, out=gradient)

    names = "the notes' loop", "torch's DataLoader", 'BatchLoader', 'gradient by hand', 'fast_epoch', 'two products', 'x.sum()'
    sides = [partial(rung, start()) for rung in rungs] + [two_products, x.sum]
    seconds = take_turns(dict(zip(names, sides)), rounds=10) # best() times single runs: what ran before would slow the next one
    notes, fast = seconds["the notes' loop"], seconds['fast_epoch']
    # these two once more by themselves: after the other rungs it takes several epochs until the caches are theirs again
    near, products = take_turns({'fast_epoch': sides[4], 'two products': two_products}, rounds=20).values()
    print('         ' + ', '.join(f'{name} {1000*s:.1f} ms' for name, s in seconds.items()))
    report("an epoch of the notes' loop / fast_epoch", f'{notes/fast:.1f}x', '7x', notes >= 7*fast)
    report('fast_epoch / its two matrix-vector products', f'{near/products:.2f}', '1.7', near <= 1.7*products)
    torch.set_num_threads(threads)


def bench_digits():
    stages = {s['stage']: s for s in climb(progress=False, everything=True)['stages']} # on one thread
    for stage, least, limit in (('all_digits', .92, 30), ('all_digits_net', .975, 60), ('all_digits_conv', .99, 240)):
        accuracy, seconds = stages[stage]['accuracy'][-1], stages[stage]['seconds']
        report(f'{stage}: accuracy on 10,000 images', f'{accuracy:.4f}', least, accuracy >= least)
        report(f'{stage}: training, from loading to the last epoch', f'{seconds:.1f} s', f'{limit} s', seconds < limit)


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
    if not hasattr(os, 'wait4'): return print('the command is not measured on Windows')
    with tempfile.TemporaryDirectory() as folder:
        start = perf_counter()
        process = subprocess.Popen([COMMAND], cwd=folder, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - start
    assert status == 0
    gigabytes = usage.ru_maxrss/(1e9 if sys.platform == 'darwin' else 1e6/1.024)
    report('mnist_sgd_run, from start to end', f'{seconds:.1f} s', '30 s', seconds < 30)
    report('peak memory of mnist_sgd_run', f'{gigabytes:.2f} GB', '1 GB', gigabytes < 1)


if __name__ == '__main__':
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads')
    bench_data()
    bench_epoch()
    bench_doors()
    bench_speed()
    bench_digits()
    bench_search()
    bench_import()
    bench_run()
