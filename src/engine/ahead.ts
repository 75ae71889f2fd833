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
  /** [MoE layer] experts that were wanted */
  readonly #requests: Float64Array
  /** [PrefetchFigure.count] */
  readonly #figures: Float64Array
  readonly #forecast: Forecast | null
  #unusedBefore = 0
  #computedBefore = 0
  #beganMs = 0
  #isOn = false

  constructor(
    device: Device,
    cache: SlotCache,
    prefetch: Prefetch,
    { device: counters, prefetch: figures, layers }: EngineCounters,
    /** Whose figures are told; null: another's foresight is tried out. */
    forecast: Forecast | null,
  ) {
    this.#forecast = forecast
    this.prefetch = prefetch
    this.#device = device
    this.#cache = cache
    this.#counters = counters
    this.#figures = figures
    this.#requests = layers.requests
    this.#before = new Float64Array(Counter.count)
  }

  /** Before the device is given the batch, which says whether it shall look ahead. */
  begin(batch: Batch, tokens: number): void {
    this.#beganMs = performance.now()
    this.#before.set(this.#counters)
    this.#unusedBefore = this.#cache.unusedGuesses
    this.#computedBefore = this.#computed()
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

  /**
   * A layer's loads are ordered. Where they land before the others are computed the drive would rest, so
   * it is given more at once; else the device comes back when it can only wait.
   */
  ordered(step: number, moeLayer: number, wanted: Int32Array): void {
    if (!this.#isOn) return
    const loads = this.#cache.missing(moeLayer, wanted)
    const bytes = loads * this.prefetch.expertBytes
    if (this.prefetch.pace.isReadFirst(bytes, wanted.length - loads))
      this.#look(step, moeLayer, wanted, false)
  }

  /**
   * At a stop where the device waits for so many experts, or for none. While it waits it may as well run
   * the next layer's attention early. `wanted` stay where they are.
   */
  at(step: number, moeLayer: number, wanted: Int32Array, awaited: number): void {
    // The one that is being read now may be half read.
    const bytes = (awaited - 0.5) * this.prefetch.expertBytes
    this.#look(step, moeLayer, wanted, awaited > 0 && this.prefetch.pace.isAttendedFirst(bytes))
  }

  #look(step: number, moeLayer: number, wanted: Int32Array, attends: boolean): void {
    if (!this.#isOn) return
    this.#device.foresee(step, attends, this.prefetch.scores)
    const begin = performance.now()
    this.#cache.keep(moeLayer, wanted)
    const orders = this.prefetch.ahead(moeLayer, attends)
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
        attendSeconds: since(Counter.attend_s) / this.#requests.length,
        expertSeconds: since(Counter.mix_s) / Math.max(1, this.#computed() - this.#computedBefore),
        copyBusySeconds: since(Counter.copy_busy_s),
        bytesCopied: since(Counter.bytes_copied),
      },
      Math.max(0, since(Counter.bytes_ahead) - wastedBytes),
      wastedBytes,
    )
    this.#tell()
  }

  #computed(): number {
    let count = 0
    for (const requests of this.#requests) count += requests
    return count
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
