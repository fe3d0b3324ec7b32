"""Every notebook as it is saved, and as a practice copy; what is made from them; and the comparison that this rests on.

Slow cells are left out of the everyday run; `make test-slow` runs and compares them, too.
"""
import ast, io, json, re, shutil, subprocess, sys
from base64 import b64decode, b64encode
from copy import deepcopy
from pathlib import Path
from struct import pack

import nbformat
import pytest
from PIL import Image

from notebooks import NBS, changes, differences, figures_without_alt, parts, run_notebook, same
from practice_answers import BODIES, COPIES, TASKS, fill, slow_cells
from mnist_sgd.practice import score

ROOT = NBS.parent
# the longest first, so that the two cores end together
LONGEST = '96_answers', '06_neural_net', '10_many_workers', '09_speed', '08_all_digits', '91_replay', '07_learner_from_scratch'


def longest_first(names): return sorted(names, key=lambda name: (LONGEST + (name,)).index(name))


@pytest.fixture
def slow_too(pytestconfig): return 'not slow' not in pytestconfig.option.markexpr


@pytest.mark.pinned
@pytest.mark.slow_cells
@pytest.mark.parametrize('name', longest_first(path.stem for path in NBS.glob('*.ipynb')))
def test_notebook_shows_what_is_saved_in_it(name, slow_too):
    found = changes(NBS/f'{name}.ipynb', slow_too)
    if found: pytest.fail('\n'.join(found), pytrace=False)


def run_copy(name, learner, folder, slow_too):
    "A practice copy, filled in and run to the end."
    nb = fill(name, learner, slow_too)
    run_notebook(nb, folder)
    return nb


def score_of(name, nb, folder):
    "Its row in the score, and {cell id: the text of its verdict}."
    nbformat.write(nb, folder/f'{name}.ipynb')
    verdicts = {cell.id: output.data['text/plain'] for cell in nb.cells if cell.cell_type == 'code' for output in cell.outputs
                if output.get('data', {}).get('text/plain', '').startswith(('right:', 'wrong:', 'open:'))}
    return next(row for row in score(folder) if row['notebook'] == name), verdicts


def blank_part(nb):
    "The copy as it was when all was left blank, and as it is now."
    again = {cell.id.removesuffix('-blank') for cell in nb.cells if cell.id.endswith('-blank')}
    blank, done = deepcopy(nb), deepcopy(nb)
    blank.cells = [cell for cell in blank.cells if cell.id not in again]
    for cell in blank.cells: cell.id = cell.id.removesuffix('-blank')
    done.cells = [cell for cell in done.cells if not cell.id.endswith('-blank')]
    return blank, done


def check_right(name, nb, folder, slow_too):
    row, _ = score_of(name, nb, folder)
    left_out = slow_cells(name, slow_too)
    asked, written = ([task for task in TASKS[name] if task.kind == kind and task.name not in left_out]
                      for kind in ('predict', 'write'))
    assert row['answered'] == row['right'] == len(asked) >= (3 if name > '11' and not slow_too else 8) # the rest needs trained models there
    assert row['written'] == len(written) >= (0 if name < '01' else 3)
    assert row['mended'] == row['to mend'] >= (2 if name < '06' else 0) # the notes have no more
    if slow_too: assert not row['notes'] and not row['left']


def check_blank(name, nb, folder):
    "It scores nothing and reveals nothing."
    row, verdicts = score_of(name, nb, folder)
    assert (row['answered'], row['right'], row['written'], row['mended'], row['notes']) == (0, 0, 0, 0, '')
    for task in TASKS[name]:
        if task.kind == 'predict': assert verdicts[task.name] == 'open:\nPut your guess in place of the dots and run the cell again.'
        if task.kind != 'write': continue
        verdict = verdicts[f'tests-{task.name}']
        assert verdict.startswith(f'open:\nThere is no `{task.name}` of yours to test.')
        assert verdict.endswith(f"goes on with the library's `{task.name}`.")


