"""Does a test notice when the library is changed? `make mutants`.

Each mutant is the library with one small change in one function. It is run against the tests that cover the changed line, the quickest first, until one
fails. `--sample N` takes N of them, always the same. A survivor that no test can notice is in HARMLESS with the reason; all others are open, and count.
"""
import argparse, ast, os, random, shutil, signal, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coverage, pytest

ROOT = Path(__file__).parents[1]
LEFT_OUT = 'test_notebooks.py', 'test_packaging.py', 'test_faults.py' # they compare sources, build wheels, or kill processes
OPTIONS = ['-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', '-W', 'ignore', '--hypothesis-seed=0', *[f'--ignore=tests/{name}' for name in LEFT_OUT]]
SECONDS = 20 # of tests for each mutant, as they took without it; the quickest come first

HARMLESS = { # (module, function, the change): why no test can notice it
}

FLIPPED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
           ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
           ast.Pow: ast.Mult, ast.Mod: ast.Mult, ast.And: ast.Or, ast.Or: ast.And}


def changes(node):
    "Small changes of one node of the syntax tree, each as a new node."
    def new(**fields): return ast.copy_location(type(node)(**{**dict(ast.iter_fields(node)), **fields}), node)
    match node:
        case ast.Compare(ops=[op]) if type(op) in FLIPPED: yield new(ops=[FLIPPED[type(op)]()])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in FLIPPED: yield new(op=FLIPPED[type(op)]())
        case ast.Constant(value=bool(value)): yield new(value=not value)
        case ast.Constant(value=int(value) | float(value)): yield new(value=value + 1)
        case ast.UnaryOp(op=ast.Not()): yield node.operand
        case ast.IfExp(): yield from (node.body, node.orelse)
        case ast.If() | ast.While(): yield new(test=ast.Constant(False))
        case ast.Return(value=value) if value is not None and not (isinstance(value, ast.Constant) and value.value is None): yield new(value=ast.Constant(None))
        case ast.Expr(value=ast.Call()) | ast.Raise(): yield ast.copy_location(ast.Pass(), node)
    if isinstance(node, ast.Call):
        for i, word in enumerate(node.keywords):
            if word.arg: yield new(keywords=node.keywords[:i] + node.keywords[i + 1:])


def functions(tree):
    "All functions and methods, each with its name and whether it stands inside another."
    def walk(node, inside, within):
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, (ast.FunctionDef, ast.ClassDef))
            name = f'{inside}.{child.name}'.strip('.') if named else inside
            if isinstance(child, ast.FunctionDef) and not within: yield name, child
            yield from walk(child, name, within or isinstance(child, ast.FunctionDef))
    return walk(tree, '', False)


def inside(function):
    "The nodes of a function that may change, each with the line that shows whether it ran: those of its body, and the defaults of its parameters."
    first = function.body[bool(ast.get_docstring(function)):]
    for statement in first:
        for node in ast.walk(statement):
            if hasattr(node, 'lineno') and not (isinstance(node, ast.Constant) and isinstance(node.value, str)): yield node, node.lineno
    for default in [*function.args.defaults, *filter(None, function.args.kw_defaults)]:
        for node in ast.walk(default):
            if first and hasattr(node, 'lineno'): yield node, first[0].lineno


def mutants():
    "All of them: (module, function, line, what changed, the source)."
    for path in sorted((ROOT/'mnist_sgd').glob('[a-z]*.py')):
        source = path.read_text(encoding='utf-8')
        tree = ast.parse(source)
        for name, function in functions(tree):
            for node, line in inside(function):
                for new in changes(node):
                    if isinstance(node, ast.Raise): told = 'no raise'
                    else: told = f"{' '.join(ast.unparse(node).split())[:70]} -> {' '.join(ast.unparse(new).split())[:70]}"
                    yield path.stem, name, line, told, lambda tree=tree, node=node, new=new: ast.unparse(swapped(tree, node, new))


def swapped(tree, old, new):
    "A copy of the tree with one node in place of another."
    if tree is old: return new
    if isinstance(tree, list): return [swapped(x, old, new) for x in tree]
    if not isinstance(tree, ast.AST): return tree
    copied = type(tree)(**{field: swapped(value, old, new) for field, value in ast.iter_fields(tree)})
    return ast.copy_location(copied, tree)


