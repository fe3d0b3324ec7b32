"""How practice copies are made, what a guess may be, and what a damaged copy does to the score.

Copies that are filled in and run: tests/test_notebooks.py.
"""
import ast, json, math, os, re, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from fractions import Fraction
from functools import wraps
from pathlib import Path

import nbformat, numpy, pytest, torch
from conftest import needs_links, needs_pipes
from hypothesis import assume, given, strategies as st

from practice_answers import BODIES, COPIES, QUESTIONS, SOURCES, TASKS, code_of, misprint, own_bodies, repair, settings, text, to_write
import mnist_sgd.practice
from mnist_sgd.misprints import MISPRINTS
from mnist_sgd.practice import (Verdict, grade, main, practice_copy, score, score_table, start, tasks, try_function,
                                try_repair, walk, write_copies)

COMMAND = Path(sys.executable).with_name('mnist_sgd_practice')
NAMES = list(COPIES)
TOTAL = sum(map(len, TASKS.values()))


def write_copy(folder, name, word=None):
    "A practice copy, new or with a verdict that begins with `word` below each task."
    copy = deepcopy(COPIES[name])
    for cell in copy['cells']:
        if word and cell['cell_type'] == 'code' and any(task.call() in cell['source'] for task in TASKS[name]):
            shows = {'text/html': f'<b>{word}</b>', 'text/plain': f'{word}:\nAs a kernel would say it.'}
            cell['outputs'] = [{'output_type': 'execute_result', 'data': shows, 'execution_count': 1, 'metadata': {}}]
    nbformat.validate(nbformat.from_dict(copy))
    (folder/f'{name}.ipynb').write_text(json.dumps(copy), encoding='utf-8')


@pytest.fixture
def copies(tmp_path):
    "A folder of copies in which everything is right."
    for name in NAMES: write_copy(tmp_path, name, 'right')
    return tmp_path


@pytest.fixture
def begun(tmp_path_factory):
    "A folder of copies of which only the first has been run, and left blank."
    folder = tmp_path_factory.mktemp('begun')
    for name in NAMES: write_copy(folder, name, 'open' if name == NAMES[0] else None)
    return folder


def test_all_right_scores_everything(copies):
    for row in score(copies):
        assert row['right'] == row['asked'] and row['written'] == row['to write'] and row['mended'] == row['to mend']
        assert not row['notes'] and not row['left']
    assert f'{TOTAL} of {TOTAL} done, 100%.' in score_table(score(copies))


def test_every_task_has_answers_here():
    assert {n: {t.name for t in TASKS[n] if t.kind == 'predict'} for n in NAMES} == {n: set(QUESTIONS[n]) for n in NAMES}
    assert {n: {t.name for t in TASKS[n] if t.kind == 'write'} for n in NAMES} == {n: set(BODIES[n]) for n in NAMES}


@pytest.mark.parametrize('name', NAMES)
def test_every_slip_is_in_its_function_and_its_words_in_the_test(name):
    functions = to_write(name)
    bodies = {functions[id]: body for id, body in own_bodies(name).items()}
    checks = {settings(cell)['tests']: text(cell) for cell in SOURCES[name]['cells'] if 'tests' in settings(cell)}
    assert [function for function, (slip, _, says) in BODIES[name].items() if slip not in bodies[function] or says not in checks[function]] == []


@pytest.mark.parametrize('name', NAMES)
def test_copy_is_valid_and_shows_nothing(name):
    copy = COPIES[name]
    nbformat.validate(nbformat.from_dict(copy))
    assert copy == practice_copy(SOURCES[name], name)
    assert copy['metadata']['mnist_sgd'] == {'practice': name, 'edition': 2}
    assert len({cell['id'] for cell in copy['cells']}) == len(copy['cells'])
    for cell in copy['cells']:
        assert not cell.get('outputs') and cell.get('execution_count') is None
        assert not cell['source'].startswith('#|')


@pytest.mark.parametrize('name', NAMES)
def test_each_reason_is_folded_and_each_question_is_shown_once(name):
    copy = [cell['source'] for cell in COPIES[name]['cells']]
    source = SOURCES[name]['cells']
    for i, cell in enumerate(source):
        if 'question' not in settings(cell): continue
        reason = next(text(below) for below in source[i:] if below['cell_type'] == 'markdown').split('\n\n')[0]
        reason = re.sub(r'\[([^]]*)\]\(9\d_\w+\.ipynb\)', r'\1', reason) # links to appendices are gone
        assert [c.startswith('<details>') for c in copy if reason in c] == [True]
        question = next(task.ask for task in TASKS[name] if task.name == settings(cell)['question'])
        assert sum(question in c for c in copy) == 1
    assert not any('**Predict.**' in c for c in copy)


@pytest.mark.parametrize('name', NAMES)
def test_folded_code_stays_folded_but_for_tests(name):
    there = {cell['id']: cell for cell in COPIES[name]['cells']}
    for cell in SOURCES[name]['cells']:
        if 'hide-input' not in cell['metadata'].get('tags', []): continue
        assert cell['metadata']['jupyter'] == {'source_hidden': True}
        if 'tests' in settings(cell): assert there[f"tests-{settings(cell)['tests']}"]['metadata'] == {}
        elif cell['id'] in there: assert there[cell['id']]['metadata']['jupyter'] == {'source_hidden': True}


def test_the_notebooks_place_exactly_the_misprints_that_say_what_they_should_give():
    placed = [task.name for name in NAMES for task in TASKS[name] if task.kind == 'mend']
    asking = []
    for m in MISPRINTS:
        same_line = [other for other in MISPRINTS if other.line == m.line]
        if m.asks: asking.append(f'{m.line}.{same_line.index(m) + 1}'.removesuffix('.1'))
    assert sorted(placed) == sorted(asking)


# what a lesson exports and nobody is asked to write, loaders (`load_`), plots (`show_`, `plot_`) and bare exceptions apart
GIVEN = {
    '00_data': {'moving_picture'},
    '03_linear_model': {'predict_batches', 'mean_over'},
    '06_neural_net': {'log_loss'},
    '07_learner_from_scratch': {'ToDevice'},
    '08_all_digits': {'save_model'}}