@pytest.mark.slow_cells
@pytest.mark.parametrize('name', longest_first(COPIES))
def test_practice_copy_done_right(name, slow_too, tmp_path):
    "In the full run by a learner who first runs each question and each function left blank."
    if not slow_too: return check_right(name, run_copy(name, 'right', tmp_path, slow_too), tmp_path, slow_too)
    blank, done = blank_part(run_copy(name, 'right after blank', tmp_path, slow_too))
    check_blank(name, blank, tmp_path)
    check_right(name, done, tmp_path, slow_too)


@pytest.mark.slow
@pytest.mark.parametrize('name', longest_first(COPIES))
def test_practice_copy_done_wrong_is_told_the_true_value_and_what_does_not_hold(name, tmp_path):
    row, verdicts = score_of(name, run_copy(name, 'wrong', tmp_path, slow_too=True), tmp_path)
    assert row['answered'] == row['asked'] and (row['right'], row['written'], row['mended'], row['notes']) == (0, 0, 0, '')
    for task in TASKS[name]:
        if task.kind != 'predict': continue
        assert verdicts[task.name].startswith('wrong:\nYour guess: `') and '`. The true value: `' in verdicts[task.name]
        assert verdicts[task.name].endswith('The reason is below.')
    for function, (_, _, says) in BODIES[name].items():
        verdict = verdicts[f'tests-{function}']
        assert verdict.startswith('wrong:\nThis does not hold yet:\n') and says in verdict, f'{function}: {verdict}'
        assert verdict.endswith(f"The notebook goes on with the library's `{function}`.")


def cells(*sources): return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def test_two_notebooks_of_one_run_do_not_see_each_other(tmp_path):
    look = """import os, random, sys, matplotlib
print('left' in globals(), 'wave' in sys.modules, random.getstate() == random.Random(7).getstate(),
      matplotlib.rcParams['figure.dpi'] == 7, 'LEFT' in os.environ)"""
    first = cells("import matplotlib, os, random, wave\nleft = 1\nos.environ['LEFT'] = '1'\nrandom.seed(7)\n"
                  "matplotlib.rcParams['figure.dpi'] = 7", look)
    second = cells(look)
    for nb in (first, second): run_notebook(nb, tmp_path)
    assert first.cells[-1].outputs[0].text == 'True True True True True\n'
    assert second.cells[-1].outputs[0].text == 'False False False False False\n'


def test_a_failure_names_notebook_cell_and_what_differs(tmp_path):
    nb = cells('print(0.9511)', '#| slow\nprint(missing)', '# a comment\n1/0', 'print(missing)')
    for cell, text in zip(nb.cells, ('0.9697', 'kept', '', '')):
        cell.outputs = [nbformat.v4.new_output('stream', text=text)] if text else []
    nbformat.write(nb, tmp_path/'a.ipynb')
    assert changes(tmp_path/'a.ipynb') == ['a.ipynb, cell 0 (print(0.9511)): saved 0.9697, now 0.9511',
                                           'a.ipynb, cell 2 (# a comment): saved nothing more, now ZeroDivisionError: division by zero']
    _, slow = changes(tmp_path/'a.ipynb', slow_too=True)
    assert slow == "a.ipynb, cell 1 (print(missing)): saved kept, now NameError: name 'missing' is not defined"


def command(name): return Path(sys.executable).with_name(name)


def contents(folder): return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def checkout(tmp_path):
    "A copy of what nbdev's commands read and write."
    shutil.copy(ROOT/'settings.ini', tmp_path)
    for folder in ('nbs', 'mnist_sgd'):
        shutil.copytree(ROOT/folder, tmp_path/folder, ignore=shutil.ignore_patterns('__pycache__', '.*', 'images'))
    return tmp_path


