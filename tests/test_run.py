import argparse, io, json, os, subprocess, sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import needs_links, needs_pipes

import mnist_sgd.run
from mnist_sgd.all_digits import make_conv
from mnist_sgd.checks import Device, ensure
from mnist_sgd.linear_model import BatchLoader, mnist_loss
from mnist_sgd.neural_net import log_loss, make_net
from mnist_sgd.run import NOTES, _load, climb, climb_figure, climb_table, main

STAGES = ['pixel_similarity', 'linear_model', 'basic_optim', 'linear_shuffled', 'fastai_sgd', 'fastai_learner', 'neural_net',
          'neural_net_shuffled', 'learner_from_scratch', 'digit_means', 'all_digits']
TRAINED = [stage for stage in STAGES if stage not in ('pixel_similarity', 'digit_means')]
COMMAND = Path(sys.executable).with_name('mnist_sgd_run')


def run(*args, cwd, **env):
    return subprocess.run([COMMAND, *map(str, args)], cwd=cwd, capture_output=True, text=True, env={**os.environ, **env})


def numbers(result): return [{k: v for k, v in s.items() if k != 'seconds'} for s in result['stages']]


def test_stages_and_their_lengths(result):
    assert [s['stage'] for s in result['stages']] == STAGES
    assert [s['epochs'] for s in result['stages']] == [0, 21, 20, 20, 20, 10, 40, 40, 10, 0, 10]
    assert [len(s['accuracy']) for s in result['stages']] == [3, 22, 20, 20, 20, 10, 40, 40, 10, 1, 10]
    assert [s['lr'] for s in result['stages']] == [None, 1, 1, 1, 1, 1, .1, 1, 1, None, .1]
    assert [s['batch_size'] for s in result['stages']] == [None, *[256]*8, None, 64]
    for s in result['stages']:
        if s['epochs']: assert len(s['train_loss']) == len(s['valid_loss']) == s['epochs']
        else: assert s['train_loss'] is s['valid_loss'] is None
        assert list(s) == ['stage', 'epochs', 'lr', 'batch_size', 'accuracy', 'valid_loss', 'train_loss', 'notes', 'wrong', 'seconds']
    assert set(result['versions']) == {'mnist_sgd', 'python', 'torch', 'fastai', 'numpy'}


def test_numbers_of_the_notes(result):
    pixels, by_hand, basic, shuffled, sgd, learner, *_ = result['stages']
    assert pixels['accuracy'] == pytest.approx([.9168, .9854, .9511], abs=5e-5)
    assert len(by_hand['notes']) == 22 and len(sgd['notes']) == 20
    apart = [abs(a - b) for a, b in zip(by_hand['accuracy'], by_hand['notes'])]
    assert max(apart[:1] + apart[2:]) < 4.1e-4  # the notes' 0.6833 after one epoch does not come out
    assert sgd['accuracy'] == pytest.approx(sgd['notes'], abs=4e-4)
    assert [s['notes'] for s in (pixels, basic, shuffled, learner)] == [None]*4
    assert [round(s['accuracy'][-1], 4) for s in (by_hand, basic, shuffled)] == [.9697, .9785, .9819]
    assert learner['accuracy'][-1] == pytest.approx(.967615, abs=1e-6)


def test_stages_beyond_the_notes_report_as_fastai_does(result):
    "Every number of the published tables of the net and of fastai's Learner."
    learner, net, _, ours, means, digits = result['stages'][5:]
    published = json.loads((Path(__file__).parent/'references.json').read_text(encoding='utf-8'))
    for stage, rows in ((net, published['neural_net']), (ours, published['fastai_learner']), (learner, published['fastai_learner'])):
        for what, column in zip(('train_loss', 'valid_loss', 'accuracy'), zip(*rows)):
            assert stage[what] == pytest.approx(column, abs=1e-6)
    assert all(s['notes'] is None for s in (net, ours, means, digits))
    assert means['accuracy'] == pytest.approx([.6685], abs=5e-4)
    assert digits['accuracy'][-1] >= .92 and digits['accuracy'] == pytest.approx(sorted(digits['accuracy']), abs=.01)