class Notes:
    "A plugin of pytest: which lines each test runs, itself or through its fixtures, and how long it takes."
    def __init__(self, cover): self.cover, self.uses, self.seconds = cover, {}, {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        self.uses[item.nodeid] = {item.nodeid, *(f'fixture {name}' for name in item.fixturenames)}
        self.cover.switch_context(item.nodeid)
        start = time.perf_counter()
        yield
        self.seconds[item.nodeid] = time.perf_counter() - start

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        self.cover.switch_context(f'fixture {fixturedef.argname}')
        yield
        self.cover.switch_context(request.node.nodeid or 'start')


def covering():
    "{(module, line): names of tests, the quickest first}, from one run of all tests."
    cover = coverage.Coverage(data_file=None, source=[str(ROOT/'mnist_sgd')])
    notes = Notes(cover)
    cover.start()
    try: status = pytest.main([*OPTIONS, '--no-header', '--no-summary'], plugins=[notes])
    finally: cover.stop()
    if status: sys.exit('the tests fail without any mutant')
    data, users = cover.get_data(), {}
    for test, contexts in notes.uses.items():
        for context in contexts: users.setdefault(context, []).append(test)
    found = {}
    for file in data.measured_files():
        for line, contexts in data.contexts_by_lineno(file).items():
            tests = {test for context in contexts for test in users.get(context, [])}
            found[Path(file).stem, line] = sorted(tests, key=notes.seconds.get)
    return found, notes.seconds


def changed_package(folder, module, source):
    "The package in a folder, one module of it changed."
    package = Path(folder)/'mnist_sgd'
    package.mkdir()
    for path in (ROOT/'mnist_sgd').iterdir():
        if path.stem == module and path.suffix == '.py': (package/path.name).write_text(source, encoding='utf-8')
        elif path.name != '__pycache__': (package/path.name).symlink_to(path)
    (Path(folder)/'nbs').symlink_to(ROOT/'nbs')


def passes(mutant, tests, limit):
    "Whether the tests pass with a mutant. They run in a process forked from this one, which has imported what takes long."
    module, _, _, _, source = mutant
    with tempfile.TemporaryDirectory() as folder:
        changed_package(folder, module, source())
        child = os.fork()
        if not child:
            os.setsid()
            sys.path.insert(0, folder)
            os.environ['PYTHONPATH'] = folder
            with open(os.devnull, 'w') as nowhere:
                for stream in (1, 2): os.dup2(nowhere.fileno(), stream)
                os._exit(pytest.main([*OPTIONS, '-x', *tests]))
        end, done = time.monotonic() + limit, 0
        while not done and time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            time.sleep(.02)
        if done: return os.waitstatus_to_exitcode(status) == 0
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False # it hangs, which anybody would notice


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--sample', type=int, help="only so many, always the same (default: all)")
    parser.add_argument('--module', help="only those of one module")
    options = parser.parse_args()
    every = [mutant for mutant in mutants() if options.module in (None, mutant[0])]
    if options.sample: every = random.Random(16).sample(every, min(options.sample, len(every)))
    read, write = os.pipe() # the run that looks which test covers what is a process of its own: this one must not import the package
    import json
    if not os.fork():
        os.close(read)
        os.chdir(ROOT)
        with open(write, 'w') as f, open(os.devnull, 'w') as nowhere:
            os.dup2(nowhere.fileno(), 1)
            found, seconds = covering()
            json.dump([[[*key, tests] for key, tests in found.items()], seconds], f)
        os._exit(0)
    os.close(write)
    with open(read) as f: text = f.read()
    if not text: sys.exit('the tests fail without any mutant')
    lines, seconds = json.loads(text)
    covers = {(module, line): tests for module, line, tests in lines}
    import torch, numpy, hypothesis, PIL, fastai.learner, matplotlib.pyplot # what takes long to import
    os.chdir(ROOT)

    def look(mutant):
        tests, taken = [], 0.
        for test in covers.get((mutant[0], mutant[2]), []):
            tests.append(test)
            taken += seconds[test]
            if taken > SECONDS: break
        return bool(tests) and not passes(mutant, tests, 20 + 5*taken)

    with ThreadPoolExecutor(os.cpu_count()) as pool: noticed = list(pool.map(look, every))
    survivors = [(module, name, told) for (module, name, _, told, _), was in zip(every, noticed) if not was]
    harmless = [key for key in survivors if key in HARMLESS]
    for key in harmless: print('harmless:', *key, '--', HARMLESS[key])
    for key in survivors:
        if key not in HARMLESS: print('open:', *key)
    count = len(every) - len(harmless)
    print(f'{count} mutants: {sum(noticed)} noticed')
    sys.exit(sum(noticed) < .9*count)


if __name__ == '__main__': main()
