"""The one form in which a web address is requested and compared, and the host whose limits apply to it."""

import ipaddress
import re
import urllib.parse

from w3lib.url import safe_url_string

_HOST = re.compile(r'[a-z0-9._-]+')


def web_address(url: str) -> str | None:
    """Normalises a web address: ASCII, escaped, without a fragment; None if the text is not one.

    Only http and https addresses without a password count.
    """
    try:
        safe = safe_url_string(url.strip())
        parts = urllib.parse.urlsplit(safe)
        if parts.scheme not in ('http', 'https') or '@' in parts.netloc or parts.port == 0 or not safe.isascii():
            return None
        if not _HOST.fullmatch(parts.hostname or ''):
            ipaddress.IPv6Address(parts.hostname)
        return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.lower(), path=parts.path or '/', fragment=''))
    except (ValueError, UnicodeError):
        return None


def host_of(url: str) -> str:
    """The host whose rate and number of pages are limited."""
    return urllib.parse.urlsplit(url).hostname or ''
