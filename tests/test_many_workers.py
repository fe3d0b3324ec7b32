import json, os, re, subprocess, sys, time

import pytest
import torch
from conftest import needs_signals
from torch import nn
from torch.testing import assert_close

from mnist_sgd.basic_optim import BasicOptim
from mnist_sgd.learner_from_scratch import Learner, Metrics, Recorder
from mnist_sgd.linear_model import BatchLoader, batch_accuracy, mnist_loss
from mnist_sgd.many_workers import Checkpoint, Workers, _join, _why, launch, step_bytes, step_seconds
from mnist_sgd.neural_net import make_net
from mnist_sgd.run import worker_main

TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--local-addr', '127.0.0.1', '--nproc-per-node', '2']
START = """
import os, signal, sys, torch
from mnist_sgd import *
torch.manual_seed(1)
x, y = torch.rand(100, 784), torch.randint(2, (100, 1))
dl = BatchLoader(x, y, 32) # 3 workers get 11, 11 and 10 images, and of the last batch 2, 1 and 1
model = make_net(784, 5, 1)
class Says:
    def after_epoch(self, learn): print('epoch', learn.epoch, 'of worker', workers.rank, flush=True)
"""
TRAIN = START + """
workers = Workers()
if os.environ.get('RANK') == '1': torch.nn.init.zeros_(model[0].weight) # it takes the weights of rank 0
history = Learner((dl, dl), model, mnist_loss, opt_func=torch.optim.Adam, cbs=[workers, Recorder(), Metrics(batch_accuracy)]).fit(2, .01)
torch.save([history, model.state_dict()], f'{sys.argv[1]}/{workers.rank}.pt')
"""


@pytest.fixture
def script(tmp_path):
    def written(text):
        (tmp_path/'script.py').write_text(text, encoding='utf-8')
        return tmp_path/'script.py'
    return written


def test_three_workers_train_as_one(script, tmp_path):
    "Shares that are never equal, an optimiser with a memory, a net; all end in the same weights."
    launch(script(TRAIN), 3, [tmp_path])
    torch.manual_seed(1)
    x, y = torch.rand(100, 784), torch.randint(2, (100, 1))
    dl, alone = BatchLoader(x, y, 32), make_net(784, 5, 1)
    expected = Learner((dl, dl), alone, mnist_loss, opt_func=torch.optim.Adam, cbs=[Workers(), Recorder(), Metrics(batch_accuracy)]).fit(2, .01)
    for rank in range(3):
        history, weights = torch.load(tmp_path/f'{rank}.pt', weights_only=True)
        assert_close(weights, alone.state_dict(), rtol=1e-4, atol=1e-5)
        assert list(history) == list(expected)
        for name in expected: assert history[name] == pytest.approx(expected[name], abs=1e-5)


def learner(model, dl, *cbs, **kwargs): return Learner((dl, dl), model, mnist_loss, cbs=[*cbs], **kwargs)


def small(seed=0, classes=1):
    torch.manual_seed(seed)
    return nn.Linear(784, classes)


def test_alone_it_changes_nothing(tiny_dl):
    plain, alone = small(), small()
    learner(plain, tiny_dl).fit(2, .1)
    learner(alone, tiny_dl, Workers()).fit(2, .1)
    assert_close(alone.weight, plain.weight, rtol=0, atol=0)


def test_more_workers_than_images(tiny_dl):
    class Many(Workers):
        def before_fit(self, learn): self.world = 3
        def before_epoch(self, learn): pass
    with pytest.raises(ValueError, match='epoch 1: 3 workers cannot share 2 images; choose another batch_size'): learner(small(), tiny_dl, Many()).fit(1, .1)


