"""The pages of web archives: every compression, every coding of a body, and archives that are damaged."""

import gzip
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.scrape import archives
from tests.data_prep.warc import MEMBERS, brotli, record, records, response, zstd
from tests.data_prep.web import HTML, page, posting
from uwe_jax.io.errors import DataError
from uwe_jax.io.repairs import Repairs

LIMIT = 1_000_000  # bytes of a page


@pytest.fixture
def read(tmp_path):
    """Reads an archive of these bytes; returns its pages, and counts by kind."""

    def read(data, max_bytes=LIMIT):
        path = tmp_path / 'a.warc.gz'
        path.write_bytes(data)
        repairs = Repairs()
        pages = list(archives.warc_pages(path, max_bytes, repairs, lambda _: None))
        return pages, {kind: repair['count'] for kind, repair in repairs.summary().items()}

    return read


def url(number):
    return f'https://a.example/{number}'


def numbers(pages):
    return [int(page.url.rpartition('/')[2]) for page in pages]


def numbered(*which):
    """Records of pages that tell their numbers."""
    return [response(url(number), page(posting(f'Job {number}'))) for number in which]


RESPONSES = [
    (url(1), 200, HTML, page(posting('A'))),
    (url(2), 200, HTML, page(body='no job here')),
    (url(3), 404, HTML, page(posting('B'))),
    (url(4), 200, {'Content-Type': 'application/pdf'}, b'JobPosting'),
    (url(5), 200, HTML | {'Content-Encoding': 'gzip'}, gzip.compress(page(posting('C')).encode())),
    (url(6), 200, HTML | {'Content-Encoding': 'gzip'}, gzip.compress(bytes(20_000_000))),
    (url(7), 200, HTML | {'Content-Language': 'nl'}, page(posting('D'), lang='')),
]


@pytest.mark.parametrize('all_as_one', [False, True], ids=['a member for each record', 'all as one'])
@pytest.mark.parametrize('kind', MEMBERS)
def test_archives_are_read_in_every_compression(read, kind, all_as_one):
    parts = records(RESPONSES)
    compress = MEMBERS[kind]
    pages, counts = read(compress(b''.join(parts)) if all_as_one else b''.join(map(compress, parts)))
    assert [(page.url, page.body, page.content_type, page.language) for page in pages] == [
        (url(1), page(posting('A')).encode(), HTML['Content-Type'], None),
        (url(2), page(body='no job here').encode(), HTML['Content-Type'], None),
        (url(5), page(posting('C')).encode(), HTML['Content-Type'], None),
        (url(7), page(posting('D'), lang='').encode(), HTML['Content-Type'], 'nl'),
    ]
    assert counts == {'status 404': 1, 'too large': 1}


def test_a_page_that_was_saved_without_its_headers_is_read(read):
    [saved], counts = read(record('resource', url(1), b'<html>', 'text/html; charset=utf-8'))
    assert (saved.url, saved.body, saved.content_type) == (url(1), b'<html>', 'text/html; charset=utf-8')
    assert counts == {}


def test_an_address_in_angle_brackets_is_an_address(read):
    assert numbers(read(response(f'<{url(1)}>', page()))[0]) == [1]


@pytest.mark.parametrize(
    ('usual', 'other'),
    [
        (b'WARC-Type', b'warc-type'),
        (b'Content-Type: application/http', b'content-type: Application/HTTP; msgtype=response'),
        (b'Content-Type: application/http\r\n', b''),
        (b'WARC-Target-URI', b'warc-target-uri'),
        (b'Content-Length: ', b'Content-Length: 00'),
    ],
)
def test_the_header_of_a_record_may_be_written_in_other_ways(read, usual, other):
    [first] = numbered(0)
    pages, counts = read(b''.join([first.replace(usual, other, 1), *numbered(1)]))
    assert numbers(pages) == [0, 1]
    assert counts == {}


@pytest.mark.parametrize('kind', MEMBERS)
def test_members_without_a_record_do_not_end_an_archive(read, kind):
    compress = MEMBERS[kind]
    nothing = compress(b'')
    pages, counts = read(b''.join([*(compress(one) + nothing * 2 for one in numbered(*range(4)))]))
    assert numbers(pages) == list(range(4))
    assert counts == {}