@pytest.mark.pinned
def test_export_and_clean_change_nothing(checkout):
    before = {folder: contents(checkout/folder) for folder in ('nbs', 'mnist_sgd')}
    for module in (checkout/'mnist_sgd').glob('*.py'):
        if module.name != '__init__.py': module.unlink()
    subprocess.run([command('nbdev_export')], cwd=checkout, check=True)
    subprocess.run([command('nbdev_clean')], cwd=checkout, check=True)
    for folder, files in before.items():
        after = contents(checkout/folder)
        assert sorted(after) == sorted(files)
        assert [name for name in files if after[name] != files[name]] == [], f'run nbdev_export and nbdev_clean on {folder}'


@pytest.mark.pinned
def test_readme_is_made_from_the_front_page():
    from readme import readme
    text, figures = readme()
    assert text == (ROOT/'README.md').read_text(encoding='utf-8'), 'run make readme'
    for name, png in figures.items(): assert png == (ROOT/name).read_bytes(), 'run make readme'
    assert list(figures) == [f'nbs/images/{name}.png' for name in ('walls', 'walls_ten', 'weights', 'net', 'climb')]


@pytest.mark.pinned
def test_each_figure_of_the_front_page_has_a_name_and_words_of_its_own(tmp_path):
    from readme import readme
    nb = cells('draw()', 'draw(again)')
    for cell, name in zip(nb.cells, ('climb', 'wall')):
        cell.outputs = [nbformat.from_dict(png(10, 10) | {'output_type': 'display_data', 'metadata': {}})]
        cell.metadata = nbformat.from_dict({'mnist_sgd': {'figure': name}, 'mystnb': {'image': {'alt': f'the {name}'}}})
    nbformat.write(nb, tmp_path/'index.ipynb')
    text, figures = readme(tmp_path/'index.ipynb')
    assert list(figures) == ['nbs/images/climb.png', 'nbs/images/wall.png']
    for name in ('climb', 'wall'): assert f'![the {name}](nbs/images/{name}.png)' in text


# those in the second edition's form; 09 and 10 are still to come
SECOND = sorted(path.stem for path in NBS.glob('*.ipynb') if not path.stem.startswith(('09', '10')))


@pytest.mark.parametrize('name', SECOND)
def test_every_figure_has_words_for_those_who_cannot_see_it(name):
    assert figures_without_alt(nbformat.read(NBS/f'{name}.ipynb', as_version=4)) == []


def test_a_figure_without_words_is_named():
    nb = cells('draw()', '#| slow\ndraw(again)', 'print(1)')
    for cell in nb.cells[:2]: cell.outputs = [nbformat.from_dict(png(10, 10))]
    nb.cells[0].metadata['mystnb'] = {'image': {'alt': 'what is seen'}}
    assert figures_without_alt(nb) == ['draw(again)']
    nb.cells[0].metadata['mystnb']['image']['alt'] = ' '
    assert figures_without_alt(nb) == ['draw()', 'draw(again)']


@pytest.mark.parametrize('name', SECOND)
def test_a_cell_imports_or_does_something_else(name):
    "nbdev's documentation runs the cells that import, alone."
    for cell in nbformat.read(NBS/f'{name}.ipynb', as_version=4).cells:
        if cell.cell_type != 'code': continue
        imports = [isinstance(s, (ast.Import, ast.ImportFrom)) for s in ast.parse(cell.source).body]
        assert all(imports) or not any(imports), cell.source


@pytest.mark.parametrize('name', [name for name in SECOND if name < '09'])
def test_a_lesson_has_its_head_its_words_and_its_questions(name):
    texts = [cell.source for cell in nbformat.read(NBS/f'{name}.ipynb', as_version=4).cells if cell.cell_type == 'markdown']
    title, summary, head = texts[0].split('\n\n')[:3]
    assert title.startswith('# ') and summary.startswith('> ') and head.startswith('*About ') and 'Next: [' in head.replace('\n', ' ')
    assert '| new word | what it means |' in texts[-1] and texts[-1].splitlines()[-1].startswith('Next: [')
    assert 5 <= len(re.findall(r'^\d+\. ', texts[-1].partition('### Questions')[2], re.M)) <= 10


