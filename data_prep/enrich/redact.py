"""Keeps the API key and tokens in a URL out of all files, logs and messages."""

import re
import urllib.parse

MOST_EXCERPT = 300  # characters


class Secrets:
    """What must not be shown: an endpoint's key, and the values in the query of its URL.

    Attributes:
      endpoint: the URL without query and fragment.
    """

    def __init__(self, key: str, base_url: str):
        parts = urllib.parse.urlsplit(base_url)
        self.endpoint = urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path, '', ''))
        self._base_url = base_url
        self._key = key
        tokens = [value for _, value in urllib.parse.parse_qsl(parts.query)]
        # Endpoints show part of a key ("sk-abcd***"), and excerpts may cut it, so its first 8 characters are matched.
        patterns = [
            re.escape(secret[:8]) + r'[^\s\'"]*' if len(secret) >= 8 else rf'(?<!\w){re.escape(secret)}(?!\w)'
            for secret in (key, *tokens)
            if secret
        ]
        self._pattern = re.compile('|'.join(patterns)) if patterns else None

    def redact(self, text: str) -> str:
        """Replaces every secret in a text with [secret]."""
        text = text.replace(self._base_url, self.endpoint)
        return self._pattern.sub('[secret]', text) if self._pattern else text

    def excerpt(self, text: str) -> str:
        """The beginning of an endpoint's own words, redacted and on one line, for messages."""
        return ' '.join(self.redact(text).split())[:MOST_EXCERPT]

    def gives_away(self, text: str) -> bool:
        """Whether an answer contains the key. Keys shorter than 16 characters do not count: they may be words."""
        return len(self._key) >= 16 and self._key in text
