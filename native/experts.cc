// The device between routing and the sum of a layer: which experts a step wants, which of them lie
// ready, and computing them as they land. Orders and events pass through here to the slots.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>

#include "device.h"
#include "timed.h"

namespace ring {
namespace {

constexpr int32_t kSlotMask = (1 << limit::slot_bits) - 1;
// Every wait looks at the cancel flags at least this often.
constexpr int kWaitMs = 20;
// Uses that nobody has asked for: a step of a large model leaves a few thousand.
constexpr size_t kUsesMost = size_t{1} << 21;

// Pages of a mapped matrix that are looked at to judge whether it lies in memory.
constexpr int kPagesOfMatrix = 2;
// Experts that lie within so many bytes are looked at as a whole.
constexpr uint64_t kSmallExpertBytes = 128 << 10;
// What lay in memory and was computed with no longer ago is not looked at again: looking costs some
// microseconds, and the system gives up last what was used just now.
constexpr int64_t kStaysNs = 100'000'000;

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

uint64_t bytes_of(const Matrix& matrix) {
  const int width = matrix.dtype == Dtype::f8_e4m3 ? 1 : matrix.dtype == Dtype::bf16 ? 2 : 4;
  return static_cast<uint64_t>(matrix.rows) * matrix.columns * width;
}

bool lies_in_memory(const Mlp& mlp) {
  const auto* first = std::min({mlp.gate.data, mlp.up.data, mlp.down.data});
  const auto* end = std::max({mlp.gate.data + bytes_of(mlp.gate), mlp.up.data + bytes_of(mlp.up),
                              mlp.down.data + bytes_of(mlp.down)});
  const auto span = static_cast<uint64_t>(end - first);
  if (span <= kSmallExpertBytes) return is_in_memory(first, span, kPagesOfMatrix);
  for (const Matrix* matrix : {&mlp.gate, &mlp.up, &mlp.down})
    if (!is_in_memory(matrix->data, bytes_of(*matrix), kPagesOfMatrix)) return false;
  return true;
}

// Advice about the pages of a matrix in a map: all that it touches, or only those that are its own.
void advise_pages(const Matrix& matrix, int advice) {
  const uintptr_t page = 4096;
  const auto begin = reinterpret_cast<uintptr_t>(matrix.data);
  const uintptr_t end = begin + bytes_of(matrix);
  const bool outward = advice == MADV_WILLNEED;
  const uintptr_t from = outward ? begin / page * page : (begin + page - 1) / page * page;
  const uintptr_t to = outward ? (end + page - 1) / page * page : end / page * page;
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, advice);
}

}  // namespace

int64_t Device::first_expert(const Step& step) const {
  return static_cast<int64_t>(step.layer - model_.shape.first_moe_layer) * model_.shape.experts;
}

Status Device::route_layer(int32_t index, Step& step) {
  const Shape& s = model_.shape;
  const size_t moe_layer = static_cast<size_t>(step.layer - s.first_moe_layer);
  const size_t at = moe_layer * step.tokens * s.top_k;
  const bool wants_scores = keeps_scores_ || scores_ != nullptr;
  if (wants_scores) own_scores_.resize(static_cast<size_t>(step.tokens) * s.experts);
  {
    const Timed timed(&counters_[counter_of(step, counter::route_s)]);
    RING_TRY(backend_->route(compute_, index, step.layer, &step.experts[at], &step.weights[at],
                             wants_scores ? own_scores_.data() : nullptr));
  }
  step.awaited_copy = 0;
  if (keeps_scores_) RING_TRY(keep_scores(index, step, own_scores_.data()));
  note_routing(step, own_scores_.data());
  return {};
}

// What the layer has routed to, for whoever decides: [token][experts] scores where they are wanted.
void Device::note_routing(Step& step, const float* scores) {
  if (scores_ != nullptr) publish_scores(step, scores);
  list_wanted(step);
  note_uses(step);
}

