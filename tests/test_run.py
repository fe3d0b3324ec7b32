import json, os, subprocess, sys
from pathlib import Path

import pytest
from conftest import needs_links, needs_pipes

from mnist_sgd.checks import Device, ensure
from mnist_sgd.run import NOTES, climb, climb_figure, main, table

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
    assert (by_hand['accuracy'][-1], basic['accuracy'][-1], shuffled['accuracy'][-1]) == (.9697, .9785, .9819)
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
    main(['--epochs', '1', '--lr', '.5', '--bs', '100', '--seed', '7', '--device', 'cpu', '--plot', 'a.png', '--json', '-'])
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
    lines = table(result).splitlines()
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
    (['--epochs', '0'], "argument --epochs: must be a whole number from 1, got '0'"),
    (['--epochs', '2.5'], "argument --epochs: must be a whole number from 1, got '2.5'"),
    (['--lr', '0'], "argument --lr: must be a positive number such as 1 or 0.1, got '0'"),
    (['--lr', '-1'], "argument --lr: must be a positive number"),
    (['--lr', 'nan'], "argument --lr: must be a positive number"),
    (['--lr', 'fast'], "argument --lr: must be a positive number"),
    (['--bs', '0'], "argument --bs: must be a whole number from 1, got '0'"),
    (['--seed', 'x'], f"argument --seed: must be a whole number from 0 to {2**64 - 1}, got 'x'"),
    (['--seed', str(2**64)], "argument --seed: must be a whole number from 0 to 18446744073709551615"),
    (['--device', 'toaster'], "device 'toaster' cannot be used here; try 'cpu'"),
    (['--device', 'cuda:99'], "device 'cuda:99' cannot be used here; try 'cpu'"),
    (['--plot', 'absent/a.png'], "argument --plot: must be in a folder that you can write to, got 'absent/a.png'"),
    (['--plot', 'a'*300], 'argument --plot: cannot be used'),
    (['--device', 'meta'], "device 'meta' computes nothing"),
    (['--json', '.'], "argument --json: must be a file, got '.'"),
    (['--json', ''], "argument --json: must be a file, got ''"),
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
    assert stopped.value.code == 2 and 'must be a file' in capsys.readouterr().err
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
    assert stopped.value.code == 2 and 'argument --plot: must be a file' in capsys.readouterr().err
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
    for bad in ({'epochs': 0}, {'lr': 0.}, {'batch_size': 0}, {'device': 'toaster'}, {'seed': 1.5},
                {'stages': []}, {'stages': 'linear_model'}, {'stages': ['line']}):
        with pytest.raises(ValueError): climb(progress=False, **bad)
    ensure(Device, 'cpu', 'device')
