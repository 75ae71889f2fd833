// Energy that the processor says it took (Linux powercap: running average power limits, in microjoules).
// Counters begin anew after some minutes of work, so they are read now and then. Many machines tell nothing,
// or tell it to root alone; then there is no meter.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** A counter of 2^32 steps of 15 uJ takes longer than that at 400 W. */
const EVERY_MS = 30_000

/** A package: all cores and caches of one socket, on many machines without their memory. */
interface Zone {
  readonly counter: string
  /** The counter's greatest value, after which it is 0. */
  readonly most: number
  last: number
}

export class EnergyMeter {
  #microjoules = 0
  readonly #timer: NodeJS.Timeout

  private constructor(private readonly zones: readonly Zone[]) {
    this.#timer = setInterval(() => this.joules(), EVERY_MS).unref()
  }

  /** Null where the machine tells nothing. */
  static open(folder = '/sys/class/powercap'): EnergyMeter | null {
    try {
      // intel-rapl:0 is a socket, intel-rapl:0:1 a part of it; AMD's have the same names.
      const names = readdirSync(folder).filter((name) => /^intel-rapl:\d+$/.test(name))
      const zones = names
        .map((name) => join(folder, name))
        .filter((zone) => readFileSync(join(zone, 'name'), 'utf8').startsWith('package'))
        .map((zone) => {
          const counter = join(zone, 'energy_uj')
          const most = numberIn(join(zone, 'max_energy_range_uj'))
          return { counter, most, last: numberIn(counter) }
        })
        .filter(({ most, last }) => most >= 0 && last >= 0)
      return zones.length === 0 ? null : new EnergyMeter(zones)
    } catch {
      return null
    }
  }

  /** Of all packages since the meter was opened. */
  joules(): number {
    for (const zone of this.zones) {
      const now = numberIn(zone.counter)
      // A night's work does not end because its counter did.
      if (Number.isNaN(now)) continue
      this.#microjoules += now >= zone.last ? now - zone.last : now + zone.most - zone.last
      zone.last = now
    }
    return this.#microjoules / 1e6
  }

  close(): void {
    clearInterval(this.#timer)
  }
}

/** NaN where the file cannot be read. */
function numberIn(file: string): number {
  try {
    return Number.parseInt(readFileSync(file, 'utf8'), 10)
  } catch {
    return Number.NaN
  }
}
