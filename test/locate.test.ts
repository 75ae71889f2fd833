/**
 * How MODEL on the command line becomes a folder: a path, or ORG/NAME in the Hugging Face cache.
 */
import fs from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { ModelError } from '../src/model/error.js'
import { cacheFolder, type Environment, locateModel } from '../src/model/locate.js'
import { inTemporaryFolder } from './hollow.js'
import { ringTiny } from './paths.js'

const commit = 'a'.repeat(40)
const other = 'b'.repeat(40)

/** A cache with two snapshots of acme/ring, main pointing at the first. */
function withCache(use: (environment: Environment, cache: string) => void): void {
  inTemporaryFolder((cache) => {
    const model = join(cache, 'models--acme--ring')
    for (const name of [commit, other]) {
      fs.mkdirSync(join(model, 'snapshots', name), { recursive: true })
    }
    fs.mkdirSync(join(model, 'refs', 'pr'), { recursive: true })
    fs.writeFileSync(join(model, 'refs', 'main'), commit)
    fs.writeFileSync(join(model, 'refs', 'pr', '1'), `${other}\n`)
    fs.writeFileSync(join(model, 'refs', 'evil'), '../../..')
    use({ HF_HUB_CACHE: cache }, cache)
  })
}

describe('a model is found', () => {
  it('in the folder that the path names', () => {
    expect(locateModel(ringTiny, {})).toBe(ringTiny)
  })

  it('by ORG/NAME at the commit that main refers to', () => {
    withCache((environment, cache) => {
      expect(locateModel('acme/ring', environment)).toBe(
        join(cache, 'models--acme--ring', 'snapshots', commit),
      )
    })
  })

  it('by ORG/NAME@REVISION, a reference or a commit', () => {
    withCache((environment) => {
      expect(locateModel('acme/ring@pr/1', environment)).toContain(other)
      expect(locateModel(`acme/ring@${other}`, environment)).toContain(other)
    })
  })
})

describe('the cache is', () => {
  it.each([
    [{ HF_HUB_CACHE: '/a', HUGGINGFACE_HUB_CACHE: '/b', HF_HOME: '/c' }, '/a'],
    [{ HUGGINGFACE_HUB_CACHE: '/b', HF_HOME: '/c' }, '/b'],
    [{ HF_HOME: '/c', XDG_CACHE_HOME: '/d' }, '/c/hub'],
    [{ XDG_CACHE_HOME: '/d', HOME: '/e' }, '/d/huggingface/hub'],
    [{ HF_HUB_CACHE: '', HOME: '/e' }, '/e/.cache/huggingface/hub'],
  ])('for %j the folder %s', (environment, folder) => {
    expect(cacheFolder(environment)).toBe(folder)
  })
})

describe('a model that is not there', () => {
  const cases: [string, string][] = [
    ['acme/absent', 'nothing in "'],
    ['acme/ring@nowhere', 'expected revision "nowhere" of acme/ring in the cache'],
    ['acme/ring@evil', 'found no such snapshot in'],
    ['acme/ring@../../x', 'expected a folder or ORG/NAME'],
    ['../acme/ring', 'expected a folder or ORG/NAME'],
    ['acme/..', 'expected a folder or ORG/NAME'],
    ['', 'expected a folder or ORG/NAME'],
    ['no\0thing', 'expected a folder or ORG/NAME'],
    [`${'x'.repeat(5000)}/y`, 'expected a folder or'],
  ]
  it.each(cases)('%.40j is refused in one sentence', (model, expected) => {
    withCache((environment) => {
      expect(() => locateModel(model, environment)).toThrow(ModelError)
      expect(() => locateModel(model, environment)).toThrow(expected)
    })
  })

  it('says where it looked', () => {
    withCache((environment, cache) => {
      const stored = join(cache, 'models--acme--absent')
      expect(() => locateModel('acme/absent', environment)).toThrow(stored)
    })
  })

  it('is not confused with a file', () => {
    expect(() => locateModel(join(ringTiny, 'config.json'), {})).toThrow('found the file')
  })
})
