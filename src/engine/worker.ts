// The engine's thread: opens the model, then takes requests, runs steps and reports, until it is
// told to close. It is a plain loop: requests are drained between steps, and when there is no work
// the thread sleeps on a word of shared memory that the other side changes with every message.
import { receiveMessageOnPort, workerData } from 'node:worker_threads'
import { Reason } from '../../native/index.js'
import { ModelError } from '../model/error.js'
import { inventory } from '../model/inventory.js'
import { Loop } from './loop.js'
import { type OpenModel, openModel } from './open.js'
import type { EngineFacts, FromWorker, ToWorker, WorkerData } from './protocol.js'

const { folder, wishes, control, wake, port } = workerData as WorkerData

function send(message: FromWorker): void {
  port.postMessage(message)
}

function open(): OpenModel | null {
  try {
    return openModel(folder, { ...wishes, control })
  } catch (error) {
    // Anything that is not about the model is a fault of ours and shows as one.
    if (!(error instanceof ModelError)) throw error
    send({ kind: 'refused', message: error.message })
    return null
  }
}

function factsOf(model: OpenModel): EngineFacts {
  const { checkpoint, plan, stage } = model
  const { oneExpert } = inventory(checkpoint).bytes
  return {
    config: checkpoint.config,
    plan,
    expertBytes: oneExpert,
    device: stage.device.describe(),
  }
}

/** Takes every message that has arrived; returns whether the thread shall go on. */
function drain(loop: Loop): boolean {
  for (;;) {
    const received: { message: ToWorker } | undefined = receiveMessageOnPort(port)
    if (received === undefined) return true
    const { message } = received
    if (message.kind === 'close') return false
    loop.add(message.slot, message.request)
  }
}

function serve(model: OpenModel): void {
  const loop = new Loop(model, {
    onToken: (slot, emission) => send({ kind: 'token', slot, emission }),
    onEnding: (slot, ending) => send({ kind: 'ending', slot, ending }),
  })
  for (;;) {
    const seen = Atomics.load(wake, 0)
    if (!drain(loop)) {
      loop.endAll('cancelled', '')
      return
    }
    if (loop.isIdle) {
      Atomics.wait(wake, 0, seen)
      continue
    }
    if (loop.turn() === Reason.lost) {
      send({ kind: 'lost', message: loop.message })
      loop.endAll('failed', loop.message)
      return
    }
  }
}

const model = open()
if (model !== null) {
  send({ kind: 'ready', facts: factsOf(model) })
  try {
    serve(model)
  } finally {
    model.close()
  }
}
port.close()
