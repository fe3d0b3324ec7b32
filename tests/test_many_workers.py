import json, os, re, signal, socket, subprocess, sys

import pytest
import torch
from conftest import needs_links, needs_signals
from torch import nn
from torch.testing import assert_close

from mnist_sgd.basic_optim import BasicOptim, train_model
from mnist_sgd.linear_model import BatchLoader, mnist_loss
from mnist_sgd.many_workers import (_why, check_port, launch, load_checkpoint, main, make_model, save_checkpoint, share, share_loss,
                                    step_bytes, step_seconds, torchrun_command, train_worker, worker_epoch)

SETTINGS = {'lr': 1., 'bs': 256}
HISTORY = {'accuracy': [.5], 'train_loss': [.4], 'valid_loss': [.4], 'seconds': [.1]}


def trained(path, name='linear', lr=1.):
    model = make_model(name)
    return model, load_checkpoint(path, model, SETTINGS | {'lr': lr})


def grads(model): return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize('name', ['linear', 'net'])
@pytest.mark.parametrize('world', [1, 2, 3, 4, 7, 150])
def test_mean_of_the_workers_is_the_gradient_of_the_batch(dl, name, world):
    xb, yb = [t[6077:6077 + 108] for t in (dl.x, dl.y)] # both digits, as many as in the last batch
    whole, parts = make_model(name), make_model(name)
    mnist_loss(whole(xb), yb).backward()
    for rank in range(world):
        part_xb, part_yb = share(xb, yb, rank, world)
        (share_loss(parts(part_xb), part_yb, len(xb), world)/world).backward()
    assert_close(grads(parts), grads(whole), rtol=0, atol=1e-6)


def test_share():
    x, y = torch.arange(10.).view(5, 2), torch.arange(5).view(5, 1)
    assert [share(x, y, rank, 3)[1].flatten().tolist() for rank in range(3)] == [[0, 3], [1, 4], [2]]
    assert share(x, y, 5, 6)[0].shape == (0, 2)
    with pytest.raises(ValueError, match='rank must be from 0 to 1 with 2 workers, got 2'): share(x, y, 2, 2)
    for rank, world, name in ((-1, 2, 'rank'), (0, 0, 'world'), (0, 2., 'world'), ('0', 2, 'rank')):
        with pytest.raises(ValueError, match=f'{name} must be a whole number from'): share(x, y, rank, world)
    with pytest.raises(ValueError, match='must be equally long, got 5 and 4'): share(x, y[:4], 0, 2)


@pytest.fixture(scope='module')
def alone(dl, valid_dl):
    "Three epochs with train_model: weights and history."
    model = make_model('linear')
    return model, train_model(model, dl, valid_dl, BasicOptim(model.parameters(), 1.), 3, progress=False)


@pytest.mark.parametrize('workers, any_port', [(2, False), pytest.param(1, True, marks=pytest.mark.slow), pytest.param(4, True, marks=pytest.mark.slow)])
def test_same_training_with_any_number_of_workers(workers, any_port, alone, tmp_path):
    port, checkpoint = None if any_port else free_port(), tmp_path/'a.pt'
    history = launch(workers, epochs=3, checkpoint=checkpoint, port=port)
    model, (epoch, saved) = trained(checkpoint)
    assert (epoch, saved) == (3, history) and len(history['seconds']) == 3
    assert history['accuracy'] == [round(accuracy, 4) for accuracy in alone[1]['accuracy']]
    for name in ('train_loss', 'valid_loss'): assert history[name] == pytest.approx(alone[1][name], abs=1e-5)
    for ours, theirs in zip(model.parameters(), alone[0].parameters()): assert_close(ours, theirs, rtol=0, atol=1e-5)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.mark.slow
def test_net_with_shares_that_are_never_equal(dl, valid_dl, tmp_path):
    net = make_model('net')
    expected = train_model(net, dl, valid_dl, BasicOptim(net.parameters(), .1), 2, progress=False)
    history = launch(3, 'net', epochs=2, checkpoint=tmp_path/'net.pt')
    assert history['accuracy'] == [round(accuracy, 4) for accuracy in expected['accuracy']]
    for ours, theirs in zip(trained(tmp_path/'net.pt', 'net', .1)[0].parameters(), net.parameters()):
        assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
