// The thread that learns to foresee: learns each time it is told the forecast's memory, and says so when the
// weights are published. Nobody waits for it, so it steps back for whoever computes: a fit takes a core for
// as long as many steps do.
import os from 'node:os'
import { parentPort } from 'node:worker_threads'
import type { ForecastMemory } from '../prefetch/forecast.js'
import { learn } from '../prefetch/learn.js'
import { Lessons } from '../prefetch/lessons.js'

if (parentPort === null) throw new Error('this file is a thread of the engine')
const engine = parentPort

try {
  // On Linux 0 is this thread; elsewhere it would be everything.
  if (process.platform === 'linux') os.setPriority(0, os.constants.priority.PRIORITY_LOW)
} catch {
  // Who may not step back learns all the same.
}
let isFirst = true
engine.on('message', (memory: ForecastMemory) => {
  if (isFirst) new Lessons(memory.lessons).touch()
  isFirst = false
  learn(memory)
  engine.postMessage(null)
})
