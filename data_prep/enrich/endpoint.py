"""Calls to an OpenAI-compatible endpoint by the official client, with everything that can go wrong."""

import contextlib
import dataclasses
import email.utils
import json
import math
import time
from typing import Any

import httpx2
import openai

from data_prep.enrich.redact import Secrets

MOST_BYTES = 256 * 1024  # of an answer, decompressed: a hundred titles take 10 kB
MOST_EXCERPT = 200  # characters of an endpoint's error that are shown
REFUSED_CONTENT = (400, 413, 422)  # may concern one request only, for example a content filter's verdict
PASSING = (408, 409, 425, 429)  # the 4xx statuses that may pass


class CallFailed(openai.OpenAIError):
    """There is no complete answer. The message is one line without secrets.

    Attributes:
      status: the HTTP status; None if the connection failed or the response is not a chat completion.
      wait: the seconds that the endpoint asks us to wait; None if it does not.
      kind: a short name, the same for all failures of one kind.
    """

    def __init__(self, message: str, kind: str, status: int | None = None, wait: float | None = None):
        super().__init__(message)
        self.kind, self.status, self.wait = kind, status, wait

    @property
    def about_content(self) -> bool:
        """Whether the endpoint may refuse this request only."""
        return self.status in REFUSED_CONTENT

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status is None or self.status >= 500 or self.status in PASSING


@dataclasses.dataclass(frozen=True)
class Completion:
    """A complete answer.

    Attributes:
      content: its text; empty if there is none.
      problem: `refusal`, `cut off` or `too long` (then without content); None if the text is complete.
      model: the model that the endpoint says answered.
      input_tokens, output_tokens: as counted by the endpoint; None if it does not say.
    """

    content: str
    problem: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None


class Endpoint:
    """Chat completions of one model; threads may share it.

    Args:
      base_url: everything before /chat/completions.
      key: sent as the bearer token.
      model: the endpoint's name for it.
      timeout: seconds for a call; a trickling answer is ended after at most twice that.

    Attributes:
      secrets: what must not be written or shown.
    """

    def __init__(self, base_url: str, key: str, model: str, timeout: float):
        self.secrets = Secrets(key, base_url)
        self._model = model
        self._timeout = timeout
        # The retries are in ask.py: they are seeded, and cover damaged answers too.
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=key,
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultHttpxClient(event_hooks={'response': [self._refuse_errors]}),
        )

    def complete(self, messages: Any, response_format: Any) -> Completion:
        """Asks once.

        Raises:
          CallFailed: there is no complete answer.
        """
        deadline = time.monotonic() + self._timeout
        body = bytearray()
        try:
            with self._client.chat.completions.with_streaming_response.create(
                model=self._model, messages=messages, response_format=response_format
            ) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MOST_BYTES:
                        return Completion('', 'too long', None, None, None)
                    if time.monotonic() > deadline:
                        raise CallFailed(f'no complete answer within {self._timeout:g} s', 'timeout')
        except (openai.APITimeoutError, httpx2.TimeoutException):
            raise CallFailed(f'no complete answer within {self._timeout:g} s', 'timeout') from None
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            raise CallFailed(self._one_line(f'{error.__cause__ or error}'), 'connection') from None
        try:
            text = body.decode()
            if self.secrets.gives_away(text):
                raise CallFailed('the answer holds the key', 'key in the answer')
            return self._read(json.loads(text))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise CallFailed('the answer is not a chat completion', 'no chat completion') from None

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _read(self, completion: dict[str, Any]) -> Completion:
        choice = completion['choices'][0]
        content, refusal = choice['message'].get('content'), choice['message'].get('refusal')
        if not isinstance(content, str | None):
            raise TypeError('content is not text')
        finish = choice.get('finish_reason')
        problem = 'cut off' if finish == 'length' else None
        if refusal or finish == 'content_filter':
            problem = 'refusal'
        usage = completion.get('usage') or {}
        tokens = [usage.get(name) for name in ('prompt_tokens', 'completion_tokens')]
        input_tokens, output_tokens = (n if isinstance(n, int) and n >= 0 else None for n in tokens)
        model = completion.get('model')
        return Completion(content or '', problem, str(model)[:100] if model else None, input_tokens, output_tokens)

    def _refuse_errors(self, response: Any) -> None:
        """Raises errors before the client reads their bodies, which may be endless: the beginning is enough."""
        if response.status_code < 400:
            return
        try:
            excerpt = next(response.iter_bytes(), b'')[:4096].decode(errors='replace')
        except httpx2.HTTPError:
            excerpt = ''
        response.close()
        with contextlib.suppress(ValueError, KeyError, TypeError):
            excerpt = json.loads(excerpt)['error']['message']
        status = response.status_code
        raise CallFailed(
            self._one_line(f'status {status} {excerpt}'), f'status {status}', status, _retry_after(response.headers)
        )

    def _one_line(self, text: str) -> str:
        return ' '.join(self.secrets.redact(text).split())[:MOST_EXCERPT]


def _retry_after(headers: Any) -> float | None:
    """The seconds to wait by a Retry-After header with seconds or a date; None without one."""
    value = headers.get('retry-after')
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
