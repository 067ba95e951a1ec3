"""Vacancies from the web: which pages are read, how they are requested, and what can go wrong."""

import gzip
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import scrape as command
from data_prep.scrape.address import web_address
from data_prep.scrape.network import Failure, is_public, read_body
from data_prep.scrape.sources import parse_sitemap
from tests.conftest import ROOT
from tests.data_prep import warc, web
from tests.data_prep.web import HTML, page, posting, redirect
from uwe_jax.io import console
from uwe_jax.io.errors import DataError

TEXT = {'Content-Type': 'text/plain'}


@pytest.fixture
def site():
    with web.serving() as site:
        yield site


def parsed(flags):
    return console.parse(command.Options, flags)


def scrape(directory, *flags, name='out.jsonl'):
    """Runs the command; returns its vacancies, and {what: {kind: count}} of its summary."""
    output = directory / name
    command.run(parsed([f'--output={output}', *flags]), 'python -m data_prep scrape')
    summary = json.loads((directory / f'{name}.summary.json').read_text())
    assert summary.pop('command') == 'python -m data_prep scrape'
    counts = {what: {kind: one['count'] for kind, one in kinds.items()} for what, kinds in summary.items()}
    return [json.loads(line) for line in output.read_text().split('\n')[:-1]], counts


def fetching(site, *flags):
    """Flags for asking a site on this machine, fast."""
    defaults = {'contact': 'jobs@example.org', 'rate': 1000, 'max_seconds': 0.8, 'max_bytes': 100_000}
    names = ''.join(flags)
    used = [f'--{name}={value}' for name, value in defaults.items() if f'--{name}=' not in names]
    return [*used, f'--allow_host=127.0.0.1:{site.port}', *flags]


def scrape_urls(directory, site, *paths, flags=()):
    """Asks a site for pages; a path may also be a whole address."""
    urls = directory / 'urls.txt'
    urls.write_text(''.join(f'{path if "://" in path else site.origin + path}\n' for path in paths))
    return scrape(directory, *fetching(site, f'--urls={urls}', *flags))


def titles(postings):
    return [vacancy['title'] for vacancy in postings]


# Archives and saved pages.


def write_warc(path, responses):
    path.write_bytes(b''.join(warc.records(responses)))


def test_saved_pages_tell_their_own_address(tmp_path):
    (tmp_path / 'a.html').write_text('<link rel="canonical" href="https://a.example/1">' + page(posting('A')))
    (tmp_path / 'b.html').write_text(page(posting('B')))
    (tmp_path / 'c.html').write_text('x' * 2000)
    postings, counts = scrape(tmp_path, f'--html={tmp_path}/*.html', '--max_bytes=1000')
    assert [(v['title'], v['url']) for v in postings] == [('A', 'https://a.example/1'), ('B', None)]
    assert counts['pages'] == {'too large': 1, 'with postings': 2}


def test_the_same_address_and_the_same_content_are_written_once(tmp_path):
    a, b = posting('A', 'Do this.'), posting('B', 'Do that.')
    write_warc(tmp_path / '1.warc', [('https://a.example/1', 200, HTML, page(a))])
    again = posting('a', '<p>Do  THIS.</p>')
    later = [('https://a.example/1', 200, HTML, page(b)), ('https://b.example/', 200, HTML, page(again, b))]
    write_warc(tmp_path / '2.warc', later)
    postings, counts = scrape(tmp_path, f'--warc={tmp_path}/*.warc')
    assert titles(postings) == ['A', 'B']
    assert counts['pages'] == {'same address as a page before, dropped': 1, 'with postings': 2}
    assert counts['postings'] == {'same title and description as one before, dropped': 1, 'written': 2}


def test_postings_without_a_description_are_the_same_if_they_ask_for_the_same_skills(tmp_path):
    postings = [posting('A', '') | {'skills': skills} for skills in ('SQL', 'Python', 'SQL')]
    write_warc(tmp_path / '1.warc', [('https://a.example/1', 200, HTML, page(*postings))])
    assert titles(scrape(tmp_path, f'--warc={tmp_path}/*.warc')[0]) == ['A', 'A']


# Asking for pages.