@pytest.mark.slow
def test_all_stages(tmp_path):
    "How far they climb is on the front page, whose numbers tests/test_notebooks.py compares."
    ran = run('--all', '--epochs', 1, '--json', 'all.json', cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    everything = json.loads((tmp_path/'all.json').read_text(encoding='utf-8'))['stages']
    assert [s['stage'] for s in everything] == [*STAGES, 'all_digits_net', 'all_digits_conv']
    assert 'all_digits_conv' in ran.stdout and everything[-1]['accuracy'][0] > .95


@pytest.mark.slow
def test_two_whole_runs_agree_in_every_number(result, tmp_path):
    ran = run('--json', '-', cwd=tmp_path, OMP_NUM_THREADS='2')
    assert ran.returncode == 0 and ran.stderr == ''
    assert numbers(json.loads(ran.stdout)) == numbers(result)


@pytest.fixture(scope='module')
def two_epochs(): return climb(epochs=2, progress=False)


def test_two_runs_agree_in_every_number(two_epochs, tmp_path):
    """Another process and another number of threads change nothing. (All epochs: the test above.)

    The table is printed, in plain ASCII if that is all there is.
    """
    ran = run('--epochs', 2, '--json', 'a.json', cwd=tmp_path, OMP_NUM_THREADS='2', PYTHONIOENCODING='ascii')
    assert ran.returncode == 0 and ran.stderr == ''
    assert ran.stdout.startswith('step ') and 'The chart is in climb.png.' in ran.stdout
    assert numbers(json.loads((tmp_path/'a.json').read_text(encoding='utf-8'))) == numbers(two_epochs)
    assert (tmp_path/'climb.png').read_bytes().startswith(b'\x89PNG')
    assert sorted(o.name for o in tmp_path.iterdir()) == ['a.json', 'climb.png']


def test_fewer_epochs_are_the_beginning_of_more(two_epochs, result):
    for few, many in zip(two_epochs['stages'], result['stages']):
        assert few['accuracy'] == many['accuracy'][:len(few['accuracy'])]
        assert few['notes'] == (many['notes'] and many['notes'][:len(few['accuracy'])])


def test_some_stages_are_those_of_the_whole_climb(result):
    few = climb(progress=False, stages=['linear_model', 'learner_from_scratch'])
    assert numbers(few) == [n for n in numbers(result) if n['stage'] in ('linear_model', 'learner_from_scratch')]


def test_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(['--epochs', '1', '--lr', '.5', '--batch-size', '100', '--seed', '7', '--device', 'cpu', '--plot', 'a.png', '--json', '-'])
    printed = capsys.readouterr()
    stages = json.loads(printed.out)['stages']
    assert [(s['epochs'], s['lr'], s['batch_size'], len(s['accuracy'])) for s in stages] == [
        (0, None, None, 3), (1, .5, 100, 2), *[(1, .5, 100, 1)]*7, (0, None, None, 1), (1, .5, 100, 1)]
    assert not any(s['notes'] for s in stages)
    assert stages[2]['accuracy'] == stages[4]['accuracy']  # one seed, one start: BasicOptim is fastai's SGD
    assert [o.name for o in tmp_path.iterdir()] == ['a.png'] and printed.err == ''


def test_seed_changes_the_run():
    one, other = (climb(epochs=1, seed=seed, progress=False) for seed in (1, 2))
    again = climb(epochs=1, seed=1, progress=False, stages=STAGES[1:8])
    assert numbers(again) == numbers(one)[1:8]
    for a, b in zip(one['stages'], other['stages']): assert a['stage'] not in TRAINED or a['train_loss'] != b['train_loss']


def test_table(result):
    lines = climb_table(result).splitlines()
    assert lines[0].split() == ['step', 'parameters', 'epochs', 'wrong', 'accuracy', 'the', 'notes', 'seconds']
    digits = result['stages'][-1]
    assert [line.split()[:6] for line in lines[1:12]] == [
        ['pixel_similarity', '0', '0', '99', '0.9511', '-'], ['linear_model', '785', '21', '62', '0.9697', '0.9696'],
        ['basic_optim', '785', '20', '44', '0.9785', '-'], ['linear_shuffled', '785', '20', '37', '0.9819', '-'],
        ['fastai_sgd', '785', '20', '44', '0.9785', '0.9785'], ['fastai_learner', '785', '10', '66', '0.9676', '-'],
        ['neural_net', '23581', '40', '35', '0.9828', '-'],
        ['neural_net_shuffled', '23581', '40', '15', f"{result['stages'][7]['accuracy'][-1]:.4f}", '-'],
        ['learner_from_scratch', '785', '10', '66', '0.9676', '-'], ['digit_means', '0', '0', str(len(result['stages'][9]['wrong'])), '0.6685', '-'],
        ['all_digits', '7850', '10', str(len(digits['wrong'])), f"{digits['accuracy'][-1]:.4f}", '-']]
    for stage, notes in NOTES.items():
        for first in range(0, len(notes), 11): assert ' '.join(f'{n:.4f}' for n in notes[first:first + 11]) in lines


def test_wrong_images_are_those_that_the_last_accuracy_counts(result):
    for s in result['stages'][1:9]: assert 1 - len(s['wrong'])/2038 == pytest.approx(s['accuracy'][-1], abs=1e-3) # of some a mean over batches
    for s in result['stages'][9:]: assert 1 - len(s['wrong'])/10_000 == pytest.approx(s['accuracy'][-1], abs=1e-6)
    for s in result['stages']: assert s['wrong'] == sorted(set(s['wrong']))


def test_wrong_images_of_the_means_are_those_of_the_lessons(result, train, valid):
    import torch
    from mnist_sgd.all_digits import load_all
    from mnist_sgd.pixel_similarity import is_3
    said = torch.cat([is_3(images, *(t.mean(0) for t in train)) for images in valid])
    truth = torch.arange(len(said)) < len(valid[0])
    assert result['stages'][0]['wrong'] == (said != truth).nonzero().flatten().tolist()
    (x, y), (valid_x, valid_y) = load_all('train'), load_all('valid')
    said = torch.stack([(valid_x - x[y == digit].mean(0)).abs().mean(1) for digit in range(10)]).argmin(0)
    assert len(set(result['stages'][9]['wrong']) ^ set((said != valid_y).nonzero().flatten().tolist())) < 5 # ties, rounded


def test_shuffled_net_is_that_of_the_lesson(dl, valid_dl, result):
    "The wall at the end of 06."
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits
    from mnist_sgd.basic_optim import BasicOptim, train_model
    from mnist_sgd.linear_model import BatchLoader
    from mnist_sgd.neural_net import make_net
    torch.manual_seed(42)
    net = make_net(784, 30, 1)
    train_model(net, BatchLoader(dl.x, dl.y, shuffle=True), valid_dl, BasicOptim(net.parameters(), 1.), 40,
                lambda preds, yb: binary_cross_entropy_with_logits(preds, yb.float()), progress=False)
    wrong = ((net(valid_dl.x) > 0) != valid_dl.y).flatten().nonzero().flatten().tolist()
    assert len(set(wrong) ^ set(result['stages'][7]['wrong'])) <= 2 # another number of threads may round otherwise


def test_shuffled_stage_is_basic_optim_with_its_batches_mixed(train, valid_dl, result):
    from torch import Generator, nn
    from mnist_sgd.basic_optim import BasicOptim, train_model
    from mnist_sgd.linear_model import BatchLoader, label_pair
    from mnist_sgd.replay import skip_draws
    skip_draws(5139)
    model = nn.Linear(784, 1)
    dl = BatchLoader(*label_pair(*train), shuffle=True, generator=Generator().manual_seed(42))
    history = train_model(model, dl, valid_dl, BasicOptim(model.parameters(), 1.), 20, progress=False)
    assert result['stages'][3]['accuracy'] == pytest.approx(history['accuracy'], abs=1e-6)


def test_order_of_the_batches_depends_on_the_seed():
    one, again, other = (climb(epochs=1, seed=seed, stages=['basic_optim', 'linear_shuffled'], progress=False)['stages']
                         for seed in (1, 1, 2))
    assert one[1]['train_loss'] == again[1]['train_loss'] != other[1]['train_loss']
    assert one[1]['accuracy'][0] > .96 > .6 > one[0]['accuracy'][0]


def test_chart_has_a_panel_for_3_or_7_and_one_for_ten_digits(result):
    two, ten = climb_figure(result).axes
    assert (two.get_title('left'), ten.get_title('left')) == ('3 or 7', 'ten digits')
    baseline, *curves = two.lines
    assert baseline.get_ydata() == pytest.approx([4.888]*2, abs=1e-3) and baseline.get_label() == 'pixel_similarity'
    assert [curve.get_label() for curve in curves] == TRAINED[:-1]
    assert [curve.get_label() for curve in ten.lines] == STAGES[-2:]
    assert ten.lines[0].get_ydata() == pytest.approx([33.15]*2, abs=.05)
    assert [(int(c.get_xdata()[0]), int(c.get_xdata()[-1])) for c in curves] == [
        (0, 21), (1, 20), (1, 20), (1, 20), (1, 10), (1, 40), (1, 40), (1, 10)]
    for curve, stage in zip(curves, result['stages'][1:]):
        assert 100 - curve.get_ydata() == pytest.approx([100*a for a in stage['accuracy']])
    low, high = two.get_ylim()
    assert two.get_yscale() == 'log' and low < .8 and high > 50
    for looks in ([c.get_color() for c in curves], [c.get_marker() for c in curves]): assert len(set(looks)) == len(curves)
    assert {text.get_text() for text in two.get_legend().get_texts()} == set(STAGES[:-2])


@pytest.mark.parametrize('stages, panels', [
    (['pixel_similarity'], ['3 or 7']), (['neural_net', 'linear_model'], ['3 or 7']), (['all_digits'], ['ten digits']),
    (['pixel_similarity', 'all_digits'], ['3 or 7', 'ten digits'])])
def test_chart_of_some_stages(result, stages, panels):
    import matplotlib.pyplot as plt
    figure = climb_figure({'stages': [s for s in result['stages'] if s['stage'] in stages]})
    assert [ax.get_title('left') for ax in figure.axes] == panels
    assert sorted(line.get_label() for ax in figure.axes for line in ax.lines) == sorted(stages)
    figure.canvas.draw()
    plt.close(figure)


def test_chart_of_nothing():
    with pytest.raises(ValueError, match='no stage to draw'): climb_figure({'stages': []})


@pytest.mark.parametrize('args, sentence', [
    (['--epochs', '0'], "epochs must be a whole number from 1, got 0"),
    (['--epochs', '2.5'], "argument --epochs: invalid int value: '2.5'"),
    (['--epochs', str(2**63)], f"epochs must be less than {2**63}, got {2**63}"),
    (['--lr', '0'], "lr must be a positive number, got 0.0; try 1 for the digits"),
    (['--lr', '-1'], "lr must be a positive number"),
    (['--lr', 'nan'], "lr must be a positive number"),
    (['--lr', '1e400'], "lr must be a positive number, got inf"),
    (['--lr', 'fast'], "argument --lr: invalid float value: 'fast'"),
    (['--batch-size', '0'], "batch_size must be a whole number from 1, got 0"),
    (['--bs', str(2**64)], f"batch_size must be less than {2**63}"),
    (['--seed', 'x'], "argument --seed: invalid int value: 'x'"),
    (['--seed', '-1'], "seed must be a whole number from 0, got -1"),
    (['--seed', str(2**64)], f"seed must be less than {2**64}, got {2**64}"),
    (['--device', 'toaster'], "device 'toaster' cannot be used here; try 'cpu'"),
    (['--device', 'cuda:99'], "device 'cuda:99' cannot be used here; try 'cpu'"),
    (['--plot', 'absent/a.png'], "argument --plot: cannot be written, got 'absent/a.png' (No such file or directory)"),
    (['--plot', 'a'*300], 'argument --plot: cannot be written'),
    (['--device', 'meta'], "device 'meta' computes nothing"),
    (['--json', '.'], "argument --json: cannot be written, got '.' (it is not a file)"),
    (['--json', ''], "argument --json: cannot be written, got '' (it is not a file)"),
    (['--plot', 'a', '--json', './a'], '--plot and --json must be two files'),
    (['--what'], 'unrecognized arguments: --what'),
])
def test_bad_options(args, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped: main(args)
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and printed.out == ''
    assert sentence in printed.err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@needs_pipes
def test_a_pipe_is_not_replaced_by_a_file(tmp_path, capsys):
    os.mkfifo(tmp_path/'pipe')
    with pytest.raises(SystemExit) as stopped: main(['--plot', str(tmp_path/'pipe')])
    assert stopped.value.code == 2 and 'it is not a file' in capsys.readouterr().err
    assert (tmp_path/'pipe').is_fifo()


@needs_links
def test_a_link_stays_a_link(tmp_path):
    import matplotlib.pyplot as plt
    plt.close('all')
    (tmp_path/'link').symlink_to('kept.json')
    (tmp_path/'kept.json').write_text('old', encoding='utf-8')
    main(['--epochs', '1', '--plot', str(tmp_path/'a.png'), '--json', str(tmp_path/'link')])
    assert (tmp_path/'link').is_symlink() and json.loads((tmp_path/'kept.json').read_text(encoding='utf-8'))['stages']
    assert plt.get_fignums() == [] # the chart is closed again


@needs_links
def test_a_link_that_leads_to_itself(tmp_path, capsys):
    (tmp_path/'loop').symlink_to('loop')
    with pytest.raises(SystemExit) as stopped: main(['--plot', str(tmp_path/'loop')])
    assert stopped.value.code == 2 and 'argument --plot: cannot be written' in capsys.readouterr().err
    assert (tmp_path/'loop').is_symlink()


def test_command_exits_with_2_and_no_traceback(tmp_path):
    ran = run('--lr', 'nan', cwd=tmp_path)
    assert ran.returncode == 2 and 'Traceback' not in ran.stderr and ran.stdout == ''


def test_damaged_data_is_one_sentence(tmp_path, monkeypatch, capsys):
    import mnist_sgd.data as data
    (tmp_path/'mnist.npz').write_bytes(data.NPZ.read_bytes()[:1000])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data.load_pair, '__defaults__', (3, 7, 'train', data.torch.float32, tmp_path/'mnist.npz'))
    with pytest.raises(SystemExit) as stopped: main([])
    assert stopped.value.code == 2
    assert 'is damaged or not a packed MNIST' in capsys.readouterr().err
    assert [o.name for o in tmp_path.iterdir()] == ['mnist.npz']


def test_python_callers_get_value_errors():
    for bad in ({'epochs': 0}, {'lr': 0.}, {'batch_size': 0}, {'device': 'toaster'}, {'seed': 1.5}, {'seed': 2**64}, {'batch_size': 2**63},
                {'stages': []}, {'stages': 'linear_model'}, {'stages': ['line']}):
        with pytest.raises(ValueError): climb(progress=False, **bad)
    ensure(Device, 'cpu', 'device')


def test_any_kind_of_number_gives_what_json_can_hold():
    import numpy as np
    from torch import tensor
    usual = climb(1, .5, 512, 3, progress=False, stages=['basic_optim', 'linear_shuffled'])
    given = climb(np.int64(1), np.float32(.5), np.uint16(512), np.int8(3), progress=False, stages=('basic_optim', np.str_('linear_shuffled')))
    assert numbers(json.loads(json.dumps(given))) == numbers(usual)
    for name, number in (('lr', tensor(.5)), ('lr', np.array(.5)), ('epochs', tensor(1)), ('seed', tensor(1)), ('batch_size', np.array(9)), ('lr', True)):
        with pytest.raises((TypeError, ValueError), match=f'{name} must be a'): climb(progress=False, stages=['basic_optim'], **{name: number})


@pytest.fixture(scope='module')
def one_epoch(): return climb(1, progress=False)


@pytest.mark.parametrize('setting', [
    pytest.param(setting, marks=[] if setting in ('float64', 'inference') else pytest.mark.slow)
    for setting in ('float64', 'bfloat16', 'meta', 'no grad', 'inference', 'autocast', 'four threads')])
def test_what_a_script_has_set_in_torch_changes_nothing(setting, one_epoch):
    import torch
    from contextlib import ExitStack
    with ExitStack() as back:
        back.callback(torch.set_default_dtype, torch.float32)
        back.callback(torch.set_num_threads, torch.get_num_threads())
        if setting in ('float64', 'bfloat16'): torch.set_default_dtype(getattr(torch, setting))
        elif setting == 'four threads': torch.set_num_threads(4)
        else: back.enter_context({'meta': torch.device('meta'), 'no grad': torch.no_grad(), 'inference': torch.inference_mode(),
                                  'autocast': torch.autocast('cpu', torch.bfloat16)}[setting])
        def state(): return (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
                             torch.is_autocast_enabled('cpu'), torch.get_num_threads(), torch.get_rng_state().tolist())
        before = state()
        assert numbers(climb(1, progress=False)) == numbers(one_epoch)
        assert state() == before


def test_default_device_is_put_back():
    import torch
    torch.set_default_device('meta')
    try:
        assert climb(1, progress=False, stages=['linear_shuffled'])['stages'][0]['accuracy'][0] > .9
        assert torch.empty(1).is_meta
    finally: torch.set_default_device(None)


def test_settings_come_back_after_a_failure(monkeypatch):
    import torch
    import mnist_sgd.run
    monkeypatch.setattr(mnist_sgd.run, '_record', lambda *args: 1/0)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ZeroDivisionError): climb(progress=False, stages=['basic_optim'])
        assert torch.get_default_dtype() == torch.float64
    finally: torch.set_default_dtype(torch.float32)


