// What the processor says it took, from files as Linux has them.
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { EnergyMeter } from '../src/cli/energy.js'
import { withFolder } from './command.js'

function zone(folder: string, zone: string, name: string, microjoules: number): string {
  mkdirSync(join(folder, zone))
  writeFileSync(join(folder, zone, 'name'), `${name}\n`)
  writeFileSync(join(folder, zone, 'max_energy_range_uj'), '65532610987\n')
  const counter = join(folder, zone, 'energy_uj')
  writeFileSync(counter, `${microjoules}\n`)
  return counter
}

describe('a meter of energy', () => {
  it('adds what all packages took since it was opened, also when a counter begins anew', async () => {
    await withFolder(async (folder) => {
      const first = zone(folder, 'intel-rapl:0', 'package-0', 5_000_000)
      const second = zone(folder, 'intel-rapl:1', 'package-1', 65_532_000_000)
      zone(folder, 'intel-rapl:0:0', 'core', 77)
      const platform = zone(folder, 'intel-rapl:2', 'psys', 88)
      const meter = EnergyMeter.open(folder)
      expect(meter?.joules()).toBe(0)
      writeFileSync(first, '8000000\n')
      writeFileSync(second, '389013\n')
      writeFileSync(platform, '999999999\n')
      expect(meter?.joules()).toBe(4)
      rmSync(first)
      writeFileSync(second, '1389013\n')
      expect(meter?.joules()).toBe(5)
      meter?.close()
    })
  })

  it('is absent where the machine tells nothing', async () => {
    await withFolder(async (folder) => {
      expect(EnergyMeter.open(join(folder, 'none'))).toBeNull()
      zone(folder, 'intel-rapl:0', 'psys', 1)
      expect(EnergyMeter.open(folder)).toBeNull()
    })
  })
})
