"""The one form of a web address in which it is asked for and compared, and the host that it counts against."""

import ipaddress
import re
import urllib.parse

from w3lib.url import safe_url_string

_HOST = re.compile(r'[a-z0-9._-]+')


def web_address(url: str) -> str | None:
    """Returns an address in the form in which it is asked for: ASCII, escaped, no fragment; None if it is none.

    Only http and https are web addresses, and none that carries a password.
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
    """The host whose rate, and whose number of pages, an address counts against."""
    return urllib.parse.urlsplit(url).hostname or ''
