"Every wrong line of the notes fails as described, or gives the wrong value described, and every repair is right."
import ast
from collections import Counter

import pytest

from mnist_sgd.misprints import MISPRINTS, SLASHES, notes_names, run_cell

IDS = [f'line {m.line}: {m.says}' for m in MISPRINTS]


@pytest.mark.parametrize('misprint', MISPRINTS, ids=IDS)
def test_wrong_line_fails_as_described(misprint):
    shown = run_cell(misprint.wrong, notes_names())
    if misprint.noticed_by == 'interpreter': assert shown.startswith(misprint.says + ':')
    else: assert shown == misprint.says


@pytest.mark.parametrize('misprint', MISPRINTS, ids=IDS)
def test_repaired_line_gives_what_it_should(misprint):
    assert run_cell(misprint.right, notes_names()) == misprint.gives


def test_there_are_at_least_thirty_and_each_can_be_told_from_its_repair():
    assert len(MISPRINTS) >= 30 and len(set(m.wrong for m in MISPRINTS)) == len(MISPRINTS)
    assert Counter(m.noticed_by for m in MISPRINTS).keys() == {'interpreter', 'shape', 'number'}
    for m in MISPRINTS:
        assert m.wrong != m.right and m.lesson.endswith(('.', ')'))
        # the one exception is right by luck, for four images of one digit
        assert m.says != m.gives or m.line == 192


def test_line_192_is_right_by_luck_only():
    assert run_cell('train_y[:y].shape, train_y[:4].shape', notes_names()) == '(torch.Size([1, 1]), torch.Size([4, 1]))'
    sevens = 'mnist_loss(linear1(train_x[-4:]), {}).item()'
    names = notes_names()
    wrong, right = (float(run_cell(sevens.format(targets), names)) for targets in ('train_y[:y]', 'train_y[-4:]'))
    assert wrong == pytest.approx(1 - right) and abs(wrong - right) > .01


@pytest.mark.parametrize('misprint', [m for m in MISPRINTS if m.door], ids=lambda m: f'line {m.line}')
def test_library_refuses_the_same_mistake_at_its_door(misprint):
    assert misprint.noticed_by != 'interpreter'
    assert run_cell(misprint.door, notes_names()).startswith('ValueError: ')


def test_doors_are_shown_for_these_lines():
    assert [m.line for m in MISPRINTS if m.door] == [143, 192, 281]


@pytest.mark.parametrize('line', SLASHES)
def test_each_line_with_a_slash_comment_runs_once_the_comment_is_one(line):
    code = SLASHES[line]
    shown = run_cell(code, notes_names())
    repaired = run_cell(code.replace('//', '#', 1), notes_names())
    assert shown != repaired and not repaired.split(':')[0].endswith('Error')


def test_what_becomes_of_the_slash_comments():
    shown = {line: run_cell(code, notes_names()) for line, code in SLASHES.items()}
    assert Counter(s.split(':')[0] for s in shown.values() if 'Error' in s) == {
        'SyntaxError': 18, 'TypeError': 8, 'NameError': 2}
    assert {line: s for line, s in shown.items() if 'Error' not in s} == {
        40: 'tensor(7.)', 149: '0.0', 160: 'tensor(1.)', 161: 'tensor(1.)', 238: '0.0', 244: '1.0'}


def test_run_cell_shows_what_a_cell_would():
    assert run_cell('', {}) == run_cell('# nothing', {}) == run_cell('n = 1', {}) == run_cell('None', {}) == ''
    assert run_cell('n = 1\nn + 1', {}) == '2'
    assert run_cell('1/0', {}) == 'ZeroDivisionError: division by zero'
    assert run_cell('(', {}).startswith('SyntaxError: ')
    names = {}
    run_cell('def double(x): return 2*x', names)
    assert run_cell('double(4)', names) == '8'


def test_names_are_made_anew_each_time():
    changed = notes_names()
    run_cell('train_epoch(linear1, lr, params)\nlr = 5', changed)
    assert run_cell('validate_epoch(linear1), lr', notes_names()) == '(0.5215, 1.0)'
