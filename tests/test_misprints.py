"Every wrong line of the notes fails as described, or gives the wrong value described, and every repair is right."
import ast
from collections import Counter

import pytest
import torch

from mnist_sgd.manual_sgd import rolling_speed
from mnist_sgd.misprints import MISPRINTS, SLASHES, Misprint, notes_names, run_cell

IDS = [f'line {m.line}: {m.says}' for m in MISPRINTS]
ERRORS = {'SyntaxError', 'NameError', 'AttributeError', 'TypeError', 'RuntimeError'}


def agrees(shown, expected):
    "The same text, or the same number but for rounding on another processor."
    try: return float(shown) == pytest.approx(float(expected), abs=1e-6, nan_ok=True)
    except ValueError: return shown == expected


@pytest.mark.parametrize('misprint', MISPRINTS, ids=IDS)
def test_wrong_line_fails_as_described(misprint):
    shown = run_cell(misprint.wrong, notes_names())
    if misprint.noticed_by == 'interpreter': assert shown.startswith(misprint.says + ': ')
    else: assert agrees(shown, misprint.says)


@pytest.mark.parametrize('misprint', MISPRINTS, ids=IDS)
def test_repaired_line_gives_what_it_should(misprint):
    assert agrees(run_cell(misprint.right, notes_names()), misprint.gives)


@pytest.mark.parametrize('misprint', [m for m in MISPRINTS if m.line != 51], ids=lambda m: f'line {m.line}: {m.says}')
def test_repaired_line_is_what_makes_the_difference(misprint):
    "Without it a cell no longer gives what it should. (The repair of line 51 is a comment.)"
    lines = misprint.right.splitlines()
    repaired = next(line for line in lines if line not in misprint.wrong.splitlines())
    names = notes_names()
    if not repaired.startswith(' '):
        for node in ast.parse(repaired).body: # what it defines is not there without it
            for target in [*getattr(node, 'targets', []), node]:
                names.pop(getattr(target, 'id', getattr(target, 'name', None)), None)
    assert run_cell('\n'.join(line for line in lines if line != repaired), names) != misprint.gives


def test_there_are_at_least_thirty_and_each_can_be_told_from_its_repair():
    assert len(MISPRINTS) >= 30 and len({m.wrong for m in MISPRINTS}) == len(MISPRINTS)
    assert {m.says for m in MISPRINTS if m.noticed_by == 'interpreter'} == ERRORS
    for m in MISPRINTS:
        assert m.lesson.endswith('.')
        # the one exception is right by luck, for four images of one digit
        assert m.says != m.gives or m.line == 192


def test_line_192_is_right_by_luck_only():
    assert run_cell('train_y[:y].shape, train_y[:4].shape', notes_names()) == '(torch.Size([1, 1]), torch.Size([4, 1]))'
    sevens = 'mnist_loss(linear1(train_x[-4:]), {}).item()'
    names = notes_names()
    wrong, right = (float(run_cell(sevens.format(targets), names)) for targets in ('train_y[:y]', 'train_y[-4:]'))
    assert wrong == pytest.approx(1 - right) and abs(wrong - right) > .01


@pytest.mark.parametrize('line, gives', [
    (143, 'ValueError: batch_accuracy: yb must have the shape of preds, (12396, 1), got int64 (12396,)'),
    (192, 'ValueError: mnist_loss: targets must have the shape of predictions, (4, 1), got int64 (1, 1)'),
    (92, '0.5212'), (165, 'tensor([0.0000, 0.2500, 0.0000])')])
def test_library_refuses_the_same_mistake_or_gets_it_right(line, gives):
    misprint, = [m for m in MISPRINTS if m.line == line and m.library]
    assert misprint.noticed_by != 'interpreter'
    assert run_cell(misprint.library, notes_names()).startswith(gives)


def test_no_other_misprint_names_the_library(): assert sum(bool(m.library) for m in MISPRINTS) == 4


