"""The page in a browser: what a person sees, with the mouse, the keyboard and on a phone."""

import shutil
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.serve.conftest import SPACES, Cold, running
from uwe_jax.interaction import Score
from uwe_jax.serve.app import make_app

playwright = pytest.importorskip('playwright.sync_api')
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason='needs a browser: chromium, as Debian calls its package'),
]
expect = playwright.expect
PHONE = {'viewport': {'width': 320, 'height': 640}, 'is_mobile': True, 'has_touch': True}


@pytest.fixture(scope='module')
def alone(ranker, indexes):
    """The address of a service with one model."""
    with running(make_app({'uwe': Cold(ranker, indexes)}, SPACES)) as address:
        yield address


@pytest.fixture(scope='module')
def side_by_side(ranker, indexes, make_ranker):
    """The address of a service with two models."""
    maxsim = make_ranker(Score(kind='maxsim', attend='query'))
    spaces = {name: maxsim.index(index.texts) for name, index in indexes.items()}
    with running(make_app({'soft': Cold(ranker, indexes), 'maxsim': Cold(maxsim, spaces)}, SPACES)) as address:
        yield address


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens an address in a new window; in the end, all requests went to the server, and nothing else failed."""
    contexts, said, asked = [], [], []

    def open_page(address, **how):
        contexts.append(browser.new_context(**how))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on('console', lambda message: said.append(message.text))
        page.on('pageerror', lambda error: said.append(str(error)))
        page.on('request', lambda request: asked.append((urlsplit(request.url).netloc, urlsplit(address).netloc)))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [message for message in said if 'status of 422' not in message] == []
    assert all(host == expected for host, expected in asked)


def targets(page, column=0):
    return page.locator('ol:not(.pairs)').nth(column).locator('.text')


def state(page):
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items()}


def ranked(indexes, space, query, k=10):
    return [hit.text for hit in indexes[space].rank([query], k)[0]]


def test_it_ranks_while_one_types(visit, alone, indexes):
    page = visit(alone)
    expect(page.get_by_role('textbox')).to_be_focused()
    page.keyboard.type('bak')
    expect(targets(page)).to_have_text(ranked(indexes, 'skills', 'bak'))
    page.keyboard.type('er')
    expect(targets(page)).to_have_text(ranked(indexes, 'skills', 'baker'))
    expect(page.get_by_role('status')).to_have_text('The 7 best of 7 skills')


def test_what_is_typed_while_the_page_is_loading_is_ranked(visit, alone, indexes):
    page = visit(alone)
    page.add_init_script(
        'const ask = fetch; fetch = async (...how) => (await new Promise(go => setTimeout(go, 500)), ask(...how))'
    )
    page.reload()
    expect(page.get_by_role('textbox')).to_be_focused()
    page.keyboard.type('bake')
    expect(targets(page)).to_have_text(ranked(indexes, 'skills', 'bake'))


def test_another_space_is_a_click_away(visit, alone, indexes):
    page = visit(f'{alone}#query=bake bread')
    page.get_by_role('radio', name='titles').check()
    expect(targets(page)).to_have_text(ranked(indexes, 'titles', 'bake bread'))
    assert state(page) == {'query': 'bake bread', 'space': 'titles'}


def test_an_opened_target_shows_the_words_of_both_texts(visit, alone):
    page = visit(f'{alone}#query=data engineer')
    page.get_by_role('button', name='data engineering').click()
    query, target = (page.locator('.tokens').nth(side) for side in (0, 1))
    expect(query.get_by_role('button')).to_have_text(['<s>', 'data', 'engineer', '</s>'])
    expect(target.get_by_role('button')).to_have_text(['<s>', 'data', 'engineering', '</s>'])


def shares(line):
    return [
        float(token.evaluate("node => node.style.getPropertyValue('--share')"))
        for token in line.locator('button').all()
    ]


def test_a_chosen_word_colours_the_words_that_it_met(visit, alone, ranker):
    page = visit(f'{alone}#query=data engineer')
    page.get_by_role('button', name='data engineering').click()
    query, target = (page.locator('.tokens').nth(side) for side in (0, 1))
    query.get_by_role('button', name='engineer', exact=True).click()
    weights = ranker.attention('data engineer', 'data engineering').a[2]
    assert shares(target) == pytest.approx((weights / weights.max()).tolist(), abs=1e-3)
    assert shares(query) == [0, 0, 0, 0]
    query.get_by_role('button', name='engineer', exact=True).click()
    assert max(shares(query)) == 1


def test_the_address_leads_a_colleague_to_the_same_finding(visit, alone):
    page = visit(f'{alone}#query=baker')
    page.get_by_role('button', name='bake bread').click()
    expect(page.locator('.tokens')).to_have_count(2)
    other = visit(page.url)
    expect(other.locator('.tokens')).to_have_count(2)
    expect(other.locator('.target[aria-expanded=true] .text')).to_have_text('bake bread')


def test_the_direction_is_turned_round_and_back(visit, alone, indexes):
    page = visit(f'{alone}#query=baker')
    page.get_by_role('button', name='bake bread').click()
    page.get_by_role('button', name='Rank titles for this').click()
    expect(page.get_by_role('textbox')).to_have_value('bake bread')
    expect(targets(page)).to_have_text(ranked(indexes, 'titles', 'bake bread'))
    page.go_back()
    expect(page.get_by_role('textbox')).to_have_value('baker')
    expect(targets(page)).to_have_text(ranked(indexes, 'skills', 'baker'))


def test_it_works_by_keyboard_alone(visit, alone, indexes):
    page = visit(alone)
    expect(page.get_by_role('textbox')).to_be_focused()
    page.keyboard.type('baker')
    second = ranked(indexes, 'skills', 'baker')[1]
    expect(targets(page)).to_have_text(ranked(indexes, 'skills', 'baker'))
    for key in ('ArrowDown', 'ArrowDown', 'Enter'):
        page.keyboard.press(key)
    expect(page.locator('.target[aria-expanded=true]')).to_be_focused()
    expect(page.locator('.target[aria-expanded=true] .text')).to_have_text(second)
    expect(page.locator('.tokens')).to_have_count(2)
    page.keyboard.press('Tab')
    page.keyboard.press('ArrowRight')
    page.keyboard.press('Enter')
    expect(page.locator('.token[aria-pressed=true]')).to_have_text('baker')
    page.keyboard.press('Escape')
    expect(page.locator('.detail')).to_have_count(0)
    page.keyboard.press('/')
    expect(page.get_by_role('textbox')).to_be_focused()


def test_two_models_stand_side_by_side(visit, side_by_side):
    page = visit(f'{side_by_side}#query=baker', viewport={'width': 1200, 'height': 800})
    expect(page.get_by_role('heading', level=2)).to_have_text(['soft', 'maxsim'])
    expect(targets(page, 1)).to_have_count(7)
    left, right = (page.locator('section').nth(column).bounding_box() for column in (0, 1))
    assert left['y'] == right['y']
    page.get_by_role('button', name='bake bread').first.click()
    expect(page.locator('.tokens')).to_have_count(4)


@pytest.mark.parametrize('how', [PHONE, {'viewport': {'width': 1280, 'height': 800}}], ids=['phone', 'desk'])
def test_it_fits_its_window(visit, side_by_side, how):
    query = 'You maintain data pipelines, and work closely with our analysts'
    page = visit(f'{side_by_side}#query={query}&open=3', **how)
    expect(page.locator('.tokens')).to_have_count(4)
    assert page.evaluate('document.documentElement.scrollWidth') == how['viewport']['width']


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_it_follows_the_colour_scheme_of_the_reader(visit, alone, scheme):
    page = visit(alone, color_scheme=scheme)
    red = page.evaluate('getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]')
    assert int(red) > 240 if scheme == 'light' else int(red) < 40


def test_markup_in_a_text_is_shown_and_not_run(visit, alone):
    page = visit(alone)
    page.get_by_role('textbox').fill('<img src=x onerror=alert(1)>')
    expect(targets(page)).to_have_count(7)
    assert page.locator('main img').count() == 0


def test_an_error_is_said(visit, alone):
    page = visit(alone)
    page.route('**/rank', lambda route: route.fulfill(status=422, json={'detail': '#/queries/0: too long'}))
    expect(page.get_by_role('textbox')).to_be_focused()
    page.keyboard.type('baker')
    expect(page.get_by_role('status')).to_have_text('#/queries/0: too long')
