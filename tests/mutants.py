"""Does a test notice when the library is changed? `make mutants`.

Each mutant is the library with one small change in one function, in a folder of its own. It is run against the tests that cover the changed line, the
quickest first, until one fails. The order of the mutants is fixed: `--sample N` takes the first N of it. What no test can notice is in HARMLESS, with the
reason, and is not tried; all others count, and those that survive are listed as open.
"""
import argparse, ast, hashlib, json, os, resource, shutil, signal, sys, tempfile, time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import coverage, pytest

ROOT = Path(__file__).parents[1]
LEFT_OUT = 'test_notebooks.py', 'test_packaging.py', 'test_faults.py', 'test_mutants.py', 'test_site.py' # they compare sources, build wheels or pages, or kill processes
SLOW = ( # tests that take long for the few lines that they alone cover, most of them because they start processes
    'test_killed_half_way', 'test_eight_processes', 'test_what_a_killed_writer', 'test_launch_refuses', 'test_three_workers_train',
    'test_two_runs_agree', 'test_seed_changes', 'test_without_fastai', 'test_command_exits_with_2',
    'test_no_backend', 'test_a_link_stays', 'test_shuffled_net_is', 'test_table_is_the_published', 'test_repaired_line', 'test_files_equal_tensors',
    'test_misprints_to_mend', 'test_imports_point', 'test_steps_before_fastai', 'test_options', 'test_every_value_is_the_right', 'test_repairs_may_differ',
    'test_command', 'test_any_learning_rate_as_torch', 'test_one_thread_gives', 'test_weights_of_the_notes_are_found', 'test_the_accuracy_of_line_143',
    'test_learner_gives_the_numbers', 'test_line_192', 'test_scale_of_the_first', 'test_no_line_gets_beyond', 'test_wrong_line_fails')
LONG = 'result', 'numbers', 'two_epochs', 'slashed' # fixtures: the tests that need them are left out, too
OPTIONS = '-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', '--hypothesis-seed=0', '-k', f"not ({' or '.join(SLOW)})"
SECONDS = 10 # of tests for each mutant, as they took without it
DRAWING = 'show_image', 'show_images', 'show_mistakes', 'show_features', 'plot', '_panel', '_draw', 'climb_figure', 'moving_picture' # how a picture looks is judged by eye
WORDING = 'help', 'metavar', 'description', 'desc', 'leave', 'title', 'indent' # arguments that only say something

HARMLESS = { # (module, function, the change): why no test can notice it
    ('practice', '_failures', '120 -> 121'): 'where the text of an error is cut',
    ('all_digits', 'cross_entropy', 'torch.arange(len(targets), device=targets.device) -> torch.arange(len(targets))'): 'torch takes an index from the CPU on every device; it is slower',
    ('run', '_record', '3 -> 4'): 'the digits of a time that differs from run to run',
    ('storage', '_wrong', 'return [] -> return None'): 'only asked whether there is anything in it',
    ('own_handwriting', '_layer', 'return {} -> return None'): 'only asked whether there is anything in it',
    ('own_handwriting', 'find_ink', '1 -> 2 (9)'): 'the last column but one has as much noise',
    ('checks', '_same_random', 'torch.random.fork_rng(devices=[]) -> torch.random.fork_rng()'): 'only matters where there is a graphics card',
    **dict.fromkeys([
        ('storage', '_state', 'False -> True'), ('storage', '_read_idx', 'False -> True'),
        ('storage', '_state', r"hashlib.md5(os.fsencode('\n'.join(facts)), usedforsecurity=False) -> hashlib.md5(os.fsencode('\n'.join(facts)))"),
        ('storage', '_read_idx', 'hashlib.md5(content, usedforsecurity=False) -> hashlib.md5(content)'),
    ], 'only matters on a machine whose policy forbids MD5'),
}

FLIPPED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
           ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
           ast.Pow: ast.Mult, ast.Mod: ast.Mult, ast.And: ast.Or, ast.Or: ast.And}


def changes(node):
    "Small changes of one node of the syntax tree: (what is replaced, by what)."
    def new(**fields): return node, type(node)(**{**dict(ast.iter_fields(node)), **fields})
    match node:
        case ast.Compare(ops=[op]) if type(op) in FLIPPED: yield new(ops=[FLIPPED[type(op)]()])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in FLIPPED: yield new(op=FLIPPED[type(op)]())
        case ast.Constant(value=bool(value)): yield new(value=not value)
        case ast.Constant(value=int(value) | float(value)): yield new(value=value + 1)
        case ast.UnaryOp(op=ast.Not()): yield node, node.operand
        case ast.IfExp(): yield from ((node, node.body), (node, node.orelse))
        case ast.If() | ast.While(): yield node.test, ast.Constant(False)
        case ast.Return(value=value) if value is not None and not (isinstance(value, ast.Constant) and value.value is None): yield new(value=ast.Constant(None))
        case ast.Expr(value=ast.Call()) | ast.Raise(): yield node, ast.Pass()
    if isinstance(node, ast.Call):
        for i, word in enumerate(node.keywords):
            if word.arg and word.arg not in WORDING: yield new(keywords=node.keywords[:i] + node.keywords[i + 1:])