def test_only_what_robots_txt_allows_is_requested(site, tmp_path):
    rules = 'User-agent: *\nDisallow: /\n\nUser-agent: uwe_jax\nDisallow: /private\n'
    site.pages = {'/robots.txt': (200, TEXT, rules), '/1': page(posting('A')), '/private/2': page(posting('B'))}
    site.pages['/3'] = redirect('/private/2')
    postings, counts = scrape_urls(tmp_path, site, '/1', '/private/2', '/3')
    assert [(vacancy['title'], vacancy['url']) for vacancy in postings] == [('A', f'{site.origin}/1')]
    assert counts['pages'] == {'refused by robots.txt': 2, 'with postings': 1}
    assert site.paths() == ['/robots.txt', '/1', '/3']


def test_every_request_states_our_name_and_the_contact(site, tmp_path):
    site.pages = {'/1': page(posting())}
    scrape_urls(tmp_path, site, '/1')
    assert site.paths() == ['/robots.txt', '/1']
    for _, _, agent in site.asked:
        assert agent.startswith('uwe_jax/')
        assert agent.endswith('(+jobs@example.org)')


@pytest.mark.parametrize(
    ('robots', 'outcome'),
    [
        ((404, TEXT, b''), 'with postings'),
        ((403, TEXT, b''), 'with postings'),
        ((500, TEXT, b''), 'no answer for robots.txt'),
        (web.silence, 'no answer for robots.txt'),
        (web.endless_drip, 'no answer for robots.txt'),
        (redirect('/rules'), 'refused by robots.txt'),
        (redirect('/robots.txt'), 'with postings'),
        ((200, TEXT, b'User-agent: *\nAllow: /\n' + b'#' * 600_000 + b'\nDisallow: /\n'), 'with postings'),
        ((200, TEXT, b'User-agent: *\nCrawl-delay: 86400\n'), 'host wants more than 300 s between pages'),
        ((200, HTML, b'\xff\xfe\x00<html>not rules'), 'with postings'),
    ],
)
def test_what_robots_txt_means(site, tmp_path, robots, outcome):
    site.pages = {'/robots.txt': robots, '/rules': (200, TEXT, b'User-agent: *\nDisallow: /'), '/1': page(posting())}
    assert scrape_urls(tmp_path, site, '/1')[1]['pages'] == {outcome: 1}


def test_a_host_is_asked_at_its_rate(site, tmp_path):
    site.pages = {f'/{n}': page(posting(f'Job {n}')) for n in range(5)}
    scrape_urls(tmp_path, site, *site.pages, flags=['--rate=10'])
    assert site.times('/4')[0] - site.times('/robots.txt')[0] > 0.25  # 0.5 s by the client's clock


def test_a_slower_crawl_delay_wins_over_the_rate(site, tmp_path):
    site.pages = {'/robots.txt': (200, TEXT, b'User-agent: *\nCrawl-delay: 0.5'), '/1': page(posting()), '/2': page()}
    scrape_urls(tmp_path, site, '/1', '/2')
    assert site.times('/2')[0] - site.times('/1')[0] > 0.25


def test_a_busy_host_is_asked_again_when_it_says(site, tmp_path):
    site.pages = {
        '/1': web.busy_once('1', then=page(posting())),
        '/2': (503, {'Retry-After': 'Fri, 31 Dec 2100 23:59:59 GMT'}, b''),
        '/3': (429, {'Retry-After': '0'}, b''),
    }
    assert scrape_urls(tmp_path, site, '/1', '/2', '/3')[1]['pages'] == {
        'status 429': 1,
        'status 503': 1,
        'with postings': 1,
    }
    first, second = site.times('/1')
    assert second - first > 0.8
    assert [len(site.times(path)) for path in ('/2', '/3')] == [1, 3]


