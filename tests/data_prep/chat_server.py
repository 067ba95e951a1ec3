"""A local HTTP server that speaks the chat-completions protocol, and misbehaves on purpose by a seeded schedule.

Its final answer is a pure function of the request, so that a client that survives every fault gets the same answers as
from a faultless server. The faults before it depend on the seed, the request and how often the request has come.
"""

import contextlib
import dataclasses
import email.utils
import hashlib
import http.server
import json
import random
import re
import threading
import time

GOOD = 'good'
# As usable as a good answer, but not as it was asked for: by kind, what it makes of the titles.
DISGUISES = {
    # The good titles, repeated in upper case, and those that the skill has.
    'duplicates': lambda titles, known: _object([*known, *titles, *[f' {title.upper()}  ' for title in titles]]),
    'fence': lambda titles, _: f'```json\n{json.dumps({"titles": titles}, indent=2)}\n```',
    'fence after words': lambda titles, _: f'Sure!\n\n```\n{json.dumps(titles)}\n```\n[Note: all of them exist.]',
    'thoughts': lambda titles, _: f'<thinking>Maybe {{"titles": ["cook"]}}?</thinking>{_object(titles)}',
    'thoughts without a beginning': lambda titles, _: f'["cook"] would do.\n</think>\n\n{_object(titles)}',
    'words around': lambda titles, _: f'Here [as asked]:\n{_object(titles)}\nIs {{this}} all?',
    'more keys': lambda titles, _: json.dumps({'skill': 'x', 'titles': titles, 'notes': ['none'], 'count': 1}),
    'another key': lambda titles, _: json.dumps({'jobs': titles, 'language': 'en'}),
    'nested': lambda titles, _: json.dumps({'answer': {'job_titles': titles}}),
    'array': lambda titles, _: json.dumps(titles),
    'objects': lambda titles, _: json.dumps({'titles': [{'job_title': title, 'why': 'x'} for title in titles]}),
    'array of objects': lambda titles, _: json.dumps([{'industry': 'x', 'name': title} for title in titles]),
    'some that are no text': lambda titles, _: json.dumps({'titles': [None, *titles, 7]}),
    'byte order mark': lambda titles, _: f'\ufeff{_object(titles)}',
    'quotes of Python': lambda titles, _: repr({'titles': titles}),
    'trailing comma': lambda titles, _: _object(titles).replace(']', ',]'),
    'line breaks': lambda titles, _: _object([f'\n{title}' for title in titles]).replace('\\n', '\n'),
    'end is missing': lambda titles, _: _object(titles)[:-3],
    'numbered': lambda titles, _: 'Titles:\n\n' + '\n'.join(f'{n}. {title}' for n, title in enumerate(titles, start=1)),
    'bullets': lambda titles, _: '\n'.join(f'- **{title}**: is the title [of a job].' for title in titles),
    'list marks': lambda titles, _: _object([f'{n}) "{title}"' for n, title in enumerate(titles, start=1)]),
    'dashes and quotes': lambda titles, _: _object([f'– “{title}”,' for title in titles]),
    'no width': lambda titles, _: _object([f'\u200b{title[:2]}\u00ad{title[2:]}\ufeff' for title in titles]),
    'emoji': lambda titles, _: '\n'.join(f'✔️ {title}' for title in titles),
    'lines of JSON': lambda titles, _: '\n'.join(json.dumps({'title': title}) for title in titles),
    'numbered keys': lambda titles, _: json.dumps({f'{n}': title for n, title in enumerate(titles)}),
    'names with numbers': lambda titles, _: json.dumps({f'title_{n}': title for n, title in enumerate(titles)}),
    'lines in a text': lambda titles, _: json.dumps({'titles': '\n'.join(titles)}),
    'explanations below': lambda titles, _: '\n'.join(f'1. {title}\n   - is a job' for title in titles),
    'thoughts between other marks': lambda titles, _: f'[THINK]{{"titles": ["cook"]}}[/THINK]{_object(titles)}',
    'channels': lambda titles, _: f'analysis<|message|>["cook"]<|end|>final<|message|>{_object(titles)}<|return|>',
    'parts': lambda titles, _: [{'type': 'thinking', 'thinking': []}, {'type': 'text', 'text': _object(titles)}],
    'among thoughts': lambda titles, _: {'content': None, 'reasoning_content': _object(titles)},
}
# No complete chat completion arrives.
UNANSWERED = ('429', '429 with Retry-After', '429 until a date', '429 with status 200', '500', 'slow', 'cut', 'no JSON')
# A complete chat completion arrives, but it is unusable.
USELESS = ('words', 'other JSON', 'empty', 'refusal', 'another language', '10 MB', 'cut off', 'null content')
FAULTS = (*UNANSWERED, *USELESS)
RETRY_AFTER = 0.05  # s


