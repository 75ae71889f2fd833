/**
 * The checkpoint's own template writes the prompts that the reference wrote, is found where
 * checkpoints keep it, and cannot hurt: a template that is broken or greedy is one sentence.
 */
import fs from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it } from 'vitest'
import { ModelError } from '../src/model/error.js'
import { type Message, openTemplate, type RenderOptions } from '../src/model/template.js'
import { promptEndsInsideThinking } from '../src/model/thinking.js'

const RING_TINY = new URL('../models/ring-tiny/', import.meta.url).pathname
const GOLDENS = new URL('./fixtures/goldens/', import.meta.url).pathname

interface Golden {
  messages: Message[]
  enable_thinking: boolean
  text: string
}

const folders: string[] = []
afterEach(() => {
  for (const folder of folders.splice(0)) fs.rmSync(folder, { recursive: true })
})

/** A model folder with these files. */
function folderWith(files: Record<string, string>): string {
  const folder = fs.mkdtempSync(join(os.tmpdir(), 'ring-'))
  folders.push(folder)
  for (const [name, text] of Object.entries(files)) fs.writeFileSync(join(folder, name), text)
  return folder
}

const hello: Message[] = [{ role: 'user', content: 'Hello!' }]

/** The prompt that a template makes of one greeting. */
function rendered(source: string, options: Partial<RenderOptions> = {}): string {
  const folder = folderWith({ 'chat_template.jinja': source })
  return openTemplate(folder).render(hello, { addGenerationPrompt: true, ...options })
}

describe('the template of ring-tiny', () => {
  const template = openTemplate(RING_TINY)
  const goldens = fs.readdirSync(GOLDENS).filter((file) => /^chat-.*\.json$/.test(file))

  it('finds the goldens', () => expect(goldens.length).toBe(6))

  it.each(goldens)('%s: writes the same prompt', (file) => {
    const golden: Golden = JSON.parse(fs.readFileSync(join(GOLDENS, file), 'utf8'))
    expect(
      template.render(golden.messages, {
        thinking: golden.enable_thinking,
        addGenerationPrompt: true,
      }),
    ).toBe(golden.text)
  })

  it('thinks unless told not to', () => {
    const options = { addGenerationPrompt: true }
    const byDefault = template.render(hello, options)
    expect(byDefault).toBe(template.render(hello, { ...options, thinking: true }))
    expect(byDefault).toContain('thinking on')
    expect(template.render(hello, { ...options, thinking: false })).toContain('thinking off')
  })

  it('puts a system message first', () => {
    const system: Message = { role: 'system', content: 'Be brief.' }
    expect(template.render([system, ...hello], { addGenerationPrompt: false })).toBe(
      '<role>SYSTEM</role>Be brief.\ndetailed thinking on<|role_end|>' +
        '<role>HUMAN</role>Hello!<|role_end|>',
    )
  })

  it('keeps the indentation of an earlier answer when it drops the thinking', () => {
    const answer: Message = { role: 'assistant', content: '<think>a</think>\n\n  b \n' }
    expect(template.render([...hello, answer], { addGenerationPrompt: false })).toContain(
      '<role>ASSISTANT</role>  b \n<|role_end|>',
    )
  })
})

describe('where the template is found', () => {
  const source = (chat_template: unknown) => JSON.stringify({ chat_template })

  it('is chat_template.jinja before tokenizer_config.json', () => {
    const folder = folderWith({
      'chat_template.jinja': 'file',
      'tokenizer_config.json': source('config'),
    })
    expect(openTemplate(folder).render(hello, { addGenerationPrompt: true })).toBe('file')
  })

  it('is the default one of a list', () => {
    const list = [
      { name: 'tool_use', template: 'tools' },
      { name: 'default', template: 'plain' },
    ]
    const folder = folderWith({ 'tokenizer_config.json': source(list) })
    expect(openTemplate(folder).render(hello, { addGenerationPrompt: true })).toBe('plain')
  })

  it.each<[string, Record<string, string>, RegExp]>([
    ['no file', {}, /^no chat template in .*: expected chat_template.jinja, or chat_template in/],
    ['no entry', { 'tokenizer_config.json': '{}' }, /^no chat template in /],
    ['a number', { 'tokenizer_config.json': source(7) }, /must be text or a list, found 7/],
    ['no default', { 'tokenizer_config.json': source([]) }, /must hold one named "default"/],
    ['broken JSON', { 'tokenizer_config.json': '{' }, /^tokenizer_config.json: expected JSON/],
    ['broken jinja', { 'chat_template.jinja': '{% if %}' }, /^chat_template.jinja: does not parse/],
    ['over 1 MB', { 'chat_template.jinja': 'x'.repeat(2 ** 20 + 1) }, /at most 1048576 bytes/],
    ['over 1 MB', { 'tokenizer_config.json': source('x'.repeat(2 ** 20 + 1)) }, /at most 1048576/],
  ])('is refused: %s', (_, files, message) => {
    const folder = folderWith(files)
    expect(() => openTemplate(folder)).toThrow(ModelError)
    expect(() => openTemplate(folder)).toThrow(message)
  })
})