MISBEHAVIOUR = {
    '/silence': (web.silence, 'timed out'),
    '/endless drip': (web.endless_drip, 'timed out'),
    '/drip of headers': (web.drip_of_headers, 'timed out'),
    '/flood': (web.flood, 'too large'),
    '/large': ('x' * 100_001, 'too large'),
    '/bomb': (web.bomb(50), 'too large'),
    '/many members': (web.compressed('x' * 50_000, repeat=3), 'too large'),
    '/not gzip': ((200, HTML | {'Content-Encoding': 'gzip'}, b'plain'), 'broken answer'),
    '/half of gzip': ((200, HTML | {'Content-Encoding': 'gzip'}, gzip.compress(b'x' * 999)[:20]), 'broken answer'),
    '/another encoding': ((200, HTML | {'Content-Encoding': 'br'}, b'x'), 'broken answer'),
    '/cut off': (web.cut_off, 'broken answer'),
    '/not http': (web.not_http, 'broken answer'),
    '/loop': (redirect('/loop2'), 'redirect loop'),
    '/loop2': (redirect('/loop', 301), 'redirect loop'),
    '/far/0': (lambda handler: handler.answer(*redirect(f'/far/{int(handler.path[5:]) + 1}')), 'too many redirects'),
    '/to a file': (redirect('file:///etc/passwd'), 'redirect to something that is not a web address'),
    '/to nowhere': ((302, {}, b''), 'redirect to something that is not a web address'),
    '/to another port': (redirect('http://127.0.0.1:1/'), 'private address'),
    '/to this machine': (redirect('http://localhost:1/'), 'private address'),
    '/to the network here': (redirect('http://192.168.0.1/'), 'private address'),
    '/to metadata': (redirect('http://169.254.169.254/latest'), 'private address'),
    '/to IPv6': (redirect('http://[::ffff:127.0.0.1]:1/'), 'private address'),
    '/pdf': ((200, {'Content-Type': 'application/pdf'}, b'JobPosting'), 'not HTML'),
    '/404': ((404, HTML, page(posting())), 'status 404'),
    '/500': ((500, HTML, page(posting())), 'status 500'),
    '/broken html': ('<html><<p JobPosting></b></table><script', 'no posting'),
    '/empty': ('', 'no posting'),
    '/gzip': (web.compressed(page(posting('Gzip'))), 'with postings'),
    '/moved': (redirect('/fine', 308), 'with postings'),
}


def test_whatever_a_server_does_costs_one_page_and_is_counted(site, tmp_path):
    site.pages = {path.replace(' ', '%20'): answer for path, (answer, _) in MISBEHAVIOUR.items()}
    site.pages |= {f'/far/{n}': site.pages['/far/0'] for n in range(9)} | {'/fine': page(posting('Fine'))}
    postings, counts = scrape_urls(tmp_path, site, *MISBEHAVIOUR)
    assert titles(postings) == ['Gzip', 'Fine']
    assert postings[1]['url'] == f'{site.origin}/fine'
    outcomes = [outcome for _, outcome in MISBEHAVIOUR.values()]
    assert counts['pages'] == {outcome: outcomes.count(outcome) for outcome in outcomes}
    assert '/far/5' in site.paths()  # five redirects are followed
    assert '/far/6' not in site.paths()


@pytest.mark.parametrize('url', ['http://127.0.0.1:{0}/', 'http://10.0.0.1/', 'http://[::1]/', 'http://0.0.0.0:{0}/'])
def test_the_first_address_is_not_private_either(site, tmp_path, url):
    urls = tmp_path / 'urls.txt'
    urls.write_text(url.format(site.port))
    _, counts = scrape(tmp_path, f'--urls={urls}', '--contact=https://example.org/bot')
    assert counts['pages'] == {'private address': 1}
    assert site.asked == []


def test_the_address_that_was_checked_is_the_one_connected_to(site, tmp_path, monkeypatch):
    """A name may stand for another address at every look-up."""
    answers = ['127.0.0.1', '127.0.0.1', '10.0.0.1']
    connected = []
    connect = socket.create_connection

    def look_up(host, port, *_, **__):
        address = answers.pop(0) if host == 'rebinding.test' else host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, '', (address, port))]

    def connect_and_tell(address, *rest, **more):
        connected.append(address)
        return connect(address, *rest, **more)

    monkeypatch.setattr('data_prep.scrape.network.socket.getaddrinfo', look_up)
    monkeypatch.setattr('socket.create_connection', connect_and_tell)
    site.pages = {'/1': page(posting()), '/2': page(posting('B'))}
    origin = f'http://rebinding.test:{site.port}'
    _, counts = scrape_urls(tmp_path, site, f'{origin}/1', f'{origin}/2')
    assert counts['pages'] == {'private address': 1, 'with postings': 1}
    assert connected == [('127.0.0.1', site.port)] * 2
    assert site.paths() == ['/robots.txt', '/1']


