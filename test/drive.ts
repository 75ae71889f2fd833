// Drives the engine's loop without its thread: requests in, everything they gave out.
import { type Emission, type Ending, Loop } from '../src/engine/loop.js'
import { type OpenModel, type OpenWishes, openModel } from '../src/engine/open.js'
import type { Request } from '../src/engine/sequence.js'

export interface Driven {
  readonly emissions: Emission[]
  readonly ending: Ending
}

/** Runs the requests together to their ends. At most as many as the model has sequences. */
export function drive(model: OpenModel, requests: readonly Request[]): Driven[] {
  const emissions = requests.map((): Emission[] => [])
  const endings: (Ending | undefined)[] = requests.map(() => undefined)
  const loop = new Loop(model, {
    onToken: (slot, emission) => emissions[slot]?.push(emission),
    onEnding: (slot, ending) => {
      endings[slot] = ending
    },
  })
  for (const [slot, request] of requests.entries()) loop.add(slot, request)
  while (!loop.isIdle) loop.turn()
  return requests.map((_, slot) => {
    const ending = endings[slot]
    if (ending === undefined) throw new Error(`request ${slot} never ended`)
    return { emissions: emissions[slot] ?? [], ending }
  })
}

/** Opens a model, hands it over, closes it. */
export function withModel<Result>(
  folder: string,
  wishes: OpenWishes,
  use: (model: OpenModel) => Result,
): Result {
  const model = openModel(folder, wishes)
  try {
    return use(model)
  } finally {
    model.close()
  }
}

/** One request alone on a model opened for it. */
export function driveOne(folder: string, wishes: OpenWishes, request: Request): Driven {
  return withModel(folder, wishes, (model) => {
    const [driven] = drive(model, [request])
    if (driven === undefined) throw new Error('no result')
    return driven
  })
}
