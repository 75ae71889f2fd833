// The built-in page: a talk through the server's own endpoint, and the tiers from its telemetry. Text of
// the model is only ever set as text. The key, where one is needed, lives as long as this tab.
const at = (id) => document.getElementById(id)
const [talk, ask, prompt, send, stop, forget, state, key, figures, map] = [
  ...['talk', 'ask', 'prompt', 'send', 'stop', 'forget', 'state', 'key', 'figures', 'map'],
].map(at)

const messages = []
let answering = null
let before = null

key.value = sessionStorage.getItem('key') ?? ''
key.addEventListener('change', () => sessionStorage.setItem('key', key.value))

function headers() {
  return key.value === '' ? {} : { authorization: `Bearer ${key.value}` }
}

function say(text, isBad = false) {
  state.textContent = text
  state.className = isBad ? 'bad' : ''
}

/** One entry of the talk. */
function entry(kind) {
  const box = document.createElement('div')
  box.className = `said ${kind}`
  talk.append(box)
  return box
}

/** An answer with its thinking folded away. */
function answerEntry() {
  const box = entry('assistant')
  const folded = document.createElement('details')
  const summary = document.createElement('summary')
  summary.textContent = 'thinking'
  const thinking = document.createTextNode('')
  folded.append(summary, thinking)
  folded.hidden = true
  const text = document.createTextNode('')
  box.append(folded, text)
  return {
    box,
    think(piece) {
      folded.hidden = false
      thinking.data += piece
    },
    tell(piece) {
      text.data += piece
    },
    get said() {
      return text.data
    },
  }
}

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    rest += value
    for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
      const event = rest.slice(0, end)
      rest = rest.slice(end + 2)
      if (event.startsWith('data: ') && event !== 'data: [DONE]') yield JSON.parse(event.slice(6))
    }
  }
}

async function messageOf(response) {
  const body = await response.json().catch(() => null)
  return body?.error?.message ?? `the server answers ${response.status}`
}

async function stream(signal, answer) {
  const response = await fetch('/v1/chat/completions', {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers() },
    body: JSON.stringify({ messages, stream: true }),
    signal,
  })
  if (!response.ok) throw new Error(await messageOf(response))
  for await (const chunk of eventsOf(response)) {
    if (chunk.error) throw new Error(chunk.error.message)
    const delta = chunk.choices?.[0]?.delta ?? {}
    const isAtEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 40
    if (delta.reasoning_content) answer.think(delta.reasoning_content)
    if (delta.content) answer.tell(delta.content)
    if (isAtEnd) talk.scrollTop = talk.scrollHeight
  }
}

async function askFor(text) {
  entry('user').textContent = text
  messages.push({ role: 'user', content: text })
  const answer = answerEntry()
  answering = new AbortController()
  send.disabled = true
  stop.hidden = false
  try {
    await stream(answering.signal, answer)
    messages.push({ role: 'assistant', content: answer.said })
  } catch (error) {
    // What was not answered would only confuse the next question.
    messages.pop()
    if (error.name !== 'AbortError') {
      const line = entry('error')
      line.textContent = error.message
    }
  } finally {
    answering = null
    send.disabled = false
    stop.hidden = true
  }
}

ask.addEventListener('submit', (event) => {
  event.preventDefault()
  const text = prompt.value.trim()
  if (text === '' || answering !== null) return
  prompt.value = ''
  void askFor(text)
})
prompt.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
  event.preventDefault()
  ask.requestSubmit()
})
stop.addEventListener('click', () => answering?.abort())
forget.addEventListener('click', () => {
  answering?.abort()
  messages.length = 0
  talk.replaceChildren()
})

const percent = (share) => (share === undefined ? '–' : `${(100 * share).toFixed(1)} %`)
const rate = (value) => (value === undefined ? '–' : value.toFixed(value < 10 ? 2 : 1))
function bytes(value) {
  if (value === undefined) return '–'
  const [size, unit] = value >= 1e9 ? [1e9, 'GB'] : value >= 1e6 ? [1e6, 'MB'] : [1e3, 'kB']
  return `${(value / size).toPrecision(3)} ${unit}`
}
const sum = (values) => values.reduce((all, value) => all + value, 0)

