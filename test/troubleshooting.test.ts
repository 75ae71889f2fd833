// docs/troubleshooting.md explains lines that a person is told; here each of them is one that the program can
// tell: what stands in bold and quotes, cut at its dots, is found in the sources.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { fromRoot } from './paths.js'

const page = readFileSync(fromRoot('docs/troubleshooting.md'), 'utf8').replaceAll(
  /\s*\n(?!\n)/g,
  ' ',
)
const quotes = [...page.matchAll(/\*\*"[^*]*\*\*/g)]
  .flatMap(([bold]) => [...bold.matchAll(/"([^"]+)"/g)])
  .map(([, quote = '']) => quote)
const sources = ['src', 'native', 'scripts']
  .flatMap((folder) => filesUnder(folder))
  .map((path) => readFileSync(path, 'utf8'))
  .join('\n')

function filesUnder(folder: string): string[] {
  return readdirSync(fromRoot(folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(?:ts|mjs|cc|h)$/.test(name))
    .map((name) => join(fromRoot(folder), name))
}

it('explains something', () => {
  expect(quotes.length).toBeGreaterThan(15)
})

it.each(quotes)('%s', (quote) => {
  const parts = quote.split('...').map((part) => part.trim())
  const words = parts.filter((part) => part !== '')
  expect(words.filter((part) => !sources.includes(part))).toEqual([])
  expect(words.length).toBeGreaterThan(0)
})
