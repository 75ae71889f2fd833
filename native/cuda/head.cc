// The end of a step: final norm, lm_head, and sampling on the host by the CPU's own sampler, a few
// rows at a time.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../cpu/outcome.h"
#include "state.h"

namespace ring::cuda {
namespace {

// The normed rows that want logits, one after the other.
Status gather_head_rows(Gpu& gpu, const StepState& step, const cpu::LogitRow* rows, int count) {
  const size_t bytes = Parcel::bytes_of<int32_t>(static_cast<size_t>(count));
  RING_TRY(gpu.make_room(bytes));
  const int32_t* on_device = nullptr;
  int32_t* list = gpu.lists.place(static_cast<size_t>(count), &on_device);
  for (int row = 0; row < count; ++row) list[row] = rows[row].token;
  RING_TRY(gpu.lists.send(gpu.compute));
  const Activations gathered = gpu.head_rows.rows();
  RING_GPU(gather_rows(gpu.queue(), step.stream.normed.wide(), on_device, count, gpu.shape.hidden,
                       gathered.wide));
  if (!gpu.limits.head_in_ram && gpu.takes_narrow(gpu.weights.head))
    RING_GPU(narrow(gpu.queue(), gathered, count, gpu.shape.hidden));
  return {};
}

// Logits of these rows, and their way to the host.
Status put_logits(Gpu& gpu, const StepState& step, const cpu::LogitRow* rows, int count) {
  RING_TRY(gather_head_rows(gpu, step, rows, count));
  uint8_t* const logits = gpu.results.data() + kBadBytes;
  if (gpu.limits.head_in_ram)
    return multiply_in_ram(gpu, gpu.model.head, gpu.head_rows.wide(), count,
                           reinterpret_cast<float*>(logits));
  RING_TRY(gpu.multiply(gpu.weights.head, gpu.head_rows.rows(), count, {gpu.head_logits.data()}));
  const size_t values = static_cast<size_t>(count) * gpu.shape.vocabulary;
  RING_GPU(cudaMemcpyAsync(logits, gpu.head_logits.data(), values * sizeof(float),
                           cudaMemcpyDeviceToHost, gpu.compute));
  return {};
}

}  // namespace

Status sample(Gpu& gpu, StepState& step, const Sampling* sampling, const HeadOutput& out) {
  const Shape& s = gpu.shape;
  std::vector<cpu::LogitRow> rows;
  cpu::list_rows(step.parts, rows);
  if (static_cast<int>(rows.size()) > out.rows) {
    return failure(Code::bad_argument,
                   "the step has %d rows of logits, but the outcome has room for %d",
                   static_cast<int>(rows.size()), out.rows);
  }
  RING_GPU(normalise(gpu.queue(), step.stream.residual.data(), gpu.weights.final_norm, step.tokens,
                     s.hidden, s.epsilon, step.stream.normed.rows(), step.bad.data(), s.layers));
  RING_GPU(cudaMemcpyAsync(gpu.results.data(), step.bad.data(), sizeof(int32_t),
                           cudaMemcpyDeviceToHost, gpu.compute));
  const auto* logits = reinterpret_cast<const float*>(gpu.results.data() + kBadBytes);
  size_t first = 0;
  do {
    // None at all where a prompt goes on; the word is waited for all the same.
    const int count = static_cast<int>(std::min<size_t>(kHeadRows, rows.size() - first));
    const size_t values = static_cast<size_t>(count) * s.vocabulary;
    if (count > 0) RING_TRY(put_logits(gpu, step, &rows[first], count));
    RING_TRY(gpu.wait());
    int32_t bad = -1;
    memcpy(&bad, gpu.results.data(), sizeof bad);
    if (bad >= 0) return cpu::not_a_number(s, bad);
    if (!std::all_of(logits, logits + values, [](float value) { return std::isfinite(value); }))
      return cpu::not_a_number(s, s.layers);
    for (int r = 0; r < count; ++r) {
      const cpu::LogitRow& row = rows[first + r];
      cpu::finish_row(s, step.parts[row.part], step.ids.data(), row,
                      logits + static_cast<size_t>(r) * s.vocabulary, sampling, out,
                      static_cast<int>(first) + r);
    }
    first += static_cast<size_t>(count);
  } while (first < rows.size());
  return {};
}

}  // namespace ring::cuda
