"""Command line: python -m data_prep build | check | report | scrape | tag | enrich; each tells its flags by --help."""

import argparse
import importlib
import shlex
import sys
from typing import Any, NoReturn

# What each module of this name does. The one that is asked for is imported alone.
COMMANDS = {
    'scrape': 'web pages (WARC, HTML, addresses, sitemaps) to the vacancies in them',
    'tag': 'ESCO skills for the sentences of vacancies without skills, from a model',
    'enrich': 'titles that a language model proposes for skills that have few',
    'build': 'ESCO, vacancies and synthetic titles to shards of pairs',
    'check': 'look for evaluation texts and pairs among the training pairs of a dataset',
    'report': 'how balanced a dataset is, as numbers and plots',
}


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the flags."""

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        sys.exit(f'error: {message}; see {self.prog} --help')


def main() -> int:
    """Runs one command; returns the exit status."""
    arguments = parser().parse_args()
    from uwe_jax.io import console  # not before: JAX takes seconds, for which --help need not wait

    typed = shlex.join(['python', '-m', 'data_prep', *sys.argv[1:]])
    return console.run(lambda: module(arguments.what).run(arguments, typed))


def parser() -> argparse.ArgumentParser:
    """The commands, and the flags of the one that is asked for."""
    whole = Parser(prog='python -m data_prep', description=__doc__)
    commands = whole.add_subparsers(dest='what', required=True)
    for name, what in COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what)
        if name in sys.argv[1:2]:
            module(name).add_flags(command)
    return whole


def module(command: str) -> Any:
    """The module of a command, which has `add_flags` and `run`."""
    return importlib.import_module(f'data_prep.{command}')


if __name__ == '__main__':
    sys.exit(main())
