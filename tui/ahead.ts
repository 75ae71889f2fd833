// What is read before it is asked for, and whether that pays.
import type { PrefetchFigures, RecallFigures } from '../src/engine/telemetry.js'
import { type Line, line, padded, rightly, span } from './cells.js'
import { absent, bytesText, countText, gauge, shareText } from './figures.js'
import type { Scene } from './scene.js'

export function ahead({ snapshot }: Scene): Line[] {
  const prefetch = snapshot?.engine?.prefetch
  if (prefetch === undefined) {
    return [
      line(
        span(
          ' nothing is read ahead here: all experts have a slot, or are mapped, or it is off',
          'dim',
        ),
      ),
    ]
  }
  return [
    line(
      span(' verdict    ', 'title'),
      span(padded(prefetch.verdict, 12), 'strong'),
      verdictText(prefetch),
    ),
    line(
      span(' price      ', 'title'),
      prefetch.price === undefined
        ? absent
        : `a byte read in vain counts ${prefetch.price.toFixed(2)} of one saved`,
    ),
    line(),
    figure('read ahead', prefetch.issued, prefetch),
    figure('in time', prefetch.inTime, prefetch),
    figure('wanted', prefetch.used, prefetch),
    figure('cancelled', prefetch.cancelled, prefetch),
    line(),
    line(span(' bytes      ', 'title'), padded('read', 10), rightly(bytesText(prefetch.bytes), 9)),
    line(
      span('            '),
      padded('in vain', 10),
      rightly(bytesText(prefetch.wastedBytes), 9),
      '  ',
      ...gauge(shareOf(prefetch.wastedBytes, prefetch.bytes), 16, 'poor'),
      ' ',
      shareText(shareOf(prefetch.wastedBytes, prefetch.bytes)),
    ),
    line(),
    line(
      span(' foreseen   ', 'title'),
      padded('layers on', 12),
      span('among 1x      2x      4x candidates   calibration error', 'dim'),
    ),
    ...prefetch.recall.map(recallLine),
  ]
}

function verdictText({ speed, speedError, pairs }: PrefetchFigures): string {
  if (speed === undefined) return 'speed with and without: not measured yet'
  const error = speedError === undefined ? '' : ` ± ${speedError.toFixed(3)}`
  return `${speed.toFixed(3)}${error} of the speed without, over ${countText(pairs)} pairs`
}

function figure(name: string, count: number, { issued }: PrefetchFigures) {
  const share = shareOf(count, issued)
  return line(
    span(padded(name === 'read ahead' ? ' experts' : '', 12), 'title'),
    padded(name, 10),
    span(rightly(countText(count), 9), 'strong'),
    '  ',
    ...(name === 'read ahead' ? [] : [...gauge(share, 16, 'good'), span(` ${shareText(share)}`)]),
  )
}

function recallLine({ distance, x1, x2, x4, calibrationError }: RecallFigures): Line {
  return line(
    '            ',
    padded(String(distance), 12),
    ...[x1, x2, x4].map((share) => span(rightly(shareText(share), 8))),
    '              ',
    rightly(shareText(calibrationError), 8),
  )
}

function shareOf(part: number, whole: number): number | undefined {
  return whole > 0 ? part / whole : undefined
}
