"""From one HTML page to the vacancies that its schema.org JobPosting data describe."""

import codecs
import dataclasses
import datetime
import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import html_text
import lxml.etree
import lxml.html
import lxml.html.defs
from extruct.w3cmicrodata import MicrodataExtractor
from w3lib.encoding import html_body_declared_encoding, html_to_unicode, http_content_type_encoding, read_bom

from data_prep.scrape.json_ld import read_json_ld

Vacancy = dict[str, Any]  # title, description, skills, language, url, date, as `build` and `tag` read them

# Pages without one of these are not parsed. UTF-16 without its last byte matches both byte orders.
_MARKS = (b'JobPosting', 'JobPosting'.encode('utf-16-le')[:-1])
_TYPE = re.compile(r'(?:^|[/:#])JobPosting/?$')
_JSON_LD = 'application/ld+json'
_TAG = re.compile(rf'</?(?:{"|".join(sorted(lxml.html.defs.tags))})(?:\s[^<>]*)?/?>', re.IGNORECASE)
_ENTITY = re.compile(r'&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,30});')
_LINE_ENDS = re.compile('\r\n?|[\x0b\x0c\x85\u2028\u2029]')
_NOT_TEXT = re.compile('[\x00-\x08\x0e-\x1f\x7f\ufeff\ud800-\udfff]')  # not allowed in XML, or not Unicode text
_DATE = re.compile(r'\s*([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})(?![0-9])')
_LANGUAGE = re.compile(r'[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*')
_ADDRESS = re.compile(r'https?://\S+')
_LANG = re.compile(rb'<html\b[^>]*?\slang\s*=\s*["\']?([A-Za-z]{2,3}[A-Za-z_-]*)', re.IGNORECASE)
# The encoding of a page that declares none, by its language (HTML Standard, 13.2.3.2); otherwise windows-1252.
_ENCODINGS = {
    language: encoding
    for encoding, languages in {
        'cp1250': 'cs hr sk',
        'cp1251': 'be bg kk ky mk ru sr tg tt uk',
        'cp1254': 'az ku tr',
        'cp1255': 'he',
        'cp1256': 'ar fa',
        'cp1257': 'et lt lv',
        'cp1258': 'vi',
        'cp874': 'th',
        'cp932': 'ja',
        'cp949': 'ko',
        'big5hkscs': 'zh-tw zh-hk zh-mo zh-hant',
        'gb18030': 'zh',
        'iso8859_2': 'hu pl sl',
        'iso8859_7': 'el',
    }.items()
    for language in languages.split()
}

# Where an object keeps its text or its parts; the first of these that it has counts.
_CONTENTS = ('@value', '@list', '@set', 'itemListElement', 'hasDefinedTerm', 'name', 'value', 'item')

# Limits of microdata and RDFa: properties, references to them by itemref, and the depth of nested items and properties.
# Reading takes time quadratic in them: seconds within these limits. Pages beyond them were made to be slow.
_PROPERTIES = 10_000
_REFERENCES = 100_000
_NESTING = 12


@dataclasses.dataclass(frozen=True)
class Page:
    """A page as it was answered or saved.

    Attributes:
      name: its name in messages: its address or its file.
      url: its address; None for a saved file that does not state it.
      body: HTML, in any encoding.
      content_type: the header; None if there was none.
      language: the Content-Language header; None if there was none.
    """

    name: str
    url: str | None
    body: bytes
    content_type: str | None = None
    language: str | None = None


def vacancies(page: Page) -> tuple[list[Vacancy], list[str]]:
    """Reads the JobPostings of a page: those in JSON-LD; if it has none, those in microdata; otherwise those in RDFa.

    Pages with several of these describe the same vacancy twice, and the JSON-LD is more complete.

    Returns:
      The vacancies, in the page's order: title and description are plain text (paragraphs and list items are lines),
      skills a list of names (of codes or addresses where there are no names), language a BCP 47 tag or None, url the
      page's, date YYYY-MM-DD or None.
      And notes on what was repaired or dropped, one for each occurrence. A page that cannot be parsed has no vacancies;
      nothing is raised.
    """
    if not any(mark in page.body for mark in _MARKS):
        return [], []
    notes: list[str] = []
    tree = _parse(_decode(page))
    if tree is None:
        return [], ['page that cannot be parsed']
    items = _json_ld_items(tree, notes) or _microdata_items(tree, notes)
    if not items and _rdfa_to_microdata(tree):
        items = _microdata_items(tree, notes)
    url = page.url or _stated_address(tree)
    language = _language([tree.get('lang'), tree.get('xml:lang'), page.language])
    candidates = [_vacancy(item, url, language, notes) for item in items]
    return [vacancy for vacancy in candidates if vacancy is not None], notes


