"""Speed and memory, each against a rival timed in the same run: `make bench`.

The two sides of a ratio take turns, so that a busy moment of the machine hits both. The best time of each counts; in the races of notebook 09 the median.
"""
import os, subprocess, sys, tempfile
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from fastai.data.load import DataLoader
from machines import finished, limit_rate, node, two_machines
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader as TorchLoader

from mnist_sgd.all_digits import cross_entropy, digit_accuracy, load_all
from mnist_sgd.basic_optim import BasicOptim, train_epoch as optim_epoch
from mnist_sgd.data import load_pair, mnist_sample
from mnist_sgd.linear_model import BatchLoader, init_params, label_pair, linear1, mnist_loss, train_epoch, validate_epoch
from mnist_sgd.many_workers import step_seconds
from mnist_sgd.replay import find_weights, skip_draws
from mnist_sgd.run import climb
from mnist_sgd.speed import fast_digits_epoch, fast_epoch

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


def medians(sides, rounds):
    "The median time of each side in seconds, {name: function}; they take turns, two runs at a time, of which the second counts."
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            side() # what ran before has filled the caches
            start = perf_counter()
            side()
            times[name].append(perf_counter() - start)
    return {name: median(taken) for name, taken in times.items()}


def jax_epoch(x, y):
    "An epoch compiled as a whole, a function of the parameters; None where JAX is not installed."
    try: import jax
    except ImportError: return None
    full = len(x)//256*256
    batches, rest = (x[:full].reshape(-1, 256, 784), y[:full].reshape(-1, 256)), (x[full:], y[full:])
    def loss(params, xb, yb):
        preds = jax.nn.sigmoid(xb@params[0] + params[1])
        return jax.numpy.where(yb == 1, 1 - preds, preds).mean()
    def step(params, batch): return jax.tree.map(lambda p, g: p - g, params, jax.grad(loss)(params, *batch)), None
    return jax.jit(lambda params: step(jax.lax.scan(step, params, batches)[0], rest)[0])