WITHOUT = """
import json, sys
class Missing: # as if these were not installed
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in sys.argv[1].split(): raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Missing())
import importlib.metadata, mnist_sgd.run as run
found = importlib.metadata.distributions
run.distributions = lambda name: () if name in sys.argv[1].split() else found(name=name)
"""


@pytest.mark.parametrize('missing', ['fastai fastcore pandas fastprogress', pytest.param('pandas', marks=pytest.mark.slow)])
def test_without_fastai_the_command_climbs_all_other_rungs(missing, tmp_path):
    code = WITHOUT + """
try: run.climb(stages=['linear_model', 'fastai_sgd'])
except ValueError as e: print(e)
run.main(['--epochs', '1', '--json', 'a.json'])
"""
    ran = subprocess.run([sys.executable, '-c', code, missing], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, '')
    need = "fastai_sgd and fastai_learner need fastai: pip install 'mnist_sgd[fastai]'"
    lines = ran.stdout.splitlines()
    assert lines[0] == need and lines[1:].count(need) == 1 and lines[-1] == 'The chart is in climb.png.'
    result = json.loads((tmp_path/'a.json').read_text(encoding='utf-8'))
    assert [s['stage'] for s in result['stages']] == [stage for stage in STAGES if not stage.startswith('fastai')]
    assert (result['versions']['fastai'] is None) == ('fastai' in missing)


