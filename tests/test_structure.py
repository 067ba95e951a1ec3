"""Which module may import which: one direction between the rooms, and one door to each library outside.

Imports inside functions count, and so do those for type checkers only.
"""

import ast
import functools
import graphlib
import itertools

import pytest

from tests.conftest import ROOT

OURS = ('configs', 'data_prep', 'tests', 'uwe_jax')
# The rooms of uwe_jax from the bottom up. A module imports from rooms below its own, and beside it without circles.
FLOORS = (
    ('io',),
    ('distributed',),
    ('data', 'models', 'interaction', 'loss'),
    ('training',),
    ('ranking',),
    ('evaluation',),
    ('train', 'workbench', 'workrb', 'compile_for'),
    ('commands', 'serve'),  # the former are all other modules in uwe_jax/ itself
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def name_of(path):
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


MODULES = {
    name_of(path): path for package in ('configs', 'data_prep', 'uwe_jax') for path in (ROOT / package).rglob('*.py')
}


# The rules.


def test_every_folder_of_uwe_jax_is_a_room():
    folders = {path.parent.name for path in (ROOT / 'uwe_jax').glob('*/__init__.py')}
    assert folders <= FLOOR.keys()


def test_imports_between_rooms_run_downwards():
    forbid(lambda module, name: floor_of(name) > floor_of(module), 'uwe_jax')


def test_no_module_imports_itself_by_way_of_others():
    circle = find_circle({module: {name for name, _ in imports(module) if name in MODULES} for module in MODULES})
    if circle:
        forbid(lambda module, name: (name, module) in itertools.pairwise(circle), *OURS)


def test_uwe_jax_does_not_know_data_prep():
    forbid(lambda module, name: within(name, 'data_prep', 'tests'), 'uwe_jax')


def test_data_prep_knows_no_training_program_and_no_commands():
    forbid(lambda module, name: floor_of(name) >= FLOOR['train'], 'data_prep')


def test_interaction_and_loss_know_arrays_only():
    rooms = 'uwe_jax.interaction', 'uwe_jax.loss'
    forbid(lambda module, name: within(name, *OURS) and not within(name, *rooms), *rooms)


def test_configs_know_nothing_of_ours():
    forbid(lambda module, name: within(name, *OURS), 'configs')


def test_only_models_and_sources_of_tasks_touch_hugging_face():
    libraries = 'huggingface_hub', 'datasets', 'transformers'
    doors = 'uwe_jax.models', 'uwe_jax.workbench.sources'
    forbid(lambda module, name: within(name, *libraries) and not within(module, *doors), *OURS)


def test_only_checkpoints_touch_orbax():
    forbid(lambda module, name: within(name, 'orbax') and module != 'uwe_jax.training.checkpoint', *OURS)


def test_only_modules_that_are_run_define_flags():
    libraries = 'absl.flags', 'ml_collections.config_flags', 'argparse'
    forbid(lambda module, name: within(name, *libraries) and not is_run(module), *OURS)


# How they are checked.


def forbid(rule, *packages):
    """Fails with the places of all imports in the packages for which the rule holds."""
    modules = [module for module in MODULES if within(module, *packages)]
    lines = [f'{place}: imports {name}' for module in modules for name, place in imports(module) if rule(module, name)]
    if lines:
        pytest.fail('\n'.join(lines), pytrace=False)


def find_circle(graph):
    """The modules of a circle, each imported by the next, and the first one also at the end; [] if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


@functools.cache
def parse(module):
    return ast.parse(MODULES[module].read_text())


@functools.cache
def imports(module):
    """The modules that a module imports, by full name, each with its place as FILE:LINE."""
    pairs = []
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            full = [f'{node.module}.{alias.name}' for alias in node.names]
            # Of a module of ours, most names are functions or classes.
            names = [name if name in MODULES or not within(name, *OURS) else node.module for name in full]
        else:
            continue
        pairs += [(name, f'{MODULES[module].relative_to(ROOT)}:{node.lineno}') for name in names]
    return pairs


def within(name, *packages):
    return any(f'{name}.'.startswith(f'{package}.') for package in packages)


def floor_of(name):
    """The floor of a module's room; -1 for the package itself and for other packages."""
    package, _, rest = name.partition('.')
    if package != 'uwe_jax' or not rest:
        return -1
    return FLOOR.get(rest.partition('.')[0], FLOOR['commands'])


def is_run(module):
    guards = [ast.unparse(node.test) for node in parse(module).body if isinstance(node, ast.If)]
    return "__name__ == '__main__'" in guards
