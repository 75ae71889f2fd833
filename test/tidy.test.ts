/**
 * The rules of the house, applied to every text file of the repository. Each rule is also shown an
 * offending text first: a rule that cannot fail protects nothing.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import {
  beginsWithAComment,
  filesAreShort,
  importsOf,
  importsPointDownward,
  lockIsComplete,
  namesNoOtherPlace,
  namesSayTheSubject,
  nothingIsLeftForLater,
  onlyTheAddonKnowsNode,
  type Rule,
  type SourceFile,
  stepHasNoPromise,
  typesAreKept,
} from './tidy-rules.js'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const files = textFiles()

/** A rule, what it is called, and texts that it must refuse. */
const rules: [title: string, rule: Rule, offences: [path: string, text: string][]][] = [
  [
    'imports point downward only',
    importsPointDownward,
    [
      ['src/cache/cache.ts', "import { step } from '../engine/step.js'"],
      ['src/cache/cache.ts', "import { config } from '../model/config.js'"],
      ['src/prefetch/ahead.ts', "export * from '../../native/index.js'"],
      ['src/cli/run.ts', "const door = await import('../../native/index.js')"],
      ['src/model/config.ts', "new Worker(new URL('../engine/worker.js', import.meta.url))"],
      ['src/engine/engine.ts', "import type { Flags } from '../cli/flags.js'"],
      ['src/batch/lock.ts', "import { Failure } from '../cli/failure.js'"],
      ['tui/main.ts', "import { step } from '../src/engine/step.js'"],
      ['src/simulate/judge.ts', "import { step } from '../engine/step.js'"],
      ['src/drawer/thing.ts', ''],
    ],
  ],
  [
    'no promise in the step, the cache, the prefetcher and the door',
    stepHasNoPromise,
    [
      ['src/engine/step.ts', 'export async function step() {}'],
      ['src/cache/cache.ts', 'const later: Promise<void> = when'],
      ['src/prefetch/ahead.ts', 'read().then(use)'],
      ['native/index.ts', 'await device'],
    ],
  ],
  [
    'types are kept and tests are all run',
    typesAreKept,
    [
      ['src/model/config.ts', 'const value: any = 1'],
      ['test/config.test.ts', 'use(value as any)'],
      ['tui/main.ts', '// @ts-ignore\nuse(value)'],
      ['test/config.test.ts', "describe.skip('a part', () => {})"],
      ['test/config.test.ts', "it.only('one', () => {})"],
    ],
  ],
  [
    'nothing is left for later',
    nothingIsLeftForLater,
    [
      ['native/device.cc', '// TODO close the file'],
      ['src/cli/run.ts', '// FIXME'],
    ],
  ],
  [
    'names say the subject',
    namesSayTheSubject,
    [
      ['src/engine/utils.ts', ''],
      ['native/common/copy.cc', ''],
      ['test/helpers.test.ts', ''],
    ],
  ],
  [
    'each file begins with a comment',
    beginsWithAComment,
    [
      ['src/cli/run.ts', '#!/usr/bin/env node\nimport x'],
      ['native/device.h', '#pragma once'],
    ],
  ],
  [
    'only the addon knows Node',
    onlyTheAddonKnowsNode,
    [
      ['native/device.cc', '#include <napi.h>'],
      ['src/engine/step.ts', 'NapiValue'],
    ],
  ],
  [
    'files are short',
    filesAreShort,
    [
      ['src/cli/run.ts', 'x\n'.repeat(451)],
      ['native/device.cc', 'x\n'.repeat(601)],
    ],
  ],
  [
    'nothing names another place',
    namesNoOtherPlace,
    [
      ['README.md', 'look at /home/someone/models'],
      ['src/cli/run.ts', "const folder = '/tmp/ring-x'"],
      ['native/device.h', '// as DESIGN §3 says'],
    ],
  ],
  [
    'the lock file is complete and names no host',
    lockIsComplete,
    [
      ['package-lock.json', '{"packages":{"a":{"version":"1.0.0","resolved":"somewhere"}}}'],
      ['package-lock.json', '{"packages":{"a":{"optionalDependencies":{"b":"1.0.0"}}}}'],
    ],
  ],
]

describe.each(rules)('%s', (_title, rule, offences) => {
  it.each(offences)('refuses an offence in %s', (path, text) => {
    expect(rule({ path, text })).not.toEqual([])
  })

  it('holds in every file', () => {
    expect(files.flatMap(rule)).toEqual([])
  })
})

describe('what the rules let pass', () => {
  it('a lower floor, the own folder, packages, and faces among each other', () => {
    const text = `
      import { open } from '../../native/index.js'
      import { place } from '../cache/place.js'
      import { events } from './events.js'
      import { z } from 'zod'`
    expect(importsPointDownward({ path: 'src/engine/step.ts', text })).toEqual([])
    const faces = "import { serve } from '../serve/http.js'"
    expect(importsPointDownward({ path: 'src/cli/main.ts', text: faces })).toEqual([])
  })

  it('forbidden words that are only spoken of', () => {
    const text = "// any promise is awaited elsewhere\nconst word = 'async'"
    expect(stepHasNoPromise({ path: 'src/cache/cache.ts', text })).toEqual([])
    expect(typesAreKept({ path: 'src/cache/cache.ts', text })).toEqual([])
  })
})

describe('the search for imports', () => {
  it('finds every way to name a module', () => {
    const text = `
      import a from './a.js'
      import type { B } from './b.js'
      export { c } from './c.js'
      const d = await import('./d.js')
      new Worker(new URL('./e.js', import.meta.url))
      new URL('./f.json', import.meta.url)`
    expect(importsOf(text)).toEqual(['./a.js', './b.js', './c.js', './d.js', './e.js'])
  })
})

/** Every text file of the checkout, without what is installed or built. */
function textFiles(): SourceFile[] {
  const skipped = new Set(['.git', 'node_modules', 'build', 'dist', 'coverage', '__pycache__'])
  const found: SourceFile[] = []
  const walk = (folder: string): void => {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      const path = folder === '' ? entry.name : `${folder}/${entry.name}`
      if (skipped.has(entry.name)) continue
      if (entry.isDirectory()) walk(path)
      else if (entry.isFile() && !/\.(safetensors|npy|bin|log|png)$/.test(path)) {
        found.push({ path, text: readFileSync(join(root, path), 'utf8') })
      }
    }
  }
  walk('')
  return found
}
