// What tests of the CUDA backend through its table share: its settings, and what two runs of a step
// have in common.
#pragma once
#include <cstdlib>
#include <cstring>
#include <vector>

#include "session.h"

extern "C" const ring::Backend* ring_backend();

namespace ring::test {

// Sets a variable of the environment as long as it lives.
class Setting {
 public:
  Setting(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Setting() { unsetenv(name_); }

 private:
  const char* name_;
};

inline std::vector<int32_t> ids_of(int count, uint64_t seed) {
  Dice dice(seed);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = dice.below(kVocabulary);
  return ids;
}

inline double difference(const Result& a, const Result& b) {
  Error error;
  for (size_t i = 0; i < a.logits.size(); ++i) error.add(a.logits[i], b.logits[i], 1);
  return error.relative();
}

inline void require_same(const Result& a, const Result& b, const char* what) {
  require(a.experts == b.experts && a.weights == b.weights, "%s: routes otherwise", what);
  require(a.logits.size() == b.logits.size() &&
              memcmp(a.logits.data(), b.logits.data(), a.logits.size() * sizeof(float)) == 0,
          "%s: other bits", what);
}

}  // namespace ring::test
