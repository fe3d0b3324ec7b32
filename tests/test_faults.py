"""Faults that a machine makes: a process is killed, a disk is full, a folder or an output cannot be written to, eight do the same at once.

What was there before stays whole or is replaced by something whole, and whoever asked for it hears in one sentence if it could not be done.
"""
import json, os, subprocess, sys, threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WINDOWS, needs_signals
from torch import nn

from mnist_sgd.all_digits import load_model, save_model
from mnist_sgd.practice import main as practice, write_copies
from mnist_sgd.storage import mnist_sample, sample_files, write_file

needs_limits = pytest.mark.skipif(WINDOWS, reason='Windows has no limits of a process')
needs_full = pytest.mark.skipif(not Path('/dev/full').exists(), reason='only Linux has an output that is always full')
RESULT = { # as `climb` returns it, so that a command has something to write at once
    'stages': [{'stage': stage, 'epochs': 2, 'lr': 1., 'batch_size': 256, 'accuracy': [.5, .75, .9], 'valid_loss': [.3, .2],
                'train_loss': [.4, .3], 'notes': None, 'wrong': list(range(200)), 'seconds': 1.} for stage in ('linear_model', 'all_digits')],
    'versions': {'mnist_sgd': '0', 'python': '3', 'torch': '2', 'fastai': '2', 'numpy': '2'}}
BUFFERED = {**os.environ, 'PYTHONUNBUFFERED': ''} # as Python prints usually
RUN = f'import mnist_sgd.run as run; run.climb = lambda *args, **kwargs: {RESULT!r}'


def save_npz(path, seed=0):
    "A packed MNIST of 60 made-up images, a tenth of them 3s."
    labels = np.arange(60, dtype=np.uint8)%10
    images = np.random.default_rng(seed).integers(256, size=(60, 28, 28), dtype=np.uint8)
    places = [sorted(np.flatnonzero(labels == digit).tolist(), key=str) for digit in range(10)]
    np.savez(path, **{f'{split}_labels': labels for split in ('train', 'valid')},
             **{f'{split}_{digit}': images[places[digit]] for split in ('train', 'valid') for digit in range(10)})
    return path


@pytest.fixture(scope='module')
def npz(tmp_path_factory): return save_npz(tmp_path_factory.mktemp('npz')/'small.npz')


def files(folder): return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def same_sample(folder, npz):
    names = [name for group in sample_files(npz).values() for name in group]
    assert files(folder) == sorted([*names, 'labels.csv']) and all((folder/name).stat().st_size for name in names)
    assert len((folder/'labels.csv').read_text(encoding='utf-8').splitlines()) == len(names) + 1


def script(text, *args, cwd, **options):
    "Run Python code in a process of its own."
    usual = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'env': BUFFERED}
    return subprocess.run([sys.executable, '-c', text, *map(str, args)], cwd=cwd, text=True, errors='backslashreplace', **usual | options)


def shell(redirect, text, *args, cwd):
    "The same, by a shell that closes or redirects its streams."
    return subprocess.run(['sh', '-c', f'"$0" "$@" {redirect}', sys.executable, '-c', text, *args], cwd=cwd, text=True, capture_output=True, env=BUFFERED)


