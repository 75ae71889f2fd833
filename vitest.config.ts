/**
 * How the tests run: every test/**\/*.test.ts, straight from the TypeScript sources. Forked
 * processes, because a test may load the native addon, and a crash there must fail one file only.
 * Two or more files at a time, and last, one at a time, those that hold a time against a bound. A
 * process takes one file after the other, which loads sources and packages once: what a file changes
 * outside of its own tests it puts back. After a crash another process goes on with the next file.
 */
import { availableParallelism } from 'node:os'
import { relative } from 'node:path'
import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** Files that another one beside them could make fail, each with what it holds. */
const timed = [
  // How late /health answers under load, beside how late the machine itself is.
  'test/serve-load.test.ts',
  // Which of two settings is surely faster.
  'test/tuned.test.ts',
  // How long a trillion parameters take to open, and that they do it within 2 GB.
  'test/geometry.test.ts',
  // That a command ends within a second or two of Ctrl-C.
  'test/cli-interrupt.test.ts',
]

/** Files that take long, the longest first: they begin first, so that none is left alone at the end. */
const long = [
  'batch',
  'cli-run',
  'cli-verify',
  'native',
  'batch-fill',
  'dashboard-tmux',
  'batch-grade',
  'batch-crash',
  'readme',
  'bits-widened',
  'plan-cli',
  'profile',
  'golden',
  'verify-hub',
  'cli-score-against',
  'doctor',
  'cli-refusals',
  'simulate-cli',
  'backend',
  'bootstrap',
].map((name) => `test/${name}.test.ts`)

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) => {
      const at = long.indexOf(relative(import.meta.dirname, moduleId))
      return at < 0 ? long.length : at
    }
    return (await super.sort(files)).sort((one, other) => rank(one) - rank(other))
  }
}

// By itself vitest leaves a core free, which of two is half. More than four would take too much memory.
const maxWorkers = Math.min(4, Math.max(2, availableParallelism() - 1))

export default defineConfig({
  test: {
    pool: 'forks',
    isolate: false,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    setupFiles: 'test/environment.setup.ts',
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        extends: true,
        test: {
          name: 'side by side',
          include: ['test/**/*.test.ts'],
          exclude: timed,
          maxWorkers,
        },
      },
      {
        extends: true,
        test: {
          ...{ name: 'alone', include: timed, isolate: true },
          ...{ maxWorkers: 1, sequence: { groupOrder: 1 } },
        },
      },
    ],
  },
})
