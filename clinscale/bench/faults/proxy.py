"""The process of a proxy in front of a tracking server; it behaves as a file says, which may change at any time.

It is run as a file, without the package, whose import takes a while.
"""

import http.client
import sys
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_SLOW_S = 2.0


class _Handler(BaseHTTPRequestHandler):
    """Passes requests on, as the file of behaviour says."""

    port: int
    behaviour: Path

    def _pass_on(self) -> None:
        how = self.behaviour.read_text(encoding="utf-8")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if how == "slow":
            time.sleep(_SLOW_S)
        if how in ("500", "nonsense"):
            self._send(500 if how == "500" else 200, b"<html>out of order</html>", "text/html")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(self.command, self.path, body, _end_to_end(self.headers.items()))
            response = connection.getresponse()
            content, kind = response.read(), response.getheader("Content-Type") or "application/json"
        except OSError:
            self._send(502, b"no server", "text/plain")
            return
        finally:
            connection.close()
        if how == "cut":
            self.close_connection = True
            self.connection.close()
            return
        self._send(response.status, content, kind)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _end_to_end(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in headers if name.lower() not in ("host", "connection", "content-length")}


def _main(proxy_port: int, port: int, behaviour: Path) -> None:
    """The work of the proxy's process."""
    _Handler.port, _Handler.behaviour = port, behaviour
    ThreadingHTTPServer(("127.0.0.1", proxy_port), _Handler).serve_forever()


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
