"""Run a notebook afresh and compare what it shows with the outputs that are saved in it.

Words must be the same, whole numbers too; other numbers within 1e-3 of themselves or 5e-4; figures must have the same
size. Durations, paths and the error stream (progress bars, warnings) are left out. In a cell with the tag `measured`, which
shows times, rates or ratios of times, any number is as good as another. A cell with the tag `trained` shows what a training
on 60,000 images gave, which a processor's own rounding moves a little: there 0.003 may lie between two numbers, and a
fifth between two whole numbers, and a figure may be higher, for a wall of mistakes has a row more or less.
"""
import math, os, re
from base64 import b64decode
from copy import deepcopy
from html import unescape
from itertools import zip_longest
from pathlib import Path
from struct import unpack

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import warm_kernels

warm_kernels.use()
NBS = Path(__file__).parents[1]/'nbs'
MOST = 5 # differences that are told of a notebook

NUMBER = re.compile(r'(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?')
DURATION = re.compile(r'\b\d+(?:\.\d+)? ?(?:s|ms|µs|ns|min|h)\b|\b\d\d:\d\d(?::\d\d)?\b')
PATH = re.compile(r'(?<![\w.)\]/])~?/(?:[\w.@+-]+/)+[\w.@+-]*')


def without_seconds(text):
    "The text without the last column of each table that is headed 'seconds'."
    lines, in_table = [], False
    for line in text.splitlines():
        if line.rstrip().endswith(' seconds'): in_table = True
        elif not line.strip(): in_table = False
        elif in_table: line = line.rpartition(' ')[0]
        lines.append(line)
    return '\n'.join(lines)


def text_of(output):
    "What an output shows as text: of a table in HTML the words and numbers in it."
    data = output.get('data', {})
    html = data.get('text/html')
    if html is None: return output.get('text', data.get('text/plain', ''))
    return unescape(re.sub(r'<style.*?</style>|<[^>]*>', ' ', html, flags=re.DOTALL))


def parts(text):
    "The text as a list of words and numbers, durations and paths left out."
    text = DURATION.sub('DURATION', PATH.sub('PATH', without_seconds(text)))
    found, end = [], 0
    for match in NUMBER.finditer(text):
        found += [*text[end:match.start()].split(), match.group()]
        end = match.end()
    return found + text[end:].split()


def same(saved, now, tags=()):
    "Whether two words or numbers are the same, as far as it has to be; None stands for no more words."
    if 'trained' in tags and saved and now and saved.startswith('a figure of'): return saved.partition(' x ')[0] == now.partition(' x ')[0]
    if not (saved and now and NUMBER.fullmatch(saved) and NUMBER.fullmatch(now)): return saved == now
    if 'measured' in tags: return True
    trained = 'trained' in tags
    if not any(c in saved + now for c in '.e'): return int(saved) == int(now) or trained and math.isclose(int(saved), int(now), rel_tol=.2)
    if trained: return math.isclose(float(saved), float(now), abs_tol=3e-3)
    return math.isclose(float(saved), float(now), rel_tol=1e-3, abs_tol=5e-4)


def shown(outputs):
    "What a cell's outputs show, as a list of words, numbers and sizes of figures."
    found = []
    for output in outputs:
        if output.get('name') == 'stderr': continue
        png = output.get('data', {}).get('image/png')
        if output['output_type'] == 'error': found.append(f"{output['ename']}: {output['evalue']}")
        elif png is not None: found.append(figure_size(png))
        else: found += parts(text_of(output))
    return found


def figure_size(png):
    "Words for the size of a PNG, which stands in its first bytes."
    return 'a figure of {} x {} pixels'.format(*unpack('>II', b64decode(png)[16:24]))


def figures_without_alt(nb):
    "The last line of each cell of a notebook that shows a figure and does not say in its metadata what is to be seen in it."
    return [cell.source.splitlines()[-1] for cell in nb.cells if cell.cell_type == 'code'
            and any('image/png' in output.get('data', {}) for output in cell.outputs)
            and not cell.metadata.get('mystnb', {}).get('image', {}).get('alt', '').strip()]


def has_error(cell): return any(output['output_type'] == 'error' for output in cell['outputs'])


def differences(name, saved, now):
    "One line for each cell whose outputs are not those that were saved, up to the first that fails."
    lines = []
    for i, (old, new) in enumerate(zip(saved['cells'], now['cells'], strict=True)):
        if new['cell_type'] != 'code': continue
        for before, after in zip_longest(shown(old['outputs']), shown(new['outputs'])):
            if same(before, after, old['metadata'].get('tags', [])): continue
            source = next(line for line in old['source'].splitlines() if line.strip() and not line.startswith('#|'))
            lines.append(f"{name}, cell {i} ({source[:60]}): saved {before or 'nothing more'}, now {after or 'nothing more'}")
            break
        if has_error(new) and not has_error(old): break # those below it have not run
    return lines[:MOST] + ([f'{name}: {len(lines) - MOST} cells more'] if len(lines) > MOST else [])


def is_slow(cell): return cell['cell_type'] == 'code' and '#| slow' in ''.join(cell['source']).splitlines()


def run_notebook(nb, folder):
    """Run a notebook in place, from top to bottom, in a kernel of its own that works in `folder`. A cell that fails ends it.

    It has one core: two notebooks that run at a time, with two threads each on two cores, would take three times as long.
    """
    env = {name: value for name, value in os.environ.items() if name != 'MPLBACKEND'} | {'OMP_NUM_THREADS': '1'}
    client = NotebookClient(nb, timeout=600, kernel_name='python3', extra_arguments=['--log-level=ERROR'],
                            resources={'metadata': {'path': str(folder)}})
    client.execute(env=env)


def changes(path, slow_too=False):
    "Run a saved notebook afresh; a line for each cell that no longer shows what is saved. Slow cells keep what they have."
    saved = nbformat.read(path, as_version=4)
    now = deepcopy(saved)
    for cell in now.cells:
        if cell.cell_type != 'code': continue
        cell.outputs = []
        if is_slow(cell) and not slow_too: cell.cell_type = 'raw'
    try: run_notebook(now, path.parent)
    except CellExecutionError: pass # the cell shows the error
    return differences(path.name, saved, now)