# Kill at random moments: one process imports everything and forks a child for each kill.
KILLED = '''
import os, random, signal, sys, time
from pathlib import Path
{setup}
rounds, longest = int(sys.argv[1]), float(sys.argv[2])
for i in range(rounds):
    child = os.fork()
    if not child:
        while True: work()
    time.sleep(random.Random(i).uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, 'the child ended by itself'
    check()
print('all rounds')
'''
KILLS = {'write_file': (40, .01, '''
from mnist_sgd.storage import write_file
write_file('kept', lambda f: f.write(b'old'))
def work():
    for letter in b'ab': write_file('kept', lambda f: [f.write(bytes([letter])*50_000) for _ in range(20)])
def check(): assert Path('kept').read_bytes() in (b'old', b'a'*1_000_000, b'b'*1_000_000)
'''), 'save_model': (20, .02, '''
import torch
from mnist_sgd.all_digits import load_model, save_model
model, other = torch.nn.Linear(784, 300), torch.nn.Linear(784, 300)
model.requires_grad_(False).weight.fill_(1)
save_model(model, 'kept')
def work():
    for number in range(9): save_model(model.requires_grad_(False), 'kept', number=number)
def check():
    assert load_model('kept', other)[0].weight.eq(1).all()
'''), 'mnist_sample': (20, .05, '''
import shutil
from mnist_sgd.storage import mnist_sample, sample_files
names = [name for group in sample_files(sys.argv[3]).values() for name in group] + ['labels.csv']
def work():
    mnist_sample('cache', progress=False, npz=sys.argv[3])
    os.rename('cache/mnist_sample', 'away')
    shutil.rmtree('away')
def check():
    folder = Path('cache/mnist_sample')
    assert not folder.exists() or all((folder/name).stat().st_size for name in names)
    shutil.rmtree('away', ignore_errors=True)
'''), 'mnist_sgd_run': (8, .4, RUN + '''
import json
from io import BytesIO
from PIL import Image
def once(): run.main(['--json', 'a.json', '--plot', 'a.png'])
sys.stdout = open(os.devnull, 'w')
once()
work = once
def check():
    Image.open(BytesIO(Path('a.png').read_bytes())).load()
    assert json.loads(Path('a.json').read_text())['stages']
    if i == rounds - 1: sys.stdout = sys.__stdout__
''')}


@needs_signals
@pytest.mark.parametrize('what', ['write_file', *[pytest.param(what, marks=pytest.mark.slow) for what in list(KILLS)[1:]]])
def test_killed_at_random_moments(what, npz, tmp_path):
    "The old file or the new one is there, complete; what was half written is cleared by the next that writes."
    rounds, longest, setup = KILLS[what]
    ran = script(KILLED.format(setup=setup), rounds, longest, npz, cwd=tmp_path)
    assert ran.returncode == 0 and ran.stdout == 'all rounds\n', ran.stderr


@contextmanager
def small_disk(size):
    "No file can grow beyond this many bytes, whoever you are; elsewhere a full disk answers the same way."
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@needs_limits
def test_full_disk_keeps_what_was_there(tmp_path):
    kept, model = tmp_path/'kept', nn.Linear(784, 10)
    for write in (lambda: write_file(kept, lambda f: f.write(bytes(5000))), lambda: save_model(model, kept)):
        kept.write_bytes(b'old')
        with small_disk(1000), pytest.raises(ValueError, match='cannot write .*kept'): write()
        assert kept.read_bytes() == b'old' and files(tmp_path) == ['kept']
        write() # now there is room
        assert kept.stat().st_size >= 5000 and files(tmp_path) == ['kept']
    assert torch.equal(load_model(kept, nn.Linear(784, 10))[0].weight, model.weight)


@needs_limits
def test_full_disk_leaves_no_half_sample(npz, tmp_path):
    with small_disk(50), pytest.raises(ValueError, match='cannot write .*sample'): mnist_sample(tmp_path/'cache', False, npz)
    assert not (tmp_path/'cache'/'mnist_sample').exists() and not [name for name in files(tmp_path) if name.endswith('.png')]
    same_sample(mnist_sample(tmp_path/'cache', False, npz), npz)


@needs_limits
def test_full_disk_leaves_no_half_notebook(tmp_path, capsys):
    with small_disk(5000), pytest.raises(SystemExit) as stopped: practice([str(tmp_path/'mine')])
    assert stopped.value.code == 2 and 'cannot write' in capsys.readouterr().err
    assert all(json.loads((tmp_path/name).read_text(encoding='utf-8')) for name in files(tmp_path))


@needs_limits
def test_command_is_told_of_a_full_disk_before_it_trains(tmp_path, monkeypatch, capsys):
    import mnist_sgd.run as run
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, 'climb', lambda *args, **kwargs: pytest.fail('it trained'))
    for option in ('--plot', '--json'):
        with small_disk(0), pytest.raises(SystemExit) as stopped: run.main([option, 'a'])
        assert stopped.value.code == 2 and f'argument {option}: cannot be written' in capsys.readouterr().err
    assert not files(tmp_path)