def functions(node, name=''):
    "All functions and methods outside of others, each with its name."
    for child in ast.iter_child_nodes(node):
        inner = f'{name}.{child.name}'.strip('.') if isinstance(child, (ast.FunctionDef, ast.ClassDef)) else name
        if isinstance(child, ast.FunctionDef): yield inner, child
        else: yield from functions(child, inner)


def nodes(node, statement, text=None):
    "What may change below a node: each with its statement, and the f-string around it, of whose parts Python 3.11 does not know the place."
    if isinstance(node, ast.stmt): statement = node
    if isinstance(node, ast.JoinedStr): text = text or node
    yield node, statement, text
    if isinstance(node, ast.Raise): return # the rest is only what is said
    for field, value in ast.iter_fields(node):
        if field in ('annotation', 'returns', 'decorator_list') or isinstance(node, ast.keyword) and node.arg in WORDING: continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST): yield from nodes(child, statement, text)


def inside(function):
    "The nodes of a function that may change: those of its body, and the defaults of its parameters, which count as its first line."
    body = function.body[bool(ast.get_docstring(function)):]
    for part in [*body, *(body and [*function.args.defaults, *filter(None, function.args.kw_defaults)])]:
        yield from nodes(part, body[0])


def mutants():
    "All of them in their order: (module, function, the change, lines of which one shows whether it ran, (start, end, new text))."
    found, seen = [], Counter()
    for path in sorted((ROOT/'mnist_sgd').glob('[a-z]*.py')):
        source = path.read_bytes()
        starts = [0]
        for line in source.splitlines(keepends=True): starts.append(starts[-1] + len(line))
        for name, function in functions(ast.parse(source)):
            if name.rpartition('.')[2].startswith(DRAWING): continue
            for node, statement, text in inside(function):
                for old, new in changes(node):
                    told = 'no ' * isinstance(new, ast.Pass) + ' '.join(ast.unparse(old).split())[:70]
                    if not isinstance(new, ast.Pass): told += f" -> {' '.join(ast.unparse(new).split())[:70]}"
                    seen[key := (path.stem, name, told)] += 1
                    if seen[key] > 1: told += f' ({seen[key]})'
                    place, new = (text, swapped(text, old, new)) if text else (old, new)
                    words = ast.unparse(ast.fix_missing_locations(new))
                    edit = (starts[place.lineno - 1] + place.col_offset, starts[place.end_lineno - 1] + place.end_col_offset,
                            f'({words})' if isinstance(place, ast.expr) else words)
                    found.append((path.stem, name, told, sorted({old.lineno, statement.lineno}, reverse=True), edit))
    return sorted(found, key=lambda mutant: hashlib.md5(repr(mutant[:3]).encode()).digest())


def swapped(tree, old, new):
    "A copy of the tree with one node in place of another."
    if tree is old: return new
    if isinstance(tree, list): return [swapped(x, old, new) for x in tree]
    if not isinstance(tree, ast.AST): return tree
    return type(tree)(**{field: swapped(value, old, new) for field, value in ast.iter_fields(tree)})


def copied(folder, source=ROOT):
    "What tests need of the repository, in a folder."
    for name in ('mnist_sgd', 'tests', 'nbs'):
        shutil.copytree(source/name, folder/name, ignore=shutil.ignore_patterns('.*'))
    for name in ('pyproject.toml', 'settings.ini', 'README.md', 'CHANGELOG.md'): shutil.copy(source/name, folder)
    for name in ('tmp', 'home'): (folder/name).mkdir()


def changed(folder, mutant):
    "Change one module in a folder."
    path, (start, end, text) = folder/'mnist_sgd'/f'{mutant[0]}.py', mutant[-1]
    source = path.read_bytes()
    path.write_bytes(source[:start] + text.encode() + source[end:])
    os.utime(path, (0, 0)) # no compiled file has this time


