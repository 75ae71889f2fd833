// `plan`: what to expect of a model on this machine, or on one that is described, before a byte of its weights
// is there. Columns side by side are the machine with changes. Told as a table, an object or a page.
import { examine } from '../engine/doctor.js'
import { bundled } from '../model/bundled.js'
import { cacheFolder } from '../model/locate.js'
import type { Misfit } from '../plan/fit.js'
import { type Forecast, type ForecastWishes, forecast, type Subject } from '../plan/forecast.js'
import { geometryOf } from '../plan/geometry.js'
import { machineHere, routingFor } from '../plan/here.js'
import { assumedMachine, freeOf, type PlannedMachine, withNumbers } from '../plan/machine.js'
import { type PlannedModel, plannedModel } from '../plan/published.js'
import { existing } from './doctor.js'
import { Failure, Status } from './failure.js'
import { Log } from './log.js'
import { writeWhole } from './outfile.js'
import type { MachineNumbers, PlanFlags } from './planflags.js'
import { planPage } from './planpage.js'
import { planReport } from './planreport.js'
import { planTable } from './plantable.js'

/** One machine, and what is to be expected of it. */
export interface Column {
  readonly name: string
  readonly machine: PlannedMachine
  readonly forecast: Forecast | Misfit
}

export interface Planned {
  readonly model: PlannedModel
  readonly subject: Subject
  readonly wishes: ForecastWishes
  readonly columns: readonly Column[]
}

/** Returns the exit status; throws for everything that a person is to be told. */
export async function plan(name: string, flags: PlanFlags): Promise<number> {
  const log = new Log(flags.quiet ?? false)
  const model = plannedModel(name, bundled('models/published'))
  const { config } = model
  if (config.firstMoeLayer >= config.layers) {
    throw new Failure(`${model.name}: has no layer with routed experts; nothing is to be planned`)
  }
  const subject = {
    config,
    geometry: geometryOf(config),
    routing: routingFor(config, flags.routing),
  }
  const wishes = {
    contextTokens: flags.ctxSize,
    kvType: flags.kvType,
    expertRam: flags.expertRam,
    promptTokens: flags.promptTokens,
    answerTokens: flags.answerTokens,
    batches: flags.batch,
  }
  const machine = await machineOf(model, flags, log)
  const columns = [
    { name: flags.machine === undefined ? 'this machine' : 'the machine', machine },
    ...(flags.whatIf ?? []).map(({ name, numbers }) => ({
      name,
      machine: given(machine, numbers),
    })),
  ].map((column) => ({ ...column, forecast: forecast(subject, column.machine, wishes) }))
  const planned = { model, subject, wishes, columns }
  if (flags.html !== undefined) await writeWhole(flags.html, planPage(planned))
  process.stdout.write(flags.json ? `${JSON.stringify(planReport(planned))}\n` : planTable(planned))
  return Status.done
}

/** This machine, as far as it is known, with what was said of it. */
async function machineOf(
  { folder }: PlannedModel,
  { machine: numbers = {}, math, measure }: PlanFlags,
  log: Log,
): Promise<PlannedMachine> {
  const isDescribed = ['ram', 'cores', 'memory', 'drive'].every((name) => name in numbers)
  if (isDescribed) return given(assumedMachine(), numbers)
  const place = folder ?? existing(cacheFolder(process.env))
  if (measure === true) {
    const { note } = await examine({
      folders: [place],
      isFresh: false,
      signal: new AbortController().signal,
      onMeasuring: (what) => log.line(`measuring ${what}`),
    })
    if (note !== null) log.line(note)
  }
  const { machine, isMeasured } = machineHere(process.env, place, math)
  if (!isMeasured) {
    log.line(`not everything here was measured: --measure, or doctor ${place}, does`)
  }
  return given(machine, numbers)
}

function given(machine: PlannedMachine, numbers: MachineNumbers): PlannedMachine {
  const { ram } = numbers
  const free = ram === undefined ? {} : { ram: freeOf(ram) }
  return withNumbers(machine, { ...numbers, ...free }, 'given')
}
