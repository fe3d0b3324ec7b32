"""The site's sources: every notebook with its saved outputs, the reference and a page of practice copies. Nothing is executed.

`make site` calls it, and Sphinx makes the pages from what it writes (conf.py).
"""
import ast, json, re, shutil, sys
from base64 import b64decode
from configparser import ConfigParser
from importlib import import_module
from inspect import isclass, unwrap
from pathlib import Path

from fastcore.docments import docments

from mnist_sgd.practice import _PREDICT, _is_test, _parts, _settings, tasks, write_copies

ROOT = Path(__file__).parents[2]
NBS = ROOT/'nbs'
settings = ConfigParser(delimiters=['='])
settings.read(ROOT/'settings.ini', encoding='utf-8')
ADDRESS, BRANCH = settings['DEFAULT']['git_url'].rstrip('/'), settings['DEFAULT']['branch'] # of the repository, if it is set


# the reference

def public():
    "{module: its public names}, in the order of the notebooks."
    found = {}
    for path in sorted(NBS.glob('[0-9]*.ipynb')):
        name = path.stem[3:]
        if (ROOT/'mnist_sgd'/f'{name}.py').exists(): found[name] = import_module(f'mnist_sgd.{name}').__all__
    return {name: names for name, names in found.items() if names}


def function_node(function):
    "The syntax tree of a function or method, found in its module by its qualified name."
    node = ast.parse(Path(function.__code__.co_filename).read_text(encoding='utf-8'))
    for part in function.__qualname__.split('.'):
        node = next(n for n in node.body if getattr(n, 'name', '') == part)
    return node


def parameters_of(node, drop):
    "{name: (kind, default)} as they are written, so that no path of this machine is shown; without the first `drop`."
    def text(part): return ast.unparse(part) if part else ''
    args = node.args
    positional = args.posonlyargs + args.args
    rows = [*zip(positional, [None]*(len(positional) - len(args.defaults)) + args.defaults)][drop:]
    if args.vararg: rows.append((args.vararg, None))
    return {a.arg: (text(a.annotation), text(default)) for a, default in [*rows, *zip(args.kwonlyargs, args.kw_defaults)]}


def cell(text): return text.replace('|', r'\|').replace('\n', ' ') # of a table


def table(node, parameters, comments):
    "The rows of a reference: each parameter with its kind, its default and its comment, and what is returned."
    def kind_of(kind, default): return ' = '.join(filter(None, (kind, default))) if kind or not default else f'= {default}'
    rows = [(f'`{name}`', kind_of(*parameters[name]), comments.get(name, {}).get('docment')) for name in parameters]
    if node.name != '__init__' and node.returns and (kind := ast.unparse(node.returns)) != 'None': rows.append(('returns', kind, comments['return']['docment']))
    rows = [row for row in rows if row[1] or row[2]] # not `learn`, which every callback's method takes
    lines = [f"| {name} | {cell(kind and f'`{kind}`')} | {cell(meaning or '')} |" for name, kind, meaning in rows]
    return ['| name | kind | meaning |', '| --- | --- | --- |', *lines] if lines else []


def described(thing, name, kind):
    "The directive of a function, a class or a method, with its parameters as a table."
    function = unwrap(thing.__init__ if isclass(thing) else thing)
    about = re.split(r'\n\n    \w+: ', thing.__doc__ or '')[0].replace('\n    ', '\n').strip() # without the comments that help() adds
    head, lines = name, ['', about, '']
    if hasattr(function, '__code__'): # a class may have no __init__ of its own
        node = function_node(function)
        parameters = parameters_of(node, kind != 'function') # but not self
        head += f"({', '.join(p + (f'={default}' if default else '') for p, (_, default) in parameters.items())})"
        lines += table(node, parameters, docments(function, full=True, returns=True))
    if isclass(thing):
        for method, its in vars(thing).items():
            if method[0] != '_' and its.__doc__ and hasattr(its, '__code__'): lines += ['', described(its, method, 'method')]
    fence = '::::' if isclass(thing) else ':::'
    return '\n'.join([f'{fence}{{py:{kind}}} {head}', *lines, fence])


def reference(module, names):
    "A page of the reference."
    loaded, notebook = import_module(f'mnist_sgd.{module}'), next(NBS.glob(f'[0-9]*_{module}.ipynb'))
    parts = [f'# mnist_sgd.{module}', loaded.__doc__.strip(), f'Made in the notebook [{title(notebook)}](../{notebook.name}).',
             f'```{{py:module}} mnist_sgd.{module}\n```']
    for name in names:
        thing = getattr(loaded, name)
        if callable(thing): parts.append(described(thing, name, 'class' if isclass(thing) else 'function'))
        else: parts.append(f':::{{py:data}} {name}\n:::')
    return '\n\n'.join(parts) + '\n'


# the notebooks

def texts(nb): return [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'markdown']
def read(path): return json.loads(path.read_text(encoding='utf-8'))
def title(path): return re.match('# (.*)', texts(read(path))[0])[1]
def markdown(text, id): return {'cell_type': 'markdown', 'id': id, 'metadata': {}, 'source': text}


