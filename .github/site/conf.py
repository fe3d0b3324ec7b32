"Sphinx's settings: notebooks with their saved outputs (myst-nb), in the theme furo; no page asks another host for anything."
from configparser import ConfigParser
from pathlib import Path

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

settings = ConfigParser(delimiters=['='])
settings.read(Path(__file__).parents[2]/'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']

project, author, release, copyright = (settings[key] for key in ('lib_name', 'author', 'version', 'copyright'))
extensions = ['myst_nb']
exclude_patterns = ['practice']
myst_enable_extensions = ['colon_fence', 'dollarmath']
myst_heading_anchors = 3
nb_execution_mode = 'off'
nb_output_stderr = 'remove'
nb_ipywidgets_js = {}
nb_render_markdown_format = 'myst'
html_theme = 'furo'
html_title = project
if settings['git_url']: html_theme_options = {'source_repository': settings['git_url'], 'source_branch': settings['branch'], 'source_directory': 'nbs/'}
html_static_path = ['static']
html_favicon = 'static/icon.svg'
html_css_files = ['site.css']
html_copy_source = False
html_extra_path = ['../../nbs/draw.html']
html_show_sphinx = False
html_math_renderer = 'mathml'
python_display_short_literal_types = True
add_module_names = False


def formula(display):
    "What shows a formula: in a line, or as a block."
    def visit(self, node):
        math = convert(node.astext(), display=display)
        self.body.append(math if display == 'inline' else f'<div class="math">{math}</div>')
        raise SkipNode
    return visit, None


def setup(app): app.add_html_math_renderer('mathml', formula('inline'), formula('block'))
