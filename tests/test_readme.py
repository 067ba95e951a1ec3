"""What the READMEs show works: their Python examples print what stands below them, and their commands parse."""

import contextlib
import importlib
import io
import pathlib
import re
import shlex

import pytest

from configs.uwe import get_config
from tests.conftest import ROOT
from uwe_jax.io import console

PAGES = [
    path
    for path in sorted(ROOT.rglob('*.md'))
    if not any(part.startswith('.') or part == 'runs' for part in path.relative_to(ROOT).parts)
]
CODE_BLOCK = re.compile(r'(?:^    \S.*\n(?:    .*\n|\n)*)|^```\n.*?^```', re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r'^ *(?:\S+=\S+ )*(python -m (?:[^\n]*\\\n)*[^\n]*)', re.MULTILINE)
EXAMPLE = re.compile(
    r'^```python\n(?P<code>.*?)^```\n+prints[^`]*?:\n+```\n(?P<output>.*?)^```', re.MULTILINE | re.DOTALL
)
WITH_CONFIG = (
    'uwe_jax.main',
    'uwe_jax.ablate',
    'uwe_jax.compile_for',
)  # their flags are absl's, and the config's fields


def examples():
    return [
        pytest.param(match['code'], match['output'], id=page.relative_to(ROOT).as_posix())
        for page in PAGES
        for match in EXAMPLE.finditer(page.read_text())
    ]


def commands():
    """Module and arguments of every command that a page shows whole."""
    shown = {}
    for page in PAGES:
        for block in CODE_BLOCK.findall(page.read_text()):
            for command in COMMAND.findall(block):
                _, _, module, *arguments = shlex.split(command.replace('\\\n', ' '), comments=True)
                if not {'...', 'COMMAND'} & {module, *arguments}:
                    shown[page.relative_to(ROOT).as_posix(), module, *arguments] = module, arguments
    return [
        pytest.param(*command, id=f'{page}: {module} {len(shown)}') for (page, module, *_), command in shown.items()
    ]


def test_the_pages_show_examples_and_commands():
    assert examples()
    assert len(commands()) > 20


@pytest.mark.parametrize(('code', 'output'), examples())
def test_an_example_prints_what_stands_below_it(code, output):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == output


@pytest.mark.parametrize(('module', 'arguments'), commands())
def test_a_command_takes_the_flags_that_it_is_shown_with(module, arguments):
    if module.startswith('tests.') or module in WITH_CONFIG:
        assert_flags_in_source(module, arguments)
    else:
        if module == 'data_prep':
            module, arguments = f'data_prep.{arguments[0]}', arguments[1:]
        command = importlib.import_module(module)
        if not hasattr(command, 'Options'):
            command = importlib.import_module(f'{module}.__main__')
        if arguments not in ([], ['--help']):
            console.parse(command.Options, arguments)


def assert_flags_in_source(module, arguments):
    path = pathlib.Path(ROOT, *module.split('.'))
    source = (path / '__main__.py' if path.is_dir() else path.with_suffix('.py')).read_text()
    for argument in arguments:
        name, _, field = argument.removeprefix('--').partition('=')[0].partition('.')
        if 'console.command(' in source:  # flags are the fields of a dataclass
            assert f'\n    {name}: ' in source
        else:
            assert f"'{name.removeprefix('no')}'" in source or f"'{name}'" in source
        place = get_config()
        for part in filter(None, field.split('.')):
            assert part in place
            place = place[part]
