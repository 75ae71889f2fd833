// What a learning thread does when it is told to: learns from the latest lessons and publishes the weights.
// Lessons and weights lie in memory that the forecaster shares; of threads it knows nothing.
import { fitWeights } from './fit.js'
import type { ForecastMemory } from './forecast.js'
import { Lessons } from './lessons.js'
import { Published } from './weights.js'

/** Returns how many times weights were published by now. */
export function learn({ lessons, weights, kinds, length }: ForecastMemory): number {
  const published = new Published(length, weights)
  const before = new Float32Array(length)
  published.take(before)
  published.publish(fitWeights(new Lessons(lessons).latest(), before, kinds))
  return published.version
}