def bench_speed():
    x, y = label_pair(*load_pair(3, 7))
    dots = torch.cat(load_pair(3, 7, dtype=torch.uint8)).flatten(1)
    valid_dl = BatchLoader(*label_pair(*load_pair(3, 7, split='valid')))
    dset, our_dl = list(zip(x, y)), BatchLoader(x, y)
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else set()
    torch.set_num_threads(1) # the programs are compared, not the moment's number of free cores
    if cores: os.sched_setaffinity(0, {max(cores)}) # JAX asks nobody

    rungs = {"the notes' loop": partial(notes_epoch, DataLoader(dset, batch_size=256)), "torch's DataLoader": partial(notes_epoch, TorchLoader(dset, batch_size=256)),
             'BatchLoader': partial(notes_epoch, our_dl), 'fast_epoch': lambda params: fast_epoch(x, y, *params),
             'fast_epoch of bytes': lambda params: fast_epoch(dots, y, *params)}

    def trained(rung):
        params, found = start(), []
        for _ in range(21):
            rung(params)
            found.append(round(validate_epoch(model_of(params), valid_dl), 4))
        return params, found

    (weights, accuracies), *others = [trained(rung) for rung in rungs.values()]
    for params, found in others:
        assert np.allclose(found, accuracies, atol=6e-4), (accuracies, found) # up to an image
        torch.testing.assert_close(params, weights, rtol=1e-4, atol=1e-4)

    sides = {name: partial(rung, start()) for name, rung in rungs.items()} | {'x.sum()': x.sum}
    from sklearn.linear_model import SGDClassifier
    sides["scikit-learn's SGDClassifier"] = lambda: SGDClassifier(loss='log_loss', max_iter=1, tol=None).fit(x.numpy(), y.flatten().numpy())
    if compiled := jax_epoch(x.numpy(), y.flatten().numpy()):
        begin = tuple(p.detach().numpy() for p in start())
        params, found = (begin[0][:, 0], begin[1]), []
        for _ in range(21):
            params = compiled(params)
            found.append(round(validate_epoch(model_of((torch.tensor(np.array(params[0]))[:, None], torch.tensor(np.array(params[1])))), valid_dl), 4))
        assert np.allclose(found, accuracies, atol=6e-4), (accuracies, found)
        sides['JAX'] = lambda: compiled(params)[0].block_until_ready()
    seconds = medians(sides, rounds=21)
    print('         ' + ', '.join(f'{name} {1000*s:.2f} ms' for name, s in seconds.items()))
    notes, fast = seconds["the notes' loop"], seconds['fast_epoch']
    report("an epoch of the notes' loop / fast_epoch (depends on how fast Python is)", f'{notes/fast:.1f}x', '18x', notes >= 18*fast)
    report('fast_epoch / x.sum() (the floor)', f"{fast/seconds['x.sum()']:.2f}", '1.8', fast <= 1.8*seconds['x.sum()'])
    report('fast_epoch of bytes / of floats', f"{seconds['fast_epoch of bytes']/fast:.2f}", '1', seconds['fast_epoch of bytes'] <= fast)
    if compiled: report('JAX / fast_epoch', f"{seconds['JAX']/fast:.2f}x", '1.7x', seconds['JAX'] >= 1.7*fast)
    else: print('         (JAX is not installed, so it is not compared)')

    more = {n: (x.repeat(n//len(x) + 1, 1)[:n], y.repeat(n//len(x) + 1, 1)[:n]) for n in (len(x), 60_000, 16*len(x))}
    for name, epoch in (("the notes' loop", lambda x, y: partial(notes_epoch, DataLoader(list(zip(x, y)), batch_size=256), start())),
                        ('BatchLoader', lambda x, y: partial(notes_epoch, BatchLoader(x, y), start())), ('fast_epoch', lambda x, y: partial(fast_epoch, x, y, *start()))):
        grown = medians({n: epoch(*pair) for n, pair in more.items()}, rounds=1 if name.startswith('the') else 5)
        print(f'         microseconds an image, {name}: ' + ', '.join(f'{1e6*s/n:.2f} of {n:,}' for n, s in grown.items()))
    torch.set_num_threads(threads)
    if cores: os.sched_setaffinity(0, cores)


def bench_fused_digits():
    x, y = load_all(by_digit=False)
    dl, valid_dl = BatchLoader(x, y, 64), BatchLoader(*load_all('valid'), 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(42)
    theirs, ours = nn.Linear(784, 10), nn.Linear(784, 10)
    ours.load_state_dict(theirs.state_dict())
    opt = BasicOptim(theirs.parameters(), .1)
    sides = {'train_epoch': lambda: optim_epoch(theirs, dl, opt, cross_entropy), 'fast_digits_epoch': lambda: fast_digits_epoch(x, y, ours.weight, ours.bias)}
    slow, fast = medians(sides, rounds=2).values()
    ends = [digit_accuracy(model(valid_dl.x), valid_dl.y).item() for model in (theirs, ours)]
    assert abs(ends[0] - ends[1]) < .001, ends
    report("train_epoch on ten digits / fast_digits_epoch", f'{slow/fast:.1f}x', '5x', slow >= 5*fast)
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


STEPS = """
import statistics, time, torch, torch.distributed as dist
from mnist_sgd import *
class Clock:
    def after_batch(self, learn):
        if learn.training: times.append(time.perf_counter())
def median(times): return statistics.median(b - a for a, b in zip(times, times[1:]))
x, y = label_pair(*load_pair(3, 7))
dl, few = BatchLoader(x[:12288], y[:12288]), BatchLoader(x[:8], y[:8])
torch.manual_seed(0)
times = []
learn = Learner((dl, few), make_net(784, 400, 1), log_loss, cbs=[workers := Workers(), Clock()])
learn.fit(2, .01)
step, times = median(times), []
while workers.world > 1 and len(times) < 300:
    dist.all_reduce(torch.zeros(785))
    times.append(time.perf_counter())
if workers.rank == 0: print(step, median(times)/2 if times else 0)
"""


def bench_two_machines():
    "A step of a net with 314,401 parameters on one machine and on two, and what `step_seconds` plans for the network's rate."
    try:
        with two_machines(), tempfile.TemporaryDirectory() as folder:
            script = Path(folder)/'steps.py'
            script.write_text(STEPS, encoding='utf-8')

            def measure(*which, nodes):
                printed = ''.join(finished(*[node(i, script, nodes=nodes) for i in which]))
                return map(float, printed.split())

            alone, _ = measure(0, nodes='1')
            print(f'a step of one machine: {1000*alone:.1f} ms')
            for rate, bits in ((None, None), ('1gbit', 1e9), ('100mbit', 1e8)):
                limit_rate(rate)
                step, latency = measure(0, 1, nodes='2')
                plan = f'; planned: {1000*step_seconds(314_401, 2, alone, bits/8, latency):.1f} ms' if bits else ''
                print(f'a step of two machines, {rate or "no limit"}: {1000*step:.1f} ms, a round {1e6*latency:.0f} microseconds{plan}', flush=True)
    except OSError as e: print(f'two machines are not measured: {e}')


if __name__ == '__main__':
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads')
    bench_run() # first: Linux counts the memory of the process that starts another one, too
    bench_data()
    bench_epoch()
    bench_doors()
    bench_speed()
    bench_fused_digits()
    bench_digits()
    bench_search()
    bench_two_machines()
    bench_import()