def test_every_question_at_an_end_has_its_answer():
    def plain(text): return ' '.join(text.replace('*', '').split()) # in the answers a question stands in italics
    asked, answered, file = {}, {}, None
    for path in NBS.glob('[0-9]*.ipynb'):
        texts = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == 'markdown']
        if path.stem == '96_answers':
            for text in texts:
                if heading := re.match(r'## \[.*\]\((.*)\)', text): file = heading[1]
                if answer := re.match(r'\*\*(\d+)\.\*\* (.*)', text): answered[file, int(answer[1])] = plain(answer[2])
            continue
        ends = [part for text in texts for part in re.split('^### (?:Questions|To try yourself)$', text, flags=re.M)[1:]]
        for number, question in re.findall(r'^(\d+)\. (.*(?:\n(?!\d+\. |\n).*)*)', '\n'.join(ends), re.M): asked[path.name, int(number)] = plain(question)
    assert asked == answered and len(asked) > 80


@pytest.mark.parametrize('name, frames', [('02_manual_sgd', 14), ('03_linear_model', 14)])
def test_a_moving_picture_is_small_and_rests_on_its_last_frame(name, frames):
    nb = nbformat.read(NBS/f'{name}.ipynb', as_version=4)
    data, = [output.data['image/png'] for cell in nb.cells if cell.cell_type == 'code' and 'moving_picture(' in cell.source
             for output in cell.outputs]
    png = b64decode(data)
    assert len(png) < 400_000 and b'acTL' in png
    image = Image.open(io.BytesIO(png))
    assert image.default_image and image.n_frames == frames + 1 and image.info['loop'] == 3
    shown = image.convert('RGB').tobytes() # by viewers that do not play it
    image.seek(1)
    assert image.convert('RGB').tobytes() != shown
    image.seek(frames)
    assert image.convert('RGB').tobytes() == shown


def stream(text, name='stdout'): return {'output_type': 'stream', 'name': name, 'text': text}


def result(**data): return {'output_type': 'execute_result', 'data': {f"{k.replace('_', '/')}": v for k, v in data.items()}}


def png(width, height):
    return result(image_png=b64encode(b'\x89PNG\r\n\x1a\n' + bytes(8) + pack('>II', width, height)).decode(),
                  text_plain='<Figure size 800x320 with 1 Axes>')


def notebook(*outputs, tags=()):
    cell = {'cell_type': 'code', 'metadata': {'tags': list(tags)}, 'source': '#| export\naccuracy(model)', 'outputs': list(outputs)}
    return {'cells': [{'cell_type': 'markdown', 'source': 'text'}, cell]}


def compare(before, after): return differences('nb.ipynb', notebook(before), notebook(after))


@pytest.mark.parametrize('before, after, first', [
    (stream('accuracy 0.9511'), stream('accuracy 0.9531'), 'saved 0.9511, now 0.9531'),
    (result(text_plain='tensor([-11.1002,   5.9263])'), result(text_plain='tensor([-11.1002,   5.9463])'),
     'saved 5.9263, now 5.9463'),
    (result(text_plain='(6131, 6265)'), result(text_plain='(6131, 6266)'), 'saved 6265, now 6266'),
    (result(text_plain='1.5e-05'), result(text_plain='1.5e+05'), 'saved 1.5e-05, now 1.5e+05'),
    (result(text_plain='0.25'), result(text_plain='nan'), 'saved 0.25, now nan'),
    (result(text_plain='True'), result(text_plain='False'), 'saved True, now False'),
    (result(text_html='<td>1.20</td>', text_plain='<Styler>'), result(text_html='<td>1.21</td>', text_plain='<Styler>'),
     'saved 1.20, now 1.21'),
    (png(700, 300), png(700, 310), 'saved a figure of 700 x 300 pixels, now a figure of 700 x 310 pixels'),
    (png(700, 300), stream(''), 'saved a figure of 700 x 300 pixels, now nothing more'),
    (stream(''), png(700, 300), 'saved nothing more, now a figure of 700 x 300 pixels'),
    (stream('3.5'), {'output_type': 'error', 'ename': 'NameError', 'evalue': "name 'x' is not defined"},
     "saved 3.5, now NameError: name 'x' is not defined")])
