"""`python` and `minilm` that fork from a process with torch and minilm in it, in milliseconds.

`commands` makes a folder with these two for the front of PATH. They hand their arguments, streams,
directory and environment to the server, this file as a program, whose child runs what was asked for
as the interpreter would, and they end with its exit code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    asked = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(asked)
    code = int(server.recv(16) or 1)
sys.exit(code if code >= 0 else 128 - code)
"""


@contextlib.contextmanager
def commands() -> Iterator[Path]:
    """A folder with `python` and `minilm`, which work inside this block."""
    folder = Path(tempfile.mkdtemp())  # a short path, as the socket needs it
    for name in ("python", "minilm"):
        (folder / name).write_text(CLIENT.format(python=sys.executable, socket=f"{folder}/socket"))
        (folder / name).chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/socket")
        listening.listen()
        server = subprocess.Popen(
            [sys.executable, __file__, str(listening.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
        )
    try:
        yield folder
    finally:
        server.communicate()
        shutil.rmtree(folder)


def serve(listening: socket.socket) -> Any:
    """Forks for every request; returns only in the child that is to perform it."""
    while True:
        if sys.stdin in select.select([listening, sys.stdin], [], [])[0]:
            sys.exit()  # who started this has ended, or wants no more
        connection, _ = listening.accept()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() > 0:
            connection.close()
            continue
        listening.close()
        size, streams, _, _ = socket.recv_fds(connection, 4, 3)
        with connection.makefile("rb") as stream:
            request = json.loads(stream.read(int.from_bytes(size, "big")))
        child = os.fork()
        if child == 0:
            connection.close()
            for number, given in enumerate(streams):
                os.dup2(given, number)
                os.close(given)
            return request
        for given in streams:
            os.close(given)
        _, status = os.waitpid(child, 0)
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)


def perform(
    program: str, arguments: list[str], directory: str, environment: dict[str, str]
) -> None:
    """What `python ...` or `minilm ...` does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    if Path(program).name == "minilm":
        sys.argv = ["minilm", *arguments]
        importlib.import_module("minilm.cli").main()
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path[0] = ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(arguments[1], main.__dict__)  # noqa: S102
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


def warm_up() -> None:
    """All of minilm, and what torch imports for the first optimiser (another two seconds)."""
    import minilm

    for module in pkgutil.walk_packages(minilm.__path__, "minilm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("torch._dynamo")
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    warm_up()
    (program, *arguments), directory, environment = serve(socket.socket(fileno=int(sys.argv[1])))
    perform(program, arguments, directory, environment)
