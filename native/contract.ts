// The numbers of contract.h as TypeScript says them: field order of the typed arrays that cross the
// door, packing of places, reasons and error codes. They are written out, so that the compiler knows
// them; at load every entry is compared with what the addon was built with.

/** Why `advance` came back; from `done` on the step has ended. */
export const Reason = {
  missing: 0,
  ahead: 1,
  yield: 2,
  done: 3,
  cancelled: 4,
  failed: 5,
  lost: 6,
} as const
export type Reason = (typeof Reason)[keyof typeof Reason]

/** What a DeviceError is about. */
export const Code = {
  ok: 0,
  bad_argument: 1,
  not_open: 2,
  already_open: 3,
  closed: 4,
  busy: 5,
  bad_step: 6,
  bad_order: 7,
  bad_tensor: 8,
  cannot_read: 9,
  out_of_memory: 10,
  not_a_number: 11,
  lost: 12,
} as const

export const Dtype = { none: 0, f8_e4m3: 1, bf16: 2, f32: 3 } as const
export const ScaleKind = { none: 0, block: 1, row: 2 } as const

/** Fields of one row of a tensor table; an absent tensor has file -1. */
export const TensorField = {
  file: 0,
  offset: 1,
  rows: 2,
  columns: 3,
  dtype: 4,
  scale_kind: 5,
  scale_file: 6,
  scale_offset: 7,
  scale_dtype: 8,
  block_rows: 9,
  block_columns: 10,
  checksums: 11,
  count: 12,
} as const

/** Rows of the dense table: these three, then LayerTensor.count for every layer. */
export const OuterTensor = { embedding: 0, final_norm: 1, head: 2, count: 3 } as const
export const LayerTensor = {
  input_norm: 0,
  qkv: 1,
  qkv_bias: 2,
  query_norm: 3,
  key_norm: 4,
  attention_out: 5,
  attention_out_bias: 6,
  post_norm: 7,
  gate: 8,
  up: 9,
  down: 10,
  router: 11,
  router_bias: 12,
  count: 13,
} as const
/** Rows of the expert table: [MoE layer][expert][matrix]. */
export const ExpertTensor = { gate: 0, up: 1, down: 2, count: 3 } as const

/** Fields of one part of a batch: consecutive tokens of one sequence. */
export const PartField = {
  tokens: 0,
  position: 1,
  rows: 2,
  sequence: 3,
  blocks: 4,
  target: 5,
  sampled: 6,
  count: 7,
} as const
/** For which tokens of a part logits are computed. */
export const Rows = { none: 0, last: 1, all: 2 } as const
export type Rows = (typeof Rows)[keyof typeof Rows]

/** Fields of the sampling record of one part. */
export const SamplingField = {
  temperature: 0,
  top_k: 1,
  top_p: 2,
  min_p: 3,
  repetition: 4,
  presence: 5,
  frequency: 6,
  seed_low: 7,
  seed_high: 8,
  position: 9,
  history: 10,
  prompt: 11,
  biases: 12,
  masked: 13,
  count: 14,
} as const

/** Words of the control array: progress of open in thousandths, then one cancel flag per sequence. */
export const Control = { progress: 0, cancel: 1 } as const
/** What `advance` writes at a stop: layer, number of wanted experts, their indices, rising. */
export const StopField = { layer: 0, wanted: 1, awaited: 2, experts: 3 } as const
export const OrderField = { expert: 0, from: 1, to: 2, urgency: 3, count: 4 } as const
export const Urgency = { demand: 0, ahead: 1, cancel: 2 } as const
export const EventField = { kind: 0, expert: 1, to: 2, code: 3, count: 4 } as const
export const EventKind = { arrived: 0, failed: 1, cancelled: 2, touched: 3 } as const
/** `resident`: 1 the expert lay in memory when its layer routed, 0 it did not, -1 nobody can tell. */
export const UseField = { expert: 0, tokens: 1, resident: 2, count: 3 } as const
/** `gpu`: slots in the memory of the backend that computes. */
const Tier = { map: 0, ram: 1, gpu: 2 } as const
/** Products of the CPU backend: F32-accurate, or with activations rounded to BF16. */
export const MathKind = { f32: 0, bf16: 1 } as const
/** How reads reach the drive. */
export const Rung = {
  automatic: 0,
  uring_registered: 1,
  uring: 2,
  threads: 3,
  buffered: 4,
  paced: 5,
} as const
export type Rung = (typeof Rung)[keyof typeof Rung]
export const FaultKind = { error: 0, short_read: 1, slow: 2, flip: 3, gone: 4 } as const
/** Index of each counter in `Layout.counters`: seconds, bytes and counts since open. */
export const Counter = {
  steps: 0,
  step_tokens: 1,
  attend_s: 2,
  route_s: 3,
  mix_s: 4,
  settle_s: 5,
  sample_s: 6,
  /** Of all that is computed, what was while reads that are waited for were under way. */
  overlapped_s: 7,
  /** Waiting for reads with nothing to compute. */
  stall_nvme_s: 8,
  bytes_wanted: 9,
  bytes_landed: 10,
  bytes_ahead: 11,
  drive_busy_s: 12,
  /** Integral of reads under way over time. */
  drive_depth_s: 13,
  reader_cpu_s: 14,
  checksum_s: 15,
  retries: 16,
  failures: 17,
  mismatches: 18,
  slots_touched: 19,
  slots_locked: 20,
  uses_lost: 21,
  /** Added by the engine: deciding what to load and where. */
  policy_s: 22,
  /** Routers of later layers, run early. */
  ahead_s: 23,
  /** Read as look-ahead, and cancelled before it was complete. */
  bytes_cancelled: 24,
  /** Waiting for copies into the backend's memory, with nothing to compute and nothing being read. */
  stall_copy_s: 25,
  bytes_copied: 26,
  /** With a copy under way, as often as was looked. */
  copy_busy_s: 27,
  /** Of RAM that experts are copied from: what the backend has pinned, and the time that took. */
  bytes_pinned: 28,
  pin_s: 29,
  /** What it was asked to pin so far. */
  bytes_lent: 30,
  /** Experts that the processor computed where they lie, for a backend that computes elsewhere; the time. */
  host_experts: 31,
  host_s: 32,
  /** Of the backend's memory, what nobody has taken, as of the last second; 0: not known. */
  gpu_free_bytes: 33,
  count: 34,
} as const
export const Limit = {
  slot_bits: 24,
  steps_open: 2,
  unordered_tokens: 128,
  /** Steps of more tokens do not look ahead. */
  ahead_tokens: 16,
  experts_max: 65535,
  layers_max: 1024,
  top_logprobs_max: 1024,
} as const

export const contract = {
  contract: { version: 9, kernels: 1 },
  reason: Reason,
  code: Code,
  dtype: Dtype,
  scale_kind: ScaleKind,
  tensor_field: TensorField,
  outer_tensor: OuterTensor,
  layer_tensor: LayerTensor,
  expert_tensor: ExpertTensor,
  part_field: PartField,
  rows: Rows,
  sampling_field: SamplingField,
  control: Control,
  stop_field: StopField,
  order_field: OrderField,
  event_field: EventField,
  math: MathKind,
  urgency: Urgency,
  event: EventKind,
  use_field: UseField,
  rung: Rung,
  fault: FaultKind,
  counter: Counter,
  tier: Tier,
  limit: Limit,
} as const