@pytest.mark.parametrize('name', [name for name in NAMES if name < '09'])
def test_what_a_lesson_exports_is_to_write(name):
    given = set()
    for cell in SOURCES[name]['cells']:
        for defined in ast.parse(code_of(cell)).body if '#| export' in text(cell) and cell['cell_type'] == 'code' else []:
            bare = isinstance(defined, ast.ClassDef) and not any(isinstance(f, ast.FunctionDef) for f in defined.body)
            if not bare: given.add(getattr(defined, 'name', '_'))
    given = {f for f in given if not f.startswith(('_', 'load_', 'show_', 'plot_'))}
    assert given - set(to_write(name).values()) == GIVEN.get(name, set())


@pytest.mark.parametrize('name', NAMES)
def test_signature_and_docstring_stay_and_the_body_goes(name):
    blanked = {cell['id']: cell['source'] for cell in COPIES[name]['cells']}
    for cell in SOURCES[name]['cells']:
        if cell['id'] not in to_write(name): continue
        mine, theirs = ast.parse(blanked[cell['id']]).body[-1], ast.parse(code_of(cell)).body[-1]
        assert ast.get_docstring(mine) == ast.get_docstring(theirs)
        if isinstance(mine, ast.FunctionDef):
            assert ast.dump(mine.args) == ast.dump(theirs.args)
            end = theirs.body[0].end_lineno # of the docstring; comments stay, too
            assert blanked[cell['id']].splitlines()[:end] == code_of(cell).splitlines()[:end]
            assert [ast.unparse(s) for s in mine.body[1:]] == ['...']
        else:
            bodies = [ast.unparse(f.body[-1]) for f in mine.body if isinstance(f, ast.FunctionDef)]
            assert '...' in bodies and bodies != [ast.unparse(f.body[-1]) for f in theirs.body if isinstance(f, ast.FunctionDef)]


@pytest.mark.parametrize('name', NAMES)
def test_each_test_of_a_function_says_in_words_what_it_wants(name):
    for cell in SOURCES[name]['cells']:
        if 'tests' not in settings(cell): continue
        lines = code_of(cell).splitlines()
        for statement in ast.parse(code_of(cell)).body:
            if isinstance(statement, ast.Expr) and ast.unparse(statement).startswith(('test_', 'assert_')):
                above = lines[:statement.lineno - 1][::-1]
                assert any(line.startswith('# ') for line in above[:above.index('') if '' in above else None])


@pytest.mark.parametrize('name', NAMES)
def test_the_next_paragraph_after_a_question_is_folded(name):
    waiting = False
    for cell in COPIES[name]['cells']:
        if cell['cell_type'] == 'code' and cell['id'] in QUESTIONS[name]: waiting = True
        elif cell['cell_type'] == 'markdown' and not cell['source'].startswith('**'):
            assert not waiting or cell['source'].startswith(('<details>', '#'))
            waiting = False


@pytest.mark.parametrize('name', NAMES)
def test_no_cell_of_a_copy_only_tests(name):
    for cell in COPIES[name]['cells']:
        if cell['cell_type'] != 'code' or cell['source'].startswith('%%'): continue
        assert not all(ast.unparse(s).startswith(('test_', 'assert ')) for s in ast.parse(cell['source']).body)


@pytest.mark.parametrize('guess, truth, within', [
    (3, 3, 0), (3., 3, 0), (torch.tensor(3), 3, 0), (numpy.float32(3), 3, 0), (3, torch.tensor(3.), 0), (3, numpy.int64(3), 0),
    (.43, .4333, .005), (math.inf, math.inf, 0), (math.nan, math.nan, 0), (True, torch.tensor(True), 0),
    ((2, 3), torch.Size([2, 3]), 0), ([2, 3], torch.zeros(2, 3).shape, 0), (torch.Size([2, 3]), (2, 3), 0),
    ([1.01, 2], torch.tensor([1., 2.]), .02), ([[1], [2]], torch.tensor([[1], [2]]), 0), ([], (), 0),
    ([2, 3], (2, 3.), 0), ([6., 8., 20.], torch.tensor([6., 8., 20.]), 0), ([[1., 2.]], torch.tensor([[1., 2.]]), 0),
    ('Mean 3 ', 'mean 3', 0), (torch.uint8, torch.uint8, 0), ('uint8', torch.uint8, 0), (numpy.float32, torch.float32, 0),
    (numpy.dtype('float32'), torch.float32, 0), (.45, .43, .02), (Fraction(1, 2), .5, 0), ('None', None, 0), (10**400, 10**500, 0), (['a', True, 1], ['a', True, 1], 0),
    (ValueError, ValueError('no'), 0), ('ValueError', ValueError('no'), 0), (ValueError('other'), ValueError('no'), 0),
    (None, None, 0), (torch.zeros(2, requires_grad=True), [0, 0], 0)])
def test_right_guesses(guess, truth, within):
    verdict = grade(guess, truth, within)
    assert verdict.status == 'right' and verdict.lines[-1] == 'The reason is below.'


@pytest.mark.parametrize('guess, truth, within', [
    (4, 3, 0), (1_000_001, 1_000_000, 0), (math.inf, 3, 1), (math.nan, 3, 1), (3, math.nan, 1), (10**400, 3., 1), (.44, .4333, .005), (False, True, 0),
    ((2, 3), (3, 2), 0), ((2,), (2, 3), 0), ([1, 2], torch.tensor([[1, 2]]), 0), ('a', 'b', 0), (KeyError, ValueError('no'), 0),
    (None, ValueError('no'), 0), ('ValueError', None, 0), ([1, 'a'], [1, 2], 0), (['1', 2], [1, 2], 0), ([None], [1], 0)])
def test_wrong_guesses_are_shown_beside_the_truth(guess, truth, within):
    verdict = grade(guess, truth, within)
    assert verdict.status == 'wrong' and 'The true value: `' in verdict.lines[0] and verdict.lines[1] == 'The reason is below.'