describe('what a template sees', () => {
  it('has the messages, the generation prompt and no tools', () => {
    expect(rendered('{{ messages[0].role }} {{ add_generation_prompt }} {{ tools is none }}')).toBe(
      'user true true',
    )
  })

  it('has tools as JSON the way Python writes it', () => {
    expect(rendered('{{ tools[0] | tojson }}', { tools: [{ name: 'é', n: 1 }] })).toBe(
      '{"name": "é", "n": 1}',
    )
  })

  it('has the texts of begin, end and padding tokens', () => {
    const folder = folderWith({
      'chat_template.jinja': '{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}',
      'tokenizer_config.json': JSON.stringify({ bos_token: '<s>', eos_token: { content: '</s>' } }),
    })
    expect(openTemplate(folder).render([], { addGenerationPrompt: false })).toBe('<s></s>false')
  })

  it.each<[boolean | undefined, string]>([
    [true, 'true on'],
    [false, 'false off'],
    [undefined, 'unset unset'],
  ])('has thinking %s in both spellings', (thinking, text) => {
    const source =
      "{{ enable_thinking | default('unset') }} {{ thinking_option | default('unset') }}"
    expect(rendered(source, { thinking })).toBe(text)
  })

  it('has extra variables, but not instead of its own', () => {
    expect(rendered('{{ a }} {{ messages | length }}', { extra: { a: 1, messages: [] } })).toBe(
      '1 1',
    )
  })

  it.each([
    ["{{ '\\n a \\n'.lstrip('\\n') }}|", ' a \n|'],
    ["{{ 'xyaxy'.rstrip('yx') }}", 'xya'],
    ["{{ '  a '.strip() }}", 'a'],
    ["{{ 'a--b'.split('--')[-1] }}", 'b'],
    ['{% for i in range(1, 6, 2) %}{{ i }}{% endfor %}', '135'],
    ['{% for i in range(3, 0, -1) %}{{ i }}{% endfor %}', '321'],
    ["{{ strftime_now('%%') }}", '%'],
    ['{{ ([] | first) is defined }}{{ [] | last }}', 'false'],
  ])('has Python behaviour in %s', (source, text) => expect(rendered(source)).toBe(text))
})

describe('other styles of the family', () => {
  it('writes turns without end marks, and a prompt that ends inside thinking', () => {
    const prompt = rendered(
      "{% for m in messages %}{% set role = m['role'] %}" +
        "{% if role == 'user' %}{% set role = 'human' %}{% endif %}" +
        "<role>{{ role | upper }}</role>{{ m['content'] }}{% endfor %}" +
        "{% if add_generation_prompt %}{{ '<role>ASSISTANT</role><think>\\n' }}{% endif %}",
    )
    expect(prompt).toBe('<role>HUMAN</role>Hello!<role>ASSISTANT</role><think>\n')
    expect(promptEndsInsideThinking(prompt)).toBe(true)
  })

  it('writes tool calls, results and the thinking since the last question', () => {
    const source = `
      {%- set seen = namespace(last=0) %}
      {%- for m in messages[::-1] %}
        {%- if m.role == 'user' and not seen.last %}
          {%- set seen.last = messages | length - loop.index0 %}
        {%- endif %}
      {%- endfor %}
      {%- for m in messages %}
        {%- if m.reasoning_content is string and loop.index > seen.last %}
          {{- '<think>' + m.reasoning_content.strip('\\n') + '</think>' }}
        {%- endif %}
        {%- if m.tool_calls %}
          {%- for call in m.tool_calls %}
            {{- '<call>' ~ (call.function.arguments | tojson) ~ '</call>' }}
          {%- endfor %}
        {%- endif %}
        {{- m.content }}
      {%- endfor %}`
    const folder = folderWith({ 'chat_template.jinja': source })
    const messages: Message[] = [
      { role: 'assistant', content: 'a', reasoning_content: 'old' },
      { role: 'user', content: 'b' },
      {
        role: 'assistant',
        content: '',
        reasoning_content: '\nnew\n',
        tool_calls: [{ function: { name: 'f', arguments: { x: 1 } } }],
      },
      { role: 'tool', content: 'c' },
    ]
    expect(openTemplate(folder).render(messages, { addGenerationPrompt: false })).toBe(
      'ab<think>new</think><call>{"x": 1}</call>c',
    )
  })
})

describe('a template from a stranger', () => {
  it('may refuse the messages with its own words', () => {
    expect(() => rendered("{{ raise_exception('turns must alternate') }}")).toThrow(
      new ModelError('chat_template.jinja: refuses these messages: turns must alternate'),
    )
  })

  it.each([
    ['loops', loops('{{ i }}'), /more than 500000 steps of work/],
    ['empty loops', loops(''), /more than 500000 steps of work/],
    ['a long list', '{{ range(1000001) }}', /range\(\) beyond 1000000 entries/],
    ['an endless list', '{{ range(0, 1, 0) }}', /range\(\) beyond 1000000 entries/],
    ['a growing text', growing("'aaaaaaaa'", '~'), /more than 16777216 characters/],
    ['a growing list', growing('[1, 2, 3, 4]', '+'), /a list beyond 1000000 entries/],
    ['deep nesting', `{{ ${'('.repeat(50000)} }}`, /does not parse/],
    ['much whitespace', ' '.repeat(2001), /2001 characters of whitespace in a row/],
    ['an unknown function', '{{ nothing() }}', /fails on these messages/],
    ['strip of no text', '{{ nothing.strip() }}', /fails on these messages: strip\(\)/],
  ])('is stopped at %s', (_, source, message) => {
    const error = errorOf(() => rendered(source))
    expect(error).toBeInstanceOf(ModelError)
    expect(String(error)).toMatch(message)
  })
})

function errorOf(use: () => unknown): unknown {
  try {
    use()
  } catch (error) {
    return error
  }
  return undefined
}

/** Three nested loops of a thousand. */
function loops(body: string): string {
  const loop = '{% for i in range(1000) %}'
  return loop.repeat(3) + body + '{% endfor %}'.repeat(3)
}

/** A value that doubles a hundred times. */
function growing(seed: string, operator: string): string {
  return (
    `{% set box = namespace(value=${seed}) %}{% for i in range(100) %}` +
    `{% set box.value = box.value ${operator} box.value %}{% endfor %}`
  )
}
