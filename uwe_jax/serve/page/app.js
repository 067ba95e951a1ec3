// The page: what is asked stands in the address, and everything else follows from it.

const PAUSE_MS = 120  // after a keystroke
const STEP = 10, MOST = 200  // targets
const EDGES = ['<s>', '</s>']

const form = document.getElementById('ask')
const input = document.getElementById('query')
const columns = document.getElementById('columns')
const status = document.getElementById('status')
const more = document.querySelector('#more button')

let served = {models: [], spaces: []}
let state = {}
let drawn = ''  // the address of the ranking that is shown
let pending = new AbortController()
let typing

// A new element: make('p', {className: 'quiet'}, 'text', child)
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties)
  element.append(...children)
  return element
}

function labelled(element, name, value) {
  element.setAttribute(`aria-${name}`, value)
  return element
}

const shared = (element, share) => (element.style.setProperty('--share', share.toFixed(3)), element)
const counted = number => number.toLocaleString('en')

// The server

class Failure extends Error {}

// An answer of the server; asks again while the server is busy.
async function ask(path, body, signal) {
  for (;;) {
    let answer
    try {
      answer = await fetch(path, body && {
        method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body), signal,
      })
    } catch (error) {
      if (error.name === 'AbortError') throw error
      throw new Failure('The server does not answer.')
    }
    if (answer.ok) return answer.json()
    if (answer.status !== 503) throw new Failure((await answer.json().catch(() => ({}))).detail ?? answer.statusText)
    say('The server is busy; asking again …')
    await new Promise(resolve => setTimeout(resolve, 1000 * (Number(answer.headers.get('Retry-After')) || 1)))
    signal?.throwIfAborted()
  }
}

// The address

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1))
  const space = served.spaces.find(space => space.name === words.get('space')) ?? served.spaces[0]
  const k = Math.min(Math.max(Number.parseInt(words.get('k'), 10) || STEP, 1), MOST)
  return {query: words.get('query') ?? '', space, k, open: words.get('open')}
}

function address({query, space, k, open}) {
  const words = new URLSearchParams({query, space: space.name})
  if (k !== STEP) words.set('k', k)
  if (open !== null) words.set('open', open)
  return `#${words}`
}

// Goes to another state; what was typed replaces an entry of the history, everything else adds one.
function go(changes, {replace = false} = {}) {
  state = {...state, ...changes}
  history[replace ? 'replaceState' : 'pushState'](null, '', address(state))
  show()
}

// The ranking

function say(text, failed = false) {
  status.textContent = text
  status.classList.toggle('failed', failed)
}

function fit() {
  input.style.height = 'auto'
  input.style.height = `${input.scrollHeight + 2}px`
}

// Draws the state.
async function show() {
  pending.abort()
  pending = new AbortController()
  const {signal} = pending
  const {query, space, k} = state
  const ranking = address({...state, open: null})
  if (ranking === drawn) return openChosen(signal)
  drawn = ''
  if (input.value.trim() !== query) input.value = query
  fit()
  document.title = query ? `${query} – ${space.name}` : 'Unified Work Embeddings'
  for (const radio of form.elements.space.length ? form.elements.space : [form.elements.space]) {
    radio.checked = radio.value === space.name
  }
  if (!query) {
    for (const list of columns.querySelectorAll('ol')) list.replaceChildren()
    more.hidden = true
    return say('')
  }
  columns.classList.add('stale')
  try {
    const answers = await Promise.all(
      served.models.map(model => ask('rank', {queries: [query], space: space.name, k, model: model.name}, signal)),
    )
    const rankings = answers.map(answer => answer.results[0].targets)
    for (const [column, targets] of rankings.entries()) drawRanking(column, targets, rankings[0])
    const best = Math.min(k, space.targets)
    say(`The ${counted(best)} best of ${counted(space.targets)} ${space.name}`)
    more.hidden = best >= Math.min(space.targets, MOST)
    drawn = ranking
    openChosen(signal)
  } catch (error) {
    if (error.name === 'AbortError') return
    if (!(error instanceof Failure)) throw error
    say(error.message, true)
  }
  if (!signal.aborted) columns.classList.remove('stale')
}