def test_headers_whose_lines_end_without_a_carriage_return_are_headers(read):
    block = f'HTTP/1.0 200 OK\nContent-Type: text/html\n\n{page()}'.encode()
    [answered], _ = read(record('response', url(1), block))
    assert answered.body == page().encode()


def chunked(data):
    return (
        b''.join(
            b'%x\r\n%s\r\n' % (len(part), part)
            for part in (data[:50], data[50 : len(data) // 3], data[len(data) // 3 :])
        )
        + b'0\r\n\r\n'
    )


def raw_deflate(data):
    return zlib.compress(data)[2:-4]


CODINGS = {
    'gzip': ({'Content-Encoding': 'gzip'}, gzip.compress),
    'x-gzip': ({'Content-Encoding': 'X-GZip'}, gzip.compress),
    'brotli': ({'Content-Encoding': 'br'}, brotli),
    'zstd': ({'content-encoding': 'zstd'}, zstd),
    'deflate': ({'Content-Encoding': 'deflate'}, zlib.compress),
    'deflate without its header': ({'Content-Encoding': 'deflate'}, raw_deflate),
    'chunks': ({'Transfer-Encoding': 'chunked'}, chunked),
    'chunks with extensions': (
        {'Transfer-Encoding': 'chunked'},
        lambda data: b'%x;a="b;c"\r\n%s\r\n0;x \r\nTrailer: x\r\n\r\n' % (len(data), data),
    ),
    'gzip in chunks': (
        {'Transfer-Encoding': 'chunked', 'Content-Encoding': 'gzip'},
        lambda data: chunked(gzip.compress(data)),
    ),
    'gzip, then brotli': ({'Content-Encoding': 'gzip, br'}, lambda data: brotli(gzip.compress(data))),
    'identity': ({'Content-Encoding': 'identity'}, bytes),
    'gzip that was undone before': ({'Content-Encoding': 'gzip'}, bytes),
    'brotli that was undone before': ({'Content-Encoding': 'br'}, bytes),
    'zstd that was undone before': ({'Content-Encoding': 'zstd'}, bytes),
    'chunks that were joined before': ({'Transfer-Encoding': 'chunked'}, bytes),
    'a coding that does not exist, which was undone before': ({'Content-Encoding': 'klingon'}, bytes),
}


@pytest.mark.parametrize('name', CODINGS)
def test_a_body_is_decoded(read, name):
    headers, encode = CODINGS[name]
    text = page(posting('Bäcker')).encode()
    pages, counts = read(gzip.compress(response(url(1), encode(text), HTML | headers)))
    assert [page.body for page in pages] == [text]
    assert counts == {}


@pytest.mark.parametrize(
    ('coding', 'body'),
    [
        ('gzip', b'no gzip'),
        ('br', b'\xff\xff'),
        ('zstd', zstd(b'x' * 999)[:-9]),
        ('deflate', b'\xff\xff'),
        ('klingon', b'x'),
    ],
)
def test_a_body_that_cannot_be_decoded_costs_itself(read, coding, body):
    broken = response(url(1), body, HTML | {'Content-Encoding': coding})
    pages, counts = read(b''.join(map(gzip.compress, [broken, *numbered(2)])))
    assert numbers(pages) == [2]
    assert counts == {'body that cannot be decoded': 1}


@pytest.mark.parametrize('name', ['gzip', 'brotli', 'zstd', 'deflate', 'chunks'])
def test_of_a_body_that_was_cut_off_the_begin_is_read(read, name):
    headers, encode = CODINGS[name]
    text = page(posting('Baker'), body=random.Random(0).randbytes(200_000).hex()).encode()
    encoded = encode(text)
    [cut], counts = read(gzip.compress(response(url(1), encoded[: len(encoded) // 2], HTML | headers)))
    assert text.startswith(cut.body)
    assert len(text) // 4 < len(cut.body) < len(text)
    assert counts == {}


@pytest.mark.parametrize('coding', ['gzip', 'br', 'zstd', 'deflate'])
def test_a_body_is_too_large_by_its_decoded_size(read, coding):
    encode = {'gzip': gzip.compress, 'br': brotli, 'zstd': zstd, 'deflate': zlib.compress}[coding]
    parts = [
        response(url(size), encode(b'<' + bytes(size - 1)), HTML | {'Content-Encoding': coding})
        for size in (50_000, 50_001, 20_000_000)
    ]
    pages, counts = read(b''.join(parts), max_bytes=50_000)
    assert numbers(pages) == [50_000]
    assert counts == {'too large': 2}


@pytest.mark.parametrize('target', [None, '', 'urn:uuid:0', 'ftp://a.example/', 'https://user:password@a.example/'])
def test_a_page_without_a_web_address_costs_itself(read, target):
    pages, counts = read(b''.join([*numbered(1), response(target, page(posting())), *numbered(2)]))
    assert numbers(pages) == [1, 2]
    assert counts == {'page without a web address, left out': 1}


def test_an_answer_without_a_status_costs_itself(read):
    pages, counts = read(b''.join([*numbered(1), response(url(2), page(), status='x'), *numbered(3)]))
    assert numbers(pages) == [1, 3]
    assert counts == {'status None': 1}


@pytest.mark.parametrize(
    'parts',
    [
        [record('warcinfo', None, b'x'), record('conversion', url(1), b'JobPosting', 'text/plain')],
        [record('metadata', url(1), b'{}', 'application/json')],
        [response(url(1), b'%PDF', {'Content-Type': 'application/pdf'})],
    ],
    ids=['WET', 'WAT', 'PDF'],
)
def test_an_archive_without_any_page_is_said_to_have_none(read, parts):
    assert read(b''.join(map(gzip.compress, parts))) == ([], {'archive without any page': 1})


@pytest.mark.parametrize(
    'data',
    [b'', b'https://a.example/\n' * 9, page().encode(), gzip.compress(b'text'), zstd(b'text'), bytes(99)],
    ids=['empty', 'addresses', 'page', 'gzip', 'zstd', 'zeros'],
)
def test_a_file_without_a_record_is_refused(read, data):
    with pytest.raises(DataError, match=r'a\.warc\.gz: no record in it; expected WARC'):
        read(data)


# Damage.


def flip(member, place):
    return bytes(byte ^ (0x10 if n == place % len(member) else 0) for n, byte in enumerate(member))


DAMAGE = {
    'a bit in the data': lambda member: flip(member, len(member) // 2),
    'a bit at the begin': lambda member: flip(member, 1),
    'zeros in place of a member': lambda member: bytes(len(member)),
    'text in place of a member': lambda member: b'503 Service Unavailable\r\n',
    'the second half is missing': lambda member: member[: len(member) // 2],
    'the first half is missing': lambda member: member[len(member) // 2 :],
}


@pytest.mark.parametrize('damage', DAMAGE)
@pytest.mark.parametrize('place', [0, 2, 5])
@pytest.mark.parametrize('kind', MEMBERS)
def test_a_damaged_member_costs_itself_alone_and_is_counted(read, kind, place, damage):
    if kind == 'plain' and damage.startswith('a bit'):
        pytest.skip('no checksum tells')
    members = [MEMBERS[kind](one) for one in numbered(*range(6))]
    members[place] = DAMAGE[damage](members[place])
    pages, counts = read(b''.join(members))
    assert [number for number in numbers(pages) if number != place] == [n for n in range(6) if n != place]
    assert sum(counts.values()) == 1 or numbers(pages) == list(range(6))  # checksums are optional in zstd


def test_a_page_whose_checksum_is_wrong_is_left_out_however_large_it_is(read):
    large = [response(url(size), b'<' + bytes(size) + posting_of(size)) for size in range(65_200, 65_700, 20)]
    for one in large:
        member = bytearray(gzip.compress(one, 0))
        member[-8] ^= 1
        pages, counts = read(bytes(member) + gzip.compress(numbered(1)[0]))
        assert numbers(pages) == [1]
        assert counts == {'damaged part of an archive, passed over': 1}


def posting_of(number):
    return page(posting(str(number))).encode()


def test_two_damaged_members_are_counted_each(read):
    members = [gzip.compress(one) for one in numbered(*range(6))]
    members[1], members[4] = flip(members[1], 60), flip(members[4], 60)
    pages, counts = read(b''.join(members))
    assert numbers(pages) == [0, 2, 3, 5]
    assert counts == {'damaged part of an archive, passed over': 2}


@pytest.mark.parametrize('kind', ['gzip', 'zstd'])
def test_a_header_that_shows_in_a_damaged_first_member_does_not_make_a_compressed_archive_plain(read, kind):
    whole = [MEMBERS[kind](one) for one in numbered(1, 2)]
    pages, counts = read(b''.join([b'\0' + numbered(0)[0], *whole]))
    assert [number for number in numbers(pages) if number] == [1, 2]
    assert counts['damaged part of an archive, passed over'] == 1


@pytest.mark.parametrize('length', [0, 100, 500, 900, 10**15, '', 'x', -1])
@pytest.mark.parametrize('kind', MEMBERS)
def test_a_record_whose_length_is_wrong_costs_itself_alone(read, kind, length):
    lie = response(url(1), page(posting('Job 1')), length=length)
    pages, counts = read(b''.join(map(MEMBERS[kind], [*numbered(0), lie, *numbered(2, 3)])))
    assert [number for number in numbers(pages) if number != 1] == [0, 2, 3]
    assert counts['damaged part of an archive, passed over'] == 1


@pytest.mark.parametrize('kind', MEMBERS)
def test_a_record_that_ends_where_the_next_one_does_costs_itself_alone(read, kind):
    text = page(posting('Job 0'))
    [second] = numbered(1)
    length = len(response(url(0), text).partition(b'\r\n\r\n')[2]) + len(second) - 4
    lie = response(url(0), text, length=length)
    pages, counts = read(b''.join(map(MEMBERS[kind], [lie, second, *numbered(2)])))
    assert numbers(pages) == [1, 2]
    assert counts == {'damaged part of an archive, passed over': 1}


def test_zstd_archives_with_a_dictionary_are_read_after_damage_too(read):
    zstandard = pytest.importorskip('zstandard')
    parts = numbered(*range(200))
    dictionary = zstandard.train_dictionary(2000, parts)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary, write_checksum=True)
    members = [compressor.compress(one) for one in parts]
    members[3] = flip(members[3], 20)
    content = dictionary.as_bytes()
    pages, counts = read(b'\x5d\x2a\x4d\x18' + len(content).to_bytes(4, 'little') + content + b''.join(members))
    assert numbers(pages) == [n for n in range(200) if n != 3]
    assert counts == {'damaged part of an archive, passed over': 1}


@pytest.mark.parametrize('kind', MEMBERS)
def test_an_archive_that_ends_early_gives_what_it_has(read, kind):
    whole = b''.join(map(MEMBERS[kind], numbered(*range(9))))
    pages, counts = read(whole[: len(whole) // 2])
    assert numbers(pages) == list(range(4))
    assert counts == {'damaged part of an archive, passed over': 1}


@pytest.mark.parametrize('compress', [gzip.compress, zstd])
def test_an_archive_in_one_piece_gives_what_comes_before_the_damage(read, compress):
    noise = [random.Random(n).randbytes(20_000) for n in range(50)]
    whole = compress(b''.join(response(url(n), b'<' + body) for n, body in enumerate(noise)))
    pages, counts = read(whole[: len(whole) // 2])
    assert 20 <= len(pages) < 25  # of zstd, what was read last is lost
    assert numbers(pages) == list(range(len(pages)))
    assert counts == {'damaged part of an archive, passed over': 1}


edits = st.tuples(
    st.floats(0, 1), st.sampled_from(['flip', 'cut', 'insert', 'zero']), st.binary(min_size=1, max_size=40)
)


def edited(member, where, how, data):
    place = int(where * (len(member) - 1))
    rest = member[place + (0 if how == 'insert' else len(data)) :]
    middle = {'flip': flip(member, place)[place : place + len(data)], 'cut': b'', 'insert': data}
    return member[:place] + middle.get(how, bytes(len(data))) + rest


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(MEMBERS)), st.integers(0, 4), st.lists(edits, min_size=1, max_size=4))
def test_whatever_happens_to_one_member_the_others_are_read(tmp_path_factory, kind, place, changes):
    members = [MEMBERS[kind](one) for one in numbered(*range(5))]
    for change in changes:
        members[place] = edited(members[place], *change)
    path = tmp_path_factory.mktemp('archive') / 'a.warc'
    path.write_bytes(b''.join(members))
    pages = list(archives.warc_pages(path, LIMIT, Repairs(), lambda _: None))
    expected = {url(n): posting_of_job(n) for n in range(5) if n != place}
    assert [(page.url, page.body) for page in pages if page.url in expected] == list(expected.items())


def posting_of_job(number):
    return page(posting(f'Job {number}')).encode()