@pytest.mark.parametrize('backend', ['module://matplotlib_inline_of_another_place', *[
    pytest.param(backend, marks=pytest.mark.slow) for backend in ('nonsense', 'tkagg', '')]])
def test_no_backend_of_matplotlib_is_needed(backend, two_epochs, tmp_path):
    (tmp_path/'result.json').write_text(json.dumps(two_epochs), encoding='utf-8')
    code = """
import json, os, sys
import mnist_sgd.run as run
result = json.load(open('result.json'))
run.climb = lambda *args: result
run.main(['--json', 'a.json'])
assert 'matplotlib.pyplot' not in sys.modules
if os.environ['MPLBACKEND'] != 'nonsense': run.climb_figure(result).savefig('b.png')
"""
    ran = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, 'MPLBACKEND': backend, 'DISPLAY': ''})
    assert (ran.returncode, ran.stderr) == (0, '') and 'The chart is in climb.png.' in ran.stdout
    assert json.loads((tmp_path/'a.json').read_text(encoding='utf-8')) == two_epochs and (tmp_path/'climb.png').stat().st_size > 9999
    if backend != 'nonsense': assert (tmp_path/'b.png').read_bytes() == (tmp_path/'climb.png').read_bytes() # the same chart, drawn with pyplot


def test_the_readers_own_style_does_not_change_the_chart(two_epochs, tmp_path, monkeypatch, capsys):
    import matplotlib
    import mnist_sgd.run as run
    monkeypatch.setattr(run, 'climb', lambda *args: two_epochs)
    with matplotlib.rc_context():
        for name in ('a.png', 'b.png'):
            main(['--plot', str(tmp_path/name)])
            matplotlib.rcParams.update({'text.usetex': True, 'axes.facecolor': 'red', 'savefig.dpi': 30}) # LaTeX may not be there
        assert matplotlib.rcParams['axes.facecolor'] == 'red'
    assert (tmp_path/'a.png').read_bytes() == (tmp_path/'b.png').read_bytes()


