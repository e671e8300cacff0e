"""Serve the browser page on this machine: ``python web/serve.py`` (``make web-serve``).

Like ``python -m http.server``, with the headers that let WebAssembly use threads (cross-origin
isolation), a strict content security policy, which workers take from a header alone, and the media
types that browsers ask for. Any other static server works; without those headers there is one
thread.
"""

import argparse
import functools
import re
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WEB = Path(__file__).resolve().parent
PORT = 8000
_POLICY = re.compile(r'http-equiv="Content-Security-Policy"\s+content="([^"]+)"')


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder with the page's headers."""

    policy = ""
    extensions_map = {  # noqa: RUF012 - declared like this where it is inherited from
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def end_headers(self) -> None:
        """Add the headers to every answer."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Content-Security-Policy", f"{self.policy}; frame-ancestors 'none'")
        super().end_headers()

    def list_directory(self, path: object) -> None:
        """Folders are not listed."""
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing about files that were served."""


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of a folder on this machine's own address alone.

    Args:
        folder: with ``index.html``, whose policy becomes a header too.
        port: 0 for any free one.

    Raises:
        ValueError: the page states no policy.
    """
    found = _POLICY.search((folder / "index.html").read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{folder / 'index.html'}: no Content-Security-Policy")
    handler = type("PageHandler", (Handler,), {"policy": found.group(1)})
    return ThreadingHTTPServer(
        ("127.0.0.1", port), functools.partial(handler, directory=str(folder))
    )


def main() -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Serve the browser page on this machine.")
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}")
    options = parser.parse_args()
    try:
        server = make_server(WEB, options.port)
    except OSError as error:
        print(f"error: port {options.port} cannot be used: {error.strerror}; try --port 8001")
        return 2
    print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)", flush=True)
    if not (WEB / "assets" / "index.json").is_file():
        print("assets/ is not there yet: run make web", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