// The shared expert, once a layer: before the first wait, so that it is computed while reads are
// under way.
Status Device::share_layer(int32_t index, Step& step) {
  if (step.shared) return {};
  double seconds = 0;
  {
    const Timed timed(&seconds);
    RING_TRY(backend_->share(compute_, index, step.layer));
  }
  step.shared = true;
  count(counter::settle_s, seconds);
  if (is_awaiting_reads()) count(counter::overlapped_s, seconds);
  return {};
}

bool Device::is_awaiting_reads() const { return slots_ != nullptr && slots_->awaits_reads(); }

// Experts that parts which are still good want. Those that only failed parts want add nothing.
void Device::list_wanted(Step& step) {
  const Shape& s = model_.shape;
  const uint16_t* experts =
      &step.experts[static_cast<size_t>(step.layer - s.first_moe_layer) * step.tokens * s.top_k];
  std::fill(step.tokens_of.begin(), step.tokens_of.end(), 0);
  bool any_failed = false;
  for (size_t index = 0; index < step.parts.size(); ++index) {
    const Part& part = step.parts[index];
    if (step.faults[index].failed()) {
      any_failed = true;
      continue;
    }
    const uint16_t* first = experts + static_cast<size_t>(part.first_token) * s.top_k;
    for (int32_t pair = 0; pair < part.tokens * s.top_k; ++pair) ++step.tokens_of[first[pair]];
  }
  step.wanted.clear();
  step.ready.clear();
  for (int32_t expert = 0; expert < s.experts; ++expert) {
    if (step.tokens_of[expert] > 0) {
      step.wanted.push_back(expert);
    } else if (any_failed) {
      step.ready.push_back({expert, nullptr});
    }
  }
  if (any_failed) {
    const auto index = static_cast<int32_t>(&step - steps_);
    const Status absent = backend_->mix(compute_, index, step.layer, step.ready.data(),
                                        static_cast<int32_t>(step.ready.size()));
    (void)absent;  // without weights nothing is computed, so nothing can fail
  }
}

void Device::note_uses(const Step& step) {
  if (uses_.size() > kUsesMost) {
    count(counter::uses_lost, static_cast<double>(step.wanted.size()));
    return;
  }
  const auto first = static_cast<int32_t>(first_expert(step));
  const int64_t time_ns = now_ns();
  for (const int32_t expert : step.wanted) {
    uses_.push_back(first + expert);
    uses_.push_back(step.tokens_of[expert]);
    uses_.push_back(residency(first + expert, time_ns));
  }
}

// As use_field::resident.
int32_t Device::residency(int32_t expert, int64_t time_ns) {
  if (reader_ != nullptr) return slots_->is_there(expert) ? 1 : 0;
  if (found_ns_.empty()) return -1;
  int64_t& found_ns = found_ns_[static_cast<size_t>(expert)];
  const bool stays = found_ns > 0 && time_ns - found_ns < kStaysNs;
  if (!stays && !lies_in_memory(model_.experts[static_cast<size_t>(expert)])) return 0;
  found_ns = time_ns;
  return 1;
}

// A layer that does not fit any more waits for the next call, so that none comes in pieces.
Status Device::routed(int32_t* uses, size_t values, int32_t* count) {
  RING_TRY(require_open());
  const size_t room = values / use_field::count * use_field::count;
  if (room < static_cast<size_t>(model_.shape.experts) * use_field::count)
    return failure(Code::bad_argument, "the array of uses must hold the %d experts of a layer",
                   model_.shape.experts);
  size_t taken = std::min(uses_.size(), room);
  if (taken < uses_.size()) {
    const auto layer_at = [this](size_t at) { return uses_[at] / model_.shape.experts; };
    const auto begins = [&](size_t at) {
      return layer_at(at) != layer_at(at - use_field::count) ||
             uses_[at] <= uses_[at - use_field::count];
    };
    while (taken > 0 && !begins(taken)) taken -= use_field::count;
  }
  std::copy_n(uses_.begin(), taken, uses);
  uses_.erase(uses_.begin(), uses_.begin() + static_cast<std::ptrdiff_t>(taken));
  *count = static_cast<int32_t>(taken / use_field::count);
  return {};
}