def test_a_model_with_buffers_is_refused(tiny_dl, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(ValueError, match="workers cannot share a model with buffers, such as BatchNorm's"):
        learner(nn.Sequential(nn.BatchNorm1d(784), nn.Linear(784, 1)), tiny_dl, Workers()).fit(1, .1)


OTHERS = START + """
workers, rank = Workers(), int(os.environ['RANK'])
class Branches(torch.nn.Module):
    "Each worker uses another part of it."
    def __init__(self):
        super().__init__()
        self.parts = torch.nn.ModuleList([torch.nn.Linear(784, 1), torch.nn.Linear(784, 1)])
    def forward(self, xb): return self.parts[rank if self.training else 0](xb)
def trained(model, dl, epochs=3):
    torch.manual_seed(2)
    torch.rand(rank) # they have drawn more or less
    Learner((dl, dl), model, mnist_loss, cbs=[workers]).fit(epochs, .1)
    return model.state_dict()
mixed = BatchLoader(x, y, 32, shuffle=True)
torch.save([trained(torch.nn.Linear(784, 1), mixed), trained(Branches(), dl)], f'{sys.argv[1]}/{rank}.pt')
try: trained(torch.nn.Linear(784, 1), dl, 1 + rank)
except ValueError as e: print(e)
"""


@pytest.mark.slow
def test_two_workers_shuffle_alike_and_use_different_parts(script, tmp_path):
    lines = launch(script(OTHERS), 2, [tmp_path])
    assert lines == ['the workers have different epochs to train; can all read the checkpoint?']*2
    ends = [torch.load(tmp_path/f'{rank}.pt', weights_only=True) for rank in (0, 1)]
    for one, other in zip(*ends): assert_close(one, other, rtol=0, atol=0)
    torch.manual_seed(1)
    x, y = torch.rand(100, 784), torch.randint(2, (100, 1))
    make_net(784, 5, 1)
    mixed, alone = BatchLoader(x, y, 32, shuffle=True), nn.Linear(784, 1)
    torch.manual_seed(2)
    learner(alone, mixed).fit(3, .1)
    assert_close(ends[0][0], alone.state_dict(), rtol=1e-4, atol=1e-5)


def test_lines_come_rank_by_rank_and_whole(script):
    "All write at once, and Python writes a line and its end apart."
    lines = launch(script("import os\nfor i in range(100): print('rank', os.environ['RANK'], 'says', i)"), 11)
    assert lines == [f'rank {rank} says {i}' for rank in range(11) for i in range(100)]


def test_launch_refuses(script, tmp_path):
    for workers in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match='workers must be a whole number from 1'): launch('a.py', workers)
    with pytest.raises(ValueError, match='restarts must be a whole number from 0'): launch('a.py', 1, restarts=-1)
    with pytest.raises(ValueError, match='there is no file .*none.py'): launch(tmp_path/'none.py', 1)
    with pytest.raises(ValueError, match='^the loss is too small$'): launch(script("raise ValueError('the loss is too small')"), 2)


def test_what_ended_a_run():
    report = 'W torchrun\n{}\n======\nx FAILED\n{}\n======\n'
    lost = '[rank0]: RuntimeError: Connection closed by peer'
    assert _why(report.format(lost, 'Signal 15 (SIGTERM)\nRoot Cause\nSignal 9 (SIGKILL)')) == 'a worker was ended by Signal 9 (SIGKILL); allow more restarts'
    assert _why(report.format(lost + '\n[rank0]: RuntimeError: out of memory', 'Root Cause')) == 'out of memory' # the first time it went on
    assert _why('') == 'torchrun failed without an error message'


@pytest.mark.parametrize('rank, world', [('2', '2'), ('-1', '2')])
def test_a_rank_that_cannot_be_does_not_wait(rank, world):
    start = time.monotonic()
    with pytest.raises(ValueError, match=f'rank must be from 0 to 1, got {rank}'): _join(int(rank), int(world))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize('name', ['RANK', 'WORLD_SIZE'])
def test_a_rank_that_is_no_number(monkeypatch, name):
    monkeypatch.setenv(name, 'x')
    with pytest.raises(ValueError, match='^RANK and WORLD_SIZE must be whole numbers, got .*x'): Workers()


def test_a_worker_whose_others_do_not_come(monkeypatch):
    for name, value in {'RANK': '1', 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '1'}.items(): monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match='the workers cannot meet .*; is one of them missing?'): _join(1, 2, seconds=1)


# checkpoints

def shuffled(dl): return BatchLoader(dl.x, dl.y, 2, shuffle=True)


@pytest.mark.parametrize('opt_func', [None, lambda params, lr: torch.optim.SGD(params, lr, momentum=.9)])
def test_it_goes_on_to_the_same_bits(tiny_dl, tmp_path, opt_func):
    "Also with a memory of the optimiser and with shuffled batches."
    kwargs, ends, histories = {'opt_func': opt_func} if opt_func else {}, [], []
    for cuts in ([5], [2, 3]):
        path, model = tmp_path/f'{len(cuts)}.pt', small()
        for epochs in cuts:
            if epochs == 3: model = small(seed=9) # another process
            checkpoint = Checkpoint(path)
            assert checkpoint.done == (0 if epochs != 3 else 2)
            learner(model, shuffled(tiny_dl), Recorder(), checkpoint, **kwargs).fit(epochs, .1)
        ends.append(model.weight)
        histories.append(Checkpoint(path).history)
        assert Checkpoint(path).done == 5
    assert ends[0].equal(ends[1])
    assert [len(column) for column in histories[0].values()] == [5, 5] and histories[0]['valid_loss'] == histories[1]['valid_loss']