def linked(text, module, names):
    "The text with each word in code that is a public name, or a module, made a link to the reference; once for each name."
    seen = set()
    def link(m):
        word = m[1].removeprefix('mnist_sgd.')
        if m[1] != word and word in names and word not in seen: target = f'{{doc}}`{m[1]} </api/{word}>`'
        else:
            bare = word.removesuffix('()')
            home = module if bare in names.get(module, ()) else next((n for n in names if bare in names[n]), None)
            if home is None or word in seen or m[1] != word: return m[0]
            target = f'{{py:obj}}`{word} <mnist_sgd.{home}.{bare}>`'
        seen.add(word)
        return target
    def outside_code(part): return re.sub(r'(?<![\[`])`([\w.]+(?:\(\))?)`(?![`\]])', link, part)
    lines = re.split(r'(^```.*?^```$|^#[^\n]*$)', text, flags=re.M | re.S) # a fence and a heading stay as they are
    return ''.join(outside_code(part) if i % 2 == 0 else part for i, part in enumerate(lines))


def is_tests(source):
    "Whether each statement is a test."
    try: return all(map(_is_test, ast.parse(source).body))
    except SyntaxError: return False # a magic command


def width_of(output):
    "The pixels of a PNG from left to right, which stand in its first bytes."
    png = ''.join(output.get('data', {}).get('image/png', ''))
    return int.from_bytes(b64decode(png)[16:20], 'big') if png else 0


def linked_output(output):
    "An output whose links to notebooks lead to their pages."
    data = {kind: re.sub(r'href="([\w.]+)\.ipynb', r'href="\1.html', ''.join(text)) if kind == 'text/html' else text for kind, text in output.get('data', {}).items()}
    return output | {'data': data} if data else output


def code_cells(nb_cell, question):
    "A code cell as the site shows it: no directives, tests folded, and what answers a question apart, to be folded with its reason."
    shown, metadata = _parts(nb_cell)[1], nb_cell['metadata']
    if not shown: return []
    tags, prompt = metadata.get('tags', []), 'Code'
    if 'tests' in _settings(nb_cell) or is_tests(shown): tags, prompt = sorted({*tags, 'hide-input'} - {'hide-cell'}), 'Tests'
    mystnb = metadata.get('mystnb', {}) | {'code_prompt_show': prompt, 'code_prompt_hide': prompt}
    if any(width_of(output) > 500 for output in nb_cell['outputs']): mystnb['image'] = mystnb.get('image', {}) | {'classes': 'wide'}
    one = nb_cell | {'source': shown, 'metadata': {'tags': tags, 'mystnb': mystnb}, 'outputs': [*map(linked_output, nb_cell['outputs'])]}
    if not question: return [one]
    asked = one | {'outputs': []}
    answer = one | {'id': one['id'] + '-answer', 'metadata': {'tags': ['remove-input'], 'mystnb': mystnb}}
    return [asked, markdown('<details class="answer"><summary>Answer</summary>', one['id'] + '-open'), answer]


def local(text):
    "The text with its links as the site has them: files that are no pages lead to the repository, if its address is set."
    text = text.replace('(../CHANGELOG.md)', '(changelog.md)')
    text = re.sub(r'\[([^\]]*)\]\(draw\.html\)', r'<a href="draw.html">\1</a>', text) # a page of its own, which Sphinx takes as it is
    text = re.sub(r'\[([^\]]*)\]\(\.\./([^)]*)\)', rf'[\1]({ADDRESS}/blob/{BRANCH}/\2)' if ADDRESS else r'\1', text)
    return re.sub(r'\]\(#([^)]*)\)', lambda m: f'](#{m[1].lower()})', text) # as Sphinx writes an anchor


def offers(path, practice):
    "What a notebook's page offers, below the line that says how long it takes."
    found = [f'{{download}}`Download the practice copy <practice/{path.name}>` ({{doc}}`how to practise </practice>`)'] if practice else []
    if ADDRESS: found.append(f"[Open in Colab](https://colab.research.google.com/github/{ADDRESS.partition('github.com/')[2]}/blob/{BRANCH}/nbs/{path.name})")
    return ' · '.join(found)


def page(path, names, answers, practice):
    "A notebook as the site shows it."
    nb, module, cells, folding = read(path), path.stem[3:], [], False
    for c in nb['cells']:
        c['source'] = ''.join(c['source'])
        if c['cell_type'] == 'code':
            question = 'question' in _settings(c)
            cells += code_cells(c, question)
            folding = folding or question
            continue
        text, id = local(linked(c['source'], module, names)), c['id']
        if folding: # the reason, up to the end of its paragraph
            reason, _, text = text.partition('\n\n')
            *told, last = re.split(r'(?<=[.?!)]) (?=[A-Z`])', reason)
            if told and last.endswith(':'): reason, text = ' '.join(told), f'{last}\n\n{text}' # it leads to the next cell
            cells.append(markdown(reason + '\n\n</details>', id + '-reason'))
            folding = False
        before, asks, question = text.rpartition(_PREDICT)
        if asks: text = f'{before}:::{{admonition}} Predict\n:class: question\n{question.lstrip()}\n:::'
        above, *ends = re.split(r'(?m)^(?=### (?:Questions|To try yourself)$)', text)
        if above: cells.append(markdown(above, id))
        for i, end in enumerate(ends): cells += with_answers(end, answers, f'{id}-{i}')
    if offer := offers(path, practice):
        paragraphs = cells[0]['source'].split('\n\n')
        paragraphs.insert(3 if paragraphs[2:] and paragraphs[2].startswith('*') else len(paragraphs), offer)
        cells[0]['source'] = '\n\n'.join(paragraphs)
    return nb | {'cells': cells}


