// Kernels by themselves, on weights of the models' shapes that lie in no cache: each in a recording
// of many launches over different weights, as a share of what the GPU can do. What a kernel should
// reach is asked of the shapes for which it was reasoned out, and of no others.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "door.h"
#include "made.h"
#include "sections.h"
#include "shapes.h"

namespace ring::gpu {
namespace {

using test::Dice;
using test::Format;
using test::OnGpu;
using test::require_gpu;
using test::RowsOnGpu;

const Format kFp8 = {"FP8", Dtype::f8_e4m3, 128, 128};
const Format kRowFp8 = {"FP8, row scales", Dtype::f8_e4m3, 1, 0};
const Format kBf16 = {"BF16", Dtype::bf16, 0, 0};

// More than any cache holds.
constexpr double kPastCaches = 512e6;

struct Bench {
  const Effort& effort;
  const Ceilings& ceilings;
  Table& table;

  int turns_for(double bytes) const {
    return effort.is_tiny ? 2 : std::clamp(static_cast<int>(kPastCaches / bytes) + 1, 2, 128);
  }
  void add_read(const std::string& what, double bytes, const std::vector<double>& seconds,
                const Bound& bound) const;
  void add_products(const std::string& what, double operations, const std::vector<double>& seconds,
                    const Bound& bound) const;
  void add_microseconds(const std::string& what, const std::vector<double>& seconds,
                        const Bound& bound) const;