def test_a_finished_training_gives_its_weights(tiny_dl, tmp_path):
    def trained():
        checkpoint, model = Checkpoint(tmp_path/'a.pt'), small()
        learner(model, tiny_dl, Recorder(), checkpoint).fit(2 - checkpoint.done, .1)
        return model.state_dict(), checkpoint.history
    first, first_history = trained()
    again, history = trained() # it was killed after the last epoch, and started once more
    assert_close(again, first, atol=0, rtol=0)
    assert history == first_history


def test_a_checkpoint_is_whole_or_not_there(tiny_dl, tmp_path, monkeypatch):
    learner(small(), tiny_dl, Checkpoint(tmp_path/'a.pt')).fit(1, .1)
    before = (tmp_path/'a.pt').read_bytes()
    def full(content, file):
        file.write(b'half')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(ValueError, match='cannot write .*a.pt .No space left on device'): learner(small(), tiny_dl, Checkpoint(tmp_path/'a.pt')).fit(1, .1)
    assert (tmp_path/'a.pt').read_bytes() == before and [o.name for o in tmp_path.iterdir()] == ['a.pt']


def test_a_second_fit_goes_on(tiny_dl, tmp_path):
    "From where it is, and not from the file; with the learning rate that it is given."
    for file in (None, 'there'):
        model, checkpoint = small(), Checkpoint(tmp_path/'a.pt')
        learn = learner(model, tiny_dl, checkpoint, opt_func=torch.optim.SGD)
        learn.fit(1, .1)
        once = model.weight.detach().clone()
        learn.fit(1, .3)
        assert not model.weight.equal(once) and learn.opt.param_groups[0]['lr'] == .3
    assert checkpoint.done == Checkpoint(tmp_path/'a.pt').done == 4
    learn = learner(small(), tiny_dl, Checkpoint(tmp_path/'a.pt'), opt_func=torch.optim.SGD)
    learn.fit(1, .7)
    assert learn.opt.param_groups[0]['lr'] == .7


class Trap:
    def __reduce__(self): return os.system, ('echo trapped',)


@pytest.mark.parametrize('content', [Trap(), nn.Linear(3, 1)])
def test_a_checkpoint_runs_no_code(tmp_path, content, capfd):
    torch.save(content, tmp_path/'a.pt')
    with pytest.raises(ValueError, match='a.pt is damaged or not a checkpoint; move it away, or name another file'): Checkpoint(tmp_path/'a.pt')
    assert 'trapped' not in capfd.readouterr().out


GOOD = {'model': {'weight': torch.zeros(1, 784), 'bias': torch.zeros(1)}, 'opt': ['BasicOptim', None], 'random': torch.get_rng_state(), 'epoch': 1, 'history': {}}


@pytest.mark.parametrize('change', [
    {'epoch': -3}, {'epoch': '1'}, {'history': []}, {'history': {'a': [1., 2.]}}, {'model': [1]}, {'model': {'weight': 1}}, {'opt': [1, None]}, {'opt': [None]},
    {'random': 3}, {'random': torch.zeros(3)}, {'random': torch.zeros(3, dtype=torch.uint8)}, {'more': 1},
    {'model': {'weight': torch.zeros(1).expand(10**6, 10**6), 'bias': torch.zeros(1)}}, {'model': {'weight': torch.full((1, 784), float('nan')), 'bias': torch.zeros(1)}}])
def test_a_file_that_is_no_checkpoint(tmp_path, change):
    torch.save(GOOD | change, tmp_path/'a.pt')
    with pytest.raises(ValueError, match='a.pt (is not a checkpoint of mnist_sgd|has weights that)'): Checkpoint(tmp_path/'a.pt')


@pytest.mark.parametrize('content', [3, [1], {}, {'weight': torch.zeros(1, 3)}])
def test_something_else_in_the_file(tmp_path, content):
    torch.save(content, tmp_path/'a.pt')
    with pytest.raises(ValueError, match='is not a checkpoint of mnist_sgd'): Checkpoint(tmp_path/'a.pt')