function drawRanking(column, targets, first) {
  const most = Math.max(1, targets[0]?.score ?? 1)
  const places = new Map(first.map(({id}, place) => [id, place]))
  const items = targets.map(({id, text, score}, place) => {
    const button = make('button', {type: 'button', className: 'target'},
      make('span', {className: 'rank'}, place + 1),
      make('span', {className: 'text'}, text),
      column ? moved(places.get(id), place) : '',
      make('span', {className: 'score'}, score.toFixed(3).replace('-', '−')),
    )
    button.dataset.id = id
    button.onclick = () => go({open: state.open === String(id) ? null : String(id)})
    return make('li', {}, labelled(shared(button, Math.max(score, 0) / most), 'expanded', false))
  })
  columns.querySelectorAll('ol')[column].replaceChildren(...items)
}

// How far a target stands from its place in the first column.
function moved(before, place) {
  if (before === undefined) return make('span', {className: 'moved', title: 'not in the first column'}, 'new')
  const up = before - place
  const properties = {className: `moved ${up > 0 ? 'up' : 'down'}`, title: `number ${before + 1} in the first column`}
  return up ? make('span', properties, `${up > 0 ? '↑' : '↓'}${Math.abs(up)}`) : make('span')
}

// Which words met

// Opens the chosen target in every column that ranks it, and closes the others.
function openChosen(signal) {
  const {query, space} = state
  for (const [column, list] of columns.querySelectorAll('ol').entries()) {
    for (const button of list.querySelectorAll('.target')) {
      const chosen = button.dataset.id === state.open
      labelled(button, 'expanded', chosen)
      button.parentElement.querySelector('.detail')?.remove()
      if (chosen) {
        const detail = make('div', {className: 'detail'}, turnRound(button.querySelector('.text').textContent))
        button.after(detail)
        drawAttention(detail, served.models[column], query, button.querySelector('.text').textContent, space, signal)
      }
    }
  }
}

async function drawAttention(detail, model, query, target, space, signal) {
  if (!model.attention) {
    return detail.prepend(make('p', {className: 'quiet'}, 'This model compares means: no words meet.'))
  }
  try {
    const {skills} = space
    const map = await ask('attention', {query, target, skills, model: model.name}, signal)
    detail.prepend(...attention(map))
  } catch (error) {
    if (error.name === 'AbortError') return
    if (!(error instanceof Failure)) throw error
    detail.prepend(make('p', {className: 'quiet'}, error.message))
  }
}

// Both texts as tokens. Their colours are what each adds to the score or, once a token is chosen, what it met.
function attention({query_tokens: query, target_tokens: target, a, c}) {
  const transposed = matrix => target.map((_, j) => matrix.map(row => row[j]))
  const sides = [
    {name: 'Words of the query', tokens: query, weights: a, cosines: c},
    {name: 'Words of the target', tokens: target, weights: transposed(a), cosines: transposed(c)},
  ]
  let chosen = null  // a button

  for (const [at, side] of sides.entries()) {
    const other = sides[1 - at]
    side.adds = side.weights.map((row, i) => row.reduce((sum, weight, j) => sum + weight * side.cosines[i][j], 0))
    side.buttons = side.tokens.map((token, place) => {
      const piece = token.startsWith('##')
      const met = side.weights[place].indexOf(Math.max(...side.weights[place]))
      const button = make('button', {
        type: 'button',
        tabIndex: place ? -1 : 0,
        className: `token${piece ? ' joined' : ''}${EDGES.includes(token) ? ' edge' : ''}`,
        title: `${token} met ${other.tokens[met]} most, cosine ${side.cosines[place][met].toFixed(2)}`,
        onclick: () => {
          chosen = chosen === button ? null : button
          colour()
        },
      }, piece ? token.slice(2) : token)
      return button
    })
  }

  function colour() {
    for (const [at, {adds, buttons}] of sides.entries()) {
      const partner = sides[1 - at]
      const place = partner.buttons.indexOf(chosen)
      const strength = place >= 0 ? partner.weights[place] : chosen ? adds.map(() => 0) : adds
      const most = Math.max(...strength, 1e-9)
      for (const [n, button] of buttons.entries()) {
        shared(button, Math.max(strength[n], 0) / most)
        labelled(button, 'pressed', button === chosen)
      }
    }
  }

  colour()
  const lines = sides.map(({name, buttons}) =>
    labelled(make('p', {className: 'tokens', role: 'group'}, ...buttons), 'label', name))
  const hint = 'The stronger the colour, the more a word adds to the score. Choose a word to see what it met.'
  return [...lines, strongest(query, target, a, c), make('p', {className: 'quiet'}, hint)]
}

