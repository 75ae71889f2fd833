// Second half of a MoE layer: the routed experts' outputs, and their sum. Small steps keep one
// output per (token, expert) pair, so experts may be computed in the order in which they arrive and
// are still added in rising index; large steps get them in rising index and add at once. Both ways
// give the same bits.
#include <algorithm>
#include <cstring>

#include "cpu.h"

namespace ring::cpu {
namespace {

// The rows of step.pair_input that belong to one expert.
struct Run {
  const Mlp* weights;
  int first;  // row in flight
  int rows;
};

// Work on the experts of a group, shared out in pieces of output rows, so that one expert keeps all
// threads busy and many do not wait for each other: work(run, first row, last row, thread).
template <typename Work>
void for_rows(Cpu& cpu, const std::vector<Run>& runs, int rows, const Work& work) {
  const int piece_rows = cpu.piece_rows(rows, static_cast<int>(runs.size()));
  const int pieces_each = (rows + piece_rows - 1) / piece_rows;
  cpu.pool.run(pieces_each * static_cast<int>(runs.size()), [&](int piece, int thread) {
    const int first = piece % pieces_each * piece_rows;
    work(runs[piece / pieces_each], first, std::min(first + piece_rows, rows), thread);
  });
}

// gate, up, SwiGLU and down of a group of experts whose rows are listed in step.pair_of_row; row
// r's output lands in `out` row r.
void compute(Cpu& cpu, StepState& step, const std::vector<Run>& runs, int rows, float* out) {
  const Shape& s = cpu.shape;
  const int width = runs.front().weights->gate.rows;
  cpu.pool.run(rows, [&](int row, int) {
    const int token = step.pair_of_row[row] / s.top_k;
    memcpy(&step.pair_input[static_cast<size_t>(row) * s.hidden],
           &step.normed[static_cast<size_t>(token) * s.hidden], static_cast<size_t>(s.hidden) * 4);
  });
  for_rows(cpu, runs, width, [&](const Run& run, int first, int last, int thread) {
    const float* x = &step.pair_input[static_cast<size_t>(run.first) * s.hidden];
    float* gate = &step.pair_gate[static_cast<size_t>(run.first) * width];
    float* up = &step.pair_up[static_cast<size_t>(run.first) * width];
    float* scratch = cpu.thread_scratch[thread].data();
    cpu.matmul(run.weights->gate, first, last, x, run.rows, gate, width, scratch);
    cpu.matmul(run.weights->up, first, last, x, run.rows, up, width, scratch);
    // While both are still in this core's cache.
    for (int row = 0; row < run.rows; ++row) {
      const size_t at = static_cast<size_t>(row) * width + first;
      cpu.kernels.swiglu(gate + at, up + at, last - first);
    }
  });
  for_rows(cpu, runs, s.hidden, [&](const Run& run, int first, int last, int thread) {
    cpu.matmul(run.weights->down, first, last,
               &step.pair_gate[static_cast<size_t>(run.first) * width], run.rows,
               out + static_cast<size_t>(run.first) * s.hidden, s.hidden,
               cpu.thread_scratch[thread].data());
  });
}

// routed[token] += weight * output, for one pair.
void add_pair(Cpu& cpu, StepState& step, int pair, const float* output) {
  const size_t hidden = static_cast<size_t>(cpu.shape.hidden);
  cpu.kernels.add_rows(&step.weights[pair], output, 1,
                       &step.routed[pair / cpu.shape.top_k * hidden], cpu.shape.hidden);
}

// The pairs of a token in rising expert index.
const std::vector<int>& pairs_in_order(const StepState& step, int token, int top_k) {
  thread_local std::vector<int> pairs;
  pairs.resize(top_k);
  for (int k = 0; k < top_k; ++k) pairs[k] = token * top_k + k;
  std::sort(pairs.begin(), pairs.end(),
            [&](int a, int b) { return step.experts[a] < step.experts[b]; });
  return pairs;
}

// An expert without weights leaves zeros where its outputs would be.
void forget_absent(Cpu& cpu, StepState& step, const ReadyExpert* experts, int32_t count) {
  const size_t hidden = static_cast<size_t>(cpu.shape.hidden);
  const size_t pairs = static_cast<size_t>(step.tokens) * cpu.shape.top_k;
  for (int32_t i = 0; i < count; ++i) {
    if (experts[i].weights != nullptr) continue;
    for (size_t pair = 0; pair < pairs; ++pair) {
      if (step.experts[pair] == experts[i].index)
        std::fill_n(&step.pair_output[pair * hidden], hidden, 0.0f);
    }
  }
}

}  // namespace

Status mix(Cpu& cpu, StepState& step, int32_t, const ReadyExpert* experts, int32_t count) {
  const Shape& s = cpu.shape;
  const int pairs = step.tokens * s.top_k;
  const bool keeps_pairs = step.tokens <= limit::unordered_tokens;
  const int capacity = static_cast<int>(step.pair_of_row.size());
  if (keeps_pairs) forget_absent(cpu, step, experts, count);
  std::vector<Run> runs;
  int next = 0;
  while (next < count) {
    runs.clear();
    int rows = 0;
    for (; next < count; ++next) {
      if (experts[next].weights == nullptr) continue;
      const int first = rows;
      const uint16_t wanted = static_cast<uint16_t>(experts[next].index);
      const int needed =
          static_cast<int>(std::count(step.experts.begin(), step.experts.begin() + pairs, wanted));
      if (rows + needed > capacity)
        break;  // an expert has at most one row a token: one always fits
      for (int pair = 0; pair < pairs; ++pair) {
        if (step.experts[pair] == wanted) step.pair_of_row[rows++] = pair;
      }
      if (rows > first) runs.push_back({experts[next].weights, first, rows - first});
    }
    if (runs.empty()) return {};
    // The gathered inputs are free again once gate and up are done, and as wide as the outputs.
    compute(cpu, step, runs, rows, step.pair_input.data());
    if (keeps_pairs) {
      cpu.pool.run(rows, [&](int row, int) {
        memcpy(&step.pair_output[static_cast<size_t>(step.pair_of_row[row]) * s.hidden],
               &step.pair_input[static_cast<size_t>(row) * s.hidden],
               static_cast<size_t>(s.hidden) * 4);
      });
      for (int row = 0; row < rows; ++row) step.pair_known[step.pair_of_row[row]] = 1;
    } else {
      for (const Run& run : runs) {
        cpu.pool.run(run.rows, [&](int row, int) {
          add_pair(cpu, step, step.pair_of_row[run.first + row],
                   &step.pair_input[static_cast<size_t>(run.first + row) * s.hidden]);
        });
      }
    }
  }
  return {};
}

Status read_input(const Cpu& cpu, const StepState& step, float* rows) {
  memcpy(rows, step.normed.data(),
         static_cast<size_t>(step.tokens) * cpu.shape.hidden * sizeof(float));
  return {};
}

Status take_outputs(Cpu& cpu, StepState& step, const int32_t* pairs, int32_t count,
                    const float* outputs) {
  const size_t hidden = static_cast<size_t>(cpu.shape.hidden);
  for (int32_t i = 0; i < count; ++i) {
    memcpy(&step.pair_output[static_cast<size_t>(pairs[i]) * hidden], outputs + i * hidden,
           hidden * sizeof(float));
    step.pair_known[pairs[i]] = 1;
  }
  return {};
}

Status share(Cpu& cpu, StepState& step, int32_t layer) {
  const Mlp& shared = cpu.model.layers[layer].mlp;
  if (shared.gate.present()) cpu.dense_mlp(step, shared, step.shared.data());
  return {};
}

Status settle(Cpu& cpu, StepState& step, int32_t layer) {
  const Shape& s = cpu.shape;
  const bool has_shared = cpu.model.layers[layer].mlp.gate.present();
  const bool keeps_pairs = step.tokens <= limit::unordered_tokens;
  cpu.pool.run(step.tokens, [&](int token, int) {
    if (keeps_pairs) {
      for (const int pair : pairs_in_order(step, token, s.top_k)) {
        add_pair(cpu, step, pair, &step.pair_output[static_cast<size_t>(pair) * s.hidden]);
      }
    }
    const size_t at = static_cast<size_t>(token) * s.hidden;
    for (int i = 0; i < s.hidden; ++i) {
      const float routed =
          has_shared ? step.routed[at + i] + step.shared[at + i] : step.routed[at + i];
      step.residual[at + i] += routed;
    }
  });
  return {};
}

}  // namespace ring::cpu