def test_half_a_file_and_a_flipped_bit(tmp_path):
    model = torch.rand(1, 784)
    torch.save(GOOD | {'model': {'weight': model, 'bias': torch.zeros(1)}}, tmp_path/'a.pt')
    content = (tmp_path/'a.pt').read_bytes()
    at = content.index(model.numpy().tobytes())
    for damaged in (*[content[:length] for length in range(1, len(content), 997)], content[:at] + bytes([content[at] ^ 1]) + content[at + 1:]):
        (tmp_path/'a.pt').write_bytes(damaged)
        with pytest.raises(ValueError, match='is damaged or not a checkpoint; move it away, or name another file'): Checkpoint(tmp_path/'a.pt')


@pytest.mark.parametrize('other', [nn.Linear(784, 2), nn.Linear(784, 1, bias=False), nn.Sequential(nn.Linear(784, 1))])
def test_a_checkpoint_of_another_model_changes_nothing(tiny_dl, tmp_path, other):
    torch.save(GOOD, tmp_path/'a.pt')
    before = {name: t.clone() for name, t in other.state_dict().items()}
    with pytest.raises(ValueError, match='a.pt is a checkpoint of another model; name another file'): learner(other, tiny_dl, Checkpoint(tmp_path/'a.pt')).fit(1, .1)
    assert_close(dict(other.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize('theirs', [torch.optim.SGD, torch.optim.Adam, None])
@pytest.mark.parametrize('ours', [torch.optim.SGD, torch.optim.Adam, None])
def test_a_checkpoint_of_another_optimiser_changes_nothing(tiny_dl, tmp_path, theirs, ours):
    first, second = ({} if opt_func is None else {'opt_func': opt_func} for opt_func in (theirs, ours))
    learner(small(), tiny_dl, Checkpoint(tmp_path/'a.pt'), **first).fit(1, .1)
    model, before = small(1), small(1)
    learn = learner(model, tiny_dl, Checkpoint(tmp_path/'a.pt'), **second)
    if theirs is ours:
        learn.fit(1, .1)
        return
    with pytest.raises(ValueError, match=f'a.pt is a checkpoint with {(theirs or BasicOptim).__name__}; name another file'): learn.fit(1, .1)
    assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)


def test_another_metric_may_begin_later(tiny_dl, tmp_path):
    for metrics, epochs in ([batch_accuracy], 2), ([batch_accuracy, mnist_loss], 1):
        learner(small(), tiny_dl, Metrics(*metrics), Checkpoint(tmp_path/'a.pt')).fit(epochs, .1)
    assert {name: len(column) for name, column in Checkpoint(tmp_path/'a.pt').history.items()} == {'batch_accuracy': 3, 'mnist_loss': 1}


# workers that die

KILLED = START + """
class Dies:
    def after_batch(self, learn):
        if learn.epoch == 3 and workers.rank == 1 and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0': os.kill(os.getpid(), signal.SIGKILL)
workers, checkpoint = Workers(), Checkpoint(sys.argv[1])
print('from', checkpoint.done)
Learner((dl, dl), model, mnist_loss, opt_func=torch.optim.Adam, cbs=[workers, Recorder(), Says(), Dies(), checkpoint]).fit(5 - checkpoint.done, .01)
"""


@pytest.mark.slow
@needs_signals
def test_a_killed_worker_is_restarted_and_ends_in_the_same_bits(script, tmp_path):
    killed = launch(script(KILLED), 2, [tmp_path/'killed.pt'], restarts=1)
    whole = launch(script(KILLED.replace("== '0'", "== '9'")), 2, [tmp_path/'whole.pt'])
    assert (killed.count('from 0'), killed.count('from 2'), whole.count('from 0')) == (2, 2, 2)
    died, undisturbed = (torch.load(tmp_path/name, weights_only=True) for name in ('killed.pt', 'whole.pt'))
    assert died['epoch'] == 5 and died['history']['valid_loss'] == undisturbed['history']['valid_loss']
    assert_close(died['model'], undisturbed['model'], rtol=0, atol=0)


@pytest.mark.slow
@needs_signals
def test_without_restarts_a_killed_worker_ends_the_run(script, tmp_path):
    with pytest.raises(ValueError, match=r'^a worker was ended by Signal 9 \(SIGKILL\); allow more restarts$'): launch(script(KILLED), 2, [tmp_path/'a.pt'])


@pytest.mark.slow
@needs_signals
def test_workers_end_when_the_launcher_is_killed(script, tmp_path):
    text = START + "workers = Workers()\nprint('process', os.getpid(), flush=True)\nLearner((dl, dl), model, mnist_loss, cbs=[workers, Says()]).fit(10**6, .01)\n"
    with subprocess.Popen([*TORCHRUN, script(text)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        pids = []
        for line in process.stdout:
            if line.startswith('process'): pids.append(int(line.split()[1]))
            if line.startswith('epoch 2'): break
        process.kill()
    for _ in range(100):
        alive = [pid for pid in pids if os.path.exists(f'/proc/{pid}')]
        if not alive: break
        time.sleep(.1)
    assert len(pids) == 2 and not alive


# the command

@pytest.mark.parametrize('words, message', [
    (['--epochs', '0'], 'epochs must be a whole number from 1, got 0'),
    (['--epochs', 'many'], "argument --epochs: invalid int value: 'many'"),
    (['--lr', '0'], 'lr must be a positive number, got 0.0'),
    (['--batch-size', '-1'], 'batch_size must be a whole number from 1, got -1'),
    (['--model', 'cnn'], "argument --model: invalid choice: 'cnn'"),
    (['--device', 'moon'], "device 'moon' cannot be used here; try 'cpu'"),
    (['--checkpoint', 'none/a.pt'], "argument --checkpoint: cannot be written, got 'none/a.pt'"),
    (['--json', 'none/a.json'], "argument --json: cannot be written, got 'none/a.json'"),
    (['--checkpoint', 'a', '--json', './a'], '--checkpoint and --json must be two files')])
def test_a_bad_option_is_one_sentence(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as e: worker_main(words)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.startswith(f'mnist_sgd.many_workers: {message}') and err.count('\n') == 1
    assert not list(tmp_path.iterdir())


def test_another_rank_waits_for_the_first_to_speak(monkeypatch, capsys):
    waited = []
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setattr('mnist_sgd.run.sleep', waited.append)
    with pytest.raises(SystemExit) as e: worker_main(['--epochs', '0'])
    assert e.value.code == 2 and waited == [5] and 'epochs must be a whole number' in capsys.readouterr().err


def test_one_worker_without_torchrun(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worker_main(['--epochs', '2', '--lr', '.5', '--batch-size', '512', '--checkpoint', 'a.pt', '--json', 'a.json'])
    result = json.loads((tmp_path/'a.json').read_text(encoding='utf-8'))
    accuracies = result['history']['batch_accuracy']
    assert (result['model'], result['workers'], result['lr'], result['batch_size'], len(accuracies)) == ('linear', 1, .5, 512, 2)
    assert f'epoch 2: accuracy {accuracies[1]:.4f}' in capsys.readouterr().out and accuracies[1] > .4
    worker_main(['--epochs', '2', '--checkpoint', 'a.pt', '--json', 'b.json']) # all is done: it only reports
    assert json.loads((tmp_path/'b.json').read_text(encoding='utf-8'))['history'] == result['history']
    assert 'epoch' not in capsys.readouterr().out
    with pytest.raises(SystemExit): worker_main(['--epochs', '1', '--checkpoint', 'a.pt'])
    assert 'a.pt has 2 epochs already, and epochs is 1; ask for more' in capsys.readouterr().err


@pytest.mark.slow
def test_the_module_is_a_command(tmp_path):
    words = ['-m', 'mnist_sgd.many_workers', '--epochs', '1', '--model', 'net', '--json', tmp_path/'a.json']
    done = subprocess.run([*TORCHRUN, *words], capture_output=True, text=True)
    assert done.returncode == 0 and len(re.findall(r'^epoch 1: accuracy 0\.\d{4}$', done.stdout, re.M)) == 1, done.stderr
    result = json.loads((tmp_path/'a.json').read_text(encoding='utf-8'))
    assert (result['workers'], result['lr'], result['model']) == (2, .1, 'net')


def test_plan():
    assert [step_bytes(1_000, n) for n in (1, 2, 4)] == [0, 4_000, 6_000]
    assert step_bytes(785, 10**6) < 8*785
    assert step_seconds(1_000, 4, 2., 6_000., .1) == pytest.approx(2/4 + 1 + .6)
    assert step_seconds(1_000, 1, 2., 1., 1.) == 2
    with pytest.raises(ValueError, match='workers must be a whole number from 1, got 0'): step_bytes(785, 0)
    with pytest.raises(ValueError, match='parameters must be a whole number from 1'): step_bytes(.5, 2)
    for bad, name in ((0, 1.), 'compute'), ((1., 0), 'bandwidth'):
        with pytest.raises(ValueError, match=f'{name} must be a positive number'): step_seconds(785, 2, *bad, 0)
