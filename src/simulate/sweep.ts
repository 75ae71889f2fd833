// Every policy with every number of slots on every trace, one contest a thread at a time. Contests know
// nothing of each other, so what comes out does not depend on how many threads there are.
import os from 'node:os'
import { Piscina } from 'piscina'
import type { Problem } from '../cache/profile.js'
import { ModelError } from '../model/error.js'
import type { Judgement } from './judge.js'
import type { Task } from './judgeworker.js'

/** The tasks' judgements, in their order. Throws ModelError for the first that cannot be judged. */
export async function sweep(
  tasks: readonly Task[],
  threads: number = os.availableParallelism(),
): Promise<Judgement[]> {
  const most = Math.max(1, Math.min(threads, tasks.length))
  const pool = new Piscina<Task, Judgement | Problem>({
    filename: new URL('./judgeworker.js', import.meta.url).href,
    minThreads: most,
    maxThreads: most,
    concurrentTasksPerWorker: 1,
    // Options of the main program (its input type, say) are not the threads'.
    execArgv: [],
  })
  const judged: Judgement[] = []
  const queue = tasks.entries()
  let problem: string | null = null
  const lane = async () => {
    for (let next = queue.next(); !next.done && problem === null; next = queue.next()) {
      const [at, task] = next.value
      const judgement = await pool.run(task)
      if ('problem' in judgement) problem = judgement.problem
      else judged[at] = judgement
    }
  }
  try {
    // All lanes end before the threads do, also where one of them has failed.
    const ends = await Promise.allSettled(Array.from({ length: most }, lane))
    const failed = ends.find((end) => end.status === 'rejected')
    if (failed !== undefined) throw failed.reason
    if (problem !== null) throw new ModelError(problem)
    return judged
  } finally {
    await pool.destroy()
  }
}