// Whether every wanted expert lies ready; they are listed then.
Status Device::find_all(Step& step, bool* all) {
  const auto first = static_cast<int32_t>(first_expert(step));
  if (reader_ != nullptr) RING_TRY(slots_->settle());
  *all = false;
  step.ready.clear();
  for (const int32_t expert : step.wanted) {
    const ReadyExpert found = reader_ == nullptr
                                  ? ReadyExpert{expert, &model_.experts[first + expert]}
                                  : slots_->find(first + expert, expert);
    if (found.weights == nullptr) return {};
    step.ready.push_back(found);
  }
  *all = true;
  return {};
}

Status Device::mix_found(int32_t index, Step& step) {
  RING_TRY(mix_ready(index, step, is_awaiting_reads()));
  step.wanted.clear();
  return {};
}

Status Device::mix_ready(int32_t index, Step& step, bool reads_under_way) {
  double seconds = 0;
  Status status;
  {
    const Timed timed(&seconds);
    status = backend_->mix(compute_, index, step.layer, step.ready.data(),
                           static_cast<int32_t>(step.ready.size()));
  }
  count(counter::mix_s, seconds);
  if (reads_under_way) count(counter::overlapped_s, seconds);
  return status;
}

Status Device::check_places(const Step& step, const int32_t* places, size_t count) const {
  if (step.phase != Phase::running || step.wanted.empty() || !step.placed.empty()) {
    return failure(Code::bad_step, "step %d is not waiting for experts", step.serial);
  }
  if (count != step.wanted.size()) {
    return failure(Code::bad_argument, "the layer wants %zu experts, but %zu places were given",
                   step.wanted.size(), count);
  }
  const auto first = static_cast<int32_t>(first_expert(step));
  bool gap = false;
  for (size_t i = 0; i < count; ++i) {
    if (places[i] == -1) {
      gap = true;
      continue;
    }
    const int32_t tier = places[i] >> limit::slot_bits, slot = places[i] & kSlotMask;
    const int32_t expert = first + step.wanted[i];
    const bool in_map =
        reader_ == nullptr && tier == static_cast<int32_t>(Tier::map) && slot == expert;
    const bool in_slot = reader_ != nullptr && tier == static_cast<int32_t>(slots_->tier()) &&
                         slot < slots_->count() &&
                         (slots_->is_ready(slot, expert) || slots_->is_loading(slot, expert));
    const bool below = is_on_host(places[i]) && step.tokens <= limit::ahead_tokens &&
                       slot < slots_->below()->count() && slots_->below()->is_ready(slot, expert);
    if (places[i] < 0 || !(in_map || in_slot || below)) {
      return failure(Code::bad_argument, "place %d does not hold expert %d of layer %d", places[i],
                     step.wanted[i], step.layer);
    }
    if (gap && step.tokens > limit::unordered_tokens) {
      return failure(
          Code::bad_argument,
          "a step of more than %d tokens takes its experts in rising index, without gaps",
          limit::unordered_tokens);
    }
  }
  return {};
}

