// Progress of a long reading: its words, and how often they are said.
import { describe, expect, it } from 'vitest'
import { Progress, progressText, sizeText, timeText } from '../src/cli/progress.js'

describe('the words', () => {
  it('give the share, the rate and the time that is left', () => {
    const progress = { doneBytes: 412e9, readBytes: 400e9, bytes: 979e9, seconds: 60 }
    expect(progressText(progress)).toBe('412 GB of 979 GB (42 %), 6.67 GB/s, 1 min 26 s left')
  })

  it('promise no time before the rate is steady, and no rate before anything was read', () => {
    const early = { doneBytes: 5e6, readBytes: 5e6, bytes: 1e9, seconds: 0.5 }
    expect(progressText(early)).toBe('5.00 MB of 1.00 GB (0 %), 10.0 MB/s')
    expect(progressText({ ...early, readBytes: 0 })).toBe('5.00 MB of 1.00 GB (0 %)')
    expect(progressText({ doneBytes: 0, readBytes: 0, bytes: 0, seconds: 0 })).toContain('(100 %)')
  })

  it('keep sizes to three digits and times to two units', () => {
    const sizes = [0, 999, 1000, 999_499, 999_600, 1e12]
    expect(sizes.map(sizeText)).toEqual([
      ...['0 B', '999 B', '1.00 kB', '999 kB', '1.00 MB', '1.00 TB'],
    ])
    const times = [0, 0.2, 59.1, 61, 3599, 3600, 5 * 3600 + 59.5]
    expect(times.map(timeText)).toEqual([
      ...['0 s', '1 s', '1 min 0 s', '1 min 1 s', '59 min 59 s', '1 h 0 min', '5 h 1 min'],
    ])
  })
})

describe('the lines', () => {
  const said = (isTTY: boolean, isQuiet = false) => {
    const texts: string[] = []
    const stream = { isTTY, write: (text: string) => texts.push(text) > 0 }
    const progress = new Progress('ring', isQuiet, stream)
    for (let tenths = 1; tenths <= 250; tenths += 1) {
      const bytes = tenths * 1e8
      progress.show({ doneBytes: bytes, readBytes: bytes, bytes: 1e12, seconds: tenths / 10 })
    }
    progress.end()
    return texts
  }

  it('come every ten seconds, each of its own', () => {
    expect(said(false)).toEqual([
      'ring-offload: ring: 10.0 GB of 1.00 TB (1 %), 1.00 GB/s, 16 min 30 s left\n',
      'ring-offload: ring: 20.0 GB of 1.00 TB (2 %), 1.00 GB/s, 16 min 20 s left\n',
    ])
  })

  it('are one line on a terminal, written over and gone at the end', () => {
    const texts = said(true)
    expect(texts.length).toBeGreaterThan(80)
    for (const text of texts) {
      expect(text.startsWith('\r\u001b[K')).toBe(true)
      expect(text).not.toContain('\n')
    }
    expect(texts.at(-1)).toBe('\r\u001b[K')
  })

  it('are not said to who wants quiet', () => {
    expect([...said(false, true), ...said(true, true)]).toEqual([])
  })
})