def test_without_b_times_t_no_training_makes_line_62_fit():
    "The best parabola whose lowest point stays at time 0 is more than twenty times as bad as the best of all."
    time, speed = rolling_speed()
    errors = []
    for second in (torch.full((20,), 6.), time):
        columns = torch.stack([time**2, second, torch.ones(20)], 1)
        fit = columns@torch.linalg.lstsq(columns, speed[:, None], driver='gelsd').solution
        errors.append((fit.flatten() - speed).square().mean())
    assert errors[0] > 20*errors[1]


def test_a_misprint_tells_both_cells_in_one_text():
    m = Misprint(1, 'NameError', '2', 'One letter.', '''
  n = 1
- m + 1
+ if n:
+     n += 1
+ n''')
    assert (m.wrong, m.right) == ('n = 1\nm + 1', 'n = 1\nif n:\n    n += 1\nn')
    assert [m.line for m in MISPRINTS] == sorted(m.line for m in MISPRINTS)
    for m in MISPRINTS: assert {line[:2] for line in m.diff.splitlines() if line} <= {'- ', '+ ', '  '}


def test_in_line_236_the_images_of_the_last_batch_count_for_more():
    names = notes_names()
    assert agrees(run_cell('train_epoch(linear1, lr, params)\nvalidate_epoch(linear1)', names), '0.6884')
    assert agrees(run_cell('round(batch_accuracy(linear1(valid_x), valid_y).item(), 4)', names), '0.6869')


@pytest.fixture(scope='module')
def slashed(): return {line: run_cell(code, notes_names()) for line, code in SLASHES.items()}


@pytest.mark.parametrize('line', SLASHES)
def test_each_line_with_a_slash_comment_runs_once_the_comment_is_one(line, slashed):
    repaired = run_cell(SLASHES[line].replace('//', '#', 1), notes_names())
    assert slashed[line] != repaired and not repaired.split(':')[0].endswith('Error')


def test_what_becomes_of_the_slash_comments(slashed):
    assert Counter(s.split(':')[0] for s in slashed.values() if 'Error' in s) == {
        'SyntaxError': 18, 'TypeError': 8, 'NameError': 2}
    assert {line: s for line, s in slashed.items() if 'Error' not in s} == {
        40: 'tensor(7.)', 149: '0.0', 160: 'tensor(1.)', 161: 'tensor(1.)', 238: '0.0', 244: '1.0'}


def test_run_cell_shows_what_a_cell_would():
    assert run_cell('', {}) == run_cell('# nothing', {}) == run_cell('n = 1', {}) == run_cell('None', {}) == ''
    assert run_cell('n = 1\nn + 1', {}) == '2'
    assert run_cell('1/0', {}) == 'ZeroDivisionError: division by zero'
    assert run_cell('(', {}).startswith('SyntaxError: ')
    assert run_cell('raise SystemExit(3)', {}) == 'SystemExit: 3'
    assert run_cell('import torch; torch.zeros(2, 2)', {}) == 'tensor([[0., 0.], [0., 0.]])'
    names = {}
    run_cell('def double(x): return 2*x', names)
    assert run_cell('double(4)', names) == '8'


def test_run_cell_and_misprint_refuse_other_things():
    with pytest.raises(TypeError, match='needs a str and a dict, got NoneType and dict'): run_cell(None, {})
    with pytest.raises(TypeError, match='needs a str and a dict, got str and list'): run_cell('1', [])
    with pytest.raises(ValueError, match="noticed_by must be 'interpreter', 'shape' or 'number', got 'me'"):
        Misprint(1, 'a', 'b', 'c', '- d', 'me')


def test_names_are_made_anew_each_time():
    changed = notes_names()
    run_cell('train_epoch(linear1, lr, params)\nlr = 5\ntrain_x.zero_()\nthree_tensor.clear()', changed)
    shown = run_cell('validate_epoch(linear1), lr, train_x.max().item(), len(three_tensor)', notes_names())
    assert shown == '(0.5215, 1.0, 1.0, 6131)'


def test_names_are_those_of_one_notebook():
    names = notes_names()
    assert run_cell('weights = weights*0\nbias = bias*0\nlinear1(x)', names).startswith('tensor([0.]')
    assert run_cell('three_tensor[0].dtype', names) == 'torch.uint8'