@pytest.mark.parametrize(
    'address',
    [
        *('127.0.0.1', '10.1.2.3', '172.16.0.1', '192.168.1.1', '169.254.169.254', '100.64.0.1', '0.0.0.0'),
        *('224.0.0.1', '255.255.255.255', '::1', '::', 'fe80::1%eth0', 'fc00::1', 'fec0::1', 'ff02::1', '2001::1'),
        *('::ffff:10.0.0.1', '2002:7f00:1::', '64:ff9b::a00:1'),
    ],
)
def test_private_addresses_are_known_in_all_their_forms(address):
    assert not is_public(address)


@pytest.mark.parametrize('address', ['8.8.8.8', '::ffff:8.8.8.8', '2606:4700::1111', '64:ff9b::808:808'])
def test_public_addresses_are_known(address):
    assert is_public(address)


def test_a_host_is_given_up_after_ten_pages_without_a_response(site, tmp_path):
    site.pages = {f'/{n}': web.not_http for n in range(12)} | {'/4': web.silence}
    _, counts = scrape_urls(tmp_path, site, *site.pages, flags=['--max_seconds=0.3'])
    assert counts['pages'] == {'broken answer': 9, 'timed out': 1, 'host given up, it did not answer': 2}
    assert len(site.times(*site.pages)) == 10


def test_a_host_that_cannot_be_reached_is_counted(site, tmp_path):
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        port = unused.getsockname()[1]
        nobody_listens = f'http://127.0.0.1:{port}/'
        no_tls = f'https://127.0.0.1:{site.port}/'
        _, counts = scrape_urls(tmp_path, site, nobody_listens, no_tls, flags=[f'--allow_host=127.0.0.1:{port}'])
    assert counts['pages'] == {'cannot be reached': 2}


def test_several_hosts_are_asked_at_once_and_the_output_keeps_the_order_of_the_list(site, tmp_path):
    site.pages = {f'/{n}': lambda handler: (time.sleep(0.2), handler.answer(200, HTML, b'')) for n in range(3)}
    site.pages |= {'/a': page(posting('A'))}
    with web.serving() as other:
        other.pages = {'/b': page(posting('B'))}
        (tmp_path / 'urls.txt').write_text(
            ''.join(f'{site.origin}/{n}\n' for n in range(3)) + f'{site.origin}/a\n{other.origin}/b\n'
        )
        name = f'http://localhost:{other.port}/b'  # another host by name
        (tmp_path / 'more.txt').write_text(f'# another list\n\n{name}\n{name}#part\n')
        flags = [f'--urls={tmp_path}/urls.txt', f'--urls={tmp_path}/more.txt', f'--allow_host=127.0.0.1:{other.port}']
        postings, counts = scrape(tmp_path, *fetching(site, *flags))
        assert titles(postings) == ['A', 'B']
        assert counts['addresses'] == {'repeated, requested once': 1}
        assert other.times('/b')[0] < site.times('/a')[0]


def test_of_each_host_at_most_so_many_pages_are_asked(site, tmp_path):
    site.pages = {f'/{n}': page(posting(f'Job {n}')) for n in range(5)}
    postings, counts = scrape_urls(tmp_path, site, *site.pages, flags=['--max_pages=3'])
    assert titles(postings) == ['Job 0', 'Job 1', 'Job 2']
    assert counts['addresses'] == {'above --max_pages of its host, not requested': 2}
    assert len(site.times('/3', '/4')) == 0


# Sitemaps.


def sitemap(*urls, root='urlset', entry='url'):
    entries = ''.join(f'<{entry}><loc>\n{url}</loc><lastmod>2026-01-01</lastmod></{entry}>' for url in urls)
    return f'<?xml version="1.0"?><{root} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{entries}</{root}>'


def index(*urls):
    return sitemap(*urls, root='sitemapindex', entry='sitemap')