@needs_signals
def test_killed_worker_is_restarted_from_the_checkpoint(dl, valid_dl, tmp_path):
    "On two workers; the second start needs no epoch that is done, and ends in the weights of an undisturbed run."
    checkpoint, lines, pids = tmp_path/'killed.pt', [], []
    command = torchrun_command(2, '--epochs', 12, '--checkpoint', checkpoint, '--json', tmp_path/'r.json', restarts=1)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'}) as process:
        for line in process.stdout:
            lines.append(line)
            if 'worker 1 of 2' in line: pids.append(int(line.split()[-1]))
            if line.startswith('epoch 2:'): os.kill(pids[0], signal.SIGKILL)
    assert process.returncode == 0
    assert len(set(pids)) == 2
    assert sum('going on after epoch' in line for line in lines) == 1
    printed = [int(n) for line in lines for n in re.findall(r'^epoch (\d+):', line)]
    assert printed == sorted(set(printed)) and printed[-1] == 12 # no epoch twice
    model = make_model('linear')
    expected = train_model(model, dl, valid_dl, BasicOptim(model.parameters(), 1.), 12, progress=False)
    result = json.loads((tmp_path/'r.json').read_text(encoding='utf-8'))
    assert result['history']['accuracy'] == [round(accuracy, 4) for accuracy in expected['accuracy']] and result['workers'] == 2
    assert result['versions']['torch'] == torch.__version__
    assert_close(trained(checkpoint)[0].weight, model.weight, rtol=0, atol=1e-5)


@pytest.mark.slow
@needs_signals
def test_killed_worker_without_restarts_ends_the_run(tmp_path):
    "The others do not wait for ever, and the exit status tells."
    command = torchrun_command(2, '--epochs', 1000)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'}) as process:
        for line in process.stdout:
            if 'worker 1 of 2' in line: pid = int(line.split()[-1])
            if line.startswith('epoch 1:'): os.kill(pid, signal.SIGKILL)
        assert 'SIGKILL' in process.stderr.read()
    assert process.returncode == 1


def test_checkpoint_is_whole_or_not_there(tmp_path):
    path, model = tmp_path/'a.pt', nn.Linear(3, 1)
    save_checkpoint(path, model, 1, HISTORY, SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ['a.pt']
    before = path.read_bytes()
    with pytest.raises(Exception): save_checkpoint(path, model, 2, HISTORY, {'lr': lambda: None})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['a.pt']
    with pytest.raises(ValueError, match='cannot write .* name a file in a folder you can write to'):
        save_checkpoint(tmp_path/'none'/'a.pt', model, 1, HISTORY, SETTINGS)


def test_damaged_checkpoint_leaves_the_model_alone(tmp_path):
    path, model, other = tmp_path/'a.pt', nn.Linear(3, 1), nn.Linear(3, 1)
    save_checkpoint(path, model, 1, HISTORY, SETTINGS)
    content, weight = path.read_bytes(), other.weight.detach().clone()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match='is damaged or not a checkpoint; delete it, or name another file'):
            load_checkpoint(path, other, SETTINGS)
    at = content.index(model.weight.detach().numpy().tobytes())
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1:]) # one bit of a weight
    with pytest.raises(ValueError, match='is damaged'): load_checkpoint(path, other, SETTINGS)
    assert_close(other.weight.detach(), weight)


class Trap:
    def __reduce__(self): return os.system, ('echo trapped',)


@pytest.mark.parametrize('content', [Trap(), nn.Linear(3, 1)])
def test_checkpoint_runs_no_code(tmp_path, content, capfd):
    torch.save(content, tmp_path/'a.pt')
    with pytest.raises(ValueError, match='is damaged or not a checkpoint'):
        load_checkpoint(tmp_path/'a.pt', nn.Linear(3, 1), SETTINGS)
    assert 'trapped' not in capfd.readouterr().out


