// Settings that change how fast a model runs and never what it says, by the names of their flags: what they
// are, and how they are said to a person. Which of them helps is found elsewhere.

export interface Settings {
  readonly threads?: number | undefined
  readonly prefetch?: 'auto' | 'on' | 'off' | undefined
  readonly policy?: string | undefined
  /** Reads under way at once. */
  readonly readDepth?: number | undefined
  /** Bytes of one read. */
  readonly readChunk?: number | undefined
  readonly loadMode?: 'mapped' | 'direct' | undefined
  /** Bytes for experts, at most, where their budget is automatic. */
  readonly expertRamMost?: number | undefined
  /** Answers in work at once, of a batch job. */
  readonly maxBatch?: number | undefined
}

export type SettingName = keyof Settings
export type SettingValue = string | number

/** In the order in which they are said. */
export const settingNames = [
  'threads',
  'loadMode',
  'prefetch',
  'policy',
  'readDepth',
  'readChunk',
  'expertRamMost',
  'maxBatch',
] as const satisfies readonly SettingName[]

const ofBytes: ReadonlySet<SettingName> = new Set(['readChunk', 'expertRamMost'])

/** The name of its flag, without dashes in front. */
export function flagOf(name: SettingName): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}

/** As its flag takes it. */
export function valueText(name: SettingName, value: SettingValue): string {
  if (!ofBytes.has(name) || typeof value === 'string') return String(value)
  const units = ['', 'KiB', 'MiB', 'GiB']
  let [number, unit] = [value, 0]
  for (; number % 1024 === 0 && unit < units.length - 1; unit += 1) number /= 1024
  return `${number}${units[unit]}`
}

/** "threads 2, read-chunk 1MiB"; empty where nothing is set. */
export function settingsText(settings: Settings): string {
  const parts = settingNames.flatMap((name) => {
    const value = settings[name]
    return value === undefined ? [] : [`${flagOf(name)} ${valueText(name, value)}`]
  })
  return parts.join(', ')
}