def _decode(page: Page) -> str:
    """The page's text, as a browser reads it; but UTF-8 beyond ASCII is read as UTF-8, whatever the page claims."""
    if read_bom(page.body)[0] is None and not page.body.isascii():
        try:
            return codecs.getincrementaldecoder('utf-8')().decode(page.body)  # the last character may be cut short
        except UnicodeDecodeError:
            pass
    stated = _LANG.search(page.body)
    language = (stated[1].decode() if stated else page.language or '').lower().replace('_', '-')
    default = next(
        (_ENCODINGS[tag] for tag in (language[:7], language[:5], language[:2]) if tag in _ENCODINGS), 'cp1252'
    )
    header = page.content_type
    declared = html_body_declared_encoding(page.body) or ''
    if declared.startswith('utf-16') and not http_content_type_encoding(header):
        header = f'text/html; charset={default}'  # the declaration could not be read if it were true
    return html_to_unicode(header, page.body, default)[1]


def _parse(text: str) -> lxml.html.HtmlElement | None:
    # As bytes, because lxml refuses text that declares an encoding.
    body = _NOT_TEXT.sub('', text).encode()
    try:
        return lxml.html.document_fromstring(body, parser=lxml.html.HTMLParser(encoding='utf-8'))
    except (lxml.etree.LxmlError, AssertionError):
        return None


def _stated_address(tree: lxml.html.HtmlElement) -> str | None:
    """The address that a saved page states."""
    addresses = tree.xpath('//link[@rel="canonical"]/@href | //meta[@property="og:url"]/@content')
    return next((str(url) for url in addresses if re.match(r'https?://\S+$', url)), None)


def _json_ld_items(tree: lxml.html.HtmlElement, notes: list[str]) -> list[dict[str, Any]]:
    items: dict[str, dict[str, Any]] = {}
    named: dict[str, dict[str, Any]] = {}
    for script in tree.iter('script'):
        if script.get('type', '').split(';')[0].strip().lower() != _JSON_LD:
            continue
        objects, note = read_json_ld(script.text or '')
        notes += [note] if note else []
        for node in _nodes(objects):
            if _is_posting(node):
                items.setdefault(json.dumps(node, sort_keys=True), node)  # a broken text may give it twice
            elif isinstance(identifier := _identifier(node), str) and 'name' in map(_local, node):
                named.setdefault(identifier, node)
    # Terms may be references to objects elsewhere in the page.
    return [{key: _resolved(value, named) for key, value in item.items()} for item in items.values()]


def _resolved(value: Any, named: Mapping[str, dict[str, Any]]) -> Any:
    """A property's value, or list of values, with what its references refer to."""
    if isinstance(value, list):
        return [_resolved(one, named) if isinstance(one, dict) else one for one in value]
    identifier = _identifier(value) if isinstance(value, dict) else None
    return named.get(identifier, value) if isinstance(identifier, str) else value


def _microdata_items(tree: lxml.html.HtmlElement, notes: list[str]) -> list[dict[str, Any]]:
    if not tree.xpath('boolean(//*[@itemscope][contains(@itemtype, "JobPosting")])'):
        return []
    properties = tree.xpath('count(//*[@itemprop])')
    references = sum(len(attribute.split()) for attribute in tree.xpath('//@itemref'))
    inner = '//*[@itemprop or @itemscope]/ancestor::*[@itemprop or @itemscope]'
    nested = tree.xpath(f'boolean({inner}[{_NESTING}])')
    if properties > _PROPERTIES or properties * references > _REFERENCES or nested:
        notes.append('microdata too large or too deep to read, left out')
        return []
    try:
        items = MicrodataExtractor().extract_items(tree, base_url=None)
    except (ValueError, RecursionError, AssertionError, lxml.etree.LxmlError):
        notes.append('broken microdata, left out')
        return []
    return [node for node in _nodes(items) if _is_posting(node)]


def _rdfa_to_microdata(tree: lxml.html.HtmlElement) -> bool:
    """Rewrites RDFa Lite, which says the same with other attributes, as microdata; returns whether it has a posting."""
    if not tree.xpath('boolean(//*[contains(@typeof, "JobPosting")])'):
        return False
    for element in tree.xpath('//*[@typeof]'):
        element.set('itemscope', '')
        element.set('itemtype', element.get('typeof'))
        if identifier := element.get('resource') or element.get('about') or element.get('href'):
            element.set('itemid', identifier)
    for element in tree.xpath('//*[@property]'):
        element.set('itemprop', ' '.join(map(_local, element.get('property').split())))
        if (address := element.get('resource')) and not element.get('content'):
            element.set('content', address)
    return True


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects, at any depth, in order; with a stack, because the depth has no limit."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(reversed(node.values()))
        elif isinstance(node, list):
            stack.extend(reversed(node))


