"""What runs on a page beside Python: commands of a shell, and programs that readers save by their caption."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, NamedTuple

from sybil import Example
from sybil.parsers.markdown import CodeBlockParser

# CI installs in environments of its own.
INSTALLS = re.compile(r"\bpip install\b")
# A line with such a comment, or with & at its end, is over at the end of its block.
MACHINE = re.compile(r"# on the \w+")
ADDRESS = "first:9999"
SECONDS = 200
# A server that a page starts takes some seconds until it answers.
CURL = 'curl() { command curl -fsS --retry 60 --retry-delay 1 --retry-connrefused "$@"; }; '


class Started(NamedTuple):
    """A command that runs, and the file that its output is written to."""

    command: str
    process: subprocess.Popen
    output: IO[str]

    def finish(self) -> None:
        """Wait for it; an error shows what it wrote."""
        code = self.process.wait(SECONDS)
        self.output.seek(0)
        assert code == 0, f"{self.command}\nended with {code}:\n{self.output.read()[-3000:]}"

    def stop(self) -> None:
        """End it and what it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(SECONDS)
        self.output.close()


def start(command: str) -> Started:
    """Start a command in the page's folder, with the programs of this environment."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open until `stop`
    process = subprocess.Popen(
        ["bash", "-c", f"set -eu; {CURL}{command}"],
        env=os.environ | {"PATH": places, "JAXREG_NO_CACHE": "1"},
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return Started(command, process, output)


def run_shell(example: Example) -> None:
    """Run the lines of a block one after another, those for several machines at the same time."""
    text = at_home(example, example.parsed).replace("\\\n", " ")
    running = []
    try:
        for line in text.splitlines():
            if not shlex.split(line, comments=True) or INSTALLS.search(line):
                continue
            running.append(start(line.rstrip().removesuffix("&")))
            if not (line.rstrip().endswith("&") or MACHINE.search(line)):
                running[-1].finish()
        for each in running:
            if MACHINE.search(each.command):
                each.finish()
    finally:
        for each in running:
            each.stop()


def save_program(example: Example) -> None:
    """Save a program under its caption, and run it here unless it has arguments."""
    options, _, source = at_home(example, example.parsed).partition("\n\n")
    name = re.search(r":caption: (\S+)", options)[1]
    Path(name).write_text(source)
    if "sys.argv" not in source:
        exec(compile(source, name, "exec"), example.namespace)


def at_home(example: Example, text: str) -> str:
    """The text with a free address of this machine in place of the first machine's, one for each page."""
    if ADDRESS not in example.namespace:
        with socket.socket() as found:
            found.bind(("localhost", 0))
            example.namespace[ADDRESS] = f"localhost:{found.getsockname()[1]}"
    return text.replace(ADDRESS, example.namespace[ADDRESS])


PARSERS = CodeBlockParser("bash", run_shell), CodeBlockParser("{code-block} python", save_program)