@pytest.mark.parametrize('guess, truth, kind', [
    ('3', 3, 'a number'), (None, 3, 'a number'), (True, 3, 'a number'), (3, True, 'True or False'), (3, 'abs', 'a text'),
    (3, (3,), 'a list or tuple'), (3, ValueError('no'), 'the name of an exception, or None'), (3, None, 'the name of an exception'),
    (object(), 3, 'a number'), ((..., 28), 3, 'a number'), ((..., 28), (6131, 28), 'a list or tuple'), ({1}, 'abs', 'a text'),
    (torch.zeros(100, 100), (100, 100), 'a list or tuple'), (numpy.zeros((12396, 784)), (3,), 'a list or tuple'),
    (torch.zeros(3, device='meta'), 3, 'a number'), (3j, 3, 'a number'), (lambda: 3, 3, 'a number'), ({'a': 1}, 3, 'a number'),
    ([3], 3, 'a number'), (torch.zeros(3), 3, 'a number')])
def test_guess_of_another_kind_is_not_right_and_reveals_nothing(guess, truth, kind):
    verdict = grade(guess, truth)
    assert verdict.status == 'wrong' and len(verdict.lines) == 1
    assert verdict.lines[0].startswith(f'The answer is {kind}') and 'stays hidden' in verdict.lines[0]


class Awkward:
    def __getattr__(self, name): raise RuntimeError(name)
    def __repr__(self): raise RuntimeError('no repr')
    def __eq__(self, other): raise RuntimeError('no ==')
    def __iter__(self): raise RuntimeError('no iter')


def test_objects_whose_methods_fail_do_not_stop_the_grading():
    endless = []
    endless.append(endless)
    for guess in (Awkward(), [Awkward()], endless): assert grade(guess, [1]).status == 'wrong'


def test_a_truth_must_be_something_that_can_be_guessed():
    for truth in ({'a': 1}, object(), 3j, torch.zeros(2000)):
        with pytest.raises(TypeError, match='cannot be guessed'): grade(1, truth)


@pytest.mark.parametrize('guess, truth', [(.43333, .433333333), (123456.7, 123457.2), (['1', 2], [1, 2]), ('a b', 'a  b')])
def test_values_that_differ_look_different(guess, truth):
    verdict = grade(guess, truth)
    shown = verdict.lines[0].split('`')
    assert verdict.status == 'wrong' and shown[1] != shown[3]


def test_values_are_shown_briefly_and_as_python_writes_them():
    assert '`(6131, 0.5, \'a\')`. The true value: `(1010,)`' in grade((6131, .5, 'a'), (1010,)).lines[0]
    assert '`[1, 0.333333]`. The true value: `[]`' in grade([1, 1/3], []).lines[0]


def test_open_guess_reveals_nothing():
    assert grade(..., 42) == Verdict('open', ("Put your guess in place of the dots and run the cell again.",))


values = st.recursive(st.booleans() | st.integers() | st.floats() | st.text() | st.none(), lambda v: st.lists(v), max_leaves=9)


@given(values)
def test_every_value_is_the_right_guess_for_itself(value): assert grade(value, value).status == 'right'


@given(values, values)
def test_no_guess_whatever_stops_the_grading(guess, truth):
    verdict = grade(guess, truth)
    assert verdict.status in ('right', 'wrong') and verdict._repr_html_()


@given(st.floats(-1e6, 1e6), st.floats(0, 10), st.floats(0, 10))
def test_within_is_how_far_a_right_guess_may_be(truth, within, apart):
    assume(abs(apart - within) > 1e-3)
    status = grade(truth + apart, truth, within=within).status
    if apart > 1e-6*abs(truth) + 1e-9: assert status == ('right' if apart <= within else 'wrong')


@pytest.mark.parametrize('within', [-1, math.nan, math.inf, 'x', None])
def test_within_below_zero_is_refused(within):
    with pytest.raises(ValueError, match='within must be a number from 0'): grade(1, 1, within=within)


def test_a_backtick_in_a_guess_does_not_end_the_code():
    assert "Your guess: <code>'a'b'</code>. The" in grade('a`b', 'c')._repr_html_().replace('&#x27;', "'")


def test_verdict_in_a_notebook_is_safe_html():
    page = grade('<script>', 'a & `b` < c')._repr_html_()
    assert '<script>' not in page and '<code>&#x27;&lt;script&gt;&#x27;</code>' in page and 'b&#x27; &lt; c' in page and 'Not right.' in page


def test_try_function_goes_on_with_the_function_of_a_learner_who_is_right():
    def mine(x): return x + x
    def library(x): return 2*x
    names = {'double': mine}
    assert try_function('double', '# twice\nassert double(2) == 4', names, library).status == 'right'
    assert names['double'] is mine


def stops(x): raise SystemExit
def fails(x): return 1/0
def lacks(): return 2


@pytest.mark.parametrize('mine', [stops, fails, lacks])
def test_try_function_with_any_function_goes_on_with_the_library(mine):
    def library(x): return 2*x
    names = {'double': mine}
    verdict = try_function('double', '# twice\nassert double(2) == 4\nfour = double(2)\nassert four == 4', names, library)
    assert verdict.status == 'wrong' and verdict.lines[1].startswith('• twice (`')
    assert names['double'] is library and names['four'] == 4 # what the tests define is there for later cells


@pytest.mark.parametrize('mine', [7, 'text', Awkward, lambda x: 2*x])
def test_try_function_with_what_is_not_the_function_of_the_copy_is_open(mine):
    def library(x):
        "Twice x."
        return 2*x
    names = {'double': mine}
    assert try_function('double', '# twice\nassert double(2) == 4', names, library).status == 'open'
    assert names['double'] is library


def test_try_function_after_a_function_that_was_stopped_by_hand_goes_on_with_the_library():
    def mine(x): raise KeyboardInterrupt
    def library(x): return 2*x
    names = {'double': mine}
    with pytest.raises(KeyboardInterrupt): try_function('double', 'double(2)', names, library)
    assert names['double'] is library


def test_what_needs_a_line_that_failed_is_not_tried():
    def mine(x): return 1/0
    def library(x): return 2*x
    lines = try_function('double', '# a number\nfour = double(2)\nassert four == 4', {'double': mine}, library).lines
    assert len(lines) == 3 and lines[1].startswith('• a number (`ZeroDivisionError')