def test_a_changed_output_is_seen_and_its_cell_is_named(before, after, first):
    line, = compare(before, after)
    assert line == f'nb.ipynb, cell 1 (accuracy(model)): {first}'


@pytest.mark.parametrize('before, after', [
    (stream('loss 0.5006'), stream('loss 0.5010')),
    (stream('loss 1234.5'), stream('loss 1235.0')),
    (stream('2.68 s from files, 0.075 s at once'), stream('3.1 s from files, 0.1 s at once')),
    (stream('epoch 0 00:00'), stream('epoch 0 00:01')),
    (stream('data in /some/where/mnist_sgd/sample, 14434 files'), stream('data in ~/me/cache/sample, 14434 files')),
    (stream('step  epochs  seconds\nlinear  21  0.33\n\nepochs 20'), stream('step  epochs  seconds\nlinear  21  0.52\n\nepochs 20')),
    (stream('10%', 'stderr'), stream('a warning', 'stderr')),
    (result(text_html='<style>#T_1{}</style><td id="T_1">7</td>'), result(text_html='<style>#T_2{}</style><td id="T_2">7</td>')),
    (result(text_plain='tensor([ 1.00,  2.00])'), result(text_plain='tensor([1.00, 2.00])'))])
def test_what_may_differ_is_left_out(before, after): assert compare(before, after) == []


def test_only_the_seconds_of_a_table_are_left_out():
    table = 'step  epochs  accuracy  seconds\nlinear  21  0.9697  0.33\n\nthe notes: 0.9696'
    assert len(compare(stream(table), stream(table.replace('0.9697', '0.9597')))) == 1
    assert len(compare(stream(table), stream(table.replace('0.9696', '0.9596')))) == 1
    assert len(compare(stream(table), stream(table.replace('21', '22')))) == 1
    narrow = 'step accuracy seconds\nlinear 0.9697 0.33'
    assert len(compare(stream(narrow), stream(narrow.replace('0.9697', '0.9597')))) == 1


def test_what_a_long_training_gave_may_differ_a_little_and_other_numbers_may_not():
    def differs(before, after, tags=['trained']):
        return differences('nb', *(notebook(stream(text), tags=tags) for text in (before, after)))
    assert not differs('0.9937 of 10,000: 70', '0.9926 of 10,000: 74')
    assert differs('0.9937', '0.9726') and differs('70', '100') and differs('0.9937', '0.9926', [])


def test_of_what_is_measured_only_the_words_and_the_sizes_of_figures_count():
    def differs(before, after): return differences('nb', *(notebook(o, tags=['measured']) for o in (before, after)))
    assert not differs(stream('0.3 of the time, 41 images'), stream('0.5 of the time, 52 images'))
    assert differs(stream('0.3 of the time'), stream('0.3 of the memory')) and differs(stream('0.3'), stream('nan'))
    assert differs(stream('0.3'), stream('0.3 0.4')) and differs(png(10, 10), png(10, 11))


def test_parts_keep_signs_and_exponents_and_leave_names_whole():
    assert parts('x2 = -0.0008, 1e-3; mean3 -5 a/b') == ['x2', '=', '-0.0008', ',', '1e-3', ';', 'mean3', '-5', 'a/b']


def test_numbers_at_the_edge_of_the_tolerance():
    assert same('0.5000', '0.5004') and not same('0.5000', '0.5006')
    assert same('10.00', '10.009') and not same('10.00', '10.02')
    assert same('7', '7') and not same('7', '8') and not same('7', None)


def test_a_missing_output_is_seen():
    before = notebook(stream('one'), png(10, 10))
    after = deepcopy(before)
    after['cells'][1]['outputs'].pop()
    assert differences('nb', before, after) and differences('nb', after, before)