@pytest.mark.parametrize('content', [3, [1], {}, {'weight': torch.zeros(1, 3)},
                                     {'weights': [], 'epoch': 1, 'history': {}, 'settings': {}},
                                     {'weights': {'weight': 1}, 'epoch': 1, 'history': {}, 'settings': {}},
                                     {'weights': {}, 'epoch': -3, 'history': {}, 'settings': {}},
                                     {'weights': {}, 'epoch': 5, 'history': {'accuracy': []}, 'settings': {}}])
def test_file_that_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path/'a.pt')
    with pytest.raises(ValueError, match='is not a checkpoint of mnist_sgd; name another file'):
        load_checkpoint(tmp_path/'a.pt', nn.Linear(3, 1), SETTINGS)


@pytest.mark.parametrize('other', [nn.Linear(4, 1), nn.Linear(3, 1, bias=False), nn.Sequential(nn.Linear(3, 1))])
def test_checkpoint_of_another_model(tmp_path, other):
    save_checkpoint(tmp_path/'a.pt', nn.Linear(3, 1), 1, HISTORY, SETTINGS)
    before = {name: t.clone() for name, t in other.state_dict().items()}
    with pytest.raises(ValueError, match='is a checkpoint of another model, with'):
        load_checkpoint(tmp_path/'a.pt', other, SETTINGS)
    for name, t in other.state_dict().items(): assert_close(t, before[name])


@pytest.mark.parametrize('settings', [{'lr': .5, 'bs': 256}, {'lr': 1., 'bs': 64}])
def test_checkpoint_of_other_settings(tmp_path, settings):
    save_checkpoint(tmp_path/'a.pt', nn.Linear(3, 1), 1, HISTORY, SETTINGS)
    with pytest.raises(ValueError, match='was trained with .* take the same settings, or name another file'):
        load_checkpoint(tmp_path/'a.pt', nn.Linear(3, 1), settings)


def test_checkpoint_of_weights_that_are_not_finite(tmp_path):
    model = nn.Linear(3, 1)
    with torch.no_grad(): model.weight[0, 0] = float('nan')
    save_checkpoint(tmp_path/'a.pt', model, 1, HISTORY, SETTINGS)
    with pytest.raises(ValueError, match='has weights that are NaN or infinite'): load_checkpoint(tmp_path/'a.pt', nn.Linear(3, 1), SETTINGS)


def test_what_ended_a_run():
    report = 'W torchrun\n{}\n======\nx FAILED\n{}\n======\n'
    assert _why(report.format('', 'Signal 15 (SIGTERM)\nRoot Cause\nSignal 9 (SIGKILL)'), None) == 'a worker was ended by Signal 9 (SIGKILL); allow restarts'
    assert _why(report.format('[rank0]: RuntimeError: out of memory', ''), None) == 'torchrun failed (RuntimeError: out of memory)'
    assert _why('mnist_sgd.many_workers: lr must be positive\n' + report, None) == 'lr must be positive'
    assert _why('mnist_sgd.many_workers: worker 1 has lost another worker\n', None).endswith('another worker; allow restarts')
    assert _why('bind: EADDRINUSE', 29500) == 'port 29500 is taken; name another one'


def test_several_workers_without_a_group(tiny_dl):
    model = nn.Linear(784, 1)
    with pytest.raises(ValueError, match='several workers need a process group'):
        worker_epoch(model, tiny_dl, BasicOptim(model.parameters(), .1), rank=1, world=2)


def test_an_earlier_gradient_is_forgotten(tiny_dl):
    def trained(grad):
        torch.manual_seed(0)
        model = nn.Linear(784, 1)
        model.weight.grad = grad
        worker_epoch(model, tiny_dl, BasicOptim(model.parameters(), .1))
        return model.weight
    assert_close(trained(torch.ones(1, 784)), trained(None), rtol=0, atol=0)