def _is_posting(node: Mapping[str, Any]) -> bool:
    types = node.get('@type', node.get('type'))
    return any(isinstance(t, str) and _TYPE.search(t) for t in (types if isinstance(types, list) else [types]))


def _identifier(node: Mapping[str, Any]) -> Any:
    return node.get('@id', node.get('id'))


def _local(name: str) -> str:
    """The name of a property without its vocabulary: `title` for https://schema.org/title and schema:title."""
    return re.split('[/:#]', name)[-1]


def _properties(node: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of an object, by their names without vocabulary; microdata has them one level down."""
    properties = node.get('properties')
    if isinstance(properties, dict):
        node = {'id': node.get('id')} | properties
    return {_local(name): value for name, value in node.items()}


def _vacancy(item: dict[str, Any], url: str | None, language: str | None, notes: list[str]) -> Vacancy | None:
    item = _properties(item)
    title = next((text for key in ('title', 'name') for text in _texts(item.get(key)) if text), '')
    if not title:
        notes.append('posting without a title, dropped')
        return None
    description = '\n\n'.join(_texts(item.get('description')))
    if not description:
        notes.append('posting without a description, kept')
    skills = [line for text in _texts(item.get('skills'), _term) for line in text.split('\n') if line]
    if item.get('skills') and not skills:
        notes.append('skills without a name, code or address, left out')
    stated = _texts(item.get('datePosted'))
    date = next((date for date in map(_date, stated) if date), None)
    if stated and date is None:
        notes.append('date that is not year-month-day, left out')
    return {
        'title': ' '.join(title.split()),
        'description': description,
        'skills': skills,
        'language': _language(_texts(item.get('inLanguage'))) or language,
        'url': url,
        'date': date,
    }


def _texts(value: Any, otherwise: Callable[[Mapping[str, Any]], Any] = lambda _: None, depth: int = 5) -> list[str]:
    """The texts of a property, which holds one, several, or objects with a name, a value or a list of such objects.

    Args:
      value: of the property.
      otherwise: what stands for an object that has neither.
      depth: how deep values may be nested.
    """
    if isinstance(value, str):
        text = plain_text(value)
        return [text] if text else []
    if isinstance(value, list) and depth:
        return [text for part in value for text in _texts(part, otherwise, depth - 1)]
    if isinstance(value, dict) and depth:
        value = _properties(value)
        content = next((value[key] for key in _CONTENTS if value.get(key)), None) or otherwise(value)
        return _texts(content, otherwise, depth - 1)
    return []


def _term(properties: Mapping[str, Any]) -> str | None:
    """What identifies a term without a name: its code, or an address."""
    if isinstance(code := properties.get('termCode'), str) and code.strip():
        return code
    addresses = (_identifier(properties), properties.get('url'))
    return next((one for one in addresses if isinstance(one, str) and _ADDRESS.fullmatch(one.strip())), None)


def plain_text(text: str) -> str:
    """Strips HTML, even if its tags are escaped; paragraphs and list items become lines.

    Text without any HTML tag keeps its lines, and what only looks like a tag, such as List<String>.
    """
    text = _NOT_TEXT.sub('', _LINE_ENDS.sub('\n', text))
    if not _TAG.search(text):
        text = _unescape(text)
    if _TAG.search(text):
        try:
            text = html_text.extract_text(text)
        except (RecursionError, AssertionError, ValueError, lxml.etree.LxmlError):
            text = _TAG.sub(' ', text)
    lines = (' '.join(line.split()) for line in _NOT_TEXT.sub('', _LINE_ENDS.sub('\n', _unescape(text))).split('\n'))
    return re.sub(r'\n{3,}', '\n\n', '\n'.join(lines)).strip()


def _unescape(text: str) -> str:
    """Resolves entities, twice if they were escaped twice; the semicolon is required, so that &copy=1 is left alone."""
    for _ in range(2):
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    return text


def _date(text: str) -> str | None:
    match = _DATE.match(text)
    try:
        return datetime.date(*map(int, match.groups())).isoformat() if match else None
    except ValueError:
        return None


def _language(texts: Sequence[str | None]) -> str | None:
    """The first text that is a language tag such as xx or xx-YY."""
    for text in texts:
        tag = (text or '').split(',')[0].strip().replace('_', '-')
        if _LANGUAGE.fullmatch(tag):
            return tag
    return None