@needs_limits
@pytest.mark.parametrize('room, left', [(100, ['a.json', 'a.png']), (7000, ['a.json', 'a.png'])])
def test_disk_that_fills_while_the_command_trains(room, left, tmp_path, monkeypatch, capsys):
    "The table is printed, what can be written is written, and the status is that of a failure."
    import mnist_sgd.run as run
    monkeypatch.chdir(tmp_path)
    for name in left: Path(name).write_bytes(b'old')
    with small_disk(2**30):
        def climb(*args, **kwargs):
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            return RESULT
        monkeypatch.setattr(run, 'climb', climb)
        with pytest.raises(SystemExit) as stopped: run.main(['--json', 'a.json', '--plot', 'a.png'])
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and 'cannot write' in printed.err and printed.err.count('\n') == 1
    assert 'linear_model' in printed.out and 'The chart is in' not in printed.out
    assert files(tmp_path) == left and Path('a.png').read_bytes() == b'old'
    assert Path('a.json').read_bytes() == b'old' if room == 100 else json.loads(Path('a.json').read_text())['stages']


# A folder that nobody can write to, not even root, whom modes do not stop.
@pytest.mark.parametrize('place', ['file', '/dev/null/x', '/proc/x', 'absent'])
def test_folder_that_cannot_be_written_to(place, npz, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('file').write_text('mine', encoding='utf-8')
    folder = Path(place)
    for write in (lambda: write_file(folder/'a', lambda f: f.write(b'new')), lambda: save_model(nn.Linear(1, 1), folder/'a')):
        with pytest.raises(ValueError, match=f'cannot write .*{place}'): write()
    if place != 'absent': # these make the folder that is absent
        with pytest.raises(ValueError, match=f'cannot write .*sample into .*{place}'): mnist_sample(folder, False, npz)
        with pytest.raises(SystemExit) as stopped: practice([place])
        assert stopped.value.code == 2 and capsys.readouterr().err.startswith('mnist_sgd_practice: ')
    assert files(tmp_path) == ['file'] and Path('file').read_text(encoding='utf-8') == 'mine'


@pytest.mark.parametrize('place', ['file/a', '/dev/null/x/a', '/proc/a', 'absent/a', '/dev/null', '.', ''])
def test_command_proves_that_it_can_write_before_it_trains(place, tmp_path, capsys, monkeypatch):
    import mnist_sgd.run as run
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, 'climb', lambda *args, **kwargs: pytest.fail('it trained'))
    Path('file').write_text('mine', encoding='utf-8')
    for option in ('--plot', '--json'):
        with pytest.raises(SystemExit) as stopped: run.main([option, place])
        last = capsys.readouterr().err.splitlines()[-1]
        assert stopped.value.code == 2 and f'argument {option}: ' in last and repr(place) in last
    assert files(tmp_path) == ['file'] and Path('file').read_text(encoding='utf-8') == 'mine'


# Outputs that are closed, full, or cannot show every letter
COMMANDS = {'mnist_sgd_run': (RUN + '; run.main()', ['--json', 'é.json', '--plot', 'é.png'], ['é.json', 'é.png']),
            'mnist_sgd_practice': ('import mnist_sgd.practice as p; p.main()', ['é'], [])}
both = pytest.mark.parametrize('command', ['mnist_sgd_run', pytest.param('mnist_sgd_practice', marks=pytest.mark.slow)])


def whole(command, folder):
    "Everything that the command writes into files is there."
    if command == 'mnist_sgd_practice': return len(files(folder/'é')) > 8
    return files(folder) == ['é.json', 'é.png'] and json.loads((folder/'é.json').read_bytes()) == RESULT


@needs_full
@pytest.mark.parametrize('buffered', ['', pytest.param('1', marks=pytest.mark.slow)])
@both
def test_full_output_is_a_failure_but_loses_no_file(command, buffered, tmp_path):
    code, args, _ = COMMANDS[command]
    with open('/dev/full', 'w') as full: ran = script(code, *args, cwd=tmp_path, stdout=full, env={**BUFFERED, 'PYTHONUNBUFFERED': buffered})
    assert (ran.returncode, ran.stderr) == (2, f'{command}: standard output: No space left on device\n')
    assert whole(command, tmp_path)


