"""From raw pixels to a trained digit classifier. `__init__.pyi` lists what a script can import from here; a module is loaded on first use."""
__version__ = "0.2.0"

_MOVED = {'table': 'climb_table'} # the names of version 0.1 that have a new one; they go in 0.3
_EXTRAS = {'fastai_learner': ('fastai', 'fastai')} # module: (the package that it needs, the extra that brings it)


def _names():
    "{name: module} of all that the stub lists."
    import ast
    from pkgutil import get_data
    tree = ast.parse(get_data(__name__, '__init__.pyi'))
    return {alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def _lacks(module):
    "Does `module` need a package that is not installed?"
    from importlib.util import find_spec
    return module in _EXTRAS and find_spec(_EXTRAS[module][0]) is None


def __getattr__(name):
    if name == '__all__': return [name for name, module in _names().items() if not _lacks(module)]
    if name in _MOVED: raise ImportError(f"{name} is now {_MOVED[name]}")
    module = _names().get(name)
    if module is None: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _lacks(module):
        package, extra = _EXTRAS[module]
        raise ImportError(f"{name} needs {package}: pip install '{__name__}[{extra}]'")
    from importlib import import_module
    return globals().setdefault(name, getattr(import_module(f'{__name__}.{module}'), name))


def __dir__(): return sorted({*globals(), *__getattr__('__all__')})