def answers_of(path):
    "{file of a notebook: {number of a question: the cells of its answer}}, from the notebook of answers."
    found, file, number = {}, None, None
    for c in read(path)['cells'] if path.exists() else []:
        text = ''.join(c['source'])
        heading, answer = re.match(r'## \[.*\]\((.*)\)', text), re.match(r'\*\*(\d+)\.\*\*', text)
        if c['cell_type'] == 'markdown' and heading: file, number = heading[1], None
        elif c['cell_type'] == 'markdown' and answer:
            number = int(answer[1])
            found.setdefault(file, {})[number] = [markdown(text.partition('\n\n')[2], c['id'])]
        elif number is not None: found[file][number].append(c | {'source': text})
    return found


def with_answers(text, answers, id):
    "A list of questions with the answer of each folded below it."
    cells, rest = [], []
    for part in re.split(r'(?m)^(?=\d+\. |Next: )', text):
        number = re.match(r'(\d+)\. ', part)
        answer = answers.get(int(number[1])) if number else None
        if not answer: rest.append(part); continue
        cells += [markdown(''.join(rest) + part.rstrip() + '\n\n<details class="answer"><summary>Answer</summary>', f'{id}-{number[1]}')]
        for i, c in enumerate(answer):
            id_there = f"{c['id']}-{i}"
            cells += code_cells(c | {'id': id_there}, False) if c['cell_type'] == 'code' else [markdown(c['source'], id_there)]
        cells.append(markdown('</details>', f'{id}-{number[1]}-end'))
        rest = []
    return cells + ([markdown(''.join(rest), id)] if ''.join(rest).strip() else [])


# the other pages

def practice_page(copies):
    rows = []
    for path in copies:
        kinds = [task.kind for task in tasks(read(NBS/path.name))]
        counts = ' | '.join(str(kinds.count(kind) or '') for kind in ('predict', 'write', 'mend'))
        rows.append(f'| [{title(NBS/path.name)}]({path.name}) | {{download}}`download <practice/{path.name}>` | {counts} |')
    return '\n'.join([
        '# How to practise', '',
        'A practice copy is a notebook without its outputs. It asks you to predict them, leaves the bodies of functions for you to write, and has lines of the '
        'notes that you put right. It checks every answer on the spot, and nothing leaves your machine.', '',
        "Install the library with what the notebooks need, `pip install '.[notebooks]'`, and open a copy in Jupyter. "
        'All copies at once: `mnist_sgd_practice my_practice`. What you have done so far: `mnist_sgd_practice --score my_practice`.', '',
        '| notebook | copy | predict | write | mend |', '| --- | --- | --- | --- | --- |', *rows, ''])


def toctree(caption, entries): return '\n'.join(['```{toctree}', ':hidden:', f':caption: {caption}', '', *entries, '```'])


def write(folder):
    "Write all sources into a folder, which is made anew."
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_copies(folder/'practice')
    copies = sorted((folder/'practice').glob('*.ipynb'))
    names, answers = public(), answers_of(NBS/'96_answers.ipynb')
    numbered = [f'{path.stem[:2]} {title(path)} <{path.stem}>' for path in sorted(NBS.glob('[0-9]*.ipynb'))]
    first_appendix = next(i for i, entry in enumerate(numbered) if entry.startswith('91'))
    trees = {'The walk': numbered[:first_appendix], 'Appendices': numbered[first_appendix:], 'Practice': ['practice'],
             'Reference': [*[f'api/{name}' for name in names], 'changelog']}
    for path in NBS.glob('*.ipynb'):
        nb = page(path, names, answers.get(path.name, {}), (folder/'practice'/path.name).exists())
        if path.stem == 'index':
            nb['cells'] += [markdown(toctree(caption, entries), f'tree-{i}') for i, (caption, entries) in enumerate(trees.items())]
        (folder/path.name).write_text(json.dumps(nb, ensure_ascii=False), encoding='utf-8')
    (folder/'api').mkdir()
    for module, public_names in names.items(): (folder/'api'/f'{module}.md').write_text(reference(module, public_names), encoding='utf-8')
    (folder/'practice.md').write_text(practice_page(copies), encoding='utf-8')
    shutil.copy(ROOT/'CHANGELOG.md', folder/'changelog.md')
    (folder/'images').mkdir()
    shutil.copy(NBS/'images'/'draw.png', folder/'images')


if __name__ == '__main__': write(Path(sys.argv[1]))