def test_class_with_an_empty_method_is_not_written_yet():
    class Mine:
        def one(self): return 1
        def two(self): ...
    class Library:
        def two(self): return 2
    test = '# two\nassert Pair().two() == 2'
    assert try_function('Pair', test, {'Pair': Mine}, Library).status == 'open'
    class Complete(Library):
        def __init__(self): pass
    assert try_function('Pair', test, {'Pair': Complete}, Library).status == 'right'
    assert try_function('Pair', '', {}, Library).status == 'open'


def test_a_task_to_mend_says_whether_python_complains():
    for name in NAMES:
        said = {cell['id']: text(cell) for cell in COPIES[name]['cells']}
        for task in TASKS[name]:
            if task.kind != 'mend': continue
            hint = 'Run it and read the message.' if misprint(task.name).noticed_by == 'interpreter' else 'It runs, but it is wrong.'
            assert said[f"mend-{task.name.replace('.', '-')}-ask"].endswith(hint)


@pytest.mark.parametrize('line', [task.name for name in NAMES for task in TASKS[name] if task.kind == 'mend'])
def test_misprints_to_mend(line):
    copy = next(COPIES[name] for name in NAMES if any(t.kind == 'mend' and t.name == line for t in TASKS[name]))
    cell = next(cell['source'] for cell in copy['cells'] if cell['source'].startswith(f'%%mend {line}\n'))
    as_it_stands = cell.partition('\n')[2]
    assert try_repair(line, as_it_stands).status == 'open'
    assert try_repair(line, '1/0').status == 'wrong' and try_repair(line, '').status == 'wrong'
    assert not set(repair(line).splitlines()) <= set(as_it_stands.splitlines()) # it does not give itself away
    if len(repair(line).splitlines()) > 1: # the line that shows the result is there
        assert repair(line).splitlines()[-1] in as_it_stands.splitlines() or line in ('161', '229')
    generator = torch.random.get_rng_state()
    assert try_repair(line, repair(line)).status == 'right'
    assert torch.equal(generator, torch.random.get_rng_state())


def test_repairs_may_differ_from_ours():
    code = next(cell['source'] for cell in COPIES['03_linear_model']['cells'] if cell['id'] == 'mend-219').partition('\n')[2]
    assert try_repair('219', code.replace('p.grad_zero_()', 'p.grad = None')).status == 'right'
    step = 'params = torch.ones(3).requires_grad_()\n(params**2).sum().backward()\n'
    assert try_repair('84.2', step + 'with torch.no_grad(): params -= params.grad * lr\nparams').status == 'right'
    assert try_repair('84.2', step + 'params = params - params.grad * lr\nparams').status == 'wrong' # not a leaf any more
    assert try_repair('53', 'xt = tensor(3.).requires_grad_()\ndef f(x): return x*x\nf(xt)').status == 'right'
    assert try_repair('25', '(a_3 - mean3).mean()').status == 'wrong'
    with pytest.raises(ValueError, match="no misprint '1'"): try_repair('1', '')


def test_start_belongs_in_a_notebook():
    with pytest.raises(ValueError, match='belongs in a notebook'): start('00_data')


@pytest.fixture
def cell_by_cell(monkeypatch):
    "A notebook without a kernel: `start` run in an IPython shell of its own."
    from IPython.core.interactiveshell import InteractiveShell
    shell = InteractiveShell()
    monkeypatch.setattr('IPython.get_ipython', lambda: shell)
    return shell


def test_start_refuses_what_the_walk_does_not_ask(cell_by_cell):
    check = start('00_data')
    assert check('minus', 246, 246).status == 'right'
    with pytest.raises(ValueError, match="00_data does not ask 'no'; write the practice copies anew"): check('no', 1, 1)
    with pytest.raises(ValueError, match="'99_no' is no notebook of the walk"): start('99_no')
    with pytest.raises(ValueError, match="%%tests needs a function, got 'no'"): cell_by_cell.run_cell_magic('tests', 'no', '1')


def test_the_first_guess_counts(cell_by_cell):
    check = start('00_data')
    assert check('minus', ..., 246).status == 'open' and check('minus', 'a word', 246).status == 'wrong' # these show no true value
    first = check('minus', 245, 246)
    again = check('minus', 246, 246)
    assert first.status == again.status == 'wrong' and again.lines[1:] == first.lines and 'first guess' in again.lines[0]
    assert check('minus', 245, 246) == first
    other = start('00_data') # in a new run
    assert other('minus', 246, 246).status == 'right' and other('minus', 245, 246).status == 'right'


def test_a_word_without_quotes_gets_a_sentence(cell_by_cell, capsys):
    start('00_data')
    assert isinstance(cell_by_cell.run_cell('guess = up\n\n1', store_history=True).error_in_exec, NameError)
    assert capsys.readouterr().out.startswith("open:\n`up` is no name here. A word needs quotes: `guess = 'up'`.")
    cell_by_cell.run_cell('guess = 1\n\nup', store_history=True)
    assert "name 'up' is not defined" in capsys.readouterr().out


def cells(*kinds_and_sources):
    return {'cells': [{'cell_type': 'code' if metadata is not None else 'markdown', 'id': f'c{i}', 'source': source,
                       'metadata': {'mnist_sgd': metadata or {}}} for i, (source, metadata) in enumerate(kinds_and_sources)]}


ASK, WHY, ONE = ('Some text.\n\n**Predict.** What\nis it, to 0.5?', None), ('It is one.\n\nMore text.', None), ('x = 1\nx # one', {'question': 'q'})
DOUBLE, TESTS = ('#| export\ndef double(x): return 2*x # twice x', {}), ('# twice\nassert double(2) == 4', {'tests': 'double'})
CLASS = '#| export\nclass A:\n    def __init__(self): self.x = 1\n    def one(self): return 1\n    def two(self):\n        "Two."\n        return 2'


