// A sequence whose draws wait for masks from elsewhere: others go on meanwhile, and what is drawn in the
// end is what it would have been. The test plays the grammar's thread.
import { describe, expect, it } from 'vitest'
import { newSeat, publish, refuse, TokenGrammar, toldTo } from '../src/engine/grammarseat.js'
import { type Emission, type Ending, Loop } from '../src/engine/loop.js'
import type { OpenModel } from '../src/engine/open.js'
import { withModel } from './drive.js'
import { requestOf } from './models.js'
import { ringTiny } from './paths.js'

const prompt = [5, 6, 7, 8]
const tags = { open: 9, close: 10 }

/** A loop with one held sequence, number 0, and another one that draws freely, number 1. */
class Talk {
  readonly tokens: Emission[][] = [[], []]
  readonly endings: (Ending | null)[] = [null, null]
  readonly loop: Loop
  readonly seat

  constructor(model: OpenModel, thinking: boolean) {
    const { vocabulary } = model.checkpoint.config
    const word = () => new Int32Array(new SharedArrayBuffer(4))
    this.seat = newSeat(vocabulary, 8, word(), word())
    this.loop = new Loop(model, {
      onToken: (slot, emission) => this.tokens[slot]?.push(emission),
      onEnding: (slot, ending) => {
        this.endings[slot] = ending
      },
    })
    const wish = thinking ? { tags, startsInside: false } : null
    const request = requestOf(prompt, { maxTokens: 4, topLogprobs: 3 })
    this.loop.add(0, request, new TokenGrammar(this.seat, wish))
  }

  /** Another sequence beside it. */
  besides(): void {
    this.loop.add(1, requestOf(prompt.slice(1), { maxTokens: 12 }))
  }

  /** As the grammar's thread does: the next draw may give these. */
  allow(...ids: number[]): void {
    this.seat.mask.fill(0)
    for (const id of ids)
      this.seat.mask[id >> 5] = (this.seat.mask[id >> 5] ?? 0) | (1 << (id & 31))
    publish(this.seat, toldTo(this.seat))
  }

  ids(slot = 0): number[] {
    return (this.tokens[slot] ?? []).map(({ token }) => token)
  }
}

function talk(use: (talk: Talk) => void, thinking = false): void {
  const wishes = { kvType: 'f32', contextTokens: 128, sequences: 2 } as const
  withModel(ringTiny, wishes, (model) => use(new Talk(model, thinking)))
}

/** What is drawn where every mask is there in time. */
function prompted(): Emission[] {
  let drawn: Emission[] = []
  talk((one) => {
    for (let draw = 0; draw < 4; draw += 1) {
      one.allow(20 + draw, 40 + draw)
      one.loop.turn()
    }
    expect(one.endings[0]?.reason).toBe('length')
    drawn = one.tokens[0] ?? []
  })
  return drawn
}

describe('a mask that is late', () => {
  it('keeps its own sequence waiting and no other one', () => {
    talk((one) => {
      one.besides()
      for (let turn = 0; turn < 5; turn += 1) one.loop.turn()
      expect(one.ids(0)).toEqual([])
      expect(one.ids(1)).toHaveLength(5)
    })
  })

  it('changes no bit of what is drawn when it comes', () => {
    const expected = prompted()
    talk((one) => {
      one.besides()
      for (let draw = 0; draw < 4; draw += 1) {
        for (let turn = 0; turn <= draw; turn += 1) one.loop.turn()
        expect(one.ids()).toHaveLength(draw)
        one.allow(20 + draw, 40 + draw)
        one.loop.turn()
      }
      expect(one.tokens[0]).toEqual(expected)
      expect(one.endings[0]?.reason).toBe('length')
    })
  })

  it('leaves the loop at rest where nobody else has work', () => {
    talk((one) => {
      one.loop.turn()
      one.loop.turn()
      expect(one.loop.isParked).toBe(true)
      one.allow(30)
      one.loop.turn()
      expect(one.ids()).toEqual([30])
    })
  })
})

describe('a mask', () => {
  it('is that of the draw, and not of the one before', () => {
    talk((one) => {
      for (const id of [31, 63, 0, 5]) {
        one.allow(id)
        one.loop.turn()
      }
      expect(one.ids()).toEqual([31, 63, 0, 5])
    })
  })

  it('allows a thought to be opened first and only first, and what is thought is not told', () => {
    talk((one) => {
      one.allow()
      one.loop.turn()
      expect(one.ids()).toEqual([tags.open])
      one.loop.turn()
      expect(one.ids()).toHaveLength(2)
      expect(toldTo(one.seat)).toBe(0)
    }, true)
  })

  it('that allows nothing fails its request, by the fault of what was asked', () => {
    talk((one) => {
      one.allow()
      one.loop.turn()
      expect(one.endings[0]).toMatchObject({ reason: 'failed', isBarred: true })
    })
  })

  it('that will not come any more fails its request, drawn or waiting, and no other one', () => {
    talk((one) => {
      one.besides()
      one.allow(3)
      one.loop.turn()
      one.loop.turn()
      refuse(one.seat)
      one.loop.turn()
      expect(one.endings).toMatchObject([{ reason: 'failed', isBarred: true }, null])
      expect(one.ids(0)).toEqual([3])
    })
  })
})