@needs_signals
@pytest.mark.slow
@both
def test_reader_of_a_pipe_that_has_gone(command, tmp_path):
    "As with any command of Unix: no message, and the status of a process that the signal SIGPIPE ended."
    code, args, _ = COMMANDS[command]
    reader, writer = os.pipe()
    os.close(reader)
    ran = script(code, *args, cwd=tmp_path, stdout=writer)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, '') and whole(command, tmp_path)


@pytest.mark.slow
@both
@pytest.mark.parametrize('locale', [
    {'PYTHONIOENCODING': 'ascii'}, {'PYTHONIOENCODING': 'cp1252:strict'}, {'LC_ALL': 'C'}, {'LC_ALL': 'POSIX', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}])
def test_no_locale_makes_a_failure(command, locale, tmp_path):
    "The name of the chart holds letters that the output lacks, and one that is no text at all."
    code, args, _ = COMMANDS[command]
    args = [*args[:-1], args[-1] + '\udcff', *(['--force'] if command == 'mnist_sgd_practice' else [])]
    ran = script(code, *args, cwd=tmp_path, env={**os.environ, **locale})
    assert (ran.returncode, ran.stderr) == (0, '') and 'xff' in ran.stdout or 'udcff' in ran.stdout
    assert len(list(tmp_path.iterdir())) == len(args)//2


@needs_signals
@pytest.mark.slow
@both
@pytest.mark.parametrize('closed', ['<&-', '2>&-', '2>/dev/full', '<&- 2>&-'])
def test_success_needs_no_other_stream(command, closed, tmp_path):
    code, args, _ = COMMANDS[command]
    ran = shell(closed, code, *args, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, '') and 'é' in ran.stdout and whole(command, tmp_path)


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize('args', [[], ['--json', '-']])
def test_closed_output_is_noticed_before_the_command_trains(args, tmp_path):
    ran = shell('>&-', COMMANDS['mnist_sgd_run'][0], *args, cwd=tmp_path)
    assert ran.returncode == 2 and ran.stderr.splitlines()[-1] == 'mnist_sgd_run: error: standard output is closed: there is nowhere to print'
    assert not files(tmp_path)


@needs_full
@pytest.mark.slow
@both
@pytest.mark.parametrize('redirect', ['2>/dev/full', '2>&-', '>/dev/full 2>&1', '>&- 2>&-'])
def test_failure_stays_a_failure_without_anyone_to_tell(command, redirect, tmp_path):
    code = COMMANDS[command][0]
    ran = shell(redirect, code, '--what', cwd=tmp_path)
    assert ran.returncode == 2 and 'Traceback' not in ran.stdout and 'written' not in ran.stdout # without a stream for mistakes, argparse tells the other one


@needs_full
@pytest.mark.slow
@both
def test_help_that_nobody_could_read(command, tmp_path):
    code = COMMANDS[command][0]
    with open('/dev/full', 'w') as full: ran = script(code, '--help', cwd=tmp_path, stdout=full)
    assert (ran.returncode, ran.stderr) == (2, f'{command}: standard output: No space left on device\n')


# Many at once
TOGETHER = '''
import os, sys, time
from pathlib import Path
{setup}
start, children = time.time() + .1, []
for number in range(8):
    child = os.fork()
    if child: children.append(child)
    else:
        time.sleep(max(0, start - time.time()))
        work(number)
        os._exit(0)
assert [os.waitpid(child, 0)[1] for child in children] == [0]*8, 'one of the eight failed'
'''