Status Device::mix(int32_t id, const int32_t* places, size_t count) {
  Step* step = nullptr;
  RING_TRY(require_open());
  RING_TRY(find(id, &step));
  // A read may have failed since the places were chosen; that is told by an event, not here.
  RING_TRY(check_places(*step, places, count));
  const int32_t index = static_cast<int32_t>(step - steps_);
  const auto first = static_cast<int32_t>(first_expert(*step));
  for (size_t i = 0; i < count; ++i)
    if (is_on_host(places[i])) step->hosted.push_back(step->wanted[i]);
  // What the processor computes on is fetched before the backend has anything to compute.
  Status begun = step->hosted.empty() ? Status{} : fetch_input(index, *step);
  if (!begun.failed()) begun = share_layer(index, *step);
  if (begun.failed()) {
    end(*step, begun);
    return {};
  }
  for (size_t i = 0; i < count; ++i) {
    if (places[i] == -1 || is_on_host(places[i])) continue;
    step->placed.push_back({step->wanted[i], reader_ == nullptr ? -1 : places[i] & kSlotMask});
  }
  if (reader_ == nullptr) {
    step->ready.clear();
    for (const Wanted& wanted : step->placed)
      step->ready.push_back({wanted.expert, &model_.experts[first + wanted.expert]});
    step->placed.clear();
    if (const Status status = mix_ready(index, *step, false); status.failed()) end(*step, status);
    forget_mixed(*step);
  } else {
    mix_placed(index, *step);
  }
  return {};  // advance and sample say what became of it
}

// Goes on with what the step was given; ends it where nothing can come of it.
void Device::mix_placed(int32_t index, Step& step) {
  const Status status = mix_as_they_land(index, step);
  const bool none_left = std::all_of(step.faults.begin(), step.faults.end(),
                                     [](const Status& fault) { return fault.failed(); });
  if (status.failed()) {
    end(step, status);
  } else if (none_left) {
    end(step, Reason::failed, step.faults.front());
  }
}

// Hits first, then what the processor computes, then every expert as it lands; large steps in
// rising index. When there is nothing to compute before the next one lands, whoever looks ahead is
// asked, once a layer. What only has to be copied is waited for by the backend itself.
Status Device::mix_as_they_land(int32_t index, Step& step) {
  const auto first = static_cast<int32_t>(first_expert(step));
  const bool in_order = step.tokens > limit::unordered_tokens;
  std::vector<Wanted>& placed = step.placed;
  while (!placed.empty() || !step.hosted.empty()) {
    RING_TRY(slots_->settle());
    step.ready.clear();
    size_t kept = 0;
    for (size_t i = 0; i < placed.size(); ++i) {
      const Wanted wanted = placed[i];
      const int32_t expert = first + wanted.expert;
      const bool must_wait = slots_->is_loading(wanted.slot, expert) || (in_order && kept > 0);
      if (must_wait) {
        placed[kept++] = wanted;
        continue;
      }
      const ReadyExpert found = slots_->find(expert, wanted.expert);
      if (found.weights == nullptr) fail_parts(step, wanted.expert, slots_->failure_of(expert));
      step.ready.push_back(found);
    }
    placed.resize(kept);
    if (!step.ready.empty()) {
      RING_TRY(mix_ready(index, step, is_awaiting_reads()));
      forget_mixed(step);
      continue;
    }
    if (!step.hosted.empty()) {
      RING_TRY(mix_on_host(index, step));
      continue;
    }
    if (is_cancelled(step)) {
      end(step, Reason::cancelled, {});
      return {};
    }
    if (may_ask_ahead(step)) {
      step.told_ahead = step.asks_ahead = true;
      return {};
    }
    const size_t waited_for = placed.size();
    if (!in_order) RING_TRY(mix_coming(index, step));
    if (placed.size() == waited_for) wait_for_slots(kWaitMs);
  }
  return {};
}

// What is being copied, in the order in which it comes. The copy is waited for where it is computed
// with, not here, so nobody loses the time that it takes to hear of its end.
Status Device::mix_coming(int32_t index, Step& step) {
  const auto first = static_cast<int32_t>(first_expert(step));
  step.ready.clear();
  std::erase_if(step.placed, [&](const Wanted& wanted) {
    const uint64_t ticket = slots_->coming(wanted.slot, first + wanted.expert);
    if (ticket == 0) return false;
    step.awaited_copy = std::max(step.awaited_copy, ticket);
    step.ready.push_back(slots_->find_coming(wanted.slot, wanted.expert));
    return true;
  });
  if (step.ready.empty()) return {};
  std::sort(step.ready.begin(), step.ready.end(), [&](const ReadyExpert& a, const ReadyExpert& b) {
    return slots_->coming(a.slot, first + a.index) < slots_->coming(b.slot, first + b.index);
  });
  {
    const Timed timed(&counters_[counter::stall_copy_s]);
    RING_TRY(backend_->mix(compute_, index, step.layer, step.ready.data(),
                           static_cast<int32_t>(step.ready.size())));
  }
  forget_mixed(step);
  return {};
}

