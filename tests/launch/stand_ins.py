"""Stand-ins for the executables of clouds and clusters: they record their calls, and fail on demand."""

import pathlib
import subprocess

LAUNCH = pathlib.Path(__file__).parents[2] / 'launch'

RECORD = r"""#!/usr/bin/env bash
IFS=$'\x1f'
printf '%s\x1e' "${0##*/}$IFS$*" >>"$CALLS"
if [[ $(tr -cd '\036' <"$CALLS" | wc -c) -eq ${FAIL_AT:-0} ]]; then exit 7; fi
"""


class StandIns:
    """A folder of stand-ins, first on PATH."""

    def __init__(self, folder: pathlib.Path, *names: str) -> None:
        self.folder = folder
        self.bin = folder / 'bin'
        self.bin.mkdir()
        for name in names:
            self.make(name)

    def make(self, name: str, then: str = '') -> None:
        """Adds the stand-in `name`, which records its call and then runs the shell commands `then`."""
        path = self.bin / name
        path.write_text(RECORD + then)
        path.chmod(0o755)

    def environment(self, **variables: str) -> dict[str, str]:
        base = {'PATH': f'{self.bin}:/usr/bin:/bin', 'HOME': str(self.folder), 'CALLS': str(self.folder / 'calls')}
        return base | variables

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a script of `launch/` with only the stand-ins and `variables` in its environment."""
        return subprocess.run(
            ['bash', LAUNCH / script, *arguments],
            env=self.environment(**variables),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
        )

    @property
    def calls(self) -> list[list[str]]:
        """The calls so far, each with the name of the stand-in first."""
        path = self.folder / 'calls'
        records = path.read_text().split('\x1e')[:-1] if path.exists() else []
        return [record.split('\x1f') for record in records]


def words(command: str) -> list[str]:
    """The words into which a shell splits a command."""
    printed = subprocess.run(['bash', '-c', f'printf "%s\\0" {command}'], capture_output=True, check=True)
    return printed.stdout.decode().split('\0')[:-1]