def inhabit(folder):
    "Let this process live in a folder: import from there, write nothing elsewhere."
    os.setsid()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    for name in ('MNIST_SGD_CACHE', 'FASTAI_HOME', 'XDG_CACHE_HOME'): os.environ.pop(name, None)
    os.environ |= {'HOME': str(folder/'home'), 'TMPDIR': str(folder/'tmp'), 'HYPOTHESIS_STORAGE_DIRECTORY': str(folder/'tmp'), 'PYTHONPATH': str(folder),
                   'PYTHONDONTWRITEBYTECODE': '1'}
    sys.dont_write_bytecode, tempfile.tempdir = True, None
    for stream in (1, 2): os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    resource.setrlimit(resource.RLIMIT_DATA, (2**33, 2**33)) # a mutant may want all memory there is
    import mnist_sgd
    assert Path(mnist_sgd.__file__).parents[1] == folder, mnist_sgd.__file__


def in_copies(tasks, template):
    "Run each task, (mutant or None, function of a folder that returns a status, seconds), in a fork of this process that lives in a copy; yield (number, status)."
    waiting, running = list(enumerate(tasks))[::-1], {}
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                i, (mutant, work, limit) = waiting.pop()
                folder = Path(tempfile.mkdtemp(prefix='mutant.')).resolve()
                copied(folder, template)
                if mutant: changed(folder, mutant)
                sys.stdout.flush()
                if not (child := os.fork()):
                    status = 99 # something is wrong here, not in the library
                    try:
                        inhabit(folder)
                        status = work(folder)
                    finally: os._exit(status)
                running[child] = i, folder, time.monotonic() + limit
            time.sleep(.01)
            for child, (i, folder, end) in list(running.items()):
                done, status = os.waitpid(child, os.WNOHANG)
                if not done and time.monotonic() < end: continue
                ended(child, folder, done)
                del running[child]
                yield i, os.waitstatus_to_exitcode(status) if done else -signal.SIGKILL
    finally:
        for child, (_, folder, _) in running.items(): ended(child, folder, False)


def ended(child, folder, done):
    "End a child with whatever it has started, and throw its folder away."
    with suppress(ProcessLookupError, PermissionError): os.killpg(child, signal.SIGKILL)
    if not done: os.waitpid(child, 0)
    shutil.rmtree(folder, ignore_errors=True)


class Notes:
    "A plugin of pytest: which lines run in each test and in each fixture that tests share, and for how long."
    def __init__(self, cover): self.cover, self.uses, self.failed, self.seconds, self.where, self.since = cover, {}, [], defaultdict(float), 'start', time.perf_counter()

    def now(self, where):
        "From here on it is this test or fixture."
        now = time.perf_counter()
        self.seconds[self.where] += now - self.since
        self.where, self.since = where, now
        self.cover.switch_context(where)

    def pytest_collection_modifyitems(self, items): items[:] = [item for item in items if not {*LONG} & {*item.fixturenames}]

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        self.now(item.nodeid)
        self.uses[item.nodeid] = [f"{item.nodeid.partition('::')[0]} {name}" for name in item.fixturenames]
        yield
        self.now('start')

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        before = self.where
        if fixturedef.scope != 'function': self.now(f"{before.partition('::')[0].partition(' ')[0]} {fixturedef.argname}")
        yield
        self.now(before)

    def pytest_runtest_logreport(self, report):
        if report.failed: self.failed.append(report.nodeid)


def observed(folder, file, result):
    "Run the tests of one file, and write what was seen into another."
    cover = coverage.Coverage(data_file=None, source=[str(folder/'mnist_sgd')])
    notes = Notes(cover)
    cover.start()
    try: status = pytest.main([*OPTIONS, f'--basetemp={folder}/tmp/pytest', f'tests/{file}'], plugins=[notes])
    finally: cover.stop()
    data = cover.get_data()
    lines = [[Path(name).stem, line, contexts] for name in data.measured_files() for line, contexts in data.contexts_by_lineno(name).items()]
    result.write_text(json.dumps([lines, notes.uses, notes.failed, notes.seconds]))
    return status