// Where time is counted that a call takes which waits for all that the backend has to do: as
// waiting for a copy where one is among it.
int32_t Device::counter_of(const Step& step, int32_t usual) const {
  const bool waits = step.awaited_copy > 0 && slots_->is_copying(step.awaited_copy);
  return waits ? counter::stall_copy_s : usual;
}

void Device::wait_for_slots(int wait_ms) {
  const int32_t counter =
      slots_->awaits_copies_only() ? counter::stall_copy_s : counter::stall_nvme_s;
  const Timed timed(&counters_[counter]);
  slots_->wait(wait_ms);
}

void Device::fail_parts(Step& step, int32_t expert, const Status& why) {
  const Shape& s = model_.shape;
  const uint16_t* experts =
      &step.experts[static_cast<size_t>(step.layer - s.first_moe_layer) * step.tokens * s.top_k];
  for (size_t index = 0; index < step.parts.size(); ++index) {
    const Part& part = step.parts[index];
    const uint16_t* begin = experts + static_cast<size_t>(part.first_token) * s.top_k;
    const uint16_t* stop = begin + static_cast<size_t>(part.tokens) * s.top_k;
    if (!step.faults[index].failed() && std::find(begin, stop, expert) != stop)
      step.faults[index] = why;
  }
}

void Device::forget_mixed(Step& step) {
  for (const ReadyExpert& expert : step.ready) step.tokens_of[expert.index] = 0;
  std::erase_if(step.wanted, [&](int32_t expert) { return step.tokens_of[expert] == 0; });
}

Status Device::stage(const int32_t* orders, size_t values) {
  RING_TRY(require_open());
  if (values % order_field::count != 0) {
    return failure(Code::bad_argument, "orders come in records of %d values", order_field::count);
  }
  if (values == 0) return {};
  if (reader_ == nullptr) return advise(orders, values / order_field::count);
  // Nothing is settled here: what the caller knows of the slots is what its last poll said.
  return slots_->stage(orders, values / order_field::count);
}

// In the map an order is advice to the system about the pages of an expert.
Status Device::advise(const int32_t* orders, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const int32_t* o = orders + i * order_field::count;
    const int32_t expert = o[order_field::expert];
    const bool comes = o[order_field::from] == -1 && o[order_field::to] == expert;
    const bool goes = o[order_field::to] == -1 && o[order_field::from] == expert;
    if (expert < 0 || static_cast<size_t>(expert) >= model_.experts.size() || !(comes || goes))
      return failure(Code::bad_order, "order %zu names no expert of the maps", i);
    const Mlp& mlp = model_.experts[static_cast<size_t>(expert)];
    for (const Matrix* matrix : {&mlp.gate, &mlp.up, &mlp.down})
      advise_pages(*matrix, comes ? MADV_WILLNEED : MADV_COLD);
  }
  return {};
}

Status Device::poll(int32_t* events, size_t values, int wait_ms, int32_t* count) {
  *count = 0;
  RING_TRY(require_open());
  if (reader_ == nullptr) return {};
  // Where the slots are lost, the step that is open hears of it from advance.
  (void)slots_->settle();
  if (!slots_->has_events() && wait_ms > 0) {
    wait_for_slots(wait_ms);
    (void)slots_->settle();
  }
  *count = slots_->take_events(events, static_cast<int32_t>(values / event_field::count));
  publish_reader();
  return {};
}

}  // namespace ring