def _object(titles):
    return json.dumps({'titles': titles})


@dataclasses.dataclass
class Asked:
    """One request.

    Attributes:
      skill: the name in it.
      request: the checksum of its body.
      kind: the kind of the answer.
      time: when it came, in seconds.
      answered: whether a usable answer was sent completely.
      authorization: the header.
      format: the type of its response_format.
    """

    skill: str
    request: str
    kind: str
    time: float
    answered: bool
    authorization: str
    format: str | None


class ChatServer:
    """Runs until the block ends.

    Args:
      vocabulary: the titles that it proposes.
      seed: seed of titles and faults.
      most_faults: the most faults in a row for one request.
      faults: their kinds.
      spoil: overrides the schedule: takes the name of a skill and how often this request has come, returns a kind.
      delay: good answers take up to this many seconds.
      refused: by a type of response_format, None without one, the status and the body with which it is refused.

    Attributes:
      url: the base URL.
      log: all requests, in the order of arrival.
    """

    def __init__(self, vocabulary, seed=0, most_faults=0, faults=FAULTS, spoil=None, delay=0.0, refused=None):
        self.log: list[Asked] = []
        self._vocabulary = sorted(vocabulary)
        self._seed, self._most_faults, self._faults, self._spoil, self._delay = seed, most_faults, faults, spoil, delay
        self.refused = refused or {}
        self._lock = threading.Lock()
        outer = self

        class Handler(_Handler):
            server_of = outer

        self._http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self._http.daemon_threads = True
        self.url = f'http://127.0.0.1:{self._http.server_port}/v1'

    def __enter__(self):
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    def receive(self, body: bytes, authorization: str) -> Asked:
        """Logs a request and decides on the kind of its answer."""
        request = hashlib.sha256(body).hexdigest()
        [skill] = re.findall(r'^Skill: (.*)$', json.loads(body)['messages'][1]['content'], re.MULTILINE)
        with self._lock:
            before = sum(asked.request == request for asked in self.log)
            kind = self._spoil(skill, before) if self._spoil else self._scheduled(request, before)
            answer_format = json.loads(body).get('response_format', {}).get('type')
            if answer_format in self.refused:
                kind = 'refused format'
            asked = Asked(skill, request, kind, time.monotonic(), False, authorization, answer_format)
            self.log.append(asked)
        return asked

    def _scheduled(self, request: str, before: int) -> str:
        rng = random.Random(f'{self._seed} {request}')
        kinds = rng.choices(self._faults, k=rng.randint(0, self._most_faults)) if self._most_faults else []
        return kinds[before] if before < len(kinds) else rng.choice((GOOD, *DISGUISES)) if self._most_faults else GOOD

    def titles(self, user: str) -> list[str]:
        """The titles that answer a request, at most as many as it asks for."""
        rng = random.Random(f'{self._seed} {user}')
        [count] = re.findall(r'Propose (\d+) further', user)
        return rng.sample(self._vocabulary, rng.randint(1, int(count)))

    def pause(self, request: str) -> None:
        """Delays a good answer."""
        time.sleep(random.Random(request).random() * self._delay)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server_of: ChatServer

    def handle(self):
        with contextlib.suppress(ConnectionResetError):  # by a killed client
            super().handle()

    def do_POST(self):
        length = int(self.headers['content-length'])
        body = self.rfile.read(length)
        if len(body) < length:  # the client was killed while it sent
            self.close_connection = True
            return
        asked = self.server_of.receive(body, self.headers['authorization'])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.answer(asked, body)

    def answer(self, asked, body):
        user = json.loads(body)['messages'][1]['content']
        titles = self.server_of.titles(user)
        match asked.kind:
            case 'good':
                self.server_of.pause(asked.request)
                self.complete(body, _object(titles))
                asked.answered = True
            case kind if kind in DISGUISES:
                known = re.findall(r'^- (.*)$', user, re.MULTILINE)
                self.complete(body, DISGUISES[kind](titles, known))
                asked.answered = True
            case 'refused format':
                status, content = self.server_of.refused[asked.format]
                self.send(status, json.dumps(content).encode())
            case '429':
                self.fail(429, 'Rate limit reached.')
            case '429 with Retry-After':
                self.fail(429, 'Rate limit reached.', {'Retry-After': str(RETRY_AFTER)})
            case '429 until a date':
                self.fail(429, 'Rate limit reached.', {'Retry-After': email.utils.formatdate(usegmt=True)})
            case '429 with status 200':
                self.send(200, b'{"error": {"code": 429, "message": "Rate limit reached."}}')
            case '429 for an hour':
                self.fail(429, 'Rate limit reached.', {'Retry-After': '3600'})
            case '400':
                self.fail(400, 'The prompt was filtered.')
            case '401':
                self.fail(401, f'Incorrect API key provided: {asked.authorization.removeprefix("Bearer ")}.')
            case '404':
                self.fail(404, 'The model does not exist.')
            case '500':
                self.fail(500, 'x' * 100_000)
            case 'endless 500':
                self.head(500, 10**9)
                while True:
                    self.wfile.write(b'x' * 1000)
                    time.sleep(0.01)
            case 'slow':
                self.head(200, 1000)
                for _ in range(100):
                    self.wfile.write(b' ')
                    time.sleep(0.05)
                self.close_connection = True
            case 'cut':
                self.head(200, 1000)
                self.wfile.write(b'{"choices": [{"mess')
                self.close_connection = True
            case 'no JSON':
                self.send(200, b'<html>Welcome</html>')
            case 'words':
                self.complete(body, 'No job (that [I] know of) needs this skill.')
            case 'other JSON':
                self.complete(body, json.dumps({'error': 'I know no such skill.', 'code': 7}))
            case 'empty':
                self.complete(body, json.dumps({'titles': []}))
            case 'null content':
                self.complete(body, None)
            case 'refusal':
                self.complete(body, None, refusal='I cannot help with that.')
            case 'another language':
                self.complete(body, json.dumps({'titles': ['пекарь', '看護師', 'μηχανικός']}))
            case '10 MB':
                self.complete(body, json.dumps({'titles': ['baker ' * 1_700_000]}))
            case 'cut off':
                self.complete(body, json.dumps({'titles': titles})[:14], finish_reason='length')
            case 'the key':
                self.complete(body, json.dumps({'titles': [asked.authorization]}))
            case kind:
                raise ValueError(kind)

    def complete(self, body, content, refusal=None, finish_reason='stop'):
        message = {'role': 'assistant', 'content': content, 'refusal': refusal}
        if isinstance(content, dict):
            message |= content
        completion = {
            'id': 'chatcmpl-1',
            'object': 'chat.completion',
            'created': 0,
            'model': json.loads(body)['model'] + '-2026',
            'choices': [{'index': 0, 'message': message, 'finish_reason': finish_reason, 'logprobs': None}],
            'usage': {'prompt_tokens': 100, 'completion_tokens': 10, 'total_tokens': 110},
        }
        self.send(200, json.dumps(completion).encode())

    def fail(self, status, message, headers=None):
        self.send(status, json.dumps({'error': {'message': message, 'type': 'error'}}).encode(), headers)

    def send(self, status, body, headers=None):
        self.head(status, len(body), headers)
        self.wfile.write(body)

    def head(self, status, length, headers=None):
        self.send_response(status)
        for name, value in (
            {'Content-Type': 'application/json', 'Content-Length': str(length)} | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format, *args):
        """Prints nothing; `ChatServer` keeps the log."""