@needs_signals
def test_eight_processes_write_one_file_and_make_one_sample(npz, tmp_path):
    code = '''
from mnist_sgd.storage import mnist_sample, write_file
def work(number):
    for _ in range(10):
        write_file('one', lambda f: [f.write(bytes([number])*10_000) for _ in range(10)])
        content = Path('one').read_bytes()
        assert len(content) == 100_000 and len(set(content)) == 1
    assert len(os.listdir(mnist_sample('cache', progress=False, npz=sys.argv[1]))) == 3
'''
    ran = script(TOGETHER.format(setup=code), npz, cwd=tmp_path)
    assert ran.returncode == 0 and ran.stderr == '', ran.stderr
    same_sample(tmp_path/'cache'/'mnist_sample', npz)
    assert not [name for name in files(tmp_path) if 'partial' in name]


@needs_signals
@pytest.mark.slow
def test_eight_commands_save_to_the_same_files(tmp_path):
    code = RUN + '''
def work(number): run.main(['--json', 'a.json', '--plot', 'a.png'])
'''
    ran = script(TOGETHER.format(setup=code), cwd=tmp_path)
    assert ran.returncode == 0 and ran.stderr == '' and files(tmp_path) == ['a.json', 'a.png'], ran.stderr
    assert json.loads((tmp_path/'a.json').read_text()) == RESULT


@needs_signals
@pytest.mark.slow
def test_eight_times_practice_in_one_folder_loses_nothing(tmp_path):
    "What a learner wrote is still there, under its own name or as a backup."
    write_copies(tmp_path/'mine', False, say=lambda *args: None)
    name = files(tmp_path/'mine')[0]
    (tmp_path/'mine'/name).write_text('what a learner wrote', encoding='utf-8')
    code = '''
from mnist_sgd.practice import write_copies
def work(number): write_copies('mine', True, say=lambda *args: None)
'''
    ran = script(TOGETHER.format(setup=code), cwd=tmp_path)
    assert ran.returncode == 0 and ran.stderr == '', ran.stderr
    assert 'what a learner wrote' in [path.read_text(encoding='utf-8') for path in (tmp_path/'mine').iterdir()]


def test_two_threads_write_two_files_in_one_folder(tmp_path):
    "Both are open at the same moment; each gets its own content."
    together, problems = threading.Barrier(2), []
    def write(letter):
        def content(f):
            together.wait(10)
            for _ in range(10): f.write(letter.encode()*1000)
            together.wait(10)
        try: write_file(tmp_path/letter, content)
        except Exception as e: problems.append(e)
    threads = [threading.Thread(target=write, args=[letter]) for letter in 'ab']
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not problems and files(tmp_path) == ['a', 'b']
    for letter in 'ab': assert (tmp_path/letter).read_text(encoding='utf-8') == letter*10_000


def test_threads_that_save_models_and_make_one_sample(npz, tmp_path):
    models, problems = [nn.Linear(784, 1) for _ in range(8)], []
    def work(number):
        try:
            save_model(models[number], tmp_path/f'{number}.safetensors')
            mnist_sample(tmp_path/'cache', False, npz)
        except Exception as e: problems.append(e)
    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not problems
    same_sample(tmp_path/'cache'/'mnist_sample', npz)
    for number, model in enumerate(models):
        assert torch.equal(load_model(tmp_path/f'{number}.safetensors', nn.Linear(784, 1))[0].weight, model.weight)


def test_file_keeps_its_mode(tmp_path):
    kept = tmp_path/'kept'
    kept.write_bytes(b'old')
    kept.chmod(0o600)
    write_file(kept, lambda f: f.write(b'new'))
    assert kept.stat().st_mode & 0o777 == (0o666 if WINDOWS else 0o600) and kept.read_bytes() == b'new'


@needs_signals
@pytest.mark.slow
def test_what_a_killed_process_left_is_cleared_when_it_is_old(tmp_path):
    code = '''
import os, signal
from mnist_sgd.storage import write_file
write_file('kept', lambda f: [f.write(b'half'), f.flush(), os.kill(os.getpid(), signal.SIGKILL)])
'''
    assert script(code, cwd=tmp_path).returncode == -9
    left = list(tmp_path.rglob('*'))
    assert left and not (tmp_path/'kept').exists()
    for path in left: os.utime(path, (1e9, 1e9))
    write_file(tmp_path/'other', lambda f: f.write(b'new'))
    assert [path.name for path in tmp_path.iterdir()] == ['other']