@pytest.mark.slow
def test_a_notebook_shows_the_figure_once(tmp_path):
    import nbformat
    from nbclient import NotebookClient
    result = {'stages': [{'stage': 'basic_optim', 'epochs': 2, 'accuracy': [.9, .95]}]}
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in (
        'from mnist_sgd.run import climb_figure', f'climb_figure({result});', 'import matplotlib.pyplot as plt\nplt.plot([1, 2]);')])
    env = {name: value for name, value in os.environ.items() if name != 'MPLBACKEND'}
    NotebookClient(nb, kernel_name='python3', resources={'metadata': {'path': str(tmp_path)}}).execute(env=env)
    assert [len([o for o in cell.outputs if 'image/png' in o.get('data', {})]) for cell in nb.cells] == [0, 1, 1]


def test_public_names_and_the_old_ones(two_epochs, capsys):
    import mnist_sgd.run
    assert mnist_sgd.run.__all__ == ['climb', 'climb_table', 'climb_figure', 'trained_models']
    with pytest.warns(DeprecationWarning, match='table is now called climb_table'):
        assert mnist_sgd.run.table(two_epochs) == climb_table(two_epochs)
    with pytest.raises(SystemExit): main(['--help'])
    told = capsys.readouterr().out
    assert '--batch-size N' in told and '--bs' not in told
    assert [mnist_sgd.run._parser().parse_args([option, '9']).batch_size for option in ('--bs', '--batch-size')] == [9, 9]