@pytest.mark.parametrize('sources, message', [
    ([ASK, ('x = 1', {}), WHY], "needs a name, in the metadata of the cell below it, in the cell that begins with: x = 1"),
    ([ASK, WHY, ONE, WHY], "needs a name, in the metadata of the cell below it, in the cell that begins with: It is one."),
    ([WHY, ASK], "needs a name"), ([ONE, WHY], "'q' needs a paragraph above it that begins with"),
    ([ASK, ('y = 2', {}), ONE, WHY], "needs a name"), ([WHY, ONE, WHY], "'q' needs a paragraph above it"),
    ([ASK, ONE], "a question needs its reason"), ([ASK, ONE, ('## A heading', None)], "a question needs its reason"),
    ([ASK, ONE, ('**Predict.** And this?', None), ('2', {'question': 'p'}), WHY], "a question needs its reason"),
    ([ASK, ONE, WHY, ASK, ONE, WHY], "two tasks have the name 'q', in the cell that begins with: x = 1"),
    ([('**Predict.** What?\n\nMore.', None), ONE, WHY], "a question must be the last paragraph, in the cell that begins with: \\*\\*Predict"),
    ([ASK, ('x = 1', {'question': 'q'}), WHY], "q: the last line is no expression"),
    ([ASK, ('1', {'question': 'two words'}), WHY], "'two words' is no name"), ([('1', {'mend': '1'})], "no misprint '1'"),
    ([('1', {'mend': '17'})], "the misprint 17 needs `asks`"), ([TESTS], "'double' must be the last statement of a cell that is exported"),
    ([DOUBLE, TESTS, TESTS], "two tasks have the name 'double'"), ([('def double(x): return 2*x', {}), TESTS], "'double' must be the last statement"),
    ([(CLASS, {}), ('A()', {'tests': 'A', 'write': ['three']})], "A has no methods three to write"),
    ([ASK, ('1', {'question': 'start'}), WHY], "two cells of one name")])
def test_cells_that_lack_something_are_refused(sources, message):
    with pytest.raises(ValueError, match=message): practice_copy(cells(*sources), 'example')


def copied(*sources):
    "{id: cell} of a copy, without the two cells that stand in each."
    cells_of_copy = practice_copy(cells(*sources), 'example')['cells']
    return {cell['id']: cell for cell in cells_of_copy if cell['id'] not in ('how', 'start')}


def test_a_question_and_its_reason():
    copy = copied(('# Title', None), ASK, ONE, ('x + 1', {}), WHY)
    assert [cell['source'] for cell in copy.values()] == [
        '# Title', 'Some text.', '**Question 1.** What is it, to 0.5?', "guess = ...\n\nx = 1\ncheck('q', guess, x)", 'x + 1',
        '<details><summary>Read on when you are done</summary>\n\nIt is one.\n\n</details>', 'More text.']


@pytest.mark.parametrize('ask, within', [
    ('What is it, to 0.01?', .01), ('What is it, within 3.', 3), ('How many are there, within 3. Guess!', 3), ('Within 1,000?', 0), ('How many, within 1,000?', 1000), ('How many, within 1,000? Guess!', 1000), ('(What is it, to .05?)', .05),
    ('A number from 0 to 1.', 0), ('Is it the same, to 6 decimals?', 0), ('Is it the same, to six decimals?', 0), ('Between 0 and 1, say to 1?', 0)])
def test_a_tolerance_stands_at_the_end_of_a_sentence_behind_a_comma(ask, within):
    task, = tasks(cells((f'**Predict.** {ask}', None), ONE, WHY))
    assert (task.ask, task.within) == (ask, within)


def test_a_function_in_one_line_keeps_the_comment_that_says_what_it_returns():
    assert copied(DOUBLE, TESTS)['c0']['source'] == 'def double(x): ... # twice x'
    several = '#| export\ndef double(x):\n    y = x + x # the comment behind the last line would tell\n    return y # twice x'
    assert copied((several, {}), TESTS)['c0']['source'] == 'def double(x):\n    ...'


def test_all_methods_are_to_write_but_init_unless_some_are_named():
    def bodies(**settings):
        defined = ast.parse(copied((CLASS, {}), ('A()', {'tests': 'A'} | settings))['c0']['source']).body[-1]
        return [ast.unparse(f.body[-1]) for f in defined.body]
    assert bodies() == ['self.x = 1', '...', '...'] and bodies(write=['two']) == ['self.x = 1', 'return 1', '...']


def test_a_misprint_is_placed_below_a_question_and_above_any_other_cell():
    for settings_of, ids in (({'question': 'q', 'mend': '25'}, ['q', 'mend-25-ask', 'mend-25']), ({'mend': '25'}, ['mend-25-ask', 'mend-25', 'c1'])):
        copy = list(copied(ASK if 'question' in settings_of else WHY, (ONE[0], settings_of), WHY))
        assert [id for id in copy if id in ids] == ids
    assert 'mend-25' in copied(DOUBLE, TESTS, ('assert double(1) == 2', {'mend': '25'})) # of a cell that is left out, too


def test_cells_that_only_test_or_are_hidden_are_left_out_and_the_fold_of_a_figure_stays():
    nb = cells(('1 + 1', {}), ('test_eq(1, 1)\nassert True\nassert_close(1, 1)\ntorch.testing.assert_close(1, 1)', {}), ('#| hide\n2', {}), ('#| slow\n3', {}))
    nb['cells'][0]['metadata'] |= {'tags': ['hide-input'], 'jupyter': {'source_hidden': True}}
    copy = {cell['id']: cell for cell in practice_copy(nb, 'example')['cells']}
    assert 'c1' not in copy and 'c2' not in copy and copy['c3']['source'] == '3'
    assert copy['c0']['metadata'] == {'tags': ['hide-input'], 'jupyter': {'source_hidden': True}}


def checked(func):
    "A door, as `mnist_sgd.checks` puts it in front of a function."
    @wraps(func)
    def door(*args, **kwargs): return func(*args, **kwargs)
    return door


def test_a_decorator_stays_and_is_looked_through():
    code = '@checked\ndef double(x:int): # a number\n    "Twice x."\n    return 2*x'
    blank = copied((f'#| export\n{code}', {}), TESTS)['c0']['source']
    assert blank == code.replace('return 2*x', '...')
    def run(code):
        names = {'checked': checked}
        exec(code, names)
        return names
    library = run(code)['double']
    for body, status in ((blank, 'open'), (code, 'right'), (code.replace('2*x', '3*x'), 'wrong')):
        assert try_function('double', TESTS[0], run(body), library).status == status