def test_a_sitemap_index_leads_to_pages(site, tmp_path):
    xml = {'Content-Type': 'application/xml'}
    site.pages = {f'/{n}': page(posting(f'Job {n}')) for n in range(4)}
    site.pages |= {
        '/index.xml': (200, xml, index(*(f'{site.origin}/{name}' for name in ('a.xml.gz', 'b.txt', 'c.xml', 'd.xml')))),
        '/a.xml.gz': (200, xml, gzip.compress(sitemap(f'{site.origin}/0', 'ftp://x/', f'{site.origin}/1').encode())),
        '/b.txt': (200, TEXT, f'{site.origin}/2\n{site.origin}/0\n'),
        '/c.xml': (200, xml, index(f'{site.origin}/index.xml', f'{site.origin}/e.xml')),
        '/d.xml': (200, xml, '<html>no sitemap</html>'),
        '/e.xml': (200, xml, sitemap(f'{site.origin}/3')),
    }
    postings, counts = scrape(tmp_path, *fetching(site, f'--sitemap={site.origin}/index.xml'))
    assert titles(postings) == ['Job 0', 'Job 1', 'Job 2', 'Job 3']
    assert counts['addresses'] == {
        'not a web address, left out': 1,
        'repeated, requested once': 1,
        'sitemap: not a sitemap': 1,
    }
    assert len(site.times('/index.xml')) == 1


def test_a_sitemap_may_be_a_file(site, tmp_path):
    site.pages = {'/0': page(posting('A')), '/1': page(posting('B')), '/more.xml': sitemap(f'{site.origin}/1')}
    (tmp_path / 'pages.xml.gz').write_bytes(gzip.compress(sitemap(f'{site.origin}/0').encode()))
    (tmp_path / 'index.xml').write_text(index(f'{site.origin}/more.xml'))
    flags = [f'--sitemap={tmp_path}/pages.xml.gz', f'--sitemap={tmp_path}/index.xml']
    assert titles(scrape(tmp_path, *fetching(site, *flags))[0]) == ['A', 'B']


@pytest.mark.parametrize('written', ['/a?x=1&amp;y=2', '/a?x=1&y=2', '<![CDATA[/a?x=1&y=2]]>', '/a?x=1&#38;y=2'])
def test_ampersands_in_a_sitemap_may_be_escaped_or_not(written):
    text = sitemap('https://a.example/1').replace('/1<', f'{written}<')
    assert parse_sitemap(text.encode()).pages == ['https://a.example/a?x=1&y=2']


def test_a_sitemap_reads_nothing_from_elsewhere_and_does_not_grow(tmp_path):
    (tmp_path / 'secret').write_text('https://a.example/secret')
    laughs = ''.join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    kinds = f'<!DOCTYPE urlset [<!ENTITY e0 "https://a.example/x">{laughs}<!ENTITY f SYSTEM "{tmp_path}/secret">]>'
    text = sitemap('https://a.example/1', '&f;', '&e9;').replace('<urlset', f'{kinds}<urlset')
    assert parse_sitemap(text.encode()).pages == ['https://a.example/1']


@settings(max_examples=150, deadline=None)
@given(st.binary() | st.binary().map(lambda data: sitemap('https://a.example/1').encode()[:150] + data))
def test_what_is_not_a_sitemap_is_a_value_error(data):
    for variant in (data, gzip.compress(data), gzip.compress(data)[:-1]):
        try:
            sitemap_of = parse_sitemap(variant)
        except ValueError:
            continue
        assert all(url.startswith('http') for url in sitemap_of.pages + sitemap_of.sitemaps)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 400), st.integers(1, 50), st.integers(1, 3))
def test_a_body_is_read_up_to_its_limit_however_it_is_cut_and_compressed(data, limit, size, members):
    sent = gzip.compress(data) * members
    chunks = [sent[n : n + size] for n in range(0, len(sent), size)]
    whole = data * members
    if len(whole) <= limit and len(sent) <= limit:
        assert read_body(chunks, 'gzip', limit) == whole
    else:
        with pytest.raises(Failure, match='too large'):
            read_body(chunks, 'gzip', limit)
        assert whole.startswith(read_body(chunks, 'gzip', limit, truncate=True))