class Tests:
    "All tests, what they cover and how long they take, from one run of them."
    def __init__(self, template):
        files = [path.name for path in sorted((template/'tests').glob('test_*.py'), key=lambda path: -path.stat().st_size) if path.name not in LEFT_OUT]
        results = [template/f'{file}.json' for file in files]
        tasks = [(None, lambda folder, file=file, result=result: observed(folder, file, result), 600) for file, result in zip(files, results)]
        for i, status in in_copies(tasks, template):
            if status not in (0, 1, 5): sys.exit(f'{files[i]} ended with status {status} without any mutant')
        self.read(results)

    def read(self, results):
        "What `observed` has written."
        self.covers, self.uses, self.seconds, self.starts, self.failed = defaultdict(set), {}, {}, {}, []
        for result in results:
            lines, uses, failed, seconds = json.loads(result.read_text())
            users = defaultdict(set)
            for test, fixtures in uses.items():
                if test in failed: continue
                self.uses[test] = fixtures
                for context in (test, *fixtures): users[context].add(test)
            for module, line, contexts in lines: self.covers[module, line].update(*[users[context] for context in contexts])
            self.starts[f'tests/{result.stem}'] = seconds.pop('start', 0)
            self.seconds |= seconds
            self.failed += failed

    def cost(self, test): return self.seconds[test] + sum(self.seconds.get(fixture, 0) for fixture in self.uses[test])

    def of(self, mutant):
        "{file: tests that cover a mutant's line}, as many as there is time for, those of its module first; if no test covers it, all of its module."
        module, _, _, lines, _ = mutant
        own = f'tests/test_{module}.py'
        found = next(filter(None, [self.covers[module, line] for line in lines]), None) or {test for test in self.uses if test.startswith(own)}
        files, left, ready = {}, SECONDS, set()
        for test in sorted(found, key=lambda test: (self.cost(test)/(2 if test.startswith(own) else 1), test)):
            file = test.partition('::')[0]
            price = self.seconds[test] + sum(self.seconds.get(fixture, 0) for fixture in {*self.uses[test]} - ready) + (file != own and file not in files)*self.starts[file]/2
            if files and price > left: continue
            files.setdefault(file, []).append(test)
            left, ready = left - price, ready | {*self.uses[test]}
        return dict(sorted(files.items(), key=lambda item: (item[0] != own, sum(map(self.cost, item[1])))))


class Chosen:
    "A plugin of pytest: only these tests, in this order, and each is ended when it takes much longer than it did."
    def __init__(self, tests, seconds): self.order, self.seconds = {test: i for i, test in enumerate(tests)}, seconds

    def pytest_sessionstart(self): self.allow(30) # to import the modules

    def allow(self, seconds): resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds), resource.RLIM_INFINITY))

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = sorted([item for item in items if item.nodeid in self.order], key=lambda item: self.order[item.nodeid])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item): self.allow(5 + 4*self.seconds(item.nodeid))


def judged(mutants, tests, template, change=True):
    "Which of the mutants are noticed: yields (number, whether)."
    def work(folder, chosen):
        for file, some in chosen.items():
            if status := pytest.main([*OPTIONS, '-x', f'--basetemp={folder}/tmp/pytest', file], plugins=[Chosen(some, tests.cost)]): return status
        return 0
    chosen = [tests.of(mutant) for mutant in mutants]
    tasks = [(change and mutant, lambda folder, some=some: work(folder, some), 100 + 10*SECONDS) for mutant, some in zip(mutants, chosen)]
    for i, status in in_copies(tasks, template):
        if status == 99: sys.exit(f'the folder of {mutants[i][:3]} could not be used')
        yield i, status in (1, 2) or status < 0 # a test failed, a module could not be imported, or it was killed, as what hangs is


def prepared(template):
    "A copy of the repository, all of it compiled, and what takes long to import."
    copied(template)
    import PIL.Image, fastai.learner, fastai.callback.schedule, hypothesis, jaxtyping, matplotlib.pyplot, numpy, safetensors.torch, torch, torch.optim # noqa
    if not (child := os.fork()):
        os.chdir(template)
        sys.path.insert(0, str(template))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(pytest.main([*OPTIONS, '--collect-only', *[f'--ignore=tests/{name}' for name in LEFT_OUT]]))
    if os.waitpid(child, 0)[1]: sys.exit('the tests cannot be collected')
    assert 'mnist_sgd' not in sys.modules, 'the children would test this one'


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--sample', type=int, help="only so many, always the same (default: all)")
    parser.add_argument('--module', help="only those of one module")
    parser.add_argument('--unchanged', action='store_true', help="change nothing, to see that all survive")
    options = parser.parse_args()
    every = mutants()
    some = [mutant for mutant in every if options.module in (None, mutant[0]) and mutant[:3] not in HARMLESS][:options.sample]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        prepared(template := Path(folder).resolve())
        tests = Tests(template)
        for test in tests.failed: print('fails without any mutant, and is left out:', test)
        print(f'{len(every)} mutants and {len(tests.uses)} tests, after {time.monotonic() - start:.0f} s')
        noticed = dict(judged(some, tests, template, not options.unchanged))
    for i, (module, name, told, lines, _) in enumerate(some):
        if not noticed[i]: print(f'open: {module}.{name}, line {lines[-1]}: {told}')
    print(f'{time.monotonic() - start:.0f} s')
    print(f'{len(some)} mutants: {sum(noticed.values())} noticed')
    sys.exit(sum(noticed.values()) < .9*len(some))


if __name__ == '__main__': main()
