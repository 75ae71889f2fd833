// `simulate`: what policies and numbers of slots would make of recorded routing. It opens no model;
// traces are read or generated, everything is judged on all cores, and told as a table, an object or
// a page.
import type { Contest } from '../simulate/contest.js'
import { plainRouters } from '../simulate/foresightrouter.js'
import { generate } from '../simulate/generate.js'
import type { Judgement } from '../simulate/judge.js'
import type { Task } from '../simulate/judgeworker.js'
import type { Routing } from '../simulate/routing.js'
import { readRouting } from '../simulate/source.js'
import { sweep } from '../simulate/sweep.js'
import { usageOf } from '../simulate/usage.js'
import { Failure, Status } from './failure.js'
import { foresight, routersOf } from './foresight.js'
import { Log } from './log.js'
import { writeWhole } from './outfile.js'
import type { SimulateFlags, SlotWish } from './simulateflags.js'
import { simulationPage } from './simulatepage.js'
import { simulationTable } from './simulatetable.js'
import { type Simulated, simulatedOf, simulationReport } from './simulation.js'

/** Returns the exit status; throws for everything that a person is to be told. */
export async function simulate(paths: readonly string[], flags: SimulateFlags): Promise<number> {
  const { generate: seed } = flags
  if (paths.length === 0 && seed === undefined) {
    throw new Failure('simulate: expected a trace, or --generate SEED', Status.usage)
  }
  const routings = paths.map(readRouting)
  if (seed !== undefined) routings.push(generate(seed))
  if (flags.foresight) {
    process.stdout.write(foresight(routings, flags.routers, flags.json ?? false))
    return Status.done
  }
  const simulated = await judgeAll(routings, flags)
  if (flags.html !== undefined) await writeWhole(flags.html, simulationPage(simulated))
  process.stdout.write(
    flags.json ? `${JSON.stringify(simulationReport(simulated))}\n` : simulationTable(simulated),
  )
  return Status.done
}

async function judgeAll(routings: readonly Routing[], flags: SimulateFlags): Promise<Simulated[]> {
  const log = new Log(flags.quiet ?? false)
  const tasks = routings.map((routing) => tasksOf(routing, flags))
  const all = tasks.flat()
  const began = performance.now()
  const judged = await sweep(all, flags.threads)
  const seconds = (performance.now() - began) / 1000
  log.line(`${all.length} settings judged in ${seconds.toFixed(1)} s`)
  const rest: Judgement[] = [...judged]
  return routings.map((routing, at) => {
    const own = rest.splice(0, tasks[at]?.length ?? 0)
    return simulatedOf(routing, usageOf(routing, flags.phase), own)
  })
}

function tasksOf(routing: Routing, flags: SimulateFlags): Task[] {
  const { scope, phase, policy, machine = null } = flags
  const counts = new Set(flags.slots.map((wish) => slotsOf(routing, wish)))
  const lookAheads = flags.prefetch ?? [undefined]
  if (flags.prefetch !== undefined && machine === null) {
    throw new Failure('--prefetch: nothing is read ahead without --machine', Status.usage)
  }
  const contests: Contest[] = [...new Set(policy)].flatMap((name) =>
    [...counts].flatMap((slotsPerLayer) =>
      lookAheads.map((lookAhead) => ({ policy: name, scope, phase, slotsPerLayer, lookAhead })),
    ),
  )
  const routers = flags.prefetch === undefined ? plainRouters : routersOf(routing, flags.routers)
  return contests.map((contest) => ({ routing, contest, machine, routers }))
}

function slotsOf({ name, experts }: Routing, wish: SlotWish): number {
  if ('share' in wish) return Math.max(1, Math.round(wish.share * experts))
  if (wish.slots <= experts) return wish.slots
  throw new Failure(
    `--slots ${wish.slots}: ${name} has ${experts} experts in a layer`,
    Status.usage,
  )
}