def test_results_come_before_the_chart(two_epochs, tmp_path, monkeypatch, capsys):
    "A chart that cannot be drawn costs neither the table nor the numbers."
    import mnist_sgd.run as run
    monkeypatch.setattr(run, 'climb', lambda *args: two_epochs)
    def fail(*args): raise ValueError('no chart today')
    monkeypatch.setattr(run, '_draw', fail)
    with pytest.raises(SystemExit) as stopped: main(['--json', str(tmp_path/'a.json'), '--plot', str(tmp_path/'a.png')])
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.err) == (2, 'mnist_sgd_run: no chart today\n') and printed.out == climb_table(two_epochs) + '\n'
    assert [o.name for o in tmp_path.iterdir()] == ['a.json']


def test_dash_as_a_name(two_epochs, tmp_path, monkeypatch, capsys):
    import mnist_sgd.run as run
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, 'climb', lambda *args: two_epochs)
    main(['--json', '-', '--plot', './-'])
    assert json.loads(capsys.readouterr().out) == two_epochs and [o.name for o in tmp_path.iterdir()] == ['-']


# each stage on few images, against a loop that is written out here

FEW = { # stage: (sizes of the layers or a model, loss, learning rate, batch size, shuffled, annealed)
    'basic_optim': ((784, 1), mnist_loss, 1., 256, False, False), 'linear_shuffled': ((784, 1), mnist_loss, 1., 256, True, False),
    'fastai_sgd': ((784, 1), mnist_loss, 1., 256, False, False), 'fastai_learner': ((784, 1), mnist_loss, 1., 256, False, False),
    'learner_from_scratch': ((784, 1), mnist_loss, 1., 256, False, False), 'linear_model': ((784, 1), mnist_loss, 1., 256, False, False),
    'neural_net': ((784, 30, 1), mnist_loss, .1, 256, False, False), 'neural_net_shuffled': ((784, 30, 1), log_loss, 1., 256, True, False),
    'all_digits': ((784, 10), F.cross_entropy, .1, 64, True, False), 'all_digits_net': ((784, 100, 10), F.cross_entropy, .5, 128, True, True),
    'all_digits_conv': (make_conv, F.cross_entropy, .1, 128, True, True)}