def test_missing_checkpoint(tmp_path):
    with pytest.raises(ValueError, match='cannot read the checkpoint'):
        load_checkpoint(tmp_path/'none.pt', nn.Linear(3, 1), SETTINGS)


def test_finished_run_only_reports(tiny_dl, tmp_path, capsys):
    model, again = nn.Linear(784, 1), nn.Linear(784, 1)
    history = train_worker(model, tiny_dl, tiny_dl, 2, .1, tmp_path/'a.pt', progress=True)
    before = (tmp_path/'a.pt').stat().st_mtime_ns
    capsys.readouterr()
    assert train_worker(again, tiny_dl, tiny_dl, 2, .1, tmp_path/'a.pt', progress=True) == history
    assert_close(again.weight, model.weight)
    assert (tmp_path/'a.pt').stat().st_mtime_ns == before and 'epoch 2' in capsys.readouterr().out
    with pytest.raises(ValueError, match='has 2 epochs already, and epochs is 1; ask for more'):
        train_worker(again, tiny_dl, tiny_dl, 1, .1, tmp_path/'a.pt')


def test_bad_training(tiny_dl, tmp_path):
    model = nn.Linear(784, 1)
    with pytest.raises(ValueError, match='epochs must be a whole number from 1'):
        train_worker(model, tiny_dl, tiny_dl, 0, 1.)
    with pytest.raises(ValueError, match='lr must be a positive number'): train_worker(model, tiny_dl, tiny_dl, 1, 0.)
    with pytest.raises(TypeError, match='dl must be a BatchLoader, got list'): train_worker(model, [*tiny_dl], tiny_dl, 1, 1.)
    with pytest.raises(ValueError, match='dl must not be shuffled'):
        train_worker(model, BatchLoader(tiny_dl.x, tiny_dl.y, 2, shuffle=True), tiny_dl, 1, 1.)
    with pytest.raises(ValueError, match="device 'moon' cannot be used"):
        train_worker(model, tiny_dl, tiny_dl, 1, 1., device='moon')
    with pytest.raises(ValueError, match='epoch 1, batch 2: the loss is nan'):
        bad = BatchLoader(tiny_dl.x.clone(), tiny_dl.y, 2)
        bad.x[3] = float('nan')
        train_worker(model, bad, tiny_dl, 1, 1., tmp_path/'a.pt')
    assert not (tmp_path/'a.pt').exists()


def test_launch_refuses(tmp_path):
    for workers in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match='workers must be a whole number from 1'): launch(workers)
    with pytest.raises(ValueError, match='restarts must be a whole number from 0'): launch(1, restarts=-1)
    with pytest.raises(ValueError, match='port must be a whole number from 1'): launch(1, port='http')
    save_checkpoint(tmp_path/'a.pt', make_model('linear'), 1, HISTORY, SETTINGS)
    with pytest.raises(ValueError, match='^[^\n]*a.pt is a checkpoint of another model, with [^\n]*$'):
        launch(2, 'net', epochs=3, checkpoint=tmp_path/'a.pt')


