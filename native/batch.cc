// What a batch must be before a step computes with it, and its copy into the step: nothing of the
// caller's arrays is read after begin.
#include <cmath>

#include "device.h"

namespace ring {
namespace {

bool is_whole(double value, double least, double most) {
  return value >= least && value <= most && value == std::floor(value);
}

// Counts that one part adds to the arrays that follow each other part after part.
struct Offsets {
  size_t tokens = 0, blocks = 0, history = 0, biases = 0, masks = 0;
};

Status check_sampling(const double* f, int32_t part, const Shape& s, const BatchView& batch,
                      const Offsets& at) {
  const double temperature = f[sampling_field::temperature];
  const bool numbers_good =
      temperature >= 0 && std::isfinite(temperature) &&
      is_whole(f[sampling_field::top_k], 0, 0x1p31 - 1) && f[sampling_field::top_p] > 0 &&
      f[sampling_field::top_p] <= 1 && f[sampling_field::min_p] >= 0 &&
      f[sampling_field::min_p] <= 1 && f[sampling_field::repetition] > 0 &&
      std::isfinite(f[sampling_field::repetition]) && std::isfinite(f[sampling_field::presence]) &&
      std::isfinite(f[sampling_field::frequency]) &&
      is_whole(f[sampling_field::seed_low], 0, 0x1p32 - 1) &&
      is_whole(f[sampling_field::seed_high], 0, 0x1p32 - 1) &&
      is_whole(f[sampling_field::position], 0, 0x1p53);
  if (!numbers_good)
    return failure(Code::bad_argument, "part %d has sampling values out of range", part);
  const double history = f[sampling_field::history], biases = f[sampling_field::biases];
  if (!is_whole(history, 0, static_cast<double>(batch.history_length - at.history)) ||
      !is_whole(f[sampling_field::prompt], 0, history) ||
      !is_whole(biases, 0, static_cast<double>(batch.bias_length - at.biases)) ||
      !is_whole(f[sampling_field::masked], 0, 1)) {
    return failure(Code::bad_argument, "part %d names more history or biases than the batch holds",
                   part);
  }
  for (size_t i = 0; i < static_cast<size_t>(history); ++i) {
    const int32_t id = batch.history[at.history + i];
    if (id < 0 || id >= s.vocabulary)
      return failure(Code::bad_argument,
                     "part %d has token %d in its history; the vocabulary has %d", part, id,
                     s.vocabulary);
  }
  for (size_t i = 0; i < static_cast<size_t>(biases); ++i) {
    const int32_t id = batch.bias_ids[at.biases + i];
    if (id < 0 || id >= s.vocabulary || std::isnan(batch.bias_values[at.biases + i])) {
      return failure(Code::bad_argument, "part %d biases token %d; the vocabulary has %d", part, id,
                     s.vocabulary);
    }
  }
  const size_t words = (static_cast<size_t>(s.vocabulary) + 31) / 32;
  if (f[sampling_field::masked] == 1 && batch.masks_length - at.masks < words) {
    return failure(Code::bad_argument, "part %d has a mask shorter than %zu words", part, words);
  }
  return {};
}

void advance_offsets(Offsets& at, const int32_t* p, const double* f, int32_t vocabulary) {
  at.tokens += static_cast<size_t>(p[part_field::tokens]);
  at.blocks += static_cast<size_t>(p[part_field::blocks]);
  at.history += static_cast<size_t>(f[sampling_field::history]);
  at.biases += static_cast<size_t>(f[sampling_field::biases]);
  if (f[sampling_field::masked] == 1) at.masks += (static_cast<size_t>(vocabulary) + 31) / 32;
}

}  // namespace

Status Device::check_batch(const BatchView& batch) const {
  const Shape& s = model_.shape;
  if (batch.parts < 1 || batch.parts > limits_.parts ||
      batch.sampling_length < static_cast<size_t>(batch.parts) * sampling_field::count) {
    return failure(Code::bad_argument, "a batch has 1 to %d parts, this one %d", limits_.parts,
                   batch.parts);
  }
  Offsets at;
  for (int32_t index = 0; index < batch.parts; ++index) {
    const int32_t* p = batch.part + static_cast<size_t>(index) * part_field::count;
    const double* f = batch.sampling + static_cast<size_t>(index) * sampling_field::count;
    const int64_t tokens = p[part_field::tokens], position = p[part_field::position],
                  blocks = p[part_field::blocks];
    if (tokens < 1 || tokens > static_cast<int64_t>(batch.tokens_length - at.tokens) ||
        static_cast<int64_t>(at.tokens) + tokens > limits_.step_tokens) {
      return failure(Code::bad_argument, "part %d has %lld tokens; a step takes 1 to %d", index,
                     static_cast<long long>(tokens), limits_.step_tokens);
    }
    if (position < 0 || position + tokens > limits_.context) {
      return failure(Code::bad_argument, "part %d ends at position %lld; the context has %d", index,
                     static_cast<long long>(position + tokens), limits_.context);
    }
    const int64_t needed =
        (position + tokens + limits_.kv_block_tokens - 1) / limits_.kv_block_tokens;
    if (blocks < needed || blocks > static_cast<int64_t>(batch.blocks_length - at.blocks)) {
      return failure(Code::bad_argument, "part %d has %lld KV blocks, but needs %lld", index,
                     static_cast<long long>(blocks), static_cast<long long>(needed));
    }
    if (p[part_field::rows] < 0 || p[part_field::rows] > static_cast<int32_t>(Rows::all) ||
        p[part_field::sequence] < 0 ||
        control::cancel + static_cast<size_t>(p[part_field::sequence]) >= control_words_ ||
        p[part_field::target] < -1 || p[part_field::target] >= s.vocabulary ||
        (p[part_field::sampled] != 0 && p[part_field::rows] == static_cast<int32_t>(Rows::none))) {
      return failure(Code::bad_argument, "part %d has fields out of range", index);
    }
    for (int64_t i = 0; i < tokens; ++i) {
      const int32_t id = batch.tokens[at.tokens + i];
      if (id < 0 || id >= s.vocabulary)
        return failure(Code::bad_argument, "part %d has token %d; the vocabulary has %d", index, id,
                       s.vocabulary);
    }
    for (int64_t i = 0; i < blocks; ++i) {
      const int32_t block = batch.blocks[at.blocks + i];
      if (block < 0 || block >= limits_.kv_blocks)
        return failure(Code::bad_argument, "part %d names KV block %d of %d", index, block,
                       limits_.kv_blocks);
    }
    RING_TRY(check_sampling(f, index, s, batch, at));
    advance_offsets(at, p, f, s.vocabulary);
  }
  return {};
}

void Device::copy_batch(const BatchView& batch, Step& step) {
  const Shape& s = model_.shape;
  Offsets end;
  for (int32_t index = 0; index < batch.parts; ++index) {
    advance_offsets(end, batch.part + static_cast<size_t>(index) * part_field::count,
                    batch.sampling + static_cast<size_t>(index) * sampling_field::count,
                    s.vocabulary);
  }
  step.tokens = static_cast<int32_t>(end.tokens);
  step.ids.assign(batch.tokens, batch.tokens + end.tokens);
  step.blocks.assign(batch.blocks, batch.blocks + end.blocks);
  step.history.assign(batch.history, batch.history + end.history);
  step.bias_ids.assign(batch.bias_ids, batch.bias_ids + end.biases);
  step.bias_values.assign(batch.bias_values, batch.bias_values + end.biases);
  step.masks.assign(batch.masks, batch.masks + end.masks);
  step.parts.resize(batch.parts);
  step.sampling.resize(batch.parts);
  Offsets at;
  for (int32_t index = 0; index < batch.parts; ++index) {
    const int32_t* p = batch.part + static_cast<size_t>(index) * part_field::count;
    const double* f = batch.sampling + static_cast<size_t>(index) * sampling_field::count;
    step.parts[index] = {static_cast<int32_t>(at.tokens), p[part_field::tokens],
                         p[part_field::position],         static_cast<Rows>(p[part_field::rows]),
                         p[part_field::sequence],         p[part_field::target],
                         p[part_field::sampled] != 0,     step.blocks.data() + at.blocks};
    Sampling& sampling = step.sampling[index];
    sampling.temperature = static_cast<float>(f[sampling_field::temperature]);
    sampling.top_k = static_cast<int32_t>(f[sampling_field::top_k]);
    sampling.top_p = static_cast<float>(f[sampling_field::top_p]);
    sampling.min_p = static_cast<float>(f[sampling_field::min_p]);
    sampling.repetition = static_cast<float>(f[sampling_field::repetition]);
    sampling.presence = static_cast<float>(f[sampling_field::presence]);
    sampling.frequency = static_cast<float>(f[sampling_field::frequency]);
    sampling.seed = static_cast<uint64_t>(f[sampling_field::seed_high]) << 32 |
                    static_cast<uint64_t>(f[sampling_field::seed_low]);
    sampling.position = static_cast<uint64_t>(f[sampling_field::position]);
    sampling.history = step.history.data() + at.history;
    sampling.history_count = static_cast<int32_t>(f[sampling_field::history]);
    sampling.prompt_count = static_cast<int32_t>(f[sampling_field::prompt]);
    sampling.bias_ids = step.bias_ids.data() + at.biases;
    sampling.bias_values = step.bias_values.data() + at.biases;
    sampling.bias_count = static_cast<int32_t>(f[sampling_field::biases]);
    sampling.mask = f[sampling_field::masked] == 1 ? step.masks.data() + at.masks : nullptr;
    advance_offsets(at, p, f, s.vocabulary);
  }
  const size_t routing = static_cast<size_t>(std::max(0, s.moe_layers())) * step.tokens * s.top_k;
  step.experts.resize(routing);
  step.weights.resize(routing);
  step.tokens_of.assign(s.experts, 0);
  step.faults.assign(step.parts.size(), {});
  if (keeps_scores_) step.scores.resize(routing / s.top_k * kept_kinds() * s.experts);
  step.wanted.clear();
  step.looks_ahead = batch.looks_ahead && step.tokens <= limit::ahead_tokens && reader_ != nullptr;
}

}  // namespace ring
