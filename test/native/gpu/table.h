// What was measured, as rows of one table: a figure with its spread, and how it stands to what is
// wanted. Rows appear on stderr as they come, and all together at the end.
#pragma once
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace ring::gpu {

struct Figure {
  double median = NAN, least = NAN, most = NAN;
  int count = 0;
};
Figure figure_of(std::vector<double> values);
// "0.912 [0.905 to 0.914]": three digits.
std::string text_of(const Figure& figure);

// `must`: without it something is wrong; `good`: the aim. NaN: nothing is asked.
struct Bound {
  double must = NAN, good = NAN;
  bool is_most = false;  // whether figures must be below
};

enum class Holds { unknown, no, yes, good };
Holds judge(double figure, const Bound& bound);

class Table {
 public:
  // `unit` follows the figure, `note` says what else was seen.
  void add(const std::string& what, const std::vector<double>& values, const std::string& unit,
           const Bound& bound = {}, const std::string& note = "");
  // Numbers that hold or do not, beside their bound.
  void add_check(const std::string& what, const std::string& figure, int count,
                 const std::string& bound, bool holds);
  void leave_out(const std::string& what, const std::string& why);
  void print(FILE* to) const;
  // Whether every check held.
  bool holds() const { return holds_; }

 private:
  void add_line(const std::string& line);
  std::vector<std::string> lines_;
  bool holds_ = true;
};

}  // namespace ring::gpu
