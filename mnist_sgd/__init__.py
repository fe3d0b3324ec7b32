"""From raw pixels to a trained digit classifier. `__init__.pyi` lists what a script can import from here; a module is loaded on first use."""
__version__ = "0.2.0"

_MOVED = {'table': 'climb_table', 'fast_train': 'fast_epoch', 'train_worker': 'Workers'} # {old name: new name} since version 0.1; the old ones are removed in 0.3
_EXTRAS = {'fastai_learner': ('fastai', 'fastai')} # module: (the package that it needs, the extra that brings it)


def _names():
    "{name: module} for every name in `__init__.pyi`."
    import ast
    from pkgutil import get_data
    tree = ast.parse(get_data(__name__, '__init__.pyi'))
    return {alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def _lacks(module):
    "Does `module` need a package that is not installed?"
    from importlib.util import find_spec
    return module in _EXTRAS and find_spec(_EXTRAS[module][0]) is None


def _comments(function):
    "A line for each parameter of a signature that has a comment, and one for the result."
    import inspect, re
    try: lines = inspect.getsourcelines(inspect.unwrap(function))[0]
    except (OSError, TypeError): return # there is no source to read
    first = next((i for i, line in enumerate(lines) if line.lstrip().startswith('def ')), 0) # above it stand decorators
    for line in lines[first + 1:] if lines[first].rstrip().endswith(('(', '(self,')) else []:
        parameter, result = re.match(r'\s+(\**\w+).*,\s*# (.*)', line), re.match(r'\s*\).*:\s*(?:# (.*))?$', line)
        if parameter: yield f'    {parameter[1]}: {parameter[2]}'
        elif result:
            if result[1]: yield f'    returns {result[1]}'
            return


def _documented(thing):
    "The same function or class, with the comments of its signature in its docstring, for help() and tooltips."
    methods = [f for name, f in vars(thing).items() if callable(f) and name[0] != '_'] if isinstance(thing, type) else []
    for one in [thing, *methods] if callable(thing) else []:
        told = list(_comments(one.__init__ if isinstance(one, type) else one))
        if told: one.__doc__ = '\n'.join([one.__doc__ or '', '', *told])
    return thing


def __getattr__(name):
    if name == '__all__': return [name for name, module in _names().items() if not _lacks(module)]
    if name in _MOVED: raise ImportError(f"{name} is now {_MOVED[name]}")
    module = _names().get(name)
    if module is None: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _lacks(module):
        package, extra = _EXTRAS[module]
        raise ImportError(f"{name} needs {package}: pip install '{__name__}[{extra}]'")
    from importlib import import_module
    return globals().setdefault(name, _documented(getattr(import_module(f'{__name__}.{module}'), name)))


def __dir__(): return sorted({'__version__', '__doc__', *__getattr__('__all__')})