/** Names, shares for a bar where there is one, and texts. */
function rowsOf(first, last) {
  const { engine } = last
  const seconds = last.time - first.time
  const since = (of) => of(engine) - of(first.engine)
  const requests = since(({ layers }) => sum(layers.requests))
  const hits = requests > 0 ? since(({ layers }) => sum(layers.hits)) / requests : undefined
  const rows = [
    ['tokens/s', null, rate(since(({ tokensDrawn }) => tokensDrawn) / seconds)],
    ['prefill', null, rate(since(({ tokensRead }) => tokensRead) / seconds)],
    ['hits in RAM', hits, percent(hits)],
  ]
  const { drive } = engine.links
  if (drive !== undefined && first.engine.links.drive !== undefined) {
    const of = (name) => since(({ links }) => links.drive[name])
    const ceiling = drive.ceilingBytesPerSecond
    const bound = ceiling === undefined ? undefined : of('bytesNeeded') / (ceiling * seconds)
    const busy = of('busySeconds') / seconds
    rows.push(['drive', null, `${bytes(of('bytesRead') / seconds)}/s`])
    rows.push(['drive busy', busy, percent(busy)])
    rows.push(['of bound', bound, percent(bound)])
  }
  for (const { name, usedBytes, budgetBytes } of engine.memory) {
    const share = usedBytes === undefined ? undefined : usedBytes / budgetBytes
    rows.push([name, share, `${bytes(usedBytes)} of ${bytes(budgetBytes)}`])
  }
  rows.push([
    'requests',
    null,
    `${last.requests.running} running, ${last.requests.waiting} waiting`,
  ])
  return rows
}

function showFigures(rows) {
  figures.replaceChildren(
    ...rows.flatMap(([name, share, text]) => {
      const [term, bar, value] = ['dt', 'dd', 'dd'].map((tag) => document.createElement(tag))
      term.textContent = name
      value.textContent = text
      if (typeof share === 'number') {
        const meter = document.createElement('meter')
        meter.value = share
        bar.append(meter)
      }
      return [term, bar, value]
    }),
  )
}

const unpacked = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0))

function showMap({ engine, map: packed }) {
  const { moeLayers, perLayer } = engine.experts
  const [resident, used, loaded] = [packed.resident, packed.used, packed.loaded].map(unpacked)
  map.width = perLayer
  map.height = moeLayers
  map.style.height = `${Math.max(60, Math.min(480, moeLayers * 8))}px`
  const context = map.getContext('2d')
  const image = context.createImageData(perLayer, moeLayers)
  for (let expert = 0; expert < resident.length; expert += 1) {
    const colour = colourOf(resident[expert], used[expert], loaded[expert])
    image.data.set([...colour, 255], 4 * expert)
  }
  context.putImageData(image, 0, 0)
}

function colourOf(resident, used, loaded) {
  if (resident !== 1) return [27, 30, 36]
  if (loaded <= 2) return [224, 192, 74]
  const heat = Math.max(0, 1 - used / 64)
  return [47 + 48 * heat, 111 + 104 * heat, 143 - 48 * heat]
}

async function look() {
  try {
    const response = await fetch('/telemetry?map=1', { headers: headers() })
    key.hidden = response.status !== 401 && key.value === ''
    if (!response.ok) throw new Error(await messageOf(response))
    const snapshot = await response.json()
    at('model').textContent = snapshot.model
    say(snapshot.state)
    if (snapshot.engine !== undefined) {
      if (before?.engine !== undefined && snapshot.engine.steps >= before.engine.steps) {
        showFigures(rowsOf(before, snapshot))
      }
      showMap(snapshot)
    }
    before = snapshot
  } catch (error) {
    say(error.message, true)
    before = null
  }
  setTimeout(look, 1000)
}

void look()