def test_the_methods_of_a_class_may_have_doors():
    class Library:
        @checked
        def __init__(self, x): self.x = x
        @checked
        def double(self): return 2*self.x
    class Blank(Library):
        @checked
        def __init__(self, x): self.x = x
        @checked
        def double(self): ...
    class Wrong(Library):
        def double(self): return 3
    for mine, status in ((Blank, 'open'), (Wrong, 'wrong'), (type('Mine', (Library,), {}), 'right')):
        assert try_function('Pair', '# twice\nassert Pair(2).double() == 4', {'Pair': mine}, Library).status == status


def test_python_without_assert_grades_nothing():
    program = """
from mnist_sgd.practice import grade, try_function
def library(x): return 2*x
names = {'double': lambda x: 0}
verdict = try_function('double', 'four = double(2)\\nassert four == 4', names, library)
print(verdict.status, names['double'] is library, names['four'], grade(1, 1).status, verdict.lines[0])"""
    result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, env=os.environ | {'PYTHONOPTIMIZE': '1'})
    assert result.stdout.startswith('open True 4 right This Python runs without `assert`'), result.stderr
    assert 'PYTHONOPTIMIZE' in result.stdout


def test_a_second_run_adds_what_is_missing(tmp_path):
    assert len(write_copies(tmp_path)) == len(NAMES)
    (tmp_path/'00_data.ipynb').unlink()
    (tmp_path/'01_pixel_similarity.ipynb').write_text('mine', encoding='utf-8')
    said = write_copies(tmp_path)
    assert said[:2] == ['00_data.ipynb: written', '01_pixel_similarity.ipynb: is there already, left as it is']
    assert (tmp_path/'01_pixel_similarity.ipynb').read_text(encoding='utf-8') == 'mine'


@pytest.mark.parametrize('args', [[], ['--force']])
def test_the_walk_itself_is_never_written_over(args, capsys):
    folder = next(iter(walk().values())).parent
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(SystemExit) as stopped: main([*args, str(folder)])
    assert stopped.value.code == 2 and 'holds the notebooks that copies are made from' in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@needs_links
def test_a_link_in_the_place_of_a_backup_is_not_followed(tmp_path):
    (tmp_path/'00_data.ipynb').write_text('mine', encoding='utf-8')
    (tmp_path/'00_data.ipynb.bak').symlink_to(tmp_path/'elsewhere')
    assert write_copies(tmp_path, force=True)[0].endswith('00_data.ipynb.bak2')
    assert not (tmp_path/'elsewhere').exists()


@needs_links
@pytest.mark.parametrize('there', [True, False])
def test_a_link_in_the_place_of_a_copy_is_kept_and_not_followed(tmp_path, there):
    "Nothing outside the folder is touched."
    (tmp_path/'copies').mkdir()
    if there: (tmp_path/'mine').write_text('mine', encoding='utf-8')
    (tmp_path/'copies'/'00_data.ipynb').symlink_to(tmp_path/'mine')
    assert write_copies(tmp_path/'copies', force=True)[0].endswith('00_data.ipynb.bak')
    assert (tmp_path/'mine').exists() == there and not (tmp_path/'copies'/'00_data.ipynb').is_symlink()
    if there: assert (tmp_path/'mine').read_text(encoding='utf-8') == 'mine'
    assert os.readlink(tmp_path/'copies'/'00_data.ipynb.bak') == str(tmp_path/'mine')


def test_eight_at_once_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr('mnist_sgd.practice.walk', lambda found=dict(list(walk().items())[:2]): found)
    monkeypatch.setattr('mnist_sgd.practice.practice_copy', lambda nb, name: COPIES[name]) # Python 3.11 cannot parse in two threads
    for attempt in range(5):
        folder = tmp_path/str(attempt)
        folder.mkdir()
        for name in NAMES[:2]: (folder/f'{name}.ipynb').write_text(f'what I wrote in {name}', encoding='utf-8')
        with ThreadPoolExecutor(8) as pool: said = list(pool.map(write_copies, [folder]*8, [True]*8))
        assert [len(lines) for lines in said] == [2]*8
        kept = [path.read_text(encoding='utf-8') for path in folder.glob('*.bak*')]
        for name in NAMES[:2]:
            assert kept.count(f'what I wrote in {name}') == 1
            assert json.loads((folder/f'{name}.ipynb').read_text(encoding='utf-8')) == COPIES[name]
        assert '' not in kept