def test_port_that_is_taken():
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=f'port {port} cannot be used .*; name another one'): launch(2, port=port)
        command = [sys.executable, '-m', 'mnist_sgd.many_workers'] # what a worker says whom another launcher started
        env = {**os.environ, 'RANK': '0', 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(rf'mnist_sgd.many_workers: the workers cannot meet at 127.0.0.1:{port} .*\n', done.stderr)
    check_port(port)
    with pytest.raises(ValueError, match='port must be from 1 to 65535, got 70000'): check_port(70_000)


@pytest.mark.parametrize('words, message', [
    (['--epochs', '0'], 'epochs must be a whole number from 1, got 0'),
    (['--epochs', 'many'], "argument --epochs: invalid int value: 'many'"),
    (['--lr', '-1'], 'lr must be a positive number, got -1.0'),
    (['--bs', '0'], 'batch_size must be a whole number from 1, got 0'),
    (['--model', 'cnn'], "argument --model: invalid choice: 'cnn'"),
    (['--device', 'moon'], "argument --device: invalid choice: 'moon'"),
    (['--checkpoint', 'none/a.pt'], 'argument --checkpoint: must be a file in a folder that exists'),
    (['--json', '.'], 'argument --json: must be a file in a folder that exists'),
    (['--json', 'a', '--checkpoint', './a'], '--checkpoint and --json must be two files'),
    (['--slow'], 'unrecognized arguments: --slow')])
def test_bad_options(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(SystemExit) as stopped: main(words)
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(lines) == 1
    assert lines[0].startswith('mnist_sgd.many_workers: ') and message in lines[0]


@needs_links
def test_a_link_that_leads_to_itself_is_no_file(capsys, tmp_path, tiny_dl):
    (tmp_path/'loop').symlink_to('loop')
    with pytest.raises(SystemExit): main(['--checkpoint', str(tmp_path/'loop')])
    assert 'argument --checkpoint: must be a file in a folder that exists' in capsys.readouterr().err
    with pytest.raises(ValueError, match='cannot write .*loop: it exists and is not a file'):
        train_worker(nn.Linear(784, 1), tiny_dl, tiny_dl, 1, .1, tmp_path/'loop')
    assert (tmp_path/'loop').is_symlink()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU here')
def test_no_gpu(capsys):
    with pytest.raises(SystemExit): main(['--device', 'cuda'])
    assert "device 'cuda' cannot be used here; try 'cpu'" in capsys.readouterr().err


@pytest.mark.parametrize('words, status', [(['--epochs', '1'], 0), (['--help'], 0), (['--epochs', '0'], 2)])
def test_a_worker_leaves_at_once(words, status):
    "Python is not taken down first: gloo's threads can crash it meanwhile, when the work is done."
    code = ("import atexit, runpy, sys; atexit.register(print, 'taken down'); sys.argv[1:] = " + repr(words) +
            "; runpy.run_module('mnist_sgd.many_workers', run_name='__main__')")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == status and 'taken down' not in done.stdout
    assert ('epochs must be a whole number from 1' in done.stderr) if status else done.stdout


def test_one_worker_without_torchrun(dl, valid_dl, capsys, tmp_path):
    main(['--epochs', '1', '--lr', '.5', '--bs', '512', '--json', str(tmp_path/'r.json')])
    model = make_model('linear')
    big = BatchLoader(dl.x, dl.y, 512)
    big_valid = BatchLoader(valid_dl.x, valid_dl.y, 512)
    expected = train_model(model, big, big_valid, BasicOptim(model.parameters(), .5), 1, progress=False)
    result = json.loads((tmp_path/'r.json').read_text(encoding='utf-8'))
    assert result['history']['accuracy'] == [round(accuracy, 4) for accuracy in expected['accuracy']]
    assert (result['model'], result['workers'], result['lr'], result['bs']) == ('linear', 1, .5, 512)
    assert f"epoch 1: accuracy {expected['accuracy'][0]:.4f}" in capsys.readouterr().out


def test_models():
    assert [sum(p.numel() for p in make_model(name).parameters()) for name in ('linear', 'net')] == [785, 23_581]
    with pytest.raises(ValueError, match="model must be one of linear, net, got 'cnn'"): make_model('cnn')


def test_plan():
    assert [step_bytes(1_000, n) for n in (1, 2, 4)] == [0, 4_000, 6_000]
    assert step_bytes(785, 10**6) < 8*785
    assert step_seconds(1_000, 4, 2., 6_000., .1) == pytest.approx(2/4 + 1 + .6)
    assert step_seconds(1_000, 1, 2., 1., 1.) == 2
    with pytest.raises(ValueError, match='workers must be a whole number from 1, got 0'): step_bytes(785, 0)
    with pytest.raises(ValueError, match='parameters must be a whole number from 1'): step_bytes(.5, 2)
    for bad in ((0, 1., 0), (1., 0, 0), (1., 1., -1)):
        with pytest.raises(ValueError, match='compute and bandwidth must be positive'): step_seconds(785, 2, *bad)
