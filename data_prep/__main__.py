"""The command line: python -m data_prep COMMAND; COMMAND --help lists its flags."""

import importlib
import shlex
import sys

from uwe_jax.io import console

# Each is a module of this package with a dataclass `Options`, which holds its flags, and a function `run`.
COMMANDS = {
    'scrape': 'web pages (WARC, HTML, addresses, sitemaps) to the vacancies in them',
    'tag': 'ESCO skills for the sentences of vacancies without skills, from a model',
    'enrich': 'titles that a language model proposes for skills that have few',
    'build': 'ESCO, vacancies and synthetic titles to shards of pairs',
    'check': 'look for evaluation texts and pairs among the training pairs of a dataset',
    'report': 'how balanced a dataset is, as numbers and plots',
}


def main() -> int:
    """Runs one command; returns the exit status."""
    name, *flags = sys.argv[1:] or ['']
    if name in ('-h', '--help'):
        print(usage())
        return 0
    if name not in COMMANDS:
        print(f'error: {name!r}: expected a command\n\n{usage()}', file=sys.stderr)
        return 2
    command = importlib.import_module(f'data_prep.{name}')  # the others, and what they need, are not imported
    options = console.parse(command.Options, flags, prog=f'python -m data_prep {name}')
    typed = shlex.join(['python', '-m', 'data_prep', name, *flags])
    return console.run(lambda: command.run(options, typed))


def usage() -> str:
    """What the commands do."""
    lines = [f'  {name:8}{purpose}' for name, purpose in COMMANDS.items()]
    return '\n'.join(['usage: python -m data_prep COMMAND [--help] [FLAGS]', '', *lines])


if __name__ == '__main__':
    sys.exit(main())