// The pairs of words that add most to the score, in words and numbers.
function strongest(query, target, a, c) {
  const pairs = query.flatMap((one, i) => target.map((other, j) => ({words: [one, other], adds: a[i][j] * c[i][j], cosine: c[i][j]})))
    .filter(({words, adds}) => adds > 0.01 && !words.some(word => EDGES.includes(word)))
    .sort((one, other) => other.adds - one.adds)
  const items = pairs.slice(0, 4).map(({words, cosine}) =>
    make('li', {}, words.join(' – '), make('span', {className: 'score', title: 'cosine'}, cosine.toFixed(2))))
  return labelled(make('ol', {className: 'pairs'}, ...items), 'label', 'Words that met')
}

// Buttons that rank another space for what is a target here.
function turnRound(target) {
  const others = served.spaces.filter(space => space !== state.space)
  const buttons = (others.length ? others : [state.space]).map(space => make('button', {
    type: 'button',
    onclick: () => go({query: target, space, open: null, k: STEP}),
  }, `⇄ Rank ${space.name} for this`))
  return make('p', {className: 'turn'}, ...buttons)
}

// Input

input.addEventListener('input', () => {
  fit()
  clearTimeout(typing)
  typing = setTimeout(takeTyped, PAUSE_MS)
})

function takeTyped() {
  const query = input.value.trim()
  if (query !== state.query && served.spaces.length) go({query, open: null, k: STEP}, {replace: true})
}

form.addEventListener('change', event => {
  if (event.target.name !== 'space') return
  go({space: served.spaces.find(space => space.name === event.target.value), open: null, k: STEP})
})

form.addEventListener('submit', event => event.preventDefault())
more.addEventListener('click', () => go({k: Math.min(state.k + STEP, MOST)}, {replace: true}))
addEventListener('popstate', () => {
  state = readAddress()
  show()
})

function focusTarget(list, place) {
  const buttons = [...list.querySelectorAll('.target')]
  if (place < 0) input.focus()
  else buttons[Math.min(place, buttons.length - 1)]?.focus()
}

addEventListener('keydown', event => {
  const at = event.target
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return
  const handled = () => event.preventDefault()
  if (at === input) {
    if (event.key === 'Enter' && !event.shiftKey) return handled()
    if (event.key === 'ArrowDown' && input.selectionStart === input.value.length) {
      handled()
      focusTarget(columns.querySelector('ol'), 0)
    }
    return
  }
  if (event.key === '/') {
    handled()
    input.focus()
  } else if (event.key === 'Escape' && state.open !== null) {
    const button = columns.querySelector('.target[aria-expanded=true]')
    go({open: null})
    button?.focus()
  } else if (at.classList.contains('token')) {
    const next = {ArrowLeft: at.previousElementSibling, ArrowRight: at.nextElementSibling}[event.key]
    if (!next) return
    handled()
    at.tabIndex = -1
    next.tabIndex = 0
    next.focus()
  } else if (at.classList.contains('target')) {
    const lists = [...columns.querySelectorAll('ol')]
    const list = at.closest('ol')
    const place = [...list.querySelectorAll('.target')].indexOf(at)
    const column = lists.indexOf(list)
    if (event.key === 'ArrowDown') focusTarget(list, place + 1)
    else if (event.key === 'ArrowUp') focusTarget(list, place - 1)
    else if (event.key === 'ArrowRight' && lists[column + 1]) focusTarget(lists[column + 1], place)
    else if (event.key === 'ArrowLeft' && column) focusTarget(lists[column - 1], place)
    else return
    handled()
  }
})

// The start

try {
  served = await ask('spaces')
  const several = served.models.length > 1
  document.querySelector('main').classList.toggle('several', several)
  columns.append(...served.models.map(({name}) => {
    const list = labelled(make('ol'), 'label', `Ranked by ${name}`)
    return make('section', {}, several ? make('h2', {}, name) : '', list)
  }))
  document.getElementById('spaces').append(...served.spaces.map(({name, targets}) =>
    make('label', {className: 'space', title: `${counted(targets)} targets`},
      make('input', {type: 'radio', name: 'space', value: name}), make('span', {}, name))))
  state = readAddress()
  if (input.value && !state.query) takeTyped()  // while this page was loading
  else show()
} catch (error) {
  say(error.message, true)
  if (!(error instanceof Failure)) throw error
}