@pytest.fixture
def few(monkeypatch):
    "Every fortieth image."
    monkeypatch.setattr('mnist_sgd.run._load', lambda *args, load=_load, **kwargs: [[t[::40] for t in pair] for pair in load(*args, **kwargs)])


@pytest.mark.parametrize('stage', FEW)
def test_a_stage_is_the_loop_of_its_lesson(stage, few):
    sizes, loss_func, lr, batch_size, shuffle, anneal = FEW[stage]
    record, = climb(epochs=2, seed=5, stages=[stage], progress=False)['stages']
    assert (record['epochs'], record['lr'], record['batch_size'], record['notes']) == (2, lr, batch_size, None)
    (x, y), (valid_x, valid_y) = mnist_sgd.run._load('digit' in stage, 'cpu')
    torch.manual_seed(5)
    model = (sizes() if callable(sizes) else make_net(*sizes)).eval()
    if stage == 'linear_model':
        torch.manual_seed(5)
        with torch.no_grad(): model[0].weight[:], model[0].bias[:] = torch.randn(784, 1).T, torch.randn(1)
    opt = torch.optim.SGD(model.parameters(), lr=lr, **{'momentum': .9, 'weight_decay': .001} if stage == 'all_digits_conv' else {})
    order = torch.Generator().manual_seed(5) if stage == 'linear_shuffled' else None
    dl, step = BatchLoader(x, y, batch_size, shuffle, order), 0
    said = [model(valid_x).detach()]
    for _ in range(2):
        model.train()
        for xb, yb in dl:
            if anneal: opt.param_groups[0]['lr'] = lr*(1 - step/(2*len(dl)))
            loss_func(model(xb), yb).backward()
            opt.step()
            opt.zero_grad()
            step += 1
        model.eval()
        said.append(model(valid_x).detach())
    right = [preds.argmax(1) == valid_y if len(preds[0]) > 1 else ((preds > 0) == valid_y)[:, 0] for preds in said]
    wrong, near = (~right[-1]).nonzero().flatten().tolist(), .02 if stage == 'all_digits_conv' else 1e-4 # which rounds in another order
    assert record['wrong'] == wrong or near > .01 and abs(len(record['wrong']) - len(wrong)) < 5
    assert record['accuracy'] == pytest.approx([r.float().mean().item() for r in right[stage != 'linear_model':]], abs=near)
    assert record['valid_loss'] == pytest.approx([loss_func(preds, valid_y).item() for preds in said[1:]], abs=near)


def test_what_is_asked_for_reaches_each_stage(few):
    stages = ['linear_model', 'basic_optim', 'fastai_learner', 'neural_net', 'all_digits']
    made = climb(epochs=1, lr=.25, batch_size=32, stages=stages, progress=False)['stages']
    assert [(s['epochs'], s['lr'], s['batch_size']) for s in made] == [(1, .25, 32)]*5
    usual = climb(epochs=1, stages=stages, progress=False)['stages']
    assert all(a['valid_loss'] != b['valid_loss'] for a, b in zip(made, usual))
    assert [s['notes'] and len(s['notes']) for s in usual] == [2, None, None, None, None] and not any(s['notes'] for s in made)


