"""A served page, and a browser that visits it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY, script_environment

#: Milliseconds to wait, for a slow machine on which other tests run.
PATIENCE = 90_000


@contextmanager
def served(work: Path, *arguments: str) -> Iterator[str]:
    """A block during which a page is served from a folder; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = script_environment()
    environment.pop("PYTEST_CURRENT_TEST", None)  # NiceGUI would behave as in its own tests
    script = str(REPOSITORY / "scripts/page.py")
    process = subprocess.Popen(
        [sys.executable, script, *arguments, f"port={port}", "show=false"],
        cwd=work, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"the page is at http://127.0.0.1:{port}; Ctrl-C ends it\n"
        for _ in range(PATIENCE // 50):  # the line comes just before the port is open
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()


class Visit:
    """A page in a browser, and its faults: errors, warnings, and requests to other servers."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.faults: list[str] = []
        self.page.on("console", self._check_message)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._check_request)
        self.address = address
        self.page.goto(address)
        self.page.wait_for_selector(".given")

    def _check_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def _check_request(self, request: Any) -> None:
        local = (self.address, "data:", "blob:", self.address.replace("http", "ws"))
        if not request.url.startswith(local):
            self.faults.append(f"requests {request.url}")

    def idle(self) -> None:
        """Wait until the page shows no work in progress."""
        self.page.wait_for_function("document.querySelector('.status').textContent === ''")

    def picture(self) -> str:
        return str(self.page.get_attribute(".picture img", "src"))

    def until(self, condition: Any) -> None:
        for _ in range(PATIENCE // 50):
            if condition():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError("the condition is still false")