  void linear(const std::string& name, const Format& format, int rows, int columns, int tokens,
              const Bound& bound) const;
  void experts(const ModelShape& model, const std::vector<std::vector<int>>& rows_of_turn,
               const std::string& what, const Bound& bound, bool counts_products) const;
  void attention(const std::string& name, const ModelShape& model, int context,
                 const Bound& bound) const;
  void norm(const std::string& name, const ModelShape& model) const;
  void sum(const std::string& name, const ModelShape& model) const;
  void router(const std::string& name, const ModelShape& model, int tokens,
              const Bound& bound) const;
};

std::string microseconds(const std::vector<double>& seconds) {
  std::vector<double> scaled = seconds;
  for (double& one : scaled) one *= 1e6;
  return text_of(figure_of(scaled)) + " us";
}

void Bench::add_read(const std::string& what, double bytes, const std::vector<double>& seconds,
                     const Bound& bound) const {
  std::vector<double> shares;
  for (const double one : seconds) shares.push_back(bytes / one / ceilings.read_bytes);
  table.add(what, shares, "of reading", bound, microseconds(seconds));
}

void Bench::add_products(const std::string& what, double operations,
                         const std::vector<double>& seconds, const Bound& bound) const {
  std::vector<double> teraflops, shares;
  for (const double one : seconds) {
    teraflops.push_back(operations / one * 1e-12);
    shares.push_back(operations / one / ceilings.products);
  }
  // Hopper's tensor cores give more to instructions that these kernels do not use, so that there
  // the products themselves are asked for.
  const bool is_hopper = door().probe.compute_major == 9;
  if (is_hopper)
    table.add(what, teraflops, "TFLOP/s", bound,
              text_of(figure_of(shares)) + " of mma.sync; " + microseconds(seconds));
  else
    table.add(what, shares, "of mma.sync", bound,
              text_of(figure_of(teraflops)) + " TFLOP/s; " + microseconds(seconds));
}

void Bench::add_microseconds(const std::string& what, const std::vector<double>& seconds,
                             const Bound& bound) const {
  std::vector<double> scaled = seconds;
  for (double& one : scaled) one *= 1e6;
  table.add(what, scaled, "us", bound);
}

std::vector<float> activations(int64_t count) {
  std::vector<float> x(static_cast<size_t>(count));
  Dice dice(3);
  test::fill_activations(x.data(), x.size(), dice);
  return x;
}

// That what was timed was computed: outputs begin as NaN.
void require_written(const OnGpu<float>& out, size_t count) {
  const std::vector<float> values = out.read();
  test::require(std::all_of(values.begin(), values.begin() + static_cast<int64_t>(count),
                            [](float value) { return std::isfinite(value); }),
                "an output is not finite");
}

std::string of_tokens(int tokens) {
  return std::to_string(tokens) + (tokens == 1 ? " token" : " tokens");
}

// --- one matrix -------------------------------------------------------------------------------

void Bench::linear(const std::string& name, const Format& format, int rows, int columns, int tokens,
                   const Bound& bound) const {
  const double bytes = static_cast<double>(rows) * columns * test::bytes_of(format.dtype);
  const int turns = turns_for(bytes);
  const MadeMatrices weights(format, rows, columns, turns, 21);
  const RowsOnGpu x(activations(int64_t{tokens} * columns).data(), tokens, columns);
  const OnGpu<float> out(static_cast<size_t>(tokens) * rows);
  const std::vector<double> seconds = seconds_of(effort, turns, [&](cudaStream_t stream, int turn) {
    require_gpu(cuda::multiply_on_tensor_cores(stream, {weights.at(turn % turns), {}, 0, tokens},
                                               x.rows(), {out.data()}));
  });
  require_written(out, static_cast<size_t>(tokens) * rows);
  if (tokens < 32)
    add_read(name, bytes, seconds, bound);
  else
    add_products(name, 2.0 * rows * columns * tokens, seconds, bound);
}

// --- experts ----------------------------------------------------------------------------------

// One turn's experts as the kernels want them.
struct Flight {
  std::vector<cuda::Run> gated, down;
  std::vector<cuda::Tile> tiles;
  std::vector<int32_t> token_of_row;
  int most = 0, rows = 0;
};

struct FlightThere {
  explicit FlightThere(const Flight& flight)
      : here(flight),
        gated(flight.gated),
        down(flight.down),
        tiles(flight.tiles),
        token_of_row(flight.token_of_row) {}
  Flight here;
  OnGpu<cuda::Run> gated, down;
  OnGpu<cuda::Tile> tiles;
  OnGpu<int32_t> token_of_row;
};

struct Pool {
  MadeMatrices gate, up, down;
  Pool(const ModelShape& m, int count)
      : gate(kFp8, m.width, m.hidden, count, 31),
        up(kFp8, m.width, m.hidden, count, 32),
        down(kFp8, m.hidden, m.width, count, 33) {}
};

// As the backend takes them, where an expert has so many on average.
int tile_rows_for(int mean) {
  return mean <= cuda::kTileRows            ? cuda::kTileRows
         : mean <= cuda::kLargeTileRows / 2 ? cuda::kLargeTileRows / 2
                                            : cuda::kLargeTileRows;
}

// Expert `first` + i of the pool has rows[i] rows, of tokens 0, 1, ... in turn.
Flight plan(const Pool& pool, const std::vector<int>& rows, int first) {
  Flight flight;
  const int all = std::accumulate(rows.begin(), rows.end(), 0);
  const int tile_rows = tile_rows_for(all / static_cast<int>(rows.size()));
  for (size_t i = 0; i < rows.size(); ++i) {
    const int expert = (first + static_cast<int>(i)) % pool.gate.count();
    flight.gated.push_back({pool.gate.at(expert), pool.up.at(expert), flight.rows, rows[i]});
    flight.down.push_back({pool.down.at(expert), {}, flight.rows, rows[i]});
    for (int row = 0; row < rows[i]; row += tile_rows) {
      const int in_tile = std::min(tile_rows, rows[i] - row);
      flight.tiles.push_back({static_cast<int32_t>(i), flight.rows + row, in_tile});
      flight.most = std::max(flight.most, in_tile);
    }
    for (int row = 0; row < rows[i]; ++row) flight.token_of_row.push_back(row);
    flight.rows += rows[i];
  }
  return flight;
}

// Rows of each wanted expert when so many tokens choose at random, and all the shared one.
std::vector<int> random_rows(const ModelShape& m, int tokens, Dice& dice) {
  std::vector<int> rows(static_cast<size_t>(m.experts)), order(rows.size());
  std::iota(order.begin(), order.end(), 0);
  for (int token = 0; token < tokens; ++token) {
    for (int k = 0; k < m.top_k; ++k) {
      std::swap(order[k], order[k + dice.below(m.experts - k)]);
      ++rows[order[k]];
    }
  }
  rows.erase(std::remove(rows.begin(), rows.end(), 0), rows.end());
  rows.push_back(tokens);
  return rows;
}

void Bench::experts(const ModelShape& m, const std::vector<std::vector<int>>& rows_of_turn,
                    const std::string& what, const Bound& bound, bool counts_products) const {
  size_t wanted = 0, rows_most = 0, tokens = 0;
  double experts = 0, rows = 0;
  for (const std::vector<int>& of_turn : rows_of_turn) {
    const auto all = static_cast<size_t>(std::accumulate(of_turn.begin(), of_turn.end(), 0));
    wanted = std::max(wanted, of_turn.size());
    rows_most = std::max(rows_most, all);
    tokens = std::max<size_t>(tokens, *std::max_element(of_turn.begin(), of_turn.end()));
    experts += static_cast<double>(of_turn.size());
    rows += static_cast<double>(all);
  }
  const double bytes_each = 3.0 * m.width * m.hidden;
  size_t free_bytes = 0, all_bytes = 0;
  require_gpu(door().measure->ask_memory(&free_bytes, &all_bytes));
  const auto turns = static_cast<int>(rows_of_turn.size());
  const auto count =
      static_cast<int>(std::min(experts, static_cast<double>(free_bytes) * 0.5 / bytes_each));
  if (static_cast<size_t>(count) < wanted)
    return table.leave_out(what, "not enough memory for " + std::to_string(wanted) + " experts");
  const Pool pool(m, count);
  std::vector<std::unique_ptr<FlightThere>> flights;
  int first = 0;
  for (const std::vector<int>& of_turn : rows_of_turn) {
    flights.push_back(std::make_unique<FlightThere>(plan(pool, of_turn, first)));
    first += static_cast<int>(of_turn.size());
  }
  const RowsOnGpu x(activations(static_cast<int64_t>(tokens) * m.hidden).data(),
                    static_cast<int>(tokens), m.hidden);
  const std::vector<float> nothing(rows_most * static_cast<size_t>(m.width));
  const RowsOnGpu between(nothing.data(), static_cast<int>(rows_most), m.width);
  const OnGpu<float> out(rows_most * static_cast<size_t>(m.hidden));
  const std::vector<double> seconds = seconds_of(effort, turns, [&](cudaStream_t stream, int turn) {
    const FlightThere& f = *flights[static_cast<size_t>(turn % turns)];
    const auto tiles = static_cast<int>(f.here.tiles.size());
    require_gpu(cuda::multiply_runs_on_tensor_cores(
        stream, f.here.gated[0], f.gated.data(), f.tiles.data(), tiles, f.here.most, x.rows(),
        {f.token_of_row.data(), nullptr}, {between.rows().wide}));
    require_gpu(cuda::narrow(stream, between.rows(), f.here.rows, m.width));
    require_gpu(cuda::multiply_runs_on_tensor_cores(stream, f.here.down[0], f.down.data(),
                                                    f.tiles.data(), tiles, f.here.most,
                                                    between.rows(), {}, {out.data()}));
  });
  size_t rows_least = rows_most;
  for (const auto& flight : flights)
    rows_least = std::min(rows_least, static_cast<size_t>(flight->here.rows));
  require_written(out, rows_least * static_cast<size_t>(m.hidden));
  if (counts_products)
    add_products(what, 6.0 * m.width * m.hidden * rows / turns, seconds, bound);
  else
    add_read(what, bytes_each * experts / turns, seconds, bound);
}

// --- attention, router ------------------------------------------------------------------------

void Bench::attention(const std::string& name, const ModelShape& m, int context,
                      const Bound& bound) const {
  const Shape s = m.shape();
  constexpr int kBlockTokens = 64;
  const int blocks = (context + kBlockTokens - 1) / kBlockTokens;
  const int64_t elements = int64_t{blocks} * kBlockTokens * s.kv_heads * s.head_dim;
  const double bytes = 4.0 * context * s.kv_heads * s.head_dim;
  const int turns = turns_for(bytes);
  const MadeBytes keys(Dtype::bf16, elements * turns, 41),
      values(Dtype::bf16, elements * turns, 42);
  std::vector<int32_t> list(static_cast<size_t>(blocks));
  std::iota(list.begin(), list.end(), 0);
  std::vector<float> cos(static_cast<size_t>(s.rotary_dim) / 2, 0.6f), sin(cos.size(), 0.8f);
  const std::vector<float> ones(static_cast<size_t>(s.head_dim), 1.0f);
  const OnGpu<int32_t> position(std::vector<int32_t>{context - 1}),
      first_block(std::vector<int32_t>{0}), block_list(list);
  const OnGpu<float> cos_there(cos), sin_there(sin), norm(ones), qkv(activations(s.qkv_rows())),
      parts(static_cast<size_t>(cuda::attention_part_floats(s, 1, context))),
      out(static_cast<size_t>(s.heads) * s.head_dim);
  const cuda::Positions where = {position.data(), first_block.data(), block_list.data(),
                                 cos_there.data(), sin_there.data()};
  const OnGpu<int32_t> tickets(std::vector<int32_t>(static_cast<size_t>(s.kv_heads)));
  const std::vector<double> seconds = seconds_of(effort, turns, [&](cudaStream_t stream, int turn) {
    const int64_t at = 2 * elements * (turn % turns);
    const cuda::LayerKv kv = {keys.data() + at, values.data() + at, kBlockTokens, false};
    require_gpu(cuda::finish_projections(stream, s, {nullptr, norm.data(), norm.data()}, where, kv,
                                         1, qkv.data()));
    require_gpu(cuda::attend(stream, s, where, kv, 0, 1, context, qkv.data(), parts.data(),
                             tickets.data(), out.data()));
  });
  require_written(out, static_cast<size_t>(s.heads) * s.head_dim);
  add_read(name, bytes, seconds, bound);
}

void Bench::router(const std::string& name, const ModelShape& m, int tokens,
                   const Bound& bound) const {
  const Shape s = m.shape();
  const int turns = turns_for(2.0 * m.experts * m.hidden);
  const MadeMatrices gates(kBf16, m.experts, m.hidden, turns, 51);
  const RowsOnGpu x(activations(int64_t{tokens} * m.hidden).data(), tokens, m.hidden);
  const auto pairs = static_cast<size_t>(tokens) * m.top_k;
  const OnGpu<float> logits(static_cast<size_t>(tokens) * m.experts), weights(pairs),
      bias(std::vector<float>(static_cast<size_t>(m.experts), 0.01f));
  const OnGpu<uint16_t> chosen(pairs);
  const OnGpu<uint8_t> order(pairs);
  const std::vector<double> seconds = seconds_of(effort, turns, [&](cudaStream_t stream, int turn) {
    require_gpu(cuda::multiply_plainly(stream, {gates.at(turn % turns), {}, 0, tokens}, x.rows(),
                                       {logits.data()}));
    require_gpu(cuda::choose(stream, s, logits.data(), bias.data(), tokens,
                             {chosen.data(), weights.data(), order.data(), logits.data()}));
  });
  require_written(weights, pairs);
  add_microseconds(name, seconds, bound);
}

// --- small kernels ----------------------------------------------------------------------------

// The norm of one token with its F16 copy.
void Bench::norm(const std::string& name, const ModelShape& m) const {
  const OnGpu<float> x(activations(m.hidden)),
      weight(std::vector<float>(static_cast<size_t>(m.hidden), 1.0f));
  const RowsOnGpu out(activations(m.hidden).data(), 1, m.hidden);
  const OnGpu<int32_t> bad(std::vector<int32_t>{-1});
  add_microseconds(
      name,
      seconds_of(effort, 2,
                 [&](cudaStream_t stream, int) {
                   require_gpu(cuda::normalise(stream, x.data(), weight.data(), 1, m.hidden, 1e-6f,
                                               out.rows(), bad.data(), 0));
                 }),
      {});
}

// The ordered sum of one token's routed outputs, of the shared one and of the residual.
void Bench::sum(const std::string& name, const ModelShape& m) const {
  const auto top_k = static_cast<size_t>(m.top_k);
  const OnGpu<float> outputs(activations(int64_t{m.top_k} * m.hidden)),
      weights(std::vector<float>(top_k, 0.3f)), shared(activations(m.hidden)),
      residual(activations(m.hidden));
  std::vector<uint8_t> rising(top_k);
  std::iota(rising.begin(), rising.end(), uint8_t{0});
  const OnGpu<uint8_t> order(rising), known(std::vector<uint8_t>(top_k, 1));
  const cuda::PairOutputs pairs = {outputs.data(), nullptr, weights.data(), order.data(),
                                   known.data()};
  add_microseconds(
      name,
      seconds_of(effort, 2,
                 [&](cudaStream_t stream, int) {
                   require_gpu(door().measure->settle(stream, pairs, nullptr, shared.data(), 1,
                                                      m.top_k, m.hidden, residual.data()));
                 }),
      {});
}

Bound of_matrix(double bytes) {
  if (bytes >= 64e6) return {0.85, 0.90};
  return bytes >= 16e6 ? Bound{0.70, 0.80} : Bound{};
}

void measure_matrices(const Bench& bench, const ModelShape& m) {
  const auto measure = [&](const char* matrix, const Format& format, int rows, int columns,
                           int tokens, bool is_asked) {
    const std::string what = m.name + " " + matrix + ", " + format.name + ", " + of_tokens(tokens);
    const double bytes = static_cast<double>(rows) * columns;
    attempt(bench.effort, bench.table, what, [&] {
      bench.linear(what, format, rows, columns, tokens, is_asked ? of_matrix(bytes) : Bound{});
    });
  };
  const int qkv_rows = m.shape().qkv_rows(), attended = m.heads * m.head_dim;
  for (const int tokens : {1, 8}) {
    measure("qkv", kFp8, qkv_rows, m.hidden, tokens, true);
    measure("attention out", kFp8, m.hidden, attended, tokens, true);
  }
  measure("qkv", kRowFp8, qkv_rows, m.hidden, 1, true);
  for (const int tokens : {1, 8}) measure("head", kBf16, m.vocabulary, m.hidden, tokens, false);
  const std::vector<int> many = {32, 64, 128, 256, 512};
  for (const int tokens : bench.effort.is_tiny ? std::vector<int>{33} : many)
    measure("qkv", kFp8, qkv_rows, m.hidden, tokens, false);
}

// Turns of so many tokens that choose at random, together more than caches hold.
std::vector<std::vector<int>> random_turns(const Bench& bench, const ModelShape& m, int tokens,
                                           double* distinct) {
  Dice dice(61);
  std::vector<std::vector<int>> turns;
  double experts = 0;
  const double bytes_each = 3.0 * m.width * m.hidden;
  while (turns.size() < 2 || (!bench.effort.is_tiny && experts * bytes_each < kPastCaches)) {
    turns.push_back(random_rows(m, tokens, dice));
    experts += static_cast<double>(turns.back().size());
  }
  *distinct = experts / static_cast<double>(turns.size());
  return turns;
}

Bound of_experts(const ModelShape& m, int tokens) {
  if (m.name == "1T") return tokens <= 16 ? Bound{0.85, 0.90} : Bound{};
  if (tokens > 1) return {};
  return m.name == "flash" ? Bound{0.65, 0.78} : m.name == "mini" ? Bound{0.35, 0.50} : Bound{};
}

void measure_experts(const Bench& bench, const ModelShape& m) {
  const bool is_tiny = bench.effort.is_tiny;
  for (const int tokens : is_tiny ? std::vector<int>{1, 2} : std::vector<int>{1, 2, 4, 8, 16, 32}) {
    double distinct = 0;
    const std::vector<std::vector<int>> turns = random_turns(bench, m, tokens, &distinct);
    const std::string what = m.name + " experts, " + of_tokens(tokens) + " (" +
                             std::to_string(std::lround(distinct)) + " distinct)";
    attempt(bench.effort, bench.table, what,
            [&] { bench.experts(m, turns, what, of_experts(m, tokens), false); });
  }
  // 40 and 60 % of what a library's BF16 products reach on an H200 (788 TFLOP/s), else of mma.sync.
  const bool is_hopper = door().probe.compute_major == 9;
  const Bound many = is_hopper ? Bound{315, 473} : Bound{0.40, 0.60};
  for (const int tokens : is_tiny ? std::vector<int>{32} : std::vector<int>{32, 128, 256, 512}) {
    const std::vector<int> each(static_cast<size_t>(m.top_k), tokens);
    const std::string what = m.name + " experts, " + of_tokens(tokens) + " each";
    const bool is_asked = m.name == "1T" && tokens >= 256;
    attempt(bench.effort, bench.table, what, [&] {
      bench.experts(m, {each, each}, what, is_asked ? many : Bound{}, true);
    });
  }
}

void measure_rest(const Bench& bench, const ModelShape& m) {
  const std::string norm = m.name + " norm, 1 token", sum = m.name + " sum of outputs, 1 token";
  attempt(bench.effort, bench.table, norm, [&] { bench.norm(norm, m); });
  attempt(bench.effort, bench.table, sum, [&] { bench.sum(sum, m); });

  const std::vector<int> contexts = {1024, 4096, 32768};
  for (const int context : bench.effort.is_tiny ? std::vector<int>{300} : contexts) {
    const std::string what =
        m.name + " attention of one token, " + std::to_string(context) + " positions";
    const bool is_asked = m.name == "1T" && context == 32768;
    attempt(bench.effort, bench.table, what, [&] {
      bench.attention(what, m, context, is_asked ? Bound{0.65, 0.78} : Bound{});
    });
  }
  for (const int tokens : {1, 8}) {
    const std::string what = m.name + " router with its choice, " + of_tokens(tokens);
    attempt(bench.effort, bench.table, what, [&] {
      bench.router(what, m, tokens, tokens == 1 ? Bound{8, 5, true} : Bound{});
    });
  }
}

}  // namespace

void measure_kernels(const Effort& effort, const Ceilings& ceilings, Table& table) {
  const Bench bench{effort, ceilings, table};
  for (const ModelShape& m : model_shapes(effort.is_tiny)) {
    measure_matrices(bench, m);
    measure_experts(bench, m);
    measure_rest(bench, m);
  }
}

}  // namespace ring::gpu
