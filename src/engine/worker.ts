// The engine's thread: opens the model, then takes requests, runs steps and reports, until it is
// told to close. It is a plain loop: requests are drained between steps, and when there is no work
// the thread sleeps on a word of shared memory that the other side changes with every message.
import { basename } from 'node:path'
import { receiveMessageOnPort, workerData } from 'node:worker_threads'
import { probe, Reason } from '../../native/index.js'
import { ModelError } from '../model/error.js'
import { inventory } from '../model/inventory.js'
import { GpuWatch } from './gpuwatch.js'
import { TokenGrammar } from './grammarseat.js'
import { type Listener, Loop } from './loop.js'
import { type OpenModel, openModel } from './open.js'
import { writeProfile } from './profilefile.js'
import type { EngineFacts, FromWorker, ToWorker, WorkerData } from './protocol.js'
import { TraceRecorder } from './recorder.js'
import { Width } from './width.js'

const data = workerData as WorkerData
const { folder, wishes, tracePath, drawShare, sequencesAtFirst, control, wake, port } = data

/** How often slots that wait to be filled are looked after while nobody asks for anything. */
const warmingMs = 5
/** How often a sequence that waits for its KV or its grammar is asked whether it still wants it. */
const parkedMs = 20
/** Steps after which the forecast learns anew. */
const stepsPerLesson = 32

function send(message: FromWorker): void {
  port.postMessage(message)
}

const tellLine = (line: string) => send({ kind: 'told', line })

function open(): { model: OpenModel; recorder: TraceRecorder | null } | null {
  try {
    const model = openModel(folder, { ...wishes, control, wake, log: tellLine })
    return { model, recorder: record(model) }
  } catch (error) {
    // Anything that is not about the model is a fault of ours and shows as one.
    if (!(error instanceof ModelError)) throw error
    send({ kind: 'refused', message: error.message })
    return null
  }
}

function factsOf(model: OpenModel): EngineFacts {
  const { checkpoint, backend, plan, experts, counters, stage } = model
  const { oneExpert } = inventory(checkpoint).bytes
  return {
    config: checkpoint.config,
    plan,
    experts,
    counters,
    forecast: model.forecast,
    note: model.note,
    expertBytes: oneExpert,
    backend,
    instructionSet: backend === 'cpu' ? probe().instructionSet : stage.device.identify(),
    isReproducible: (stage.shared ?? null) === null,
    device: stage.device.describe(),
  }
}

function record({ checkpoint, kept }: OpenModel): TraceRecorder | null {
  if (tracePath === undefined) return null
  const { config, folder: from } = checkpoint
  const moeLayers = config.layers - config.firstMoeLayer
  return new TraceRecorder(tracePath, {
    model: basename(from),
    layers: Array.from({ length: moeLayers }, (_, index) => config.firstMoeLayer + index),
    experts: config.experts,
    topK: config.topK,
    ahead: kept === null ? null : kept.attends ? [...kept.ahead, ...kept.ahead] : kept.ahead,
    attended: kept?.attends ? kept.ahead.length : 0,
  })
}

/** Takes every message that has arrived; returns whether the thread shall go on. */
function drain(loop: Loop): boolean {
  for (;;) {
    const received: { message: ToWorker } | undefined = receiveMessageOnPort(port)
    if (received === undefined) return true
    const { message } = received
    if (message.kind === 'close') return false
    const { slot, request, seat } = message
    const thinking = request.grammar?.thinking ?? null
    loop.add(slot, request, seat === null ? null : new TokenGrammar(seat, thinking))
  }
}

function serve(model: OpenModel, recorder: TraceRecorder | null): void {
  const listener: Listener = {
    onToken: (slot, emission) => send({ kind: 'token', slot, emission }),
    onEnding: (slot, ending) => send({ kind: 'ending', slot, ending }),
  }
  const width =
    sequencesAtFirst === undefined ? null : new Width(sequencesAtFirst, model.plan.sequences)
  const loop = new Loop(model, listener, recorder, drawShare, width)
  const watch =
    model.backend === 'cpu' ? null : new GpuWatch(model.counters.device, model.experts, tellLine)
  let steps = 0
  for (;;) {
    const seen = Atomics.load(wake, 0)
    if (!drain(loop)) {
      loop.endAll('cancelled', '')
      return
    }
    if (loop.isIdle) {
      const isWarming = model.warmth?.turn() ?? false
      loop.tend()
      Atomics.wait(wake, 0, seen, isWarming ? warmingMs : undefined)
      continue
    }
    const reason = loop.turn()
    watch?.look()
    if (loop.isParked) {
      Atomics.wait(wake, 0, seen, parkedMs)
      continue
    }
    steps += 1
    if (model.forecast !== null && steps % stepsPerLesson === 0) send({ kind: 'lessons' })
    if (reason === Reason.lost) {
      send({ kind: 'lost', message: loop.message })
      loop.endAll('failed', loop.message)
      return
    }
  }
}

/** Writes what was recorded; what came out before is good all the same. */
function keep(write: () => void): void {
  try {
    write()
  } catch (error) {
    if (!(error instanceof ModelError)) throw error
    send({ kind: 'unwritten', message: error.message })
  }
}

const opened = open()
if (opened !== null) {
  const { model, recorder } = opened
  send({ kind: 'ready', facts: factsOf(model) })
  try {
    serve(model, recorder)
    keep(() => recorder?.close())
  } catch (error) {
    // A trace that cannot be written any more, on a full disk for instance.
    if (!(error instanceof ModelError)) throw error
    send({ kind: 'lost', message: error.message })
  } finally {
    keep(() => {
      if (model.stage.profile) writeProfile(wishes, model.stage.profile)
    })
    model.close()
  }
}
port.close()