@pytest.mark.slow
def test_the_command_twice_at_once_loses_nothing(tmp_path):
    (tmp_path/'00_data.ipynb').write_text('mine', encoding='utf-8')
    many = [subprocess.Popen([COMMAND, '--force', tmp_path], stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in many] == [0, 0]
    assert [path.read_text(encoding='utf-8') for path in tmp_path.glob('*.bak*')].count('mine') == 1


def test_what_a_learner_saves_while_a_copy_is_made_is_kept_too(tmp_path, monkeypatch):
    def saved_meanwhile(nb, name):
        (tmp_path/f'{name}.ipynb').write_text('saved', encoding='utf-8')
        return practice_copy(nb, name)
    monkeypatch.setattr('mnist_sgd.practice.practice_copy', saved_meanwhile)
    assert write_copies(tmp_path)[0] == '00_data.ipynb: written, the old one is 00_data.ipynb.bak'
    assert (tmp_path/'00_data.ipynb.bak').read_text(encoding='utf-8') == 'saved'


def test_a_copy_that_cannot_be_written_leaves_the_old_one_in_its_place(tmp_path, monkeypatch):
    def full(path, write): raise ValueError('the disk is full')
    (tmp_path/'00_data.ipynb').write_text('mine', encoding='utf-8')
    monkeypatch.setattr('mnist_sgd.storage.write_file', full)
    with pytest.raises(ValueError, match='the disk is full'): write_copies(tmp_path, force=True)
    assert {path.name: path.read_text(encoding='utf-8') for path in tmp_path.iterdir()} == {'00_data.ipynb': 'mine'}


def test_a_folder_in_the_place_of_a_copy_is_left_as_it_is(tmp_path):
    (tmp_path/'00_data.ipynb').mkdir()
    with pytest.raises(ValueError, match='cannot keep .*00_data.ipynb as a backup .*; it is left as it is'): write_copies(tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ['00_data.ipynb']


def test_a_function_in_a_cell_that_is_exported_for_insiders_can_be_asked_for():
    assert 'tests-double' in copied((DOUBLE[0].replace('export', 'exporti'), {}), TESTS)


def test_force_keeps_every_old_copy(tmp_path):
    first = tmp_path/'00_data.ipynb'
    for text in ('old', 'older'):
        first.write_text(text, encoding='utf-8')
        said = write_copies(tmp_path, force=True)
    assert said[0] == '00_data.ipynb: written, the old one is 00_data.ipynb.bak2'
    assert [(tmp_path/f'00_data.ipynb.bak{n}').read_text(encoding='utf-8') for n in ('', 2)] == ['old', 'older']
    assert json.loads(first.read_text(encoding='utf-8')) == COPIES['00_data']
    assert not list(tmp_path.glob('*.partial'))


def damage(folder, name, change):
    "Rewrite a copy that is done, after `change` of its JSON."
    path = folder/f'{name}.ipynb'
    nb = json.loads(path.read_text(encoding='utf-8'))
    change(nb)
    path.write_text(json.dumps(nb), encoding='utf-8')


def row_of(folder, name): return next(row for row in score(folder) if row['notebook'] == name)


def cell_of(nb, id): return next(cell for cell in nb['cells'] if cell['id'] == id)


def test_score_of_a_deleted_cell(copies):
    damage(copies, '00_data', lambda nb: nb['cells'].remove(cell_of(nb, 'minus')))
    row = row_of(copies, '00_data')
    assert (row['right'], row['asked'], row['notes']) == (8, 9, 'cells gone: 1')
    assert f'{TOTAL - 1} of {TOTAL} done, ' in score_table(score(copies)) and '(gone)' in score_table(score(copies))


def test_score_of_a_cell_that_stopped(copies):
    def stop(nb):
        cell_of(nb, 'minus')['outputs'] = [{'output_type': 'error', 'ename': 'SyntaxError', 'evalue': '', 'traceback': []}]
    damage(copies, '00_data', stop)
    row = row_of(copies, '00_data')
    assert (row['answered'], row['right'], row['notes']) == (8, 8, 'cells stopped by an error: 1')


def test_score_of_a_renamed_copy_and_of_files_that_are_none(copies):
    (copies/'00_data.ipynb').rename(copies/'tuesday.ipynb')
    (copies/'own.ipynb').write_text(json.dumps({'cells': [], 'metadata': {}, 'nbformat': 4, 'nbformat_minor': 5}), encoding='utf-8')
    (copies/'half.ipynb').write_text('{', encoding='utf-8')
    (copies/'folder.ipynb').mkdir()
    (copies/'notes.txt').write_text('hello', encoding='utf-8')
    row = row_of(copies, '00_data')
    assert (row['right'], row['notes']) == (9, 'is called tuesday.ipynb')
    assert len(score(copies)) == len(NAMES)


@needs_pipes
def test_score_does_not_wait_for_a_pipe(copies):
    os.mkfifo(copies/'pipe.ipynb')
    assert len(score(copies)) == len(NAMES)


@pytest.mark.parametrize('content', [b'', b'{"cells": [', b'[]', b'{}', b'\xff\xfe', b'3', b'{"cells": [], "metadata": null}',
                                     b'{"cells": 3, "metadata": {"mnist_sgd": {"practice": "00_data"}}}',
                                     b'{"worksheets": [{"cells": []}], "metadata": {}, "nbformat": 3}'])
def test_score_names_a_copy_that_cannot_be_read(copies, content):
    (copies/'00_data.ipynb').write_bytes(content)
    rows = score(copies)
    assert [row['notes'] for row in rows] == ['cannot be read as a notebook'] + ['']*(len(NAMES) - 1)
    assert rows[0]['right'] == 0 and f"{TOTAL - len(TASKS['00_data'])} of {TOTAL} done, " in score_table(rows)


def test_score_passes_over_what_is_no_cell(copies):
    def spoil(nb):
        nb['cells'][:0] = [None, 3, [], {}, {'source': None}, {'source': 3, 'outputs': 3}]
        nb['cells'].append({'cell_type': 'code', 'source': ['%%tests ', 'show_image\n'], 'outputs': ['right:', {'data': {'text/plain': None}}]})
    damage(copies, '00_data', spoil)
    assert row_of(copies, '00_data')['right'] == 9


def test_score_takes_the_best_of_several(copies, begun):
    (copies/'00_data-Copy1.ipynb').write_bytes((begun/'00_data.ipynb').read_bytes())
    def again(nb): # a cell that was copied, and answered wrong above the right one
        wrong = json.loads(json.dumps(cell_of(nb, 'minus')).replace("check('", 'check(\\"').replace("minus',", 'minus\\",'))
        wrong['outputs'][0]['data']['text/plain'] = 'wrong:'
        nb['cells'].insert(0, wrong)
    damage(copies, '00_data', again)
    row = row_of(copies, '00_data')
    assert (row['asked'], row['right'], row['notes']) == (9, 9, '00_data-Copy1.ipynb is another copy')


@pytest.mark.parametrize('metadata', [{'mnist_sgd': {'practice': '00_data'}}, {}])
def test_score_of_a_copy_of_the_first_edition(copies, metadata):
    damage(copies, '00_data', lambda nb: nb.update(metadata=metadata))
    before = (copies/'00_data.ipynb').read_bytes()
    row = row_of(copies, '00_data')
    assert (row['asked'], row['answered'], row['written'], row['mended'], row['begun']) == (9, 0, 0, 0, False)
    assert row['notes'] == 'written by the first edition; write a new copy with --force, which keeps this one'
    assert (copies/'00_data.ipynb').read_bytes() == before
    (copies/'00_data.ipynb').rename(copies/'00_old.ipynb')
    write_copy(copies, '00_data', 'right')
    row = row_of(copies, '00_data') # a new copy beside it counts
    assert (row['right'], row['notes']) == (9, '00_old.ipynb is another copy' if metadata else '')


def test_score_of_a_folder_without_copies(tmp_path, capsys):
    (tmp_path/'own.ipynb').write_text('{', encoding='utf-8')
    for folder in (tmp_path, next(iter(walk().values())).parent):
        with pytest.raises(ValueError, match='there is no practice copy in'): score(folder)


def test_score_of_a_missing_copy(copies):
    (copies/'00_data.ipynb').unlink()
    assert row_of(copies, '00_data')['notes'] == 'no copy in this folder'


def test_score_with_an_infinite_value_and_odd_outputs(copies):
    def odd(nb):
        outputs = cell_of(nb, 'minus')['outputs']
        outputs[0]['data']['text/plain'] = ['right:\n', 'Your guess: `inf`.']
        outputs[0]['data']['number'] = math.inf # json writes Infinity, and reads it
        cell_of(nb, 'slice_shape')['outputs'] = None
        cell_of(nb, 'second_file')['outputs'] = [{'output_type': 'stream', 'name': 'stdout', 'text': 'right:'}]
    damage(copies, '00_data', odd)
    assert (row_of(copies, '00_data')['right'], row_of(copies, '00_data')['notes']) == (7, '')


def test_table_says_what_to_look_at_next(begun, copies):
    table = score_table(score(begun)).splitlines()
    assert table[0].split() == ['notebook', 'asked', 'answered', 'right', 'to', 'write', 'written', 'to', 'mend', 'mended']
    assert [line.split()[0] for line in table[1:len(NAMES) + 2]] == [*NAMES, 'all'] and f'0 of {TOTAL} done, 0%.' in table
    assert table[-4] == 'Look at next, in 00_data:' and table[-3].endswith('Write a list. (open)')
    damage(copies, '03_linear_model', lambda nb: cell_of(nb, 'tests-calc_grad').update(outputs=[]))
    assert score_table(score(copies)).endswith('Look at next, in 03_linear_model:\n  write calc_grad (not run yet)')
    for name in NAMES[:2]: write_copy(copies, name)
    assert 'Look at next, in 03_linear_model:' in score_table(score(copies)) # not in one that is not begun


def run(*args): return subprocess.run([COMMAND, *map(str, args)], capture_output=True, text=True)


def test_command(tmp_path):
    first = run(tmp_path/'a'/'b')
    assert first.returncode == 0 and first.stderr == '' and first.stdout.count(': written') == len(NAMES)
    again = run(tmp_path/'a'/'b')
    assert again.returncode == 0 and again.stdout.count('left as it is') == len(NAMES)
    scored = run('--score', tmp_path/'a'/'b')
    assert scored.returncode == 0 and f'0 of {TOTAL} done' in scored.stdout and scored.stderr == ''


def test_help_is_short():
    help = run('--help').stdout
    assert len(help.splitlines()) <= 10
    assert help.startswith('usage: mnist_sgd_practice [-h] [--force | --score] DEST\n')
    for word in ('folder DEST', '--force ', '--score ', '.bak'): assert word in help


@pytest.mark.parametrize('args, message', [
    (['--score', 'nowhere'], 'nowhere is not a folder'), (['--score', '.'], 'there is no practice copy in .'),
    (['--score', '--force', '.'], 'not allowed with'), ([], 'required: DEST'), ([''], "must be a folder, got ''"), (['a-file'], 'cannot make the folder a-file'),
    (['a-file/b'], 'cannot make the folder a-file/b')])
def test_bad_options_cost_a_sentence(tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    Path('a-file').write_text('mine', encoding='utf-8')
    with pytest.raises(SystemExit) as stopped: main(args)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == '' and Path('a-file').read_text(encoding='utf-8') == 'mine'


def test_a_folder_in_the_place_of_a_copy_is_left_as_it_is(tmp_path, capsys):
    (tmp_path/'00_data.ipynb').mkdir()
    assert write_copies(tmp_path)[0] == '00_data.ipynb: is there already, left as it is'
    with pytest.raises(SystemExit) as stopped: main(['--force', str(tmp_path)])
    assert stopped.value.code == 2 and '00_data.ipynb as a backup' in capsys.readouterr().err
    assert (tmp_path/'00_data.ipynb').is_dir() and not list(tmp_path.glob('*.bak*'))
    assert row_of(tmp_path, '00_data')['notes'] == 'cannot be read as a notebook'


def test_what_was_written_before_a_failure_is_said(tmp_path, capsys):
    (tmp_path/'02_manual_sgd.ipynb').mkdir()
    with pytest.raises(SystemExit): main(['--force', str(tmp_path)])
    assert capsys.readouterr().out == '00_data.ipynb: written\n01_pixel_similarity.ipynb: written\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == [f'{name}.ipynb' for name in NAMES[:3]]


def test_the_text_none_is_a_text_unless_an_exception_is_asked_for():
    assert grade('None', 'None').status == 'right' and grade('None', 'no').status == 'wrong'
    assert grade('None', None).status == grade(None, None).status == grade('KeyError', KeyError()).status == 'right'
    assert grade('None', KeyError()).status == 'wrong'


def test_a_walk_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr('mnist_sgd.practice.files', lambda name: tmp_path/name)
    with pytest.raises(ValueError, match='^the notebooks of the walk are missing; install mnist_sgd again$'): walk()


def test_a_table_is_as_wide_as_its_longest_name():
    rows = [{'notebook': name, 'notes': '', 'left': {}, 'begun': True} | dict.fromkeys(mnist_sgd.practice._COLUMNS, 1) for name in ('00', '00_a_long_name')]
    lines = score_table(rows).splitlines()
    assert lines[1].index('1') == lines[2].index('1') == len('00_a_long_name') + 11


def test_a_folder_in_a_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr('mnist_sgd.practice.walk', lambda found=dict(list(walk().items())[:1]): found)
    assert write_copies(tmp_path/'a'/'b') == ['00_data.ipynb: written']


def test_a_misprint_says_how_it_shows():
    texts = [''.join(cell['source']) for copy in COPIES.values() for cell in copy['cells']]
    said = [text for text in texts if text.startswith('**Mend this.**')]
    assert {text.rpartition('. ')[2] for text in said} == {'Run it and read the message.', 'It runs, but it is wrong.'}


def test_a_repair_may_record_another_operation():
    assert try_repair('53', 'tensor(3.).requires_grad_()*3').status == 'right' # MulBackward0, where the notes have PowBackward0
    assert try_repair('53', 'tensor(3.).requires_grad_()*2').status == 'wrong'


def test_a_misprint_as_it_stands_is_open():
    verdict = try_repair('53', mnist_sgd.practice._misprint('53')[1])
    assert (verdict.status, verdict.lines[0]) == ('open', 'So it stands in the notes.')
