// See table.h.
#include "table.h"

#include <algorithm>

namespace ring::gpu {
namespace {

std::string three_digits(double value) {
  char text[40];
  const double size = std::fabs(value);
  const bool is_plain = size == 0 || (size >= 1e-3 && size < 1e6);
  const int before = size >= 1 ? static_cast<int>(std::log10(size)) + 1 : 1;
  if (is_plain)
    snprintf(text, sizeof text, "%.*f", std::max(0, 3 - before + (size < 1 ? 1 : 0)), value);
  else
    snprintf(text, sizeof text, "%.2e", value);
  return text;
}

}  // namespace

Figure figure_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back(), static_cast<int>(values.size())};
}

std::string text_of(const Figure& f) {
  return three_digits(f.median) + " [" + three_digits(f.least) + " to " + three_digits(f.most) +
         "]";
}

Holds judge(double figure, const Bound& bound) {
  if (std::isnan(bound.must) && std::isnan(bound.good)) return Holds::unknown;
  const auto reaches = [&](double wanted) {
    return bound.is_most ? figure <= wanted : figure >= wanted;
  };
  if (reaches(bound.good)) return Holds::good;
  return std::isnan(bound.must) || !reaches(bound.must) ? Holds::no : Holds::yes;
}

void Table::add(const std::string& what, const std::vector<double>& values, const std::string& unit,
                const Bound& bound, const std::string& note) {
  const Figure figure = figure_of(values);
  const char* const words[] = {"", "no", "yes", "good"};
  const auto wanted = [](double value) { return std::isnan(value) ? "" : three_digits(value); };
  add_line("| " + what + " | " + text_of(figure) + (unit.empty() ? "" : " " + unit) +
           (note.empty() ? "" : "; " + note) + " | " + std::to_string(figure.count) + " | " +
           wanted(bound.must) + " | " + wanted(bound.good) + " | " +
           words[static_cast<int>(judge(figure.median, bound))] + " |");
}

void Table::add_check(const std::string& what, const std::string& figure, int count,
                      const std::string& bound, bool holds) {
  holds_ = holds_ && holds;
  add_line("| " + what + " | " + figure + " | " + (count > 0 ? std::to_string(count) : "") + " | " +
           bound + " | | " + (holds ? "yes" : "**no**") + " |");
}

void Table::leave_out(const std::string& what, const std::string& why) {
  add_line("| " + what + " | not measured: " + why + " | | | | |");
}

void Table::print(FILE* to) const {
  fprintf(to, "| what | figure | n | must | good | holds |\n|---|---|---|---|---|---|\n");
  for (const std::string& line : lines_) fprintf(to, "%s\n", line.c_str());
}

void Table::add_line(const std::string& line) {
  fprintf(stderr, "%s\n", line.c_str());
  lines_.push_back(line);
}

}  // namespace ring::gpu
