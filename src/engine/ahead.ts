// Between a device and what reads ahead of it: asks the device for early scores where it stops, hands
// the orders down, and tells how long steps took and what became of the bytes. It decides nothing.
import { type Batch, Counter, type Device } from '../../native/index.js'
import type { SlotCache } from '../cache/slotcache.js'
import type { ModelConfig } from '../model/config.js'
import { Forecast, type ForecastShape } from '../prefetch/forecast.js'
import type { Prefetch } from '../prefetch/prefetch.js'
import { recallWidths } from '../prefetch/recall.js'
import {
  countPolicy,
  type EngineCounters,
  figureDistances,
  PrefetchFigure,
  verdicts,
} from './stats.js'

const none = new Int32Array(0)

export class LookAhead {
  readonly prefetch: Prefetch
  readonly #device: Device
  readonly #cache: SlotCache
  /** [Counter.count] */
  readonly #counters: Float64Array
  readonly #before: Float64Array
  /** [PrefetchFigure.count] */
  readonly #figures: Float64Array
  readonly #forecast: Forecast | null
  #unusedBefore = 0
  #beganMs = 0
  #isOn = false
  #layer = -1

  constructor(
    device: Device,
    cache: SlotCache,
    prefetch: Prefetch,
    { device: counters, prefetch: figures }: EngineCounters,
    /** Whose figures are told; null: another's foresight is tried out. */
    forecast: Forecast | null,
  ) {
    this.#forecast = forecast
    this.prefetch = prefetch
    this.#device = device
    this.#cache = cache
    this.#counters = counters
    this.#figures = figures
    this.#before = new Float64Array(Counter.count)
  }

  /** Before the device is given the batch, which says whether it shall look ahead. */
  begin(batch: Batch, tokens: number): void {
    this.#beganMs = performance.now()
    this.#before.set(this.#counters)
    this.#unusedBefore = this.#cache.unusedGuesses
    this.#layer = -1
    this.#isOn = this.prefetch.begin(batch.tokens.subarray(0, tokens))
    batch.looksAhead = this.#isOn
  }

  /** Reads for the first layers, once the batch is begun. */
  first(): void {
    if (!this.#isOn) return
    const begin = performance.now()
    this.#cache.keep(0, none)
    const orders = this.prefetch.first()
    countPolicy(this.#counters, begin)
    this.#device.stage(orders)
  }

  /** At a stop in a MoE layer, whose own loads are ordered; `wanted` stay where they are. */
  at(step: number, moeLayer: number, wanted: Int32Array): void {
    if (!this.#isOn || moeLayer === this.#layer) return
    this.#layer = moeLayer
    this.#device.foresee(step, this.prefetch.scores)
    const begin = performance.now()
    this.#cache.keep(moeLayer, wanted)
    const orders = this.prefetch.ahead(moeLayer)
    countPolicy(this.#counters, begin)
    this.#device.stage(orders)
  }

  /** The step is over, and all that happened in it has been heard. */
  end(): void {
    const since = (counter: number) => (this.#counters[counter] ?? 0) - (this.#before[counter] ?? 0)
    const unused = this.#cache.unusedGuesses - this.#unusedBefore
    const wastedBytes = since(Counter.bytes_cancelled) + unused * this.prefetch.expertBytes
    this.prefetch.end(
      {
        seconds: (performance.now() - this.#beganMs) / 1000,
        demandSeconds: since(Counter.stall_nvme_s) + since(Counter.overlapped_s),
        driveBusySeconds: since(Counter.drive_busy_s),
        bytesRead: since(Counter.bytes_landed),
      },
      Math.max(0, since(Counter.bytes_ahead) - wastedBytes),
      wastedBytes,
    )
    this.#tell()
  }

  #tell(): void {
    const { governor, price, pace } = this.prefetch
    const { ratio } = governor
    this.#figures[PrefetchFigure.verdict] = verdicts.indexOf(governor.verdict)
    this.#figures[PrefetchFigure.speed] = ratio?.speed ?? Number.NaN
    this.#figures[PrefetchFigure.speedError] = ratio?.error ?? Number.NaN
    this.#figures[PrefetchFigure.pairs] = ratio?.pairs ?? 0
    this.#figures[PrefetchFigure.price] = price.ofBytes
    this.#figures[PrefetchFigure.idleBytesPerLayer] = pace.idleBytesPerLayer
    if (this.#forecast !== null) this.#tellOf(this.#forecast)
  }

  #tellOf(forecast: Forecast): void {
    for (const [row, distance] of figureDistances.entries()) {
      const at = forecast.distances.indexOf(distance)
      for (let width = 0; width < recallWidths.length; width += 1) {
        const cell = PrefetchFigure.recall + row * recallWidths.length + width
        this.#figures[cell] = at < 0 ? Number.NaN : forecast.recall.of(at, width)
      }
      const error = at < 0 ? Number.NaN : forecast.calibration(at)
      this.#figures[PrefetchFigure.calibration + row] = error
    }
  }
}

/** Layers ahead: far enough for a drive that needs the time of several, near enough to be right. */
export const aheadDistances: readonly number[] = [1, 2, 4]

export function forecastShape(
  { layers, firstMoeLayer, experts, topK, groups, groupsKept }: ModelConfig,
  distances: readonly number[],
): ForecastShape {
  return { moeLayers: layers - firstMoeLayer, experts, topK, groups, groupsKept, distances }
}

/** A forecast that knows of the routers what an open device knows. */
export function newForecast(shape: ForecastShape, device: Device, tokensPerFit: number): Forecast {
  const bias = new Float32Array(shape.moeLayers * shape.experts)
  device.routerBiases(bias)
  return new Forecast(shape, { bias, tokensPerFit })
}
