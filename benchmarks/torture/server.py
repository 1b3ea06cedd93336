"""`mlflow server` on this machine, and a proxy before it that fails in the ways that a server or a network does."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
START_SECONDS = 600.0
SLOW_SECONDS = 2.0
STATUSES = {"500": 500, "401": 401}  # what the proxy answers by itself
NOT_PASSED_ON = {"connection", "transfer-encoding", "content-length", "host", "keep-alive"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


class Server:
    """A real server with its database and its artifacts in a folder; it can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://{HOST}:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def up(self) -> None:
        """Start it, and wait until it answers."""
        place = ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        place += ["--artifacts-destination", str(self.folder / "artifacts"), "--host", HOST, "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *place, "--workers", "1"],
                stdout=log,
                stderr=log,
                preexec_fn=os.setpgrp,  # its workers end with it
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"mlflow server does not start; see {self.folder / 'server.log'}")
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def down(self) -> None:
        """Stop it at once, with its workers."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Proxy(ThreadingHTTPServer):
    """Hands requests on to a server, unless its `mode` says what else to do."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__((HOST, 0), Handler)
        self.behind, self.mode = port, "pass"
        self.uri = f"http://{HOST}:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def answer(self) -> None:
        proxy: Any = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        while proxy.mode == "never":
            time.sleep(0.1)
        if proxy.mode == "slow":
            time.sleep(SLOW_SECONDS)
        if proxy.mode in STATUSES:
            self.give(STATUSES[proxy.mode], {}, b"")
            return
        passed = {key: value for key, value in self.headers.items() if key.lower() not in NOT_PASSED_ON}
        connection = http.client.HTTPConnection(HOST, proxy.behind, timeout=60)
        try:
            connection.request(self.command, self.path, body, passed)
            response = connection.getresponse()
            self.give(response.status, dict(response.getheaders()), response.read())
        except OSError:
            self.give(502, {}, b"")
        finally:
            connection.close()

    def give(self, status: int, headers: dict[str, str], body: bytes) -> None:
        try:
            self.send_response(status)
            for key, value in headers.items():
                if key.lower() not in NOT_PASSED_ON:
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # who asked has gone
            pass

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, format: str, *values: Any) -> None:
        """Nothing is printed."""
