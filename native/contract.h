// The numbers on which TypeScript and C++ must agree: field order of the typed arrays that cross
// the door, packing of places, reasons and error codes. Each list is written once here as a macro;
// the addon exports every entry by name, and native/index.ts refuses to load when its own copy
// differs. Model dimensions are not here: they come from config.json through the layout.
#pragma once
#include <cstdint>

namespace ring {

// Raised by one whenever the meaning of a field changes.
constexpr int kContractVersion = 9;

// Raised by one whenever a kernel may give other bits than before: keys and values that were kept
// on a drive are then not taken for those that would be computed.
constexpr int kKernelVersion = 1;

// Why `advance` came back. Below `done` the device wants an answer; from `done` on the step has
// ended. `missing`: experts of the layer are in no slot. `ahead`: the step has nothing to compute
// before one of those lands that it was given; or they all are in slots, but an expert that a later
// layer will probably want is nowhere, or one is being read that this layer turned out not to want.
// After `ahead` the step goes on with `advance` whatever the answer.
#define RING_REASONS(X) \
  X(missing, 0)         \
  X(ahead, 1)           \
  X(yield, 2)           \
  X(done, 3)            \
  X(cancelled, 4)       \
  X(failed, 5)          \
  X(lost, 6)

// What an error is about; `code` of the one error type that native throws.
#define RING_CODES(X)  \
  X(ok, 0)             \
  X(bad_argument, 1)   \
  X(not_open, 2)       \
  X(already_open, 3)   \
  X(closed, 4)         \
  X(busy, 5)           \
  X(bad_step, 6)       \
  X(bad_order, 7)      \
  X(bad_tensor, 8)     \
  X(cannot_read, 9)    \
  X(out_of_memory, 10) \
  X(not_a_number, 11)  \
  X(lost, 12)

#define RING_DTYPES(X) \
  X(none, 0)           \
  X(f8_e4m3, 1)        \
  X(bf16, 2)           \
  X(f32, 3)

// Products: F32-accurate, or with activations rounded to BF16 (faster, not exact).
#define RING_MATHS(X) \
  X(f32, 0)           \
  X(bf16, 1)

#define RING_SCALE_KINDS(X) \
  X(none, 0)                \
  X(block, 1)               \
  X(row, 2)

// One row of a tensor table (float64, so that offsets keep 53 bits). An absent tensor has file -1.
// `checksums` is the index of its first block's checksum, -1 without any.
#define RING_TENSOR_FIELDS(X) \
  X(file, 0)                  \
  X(offset, 1)                \
  X(rows, 2)                  \
  X(columns, 3)               \
  X(dtype, 4)                 \
  X(scale_kind, 5)            \
  X(scale_file, 6)            \
  X(scale_offset, 7)          \
  X(scale_dtype, 8)           \
  X(block_rows, 9)            \
  X(block_columns, 10)        \
  X(checksums, 11)            \
  X(count, 12)

// Order of the dense tensor table: the outer three, then `count` rows for every layer.
#define RING_OUTER_TENSORS(X) \
  X(embedding, 0)             \
  X(final_norm, 1)            \
  X(head, 2)                  \
  X(count, 3)

#define RING_LAYER_TENSORS(X) \
  X(input_norm, 0)            \
  X(qkv, 1)                   \
  X(qkv_bias, 2)              \
  X(query_norm, 3)            \
  X(key_norm, 4)              \
  X(attention_out, 5)         \
  X(attention_out_bias, 6)    \
  X(post_norm, 7)             \
  X(gate, 8)                  \
  X(up, 9)                    \
  X(down, 10)                 \
  X(router, 11)               \
  X(router_bias, 12)          \
  X(count, 13)

// Order of the expert table: [MoE layer][expert][matrix].
#define RING_EXPERT_TENSORS(X) \
  X(gate, 0)                   \
  X(up, 1)                     \
  X(down, 2)                   \
  X(count, 3)

// One part of a batch: a run of consecutive tokens of one sequence.
#define RING_PART_FIELDS(X) \
  X(tokens, 0)              \
  X(position, 1)            \
  X(rows, 2)                \
  X(sequence, 3)            \
  X(blocks, 4)              \
  X(target, 5)              \
  X(sampled, 6)             \
  X(count, 7)

// For which tokens of a part logits are computed.
#define RING_ROWS(X) \
  X(none, 0)         \
  X(last, 1)         \
  X(all, 2)

// Sampling of one part (float64). `position` counts the random draws of a sequence.
#define RING_SAMPLING_FIELDS(X) \
  X(temperature, 0)             \
  X(top_k, 1)                   \
  X(top_p, 2)                   \
  X(min_p, 3)                   \
  X(repetition, 4)              \
  X(presence, 5)                \
  X(frequency, 6)               \
  X(seed_low, 7)                \
  X(seed_high, 8)               \
  X(position, 9)                \
  X(history, 10)                \
  X(prompt, 11)                 \
  X(biases, 12)                 \
  X(masked, 13)                 \
  X(count, 14)

// Words of the shared control array: progress of open in thousandths, then one cancel flag per
// sequence.
#define RING_CONTROL(X) \
  X(progress, 0)        \
  X(cancel, 1)

// What `advance` writes: the layer it stopped at, how many experts it wants still, how many of
// those it has been given and waits for, then the indices of the wanted.
#define RING_STOP_FIELDS(X) \
  X(layer, 0)               \
  X(wanted, 1)              \
  X(awaited, 2)             \
  X(experts, 3)

// An order (stage) and an event (poll). An order loads an expert into a slot that is free or ready,
// and what lay there is forgotten at once: from disk (`from` -1), or by copying it from a slot in
// the tier below, once it has landed there; that slot may not be given up meanwhile. The same order
// again, while the slot is loading, raises a look-ahead load to demand, or cancels it. In the map
// tier an order is advice to the system: `from` -1 will be wanted, `to` -1 will not.
#define RING_ORDER_FIELDS(X) \
  X(expert, 0)               \
  X(from, 1)                 \
  X(to, 2)                   \
  X(urgency, 3)              \
  X(count, 4)

#define RING_URGENCIES(X) \
  X(demand, 0)            \
  X(ahead, 1)             \
  X(cancel, 2)

#define RING_EVENT_FIELDS(X) \
  X(kind, 0)                 \
  X(expert, 1)               \
  X(to, 2)                   \
  X(code, 3)                 \
  X(count, 4)

// `touched`: the slot may be used from now on. After `failed` and `cancelled` it is free.
#define RING_EVENTS(X) \
  X(arrived, 0)        \
  X(failed, 1)         \
  X(cancelled, 2)      \
  X(touched, 3)

// What layers routed to, for the cache, whole layers at a time: an expert of the whole model, for
// how many tokens, and whether it lay in memory then: 1 yes, 0 no, -1 nobody can tell. In the map
// tier a few of its pages were looked at.
#define RING_USE_FIELDS(X) \
  X(expert, 0)             \
  X(tokens, 1)             \
  X(resident, 2)           \
  X(count, 3)

// A place is tier * 2^24 + slot; -1 is no place. In the map tier the slot is the expert's number,
// MoE layer x experts + index, so a place holds 16 million experts (Ring-1T has 19,456).
// Slots lie in RAM, or in the memory of the backend that computes; then others may lie below, in
// RAM.
#define RING_TIERS(X) \
  X(map, 0)           \
  X(ram, 1)           \
  X(gpu, 2)

// How reads reach the drive: the ladder, and the drive made of RAM.
#define RING_RUNGS(X)    \
  X(automatic, 0)        \
  X(uring_registered, 1) \
  X(uring, 2)            \
  X(threads, 3)          \
  X(buffered, 4)         \
  X(paced, 5)

#define RING_FAULTS(X) \
  X(error, 0)          \
  X(short_read, 1)     \
  X(slow, 2)           \
  X(flip, 3)           \
  X(gone, 4)

// Counters since open, in shared memory (float64): seconds, bytes and counts. The device writes
// them where it stops; anyone may read them at any time.
#define RING_COUNTERS(X) \
  X(steps, 0)            \
  X(step_tokens, 1)      \
  X(attend_s, 2)         \
  X(route_s, 3)          \
  X(mix_s, 4)            \
  X(settle_s, 5)         \
  X(sample_s, 6)         \
  X(overlapped_s, 7)     \
  X(stall_nvme_s, 8)     \
  X(bytes_wanted, 9)     \
  X(bytes_landed, 10)    \
  X(bytes_ahead, 11)     \
  X(drive_busy_s, 12)    \
  X(drive_depth_s, 13)   \
  X(reader_cpu_s, 14)    \
  X(checksum_s, 15)      \
  X(retries, 16)         \
  X(failures, 17)        \
  X(mismatches, 18)      \
  X(slots_touched, 19)   \
  X(slots_locked, 20)    \
  X(uses_lost, 21)       \
  X(policy_s, 22)        \
  X(ahead_s, 23)         \
  X(bytes_cancelled, 24) \
  X(stall_copy_s, 25)    \
  X(bytes_copied, 26)    \
  X(copy_busy_s, 27)     \
  X(bytes_pinned, 28)    \
  X(pin_s, 29)           \
  X(bytes_lent, 30)      \
  X(host_experts, 31)    \
  X(host_s, 32)          \
  X(gpu_free_bytes, 33)  \
  X(count, 34)

#define RING_LIMITS(X)     \
  X(slot_bits, 24)         \
  X(steps_open, 2)         \
  X(unordered_tokens, 128) \
  X(ahead_tokens, 16)      \
  X(experts_max, 65535)    \
  X(layers_max, 1024)      \
  X(top_logprobs_max, 1024)

#define RING_ENUMERATOR(name, value) name = value,
enum class Reason : int32_t { RING_REASONS(RING_ENUMERATOR) };
enum class Code : int32_t { RING_CODES(RING_ENUMERATOR) };
enum class Dtype : int32_t { RING_DTYPES(RING_ENUMERATOR) };
enum class ScaleKind : int32_t { RING_SCALE_KINDS(RING_ENUMERATOR) };
enum class Rows : int32_t { RING_ROWS(RING_ENUMERATOR) };
enum class Tier : int32_t { RING_TIERS(RING_ENUMERATOR) };
enum class Urgency : int32_t { RING_URGENCIES(RING_ENUMERATOR) };
enum class EventKind : int32_t { RING_EVENTS(RING_ENUMERATOR) };
enum class Rung : int32_t { RING_RUNGS(RING_ENUMERATOR) };
enum class FaultKind : int32_t { RING_FAULTS(RING_ENUMERATOR) };
enum class Math : int32_t { RING_MATHS(RING_ENUMERATOR) };
namespace tensor_field {
enum { RING_TENSOR_FIELDS(RING_ENUMERATOR) };
}
namespace outer_tensor {
enum { RING_OUTER_TENSORS(RING_ENUMERATOR) };
}
namespace layer_tensor {
enum { RING_LAYER_TENSORS(RING_ENUMERATOR) };
}
namespace expert_tensor {
enum { RING_EXPERT_TENSORS(RING_ENUMERATOR) };
}
namespace part_field {
enum { RING_PART_FIELDS(RING_ENUMERATOR) };
}
namespace sampling_field {
enum { RING_SAMPLING_FIELDS(RING_ENUMERATOR) };
}
namespace control {
enum { RING_CONTROL(RING_ENUMERATOR) };
}
namespace stop_field {
enum { RING_STOP_FIELDS(RING_ENUMERATOR) };
}
namespace order_field {
enum { RING_ORDER_FIELDS(RING_ENUMERATOR) };
}
namespace event_field {
enum { RING_EVENT_FIELDS(RING_ENUMERATOR) };
}
namespace use_field {
enum { RING_USE_FIELDS(RING_ENUMERATOR) };
}
namespace counter {
enum { RING_COUNTERS(RING_ENUMERATOR) };
}
namespace limit {
enum { RING_LIMITS(RING_ENUMERATOR) };
}
#undef RING_ENUMERATOR

}  // namespace ring
