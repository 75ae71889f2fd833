// `pull`: a model from the hub into the cache. Asks what there is, decides what is wanted and where it
// goes, refuses what cannot be before the first byte, then fetches several files at once. Whatever ends
// it, the next pull goes on from there. It says nothing itself: the command does.
import { join } from 'node:path'
import { ModelError } from '../model/error.js'
import { cacheFolder, type Environment } from '../model/locate.js'
import { fetchBlob } from './blob.js'
import { accountOf, Hub } from './hub.js'
import { listing, type RemoteFile, wanted } from './listing.js'
import { locked } from './lock.js'
import { follower, type Patience } from './patience.js'
import { type Place, type Room, roomFor, Store } from './store.js'

export interface PullWishes {
  /** ORG/NAME */
  readonly model: string
  /** A branch, a tag or a commit. */
  readonly revision: string
  readonly include: readonly string[]
  readonly exclude: readonly string[]
  /** Where large files go, by free space; none: to the cache. */
  readonly drives: readonly string[]
  /** Files at once. */
  readonly jobs: number
  readonly isDry: boolean
  readonly patience: Patience
  readonly environment?: Environment
  readonly onPlan: (plan: PullPlan) => void
  /** Another pull of this model is under way. */
  readonly onLocked: (owner: string) => void
  readonly onProgress: (progress: PullProgress) => void
}

export interface PullPlan {
  readonly commit: string
  /** Where the model will be found. */
  readonly folder: string
  readonly places: readonly Place[]
  readonly otherFormats: readonly RemoteFile[]
  readonly bytes: number
  /** Of these, there already. */
  readonly hasBytes: number
  readonly rooms: readonly Room[]
}

export interface PullProgress {
  readonly doneBytes: number
  readonly readBytes: number
  readonly bytes: number
  readonly seconds: number
}

export interface Pulled {
  readonly plan: PullPlan
  readonly readBytes: number
  readonly seconds: number
}

/** Throws ModelError with one sentence for what cannot be had or kept; the signal's reason when it is cancelled. */
export async function pull(wishes: PullWishes): Promise<Pulled> {
  const { model, environment = process.env, patience, drives } = wishes
  const hub = new Hub(accountOf(environment), model, patience)
  const store = new Store(cacheFolder(environment), model, drives)
  const found = await listing(hub, wishes.revision)
  const { files, otherFormats } = wanted(found, wishes.include, wishes.exclude)
  // Whoever may not have the weights may still have the model's card, and listings have both.
  const [largest] = files.toSorted((a, b) => b.sizeBytes - a.sizeBytes)
  if (largest === undefined) throw new ModelError(`${model}: has no file that is wanted`)
  await hub.mayFetch(found.commit, largest.path)
  const planned = () => planOf(store, found.commit, files, otherFormats)
  if (wishes.isDry) {
    const plan = planned()
    wishes.onPlan(plan)
    return { plan, readBytes: 0, seconds: 0 }
  }
  const lock = join(store.cache, '.locks', store.folderName, 'pull')
  return locked(lock, patience.signal, wishes.onLocked, async () => {
    // What another pull has fetched meanwhile counts.
    const plan = planned()
    wishes.onPlan(plan)
    refuseFullDrives(plan)
    const run = new Run(hub, store, plan, wishes)
    await run.fetchAll()
    store.setReference(wishes.revision, plan.commit)
    return { plan, readBytes: run.readBytes, seconds: run.seconds }
  })
}

function planOf(
  store: Store,
  commit: string,
  files: readonly RemoteFile[],
  otherFormats: readonly RemoteFile[],
): PullPlan {
  const places = store.places(files, commit)
  const blobs = distinct(places)
  const bytes = blobs.reduce((sum, { file }) => sum + file.sizeBytes, 0)
  const hasBytes = blobs.reduce((sum, place) => sum + place.hasBytes, 0)
  const rooms = roomFor(blobs)
  return { commit, folder: store.snapshot(commit), places, otherFormats, bytes, hasBytes, rooms }
}

function refuseFullDrives({ rooms }: PullPlan): void {
  const full = rooms.find(({ neededBytes, freeBytes }) => neededBytes > freeBytes)
  if (full === undefined) return
  throw new ModelError(
    `no space: ${full.folder} needs ${gigabytes(full.neededBytes)} more and its drive has ${gigabytes(full.freeBytes)} free; --dir DIR puts large files on another drive`,
  )
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(bytes < 1e10 ? 3 : 0)} GB`
}

/** Files of the same bytes share a blob, which is fetched once. */
function distinct(places: readonly Place[]): Place[] {
  return [...new Map(places.map((place) => [place.blob, place])).values()]
}

class Run {
  readBytes = 0
  #doneBytes: number
  readonly #began = performance.now()
  /** Ends the others when one fails. */
  readonly #stop
  readonly #hub: Hub

  constructor(
    hub: Hub,
    private readonly store: Store,
    private readonly plan: PullPlan,
    private readonly wishes: PullWishes,
  ) {
    this.#doneBytes = plan.hasBytes
    this.#stop = follower(wishes.patience.signal)
    const { signal } = this.#stop.controller
    this.#hub = new Hub(hub.account, hub.model, { ...wishes.patience, signal })
  }

  get seconds(): number {
    return (performance.now() - this.#began) / 1000
  }

  /** Every lane takes the next file as it has done one; the first error ends them all. */
  async fetchAll(): Promise<void> {
    const queue = distinct(this.plan.places)
      .filter(({ isWhole }) => !isWhole)
      .values()
    const lanes = Array.from({ length: this.wishes.jobs }, () => this.#lane(queue))
    const failed = (await Promise.allSettled(lanes)).filter((end) => end.status === 'rejected')
    this.#stop.end()
    this.wishes.patience.signal.throwIfAborted()
    const first =
      failed.find(({ reason }) => reason !== this.#stop.controller.signal.reason) ?? failed[0]
    if (first !== undefined) throw first.reason
    this.#link(() => true)
  }

  async #lane(queue: Iterator<Place>): Promise<void> {
    try {
      for (let next = queue.next(); !next.done; next = queue.next()) {
        this.#hub.patience.signal.throwIfAborted()
        const place = next.value
        const url = this.#hub.fileUrl(this.plan.commit, place.file.path)
        await fetchBlob(this.#hub, url, place, (bytes) => this.#came(bytes))
        // At once: a snapshot's links are how a later pull finds blobs on other drives.
        this.#link(({ blob }) => blob === place.blob)
      }
    } catch (error) {
      this.#stop.controller.abort()
      throw error
    }
  }

  #link(isMeant: (place: Place) => boolean): void {
    for (const place of this.plan.places) {
      if (isMeant(place)) this.store.link(place, this.plan.commit)
    }
  }

  #came(bytes: number): void {
    this.#doneBytes += bytes
    this.readBytes += Math.max(0, bytes)
    const { bytes: all } = this.plan
    const { readBytes, seconds } = this
    this.wishes.onProgress({ doneBytes: this.#doneBytes, readBytes, bytes: all, seconds })
  }
}