@pytest.mark.parametrize(
    ('text', 'address'),
    [
        (' HTTP://Example.ORG ', 'http://example.org/'),
        ('https://a.example/ä b?q=1#part', 'https://a.example/%C3%A4%20b?q=1'),
        ('https://bücher.example/', 'https://xn--bcher-kva.example/'),
        ('ftp://a.example/', None),
        ('https://user:password@a.example/', None),
        ('https://', None),
        ('https://a.example:99999/', None),
        ('javascript:alert(1)', None),
    ],
)
def test_web_addresses_have_one_form(text, address):
    assert web_address(text) == address


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text().map('http://{0}'.format) | st.text().map('https://a.example/{0}'.format))
def test_a_web_address_is_ascii_and_stays_what_it_is(text):
    url = web_address(text)
    if url is not None:
        assert url.isascii()
        assert url.startswith(('http://', 'https://'))
        assert not any(character.isspace() for character in url)
        assert web_address(url) == url


# Being killed, and going on.


def entries(journal):
    """The entries on the whole lines of a journal, without the settings."""
    return [json.loads(line) for line in journal.read_bytes().split(b'\n')[1:-1]] if journal.exists() else []


def test_killed_at_any_moment_it_goes_on_without_repeating_a_request_and_ends_the_same(site, tmp_path):
    site.pages = {f'/{n}': page(posting(f'Job {n % 50}', f'<p>Do {n}.</p>')) for n in range(60)}
    site.pages |= {'/7': redirect('/70'), '/70': page(posting('Moved')), '/8': (404, HTML, b''), '/9': page()}
    site.pages |= {'/map.xml': sitemap(*(f'{site.origin}/{n}' for n in range(40, 60)))}
    write_warc(tmp_path / 'a.warc', [('https://a.example/1', 200, HTML, page(posting('A')))])
    (tmp_path / 'urls.txt').write_text(''.join(f'{site.origin}/{n}\n' for n in range(40)))
    flags = [f'--urls={tmp_path}/urls.txt', f'--sitemap={site.origin}/map.xml', f'--warc={tmp_path}/a.warc']
    flags = fetching(site, *flags, '--rate=200', '--max_seconds=5')
    expected = scrape(tmp_path, *flags, name='whole.jsonl')

    site.asked.clear()
    journal = tmp_path / 'out.jsonl.partial' / 'journal.jsonl'
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONDONTWRITEBYTECODE'}
    for kill_after in (1, 2, 17, 35, 60):
        process = subprocess.Popen(
            [sys.executable, '-m', 'data_prep', 'scrape', f'--output={tmp_path}/out.jsonl', *flags],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        before = len(site.asked)
        known = entries(journal)
        while len(site.asked) < kill_after and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        heard = [entry for entry in known if entry.get('heard', True)]
        answered = {e.get('page') or e.get('sitemap') or f'{e.get("robots")}/robots.txt' for e in heard}
        assert not answered & {site.origin + path for path in site.paths()[before:]}
        assert not (tmp_path / 'out.jsonl').exists()
        with open(journal, 'ab') as file:
            file.write(b'{"page": "http://cut')  # as if it had been killed within a line
    assert scrape(tmp_path, *flags) == expected
    assert len(site.asked) <= 64 + 5  # a request in progress at a kill may be repeated
    assert not journal.parent.exists()


def test_killed_between_the_output_and_its_end_it_only_tidies_up(tmp_path):
    (tmp_path / 'a.html').write_text(page(posting('A')))
    expected = scrape(tmp_path, f'--html={tmp_path}/a.html')
    work = tmp_path / 'out.jsonl.partial'
    work.mkdir()
    (work / 'complete').touch()
    assert scrape(tmp_path, f'--html={tmp_path}/a.html') == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.html', 'out.jsonl', 'out.jsonl.summary.json']


def test_a_page_that_did_not_answer_is_requested_again_when_the_run_goes_on(site, tmp_path):
    in_the_way = tmp_path / 'out.jsonl.summary.json'
    in_the_way.mkdir()
    site.pages = {'/1': web.not_http, '/2': page(posting('B'))}
    with pytest.raises(DataError, match=r'out\.jsonl: cannot be written'):
        scrape_urls(tmp_path, site, '/1', '/2')
    in_the_way.rmdir()
    site.pages = {'/1': page(posting('A')), '/2': page(posting('C'))}
    assert titles(scrape_urls(tmp_path, site, '/1', '/2')[0]) == ['A', 'B']
    assert [site.paths().count(path) for path in ('/robots.txt', '/1', '/2')] == [1, 2, 1]


def test_after_a_full_disk_the_same_command_goes_on(site, tmp_path):
    site.pages = {f'/{n}': page(posting(f'Job {n}')) for n in range(4)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DataError, match=r'journal\.jsonl: cannot be written \(File too large\)'):
            scrape_urls(tmp_path, site, *site.pages)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert '/0' in site.paths()
    assert titles(scrape_urls(tmp_path, site, *site.pages)[0]) == [f'Job {n}' for n in range(4)]
    assert site.paths().count('/0') == 1


# What is refused.

CONTACT = '--contact=a@b.example'
REFUSED = {
    'nothing to read': ([], 'nothing to read: give --warc, --html, --urls or --sitemap'),
    'no contact': (['--urls=urls.txt'], 'give --contact, so that a host can reach you'),
    'a contact with a line break': (
        ['--urls=urls.txt', '--contact=a@b.example\r\nX: y'],
        r'--contact=.*expected a mail',
    ),
    'a contact that reaches nobody': (['--urls=urls.txt', '--contact=me'], r"--contact='me': expected a mail address"),
    'a glob that matches nothing': (['--warc=none/*.gz'], r'--warc=none/\*\.gz: matches no file'),
    'a directory of pages': (['--html=.'], r'--html=\.: matches no file'),
    'no archive': (['--warc=urls.txt'], r'urls\.txt: .*expected WARC'),
    'an empty archive': (['--warc=empty'], r'empty: no record in it; expected WARC'),
    'a missing list': (['--urls=none', CONTACT], r'none: cannot be read \(No such file'),
    'an empty list': (['--urls=empty', CONTACT], r'empty: empty, it has no address'),
    'a list with a line that is not an address': (
        ['--urls=bad.txt', CONTACT],
        r"bad\.txt, line 2: 'example\.org/1', expec",
    ),
    'a list that is not UTF-8': (['--urls=latin.txt', CONTACT], r'latin\.txt: byte 0xe4 is not UTF-8'),
    'a missing sitemap': (['--sitemap=none.xml', CONTACT], r'--sitemap=none\.xml: cannot be read'),
    'no sitemap': (['--sitemap=page.html', CONTACT], r"--sitemap=page\.html: not a sitemap \(its root is 'html'"),
    'a private sitemap': (
        ['--sitemap=http://127.0.0.1:1/s', CONTACT],
        r'1/s: no page found \(sitemap: private address\)',
    ),
    'a rate of none': (['--html=page.html', '--rate=0'], r'--rate=0\.0: expected a number above 0'),
    'a time that is not a number': (
        ['--html=page.html', '--max_seconds=nan'],
        r'--max_seconds=nan: expected a number above 0',
    ),
    'a time without end': (['--html=page.html', '--max_seconds=inf'], r'--max_seconds=inf: expected a number above 0'),
    'redirects below none': (['--html=page.html', '--max_redirects=-1'], r'--max_redirects=-1: expected 0 or more'),
    'an allowed name': (
        ['--html=page.html', '--allow_host=localhost:1'],
        r'--allow_host=localhost:1: expected an addr',
    ),
    'an allowed address without a port': (
        ['--html=page.html', '--allow_host=127.0.0.1'],
        r'--allow_host=127.0.0.1: expected an address and a port',
    ),
    'an output that is there': (['--html=page.html', '--output=empty'], r'empty: already there; choose another'),
    'an output below a file': (['--html=page.html', '--output=empty/o'], r'o: cannot be written \(Not a directory\)'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused_in_one_line_and_no_output_is_left(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').touch()
    (tmp_path / 'urls.txt').write_text('http://127.0.0.1:1/\n')
    (tmp_path / 'bad.txt').write_text('https://example.org/\nexample.org/1\n')
    (tmp_path / 'latin.txt').write_bytes('https://a.example/ä'.encode('latin-1'))
    (tmp_path / 'page.html').write_text('<html></html>')
    flags, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as caught:
        command.run(parsed(['--output=out.jsonl', *flags]), '')
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'out.jsonl').exists()


def test_without_its_libraries_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'data_prep.scrape.recipe', None)
    with pytest.raises(DataError, match=r"pip install -c constraints\.txt -e '\.\[scrape\]'"):
        command.run(parsed([f'--output={tmp_path}/o', '--html=x']), '')