def test_a_command_on_few_images(few, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(['--epochs', '1', '--batch-size', '32', '--seed', '3', '--json', 'numbers.json'])
    out = capsys.readouterr().out
    made = json.loads((tmp_path/'numbers.json').read_text(encoding='utf-8'))
    assert [s['stage'] for s in made['stages']] == STAGES and numbers(made) == numbers(climb(1, None, 32, 3, progress=False))
    assert climb_table(made) in out and out.endswith('\nThe chart is in climb.png.\n') and (tmp_path/'climb.png').stat().st_size > 10_000
    assert 'need fastai' not in out
    main(['--epochs', '1', '--lr', '.5', '--plot', 'other.png', '--json', '-'])
    printed = json.loads(capsys.readouterr().out)
    assert [s['lr'] for s in printed['stages'] if s['epochs']] == [.5]*9 and (tmp_path/'other.png').exists()


def test_device_and_progress_reach_each_training(few, monkeypatch):
    "A stand-in notes what it is given, and passes on the rest."
    import mnist_sgd.basic_optim, mnist_sgd.learner_from_scratch, mnist_sgd.linear_model
    given = []
    def noted(module, name):
        real = getattr(module, name)
        def stand_in(*args, device='none', progress='none', **kwargs):
            given.append((name, device, progress))
            return real(*args, **kwargs | ({} if progress == 'none' else {'progress': False}))
        monkeypatch.setattr(module, name, stand_in)
    noted(mnist_sgd.basic_optim, 'train_model')
    noted(mnist_sgd.linear_model, 'init_params')
    monkeypatch.setattr(mnist_sgd.learner_from_scratch, 'ToDevice', lambda device, real=mnist_sgd.learner_from_scratch.ToDevice: given.append(('ToDevice', device)) or real(device))
    monkeypatch.setattr(mnist_sgd.learner_from_scratch, 'Progress', lambda real=mnist_sgd.learner_from_scratch.Recorder: given.append(('Progress',)) or object())
    cpu = torch.device('cpu')
    for stage, wanted in [('linear_model', [('init_params', cpu, 'none')]*2), ('basic_optim', [('train_model', cpu, True)]), ('fastai_sgd', [('train_model', cpu, True)]),
                          ('neural_net', [('ToDevice', cpu), ('Progress',)]), ('all_digits', [('ToDevice', cpu), ('Progress',)])]:
        given.clear()
        train = mnist_sgd.run._by_hand if stage == 'linear_model' else mnist_sgd.run._train_digits if stage == 'all_digits' else mnist_sgd.run._train_fastai if stage == 'fastai_sgd' else mnist_sgd.run._train
        dl, valid_dl = mnist_sgd.run._loaders(stage, lambda is_ten: mnist_sgd.run._load(is_ten, cpu), 64, 1)
        with suppress(TypeError): train(stage, dl, valid_dl, 1, .1, cpu, True) # the stand-in for Progress is no callback
        assert given == wanted


def test_a_letter_that_the_output_lacks_is_written_as_a_number(monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(out, 'ascii'))
    mnist_sgd.run._say('é')
    assert out.getvalue().split() == [rb'\xe9'] # and at once


def test_a_closed_output_is_told_before_anything_is_trained(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'stdout', None)
    monkeypatch.setattr('mnist_sgd.run.climb', lambda *args: pytest.fail('trained'))
    with pytest.raises(SystemExit) as e: main([])
    assert e.value.code == 2 and 'standard output is closed' in capsys.readouterr().err


def test_a_file_that_is_read_only_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    (tmp_path/'a.png').write_bytes(b'')
    assert mnist_sgd.run._file(str(tmp_path/'a.png')) == tmp_path/'a.png'
    monkeypatch.setattr(os, 'access', lambda path, mode: False) # root may write everything
    assert mnist_sgd.run._file(str(tmp_path/'b.png')) == tmp_path/'b.png'
    with pytest.raises(argparse.ArgumentTypeError, match='it is read-only'): mnist_sgd.run._file(str(tmp_path/'a.png'))


def test_a_line_for_each_stage():
    record = {'stage': 'linear_model', 'epochs': 2, 'accuracy': [.5, .8, .9], 'notes': [.5, .8, .91], 'wrong': [3, 4], 'seconds': 1.5}
    first = {'stage': 'digit_means', 'epochs': 0, 'accuracy': [.67], 'notes': None, 'wrong': [0], 'seconds': .25}
    head, *lines = climb_table({'stages': [record, first]}).splitlines()
    assert lines[0].split() == ['linear_model', '785', '2', '2', '0.9000', '0.9100', '1.50']
    assert lines[1].split() == ['digit_means', '0', '0', '1', '0.6700', '-', '0.25']


@pytest.mark.parametrize('stderr, shown', [(None, False), (io.StringIO(), False), (type('Terminal', (io.StringIO,), {'isatty': lambda self: True})(), True)])
def test_a_progress_bar_is_for_a_terminal(monkeypatch, tmp_path, stderr, shown):
    given = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'stderr', stderr)
    monkeypatch.setattr('mnist_sgd.run.climb', lambda *args: given.append(args))
    monkeypatch.setattr('mnist_sgd.run._show', lambda *args: None)
    main(['--seed', '3'])
    assert given == [(None, None, None, 3, 'cpu', shown, False, None, None)]


def test_a_reader_who_stops_it_gets_no_traceback(monkeypatch, tmp_path, capsys):
    def stopped(*args): raise KeyboardInterrupt
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('mnist_sgd.run.climb', stopped)
    with pytest.raises(SystemExit) as e: main([])
    assert e.value.code == 130 and capsys.readouterr().err == 'mnist_sgd_run: stopped\n'


def test_without_fastai_it_is_not_there(monkeypatch):
    assert mnist_sgd.run._has_fastai()
    monkeypatch.setitem(sys.modules, 'mnist_sgd.fastai_learner', None)
    assert not mnist_sgd.run._has_fastai()


def test_a_stage_starts_at_its_place_in_the_stream(few):
    "Whatever was drawn before."
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made += climb(epochs=1, stages=['basic_optim'], progress=False)['stages']
    assert made[0]['train_loss'] == made[1]['train_loss']


def test_a_prediction_of_zero_says_seven():
    dl = BatchLoader(torch.zeros(2, 1), torch.tensor([[0], [1]]))
    assert mnist_sgd.run._wrong(lambda xb: xb, dl) == [1]


@pytest.mark.parametrize('stage', ['digit_means', 'all_digits', 'all_digits_net', 'all_digits_conv'])
def test_untrained_models_give_ten_scores(stage):
    assert mnist_sgd.run._new(stage).eval()(torch.zeros(2, 784)).shape == (2, 10)
