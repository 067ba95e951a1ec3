"""A local web server that behaves as a test tells it to, and remembers the requests."""

import contextlib
import gzip
import http.server
import json
import threading
import time
from typing import Any

HTML = {'Content-Type': 'text/html; charset=utf-8'}


def posting(title: str | None = 'Baker', description='<p>Bake bread.</p>', **more):
    return {'@context': 'https://schema.org/', '@type': 'JobPosting', 'title': title, 'description': description} | more


def page(*postings, lang='en', body=''):
    """A page with postings in JSON-LD."""
    scripts = ''.join(f'<script type="application/ld+json">{json.dumps(one)}</script>' for one in postings)
    return f'<!doctype html><html lang="{lang}"><head>{scripts}</head><body>{body}</body></html>'


class Site:
    """What the server answers.

    `pages` maps a path to its answer: text or bytes (status 200, HTML), (status, headers, body), or a function of the
    request handler. Other paths are answered with status 404.
    """

    def __init__(self, port):
        self.port = port
        self.origin = f'http://127.0.0.1:{port}'
        self.pages: dict[str, Any] = {}
        self.asked = []  # (path, time in s, User-Agent)

    def paths(self):
        return [path for path, _, _ in self.asked]

    def times(self, *paths):
        return [at for path, at, _ in self.asked if path in paths]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        assert isinstance(self.server, Server)
        site = self.server.site
        site.asked.append((self.path, time.monotonic(), self.headers['User-Agent']))
        answer = site.pages.get(self.path, (404, HTML, b'nothing here'))
        try:
            if callable(answer):
                answer(self)
            else:
                status, headers, body = answer if isinstance(answer, tuple) else (200, HTML, answer)
                self.answer(status, headers, body.encode() if isinstance(body, str) else body)
        except OSError:  # the client hung up
            self.close_connection = True

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.site = Site(self.server_port)

    def handle_error(self, *_):
        """Ignores clients that hang up."""


@contextlib.contextmanager
def serving():
    """A site on a free port of this machine."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    try:
        yield server.site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# Misbehaviour.


def redirect(to, status=302):
    return status, {'Location': to}, b''


def endless_drip(handler):
    """Sends a byte of the body now and then, forever."""
    handler.send_response(200)
    handler.send_header('Content-Type', 'text/html')
    handler.end_headers()
    while True:
        handler.wfile.write(b' ')
        time.sleep(0.05)


def drip_of_headers(handler):
    """Sends a header now and then, forever."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\n')
    while True:
        handler.wfile.write(b'X-More: x\r\n')
        time.sleep(0.05)


def silence(handler):
    time.sleep(3)
    handler.close_connection = True


def flood(handler):
    """Sends a body of unknown size without end."""
    handler.send_response(200)
    handler.send_header('Content-Type', 'text/html')
    handler.end_headers()
    while True:
        handler.wfile.write(b'x' * 65536)


def cut_off(handler):
    """Sends less of the body than announced."""
    handler.send_response(200)
    handler.send_header('Content-Type', 'text/html')
    handler.send_header('Content-Length', '1000')
    handler.end_headers()
    handler.wfile.write(page(posting()).encode())
    handler.close_connection = True


def not_http(handler):
    handler.wfile.write(b'\x00\x01\x02 this is another protocol\r\n\r\n')
    handler.close_connection = True


def compressed(body, encoding='gzip', repeat=1):
    data = gzip.compress(body.encode() if isinstance(body, str) else body)
    return 200, HTML | {'Content-Encoding': encoding}, data * repeat


def bomb(megabytes):
    """Zeros, which compress to a thousandth of their size."""
    return compressed(bytes(megabytes * 1_000_000))


def busy_once(retry_after, then):
    """An answer that is busy the first time."""
    answers = [(429, {'Retry-After': retry_after} if retry_after else {}, b''), (200, HTML, then.encode())]
    return lambda handler: handler.answer(*answers.pop(0))
