"""Calls to an OpenAI-compatible endpoint by the official client, which retries what may pass."""

import contextlib
import dataclasses
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx2
import openai

from data_prep.enrich.prompt import FORMATS, in_format
from data_prep.enrich.redact import Secrets

logger = logging.getLogger(__name__)

MOST_BYTES = 256 * 1024  # of an answer: a hundred titles take 10 kB
MOST_OF_AN_ERROR = 4096  # bytes
REFUSED_REQUEST = (400, 413, 422)  # may concern one request only, for example a content filter's verdict
PASSING = (408, 409, 429)  # the 4xx statuses that may pass, as the client has it
FORMAT = re.compile('response_format|json_schema|grammar', re.IGNORECASE)


class CallFailed(openai.OpenAIError):
    """There is no complete answer, and the client does not retry any more. The message is one line without secrets.

    Attributes:
      refused: its status, as a short text, if the endpoint may refuse this request only; otherwise None.
    """

    def __init__(self, message: str, refused: str | None = None):
        super().__init__(message)
        self.refused = refused


class _TooLong(openai.OpenAIError):
    """An answer has more than `MOST_BYTES`."""


@dataclasses.dataclass(frozen=True)
class Completion:
    """A complete answer.

    Attributes:
      content: its text; empty if there is none.
      problem: `refusal`, `cut off` or `too long`: then the text may end too early, or be missing; otherwise None.
      model: the model that the endpoint says answered.
      input_tokens, output_tokens: as counted by the endpoint; None if it does not say.
      retries: how many calls before this one were without an answer.
    """

    content: str = ''
    problem: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    retries: int = 0


class Endpoint:
    """Chat completions of one model; threads may share it.

    Args:
      base_url: everything before /chat/completions.
      key: sent as the bearer token.
      model: the endpoint's name for it.
      timeout: seconds for a call; a trickling answer is ended after at most twice that.
      attempts: a request is given up after this many failed calls in a row.

    Attributes:
      secrets: what must not be written or shown.
      stopped: set it to let calls in progress end, but none begin.
    """

    def __init__(self, base_url: str, key: str, model: str, timeout: float, attempts: int):
        self.secrets = Secrets(key, base_url)
        self.stopped = threading.Event()
        self._model = model
        self._timeout = timeout
        self._formats: Sequence[Mapping[str, Any] | None] = FORMATS  # those that it may accept
        self._finding_out = threading.Lock()
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=key,
            max_retries=attempts - 1,
            timeout=timeout,
            default_headers={'Accept-Encoding': 'identity'},  # MOST_BYTES are counted as they come
            http_client=openai.DefaultHttpxClient(
                event_hooks={'request': [self._check_request], 'response': [self._check_response]}
            ),
        )

    def complete(self, messages: Sequence[Mapping[str, str]]) -> Completion:
        """Asks once, in the first of `FORMATS` that the endpoint accepts. The first call finds out; others wait for it.

        Raises:
          CallFailed: there is no complete answer.
        """
        with self._finding_out if len(self._formats) > 1 else contextlib.nullcontext():
            *better, last = self._formats
            for answer in better:
                try:
                    return self._complete(messages, answer)
                except CallFailed as failure:
                    if not failure.refused:
                        raise
                    logger.info('answers as %s are refused (%s); trying another', answer and answer['type'], failure)
            return self._complete(messages, last)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _complete(self, messages: Sequence[Mapping[str, str]], answer: Mapping[str, Any] | None) -> Completion:
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=self._model, **in_format(messages, answer)
            )
        except _TooLong:
            return Completion(problem='too long')
        except openai.APITimeoutError as error:
            raise CallFailed(f'no complete answer within {self._timeout:g} s{_calls(error)}') from None
        except openai.APIConnectionError as error:
            words = self.secrets.excerpt(f'{error.__cause__ or error}')
            raise CallFailed(f'{words}{_calls(error)}') from None
        except openai.APIStatusError as error:
            status, wait = error.status_code, error.response.headers.get('retry-after')
            words = error.body.get('message') if isinstance(error.body, dict) else None
            message = self.secrets.excerpt(f'status {status} {words or error.response.text}')
            if wait:
                message += self.secrets.excerpt(f'; Retry-After: {wait}')
            if status >= 500 or status in PASSING:
                raise CallFailed(f'{message}{_calls(error)}') from None
            if status in REFUSED_REQUEST:
                raise CallFailed(message, refused=f'status {status}') from None
            raise CallFailed(f'{message}; correct the key, the model or --base_url') from None
        self._formats = (answer,)
        return dataclasses.replace(_read(raw.http_response), retries=raw.retries_taken)

    def _check_request(self, _: httpx2.Request) -> None:
        if self.stopped.is_set():
            raise CallFailed('stopped')

    def _check_response(self, response: httpx2.Response) -> None:
        """Reads a response, and lets the client see errors that are none by their status; it retries what it raises."""
        most = MOST_BYTES if response.is_success else MOST_OF_AN_ERROR
        response.stream = _Limited(response.stream, most, self._timeout)
        response.read()
        if response.status_code >= 500 and len(self._formats) > 1 and FORMAT.search(response.text):
            response.status_code = 400  # llama.cpp says 500 to a schema that it does not understand
        if not response.is_success:
            return
        if len(response.content) > MOST_BYTES:
            raise _TooLong
        if self.secrets.gives_away(response.text):
            raise httpx2.DecodingError('the answer holds the key')
        try:
            _read(response)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                code = response.json()['error']['code']
                if 400 <= code < 600:  # gateways report errors of the model's server in an answer with status 200
                    response.status_code = code
                    return
            raise httpx2.DecodingError(f'the answer is not a chat completion: {response.text}') from None


class _Limited(httpx2.SyncByteStream):
    """A body that ends after `most` bytes, and is given up after `seconds`."""

    def __init__(self, stream: Any, most: int, seconds: float):
        self._stream, self._most, self._seconds = stream, most, seconds

    def __iter__(self) -> Iterator[bytes]:
        end, size = time.monotonic() + self._seconds, 0
        for chunk in self._stream:
            yield chunk
            size += len(chunk)
            if size > self._most:
                return
            if time.monotonic() > end:
                raise httpx2.ReadTimeout('trickling')

    def close(self) -> None:
        self._stream.close()


def _read(response: httpx2.Response) -> Completion:
    """Reads a chat completion; many errors if it is none."""
    completion = response.json()
    choice = completion['choices'][0]
    message, finish = choice['message'], choice.get('finish_reason')
    content = message.get('content')
    if not content and finish == 'stop':  # servers take an answer for thoughts where a model does not mark its thoughts
        content = message.get('reasoning_content') or message.get('reasoning')
    if isinstance(content, list):
        content = ''.join(part['text'] for part in content if part.get('type') == 'text')
    if not isinstance(content, str | None):
        raise TypeError('content is not text')
    problem = 'cut off' if finish == 'length' else None
    if message.get('refusal') or finish == 'content_filter':
        problem = 'refusal'
    usage = completion.get('usage') or {}
    tokens = [usage.get(name) for name in ('prompt_tokens', 'completion_tokens')]
    input_tokens, output_tokens = (n if isinstance(n, int) and n >= 0 else None for n in tokens)
    model = completion.get('model')
    return Completion(content or '', problem, str(model)[:100] if model else None, input_tokens, output_tokens)


def _calls(error: openai.APIError) -> str:
    calls = 1 + int(error.request.headers['x-stainless-retry-count'])
    return f'; {calls} calls in a row failed' if calls > 1 else ''
