"""A server that answers the library of the Hugging Face Hub as the Hub does, for one model."""

import contextlib
import http.server
import json
import pathlib
import re
import threading
from collections.abc import Iterator

COMMIT = 'c0ffee' * 6 + 'c0de'
NAME = 'some/model'


@contextlib.contextmanager
def hub(directory: pathlib.Path) -> Iterator[str]:
    """Serves the files of a directory as the model `NAME`; yields the server's address, for HF_ENDPOINT."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            files = {path.relative_to(directory).as_posix(): path for path in directory.rglob('*') if path.is_file()}
            path = self.path.partition('?')[0]
            if re.fullmatch(f'/api/models/{NAME}(/revision/(main|{COMMIT}))?', path):
                self.answer(json.dumps({'id': NAME, 'sha': COMMIT}).encode())
            elif path == f'/api/models/{NAME}/tree/{COMMIT}':
                sizes = {name: file.stat().st_size for name, file in files.items()}
                tree = [{'type': 'file', 'oid': 'c0de', 'path': name, 'size': size} for name, size in sizes.items()]
                self.answer(json.dumps(tree).encode())
            elif (name := path.removeprefix(f'/{NAME}/resolve/{COMMIT}/')) in files:
                self.answer(files[name].read_bytes())
            else:
                self.send_response(404)
                for header in (('X-Error-Code', 'EntryNotFound'), ('X-Repo-Commit', COMMIT), ('Content-Length', '0')):
                    self.send_header(*header)
                self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

        def answer(self, content: bytes) -> None:
            self.send_response(200)
            headers = {'Content-Length': len(content), 'X-Repo-Commit': COMMIT, 'ETag': f'"{hash(content)}"'}
            for name, value in headers.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == 'GET':
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f'http://127.0.0.1:{server.server_port}'
    finally:
        server.shutdown()
        server.server_close()
