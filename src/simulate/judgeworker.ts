// What a judging thread does: one contest. Piscina calls it. The traces lie in memory that all threads
// share.
import type { Problem } from '../cache/profile.js'
import { ModelError } from '../model/error.js'
import type { Contest } from './contest.js'
import type { Routers } from './foresightrouter.js'
import { type Judgement, judge } from './judge.js'
import type { MachineModel } from './machine.js'
import type { Routing } from './routing.js'

export interface Task {
  readonly routing: Routing
  readonly contest: Contest
  readonly machine: MachineModel | null
  readonly routers: Routers
}

export default function judgeOne({
  routing,
  contest,
  machine,
  routers,
}: Task): Judgement | Problem {
  try {
    return judge(routing, contest, machine, routers)
  } catch (error) {
    // Only its message outlives the way between threads.
    if (error instanceof ModelError) return { problem: error.message }
    throw error
  }
}
