// The policies by name, as `--policy` takes them.
import { AutoPolicy } from './auto.js'
import { LfuPolicy } from './lfu.js'
import { LruPolicy } from './lru.js'
import { PinnedPolicy } from './pinned.js'
import type { CacheShape, Policy } from './policy.js'
import type { Problem, Profile } from './profile.js'
import { RandomPolicy } from './random.js'
import { SweepPolicy } from './sweep.js'

/** What rules when nobody chooses. */
export const defaultPolicy = 'auto'

export const policyNames = ['auto', 'lru', 'lfu', 'pinned', 'sweep', 'random:SEED'] as const

/** The policy of that name, or why there is none. */
export function createPolicy(
  name: string,
  shape: CacheShape,
  profile: Profile | null = null,
): Policy | Problem {
  if (name === 'auto') return new AutoPolicy(shape)
  if (name === 'lru') return new LruPolicy(shape)
  if (name === 'lfu') return new LfuPolicy(shape)
  if (name === 'sweep') return new SweepPolicy(shape)
  if (name === 'pinned') {
    if (profile !== null) return new PinnedPolicy(shape, profile)
    return {
      problem:
        'the policy pinned needs a saved profile of which experts are used (--profile; --save-profile makes one)',
    }
  }
  const seed = /^random:(\d{1,9})$/.exec(name)?.[1]
  if (seed !== undefined) return new RandomPolicy(shape, Number(seed))
  return { problem: `no policy is named ${name}; there are ${policyNames.join(', ')}` }
}
