// See topology.h. The files: /proc/thread-self/status (allowed CPUs, where cpusets show too),
// /sys/devices/system/{cpu,node}, and for the quota every group from ours up to the root, in both
// versions of control groups. A group's path may name folders that a container does not see.
#include "topology.h"

#include <dirent.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <tuple>

namespace ring {
namespace {

constexpr int kCpusMax = 65536;  // a number above is a damaged file

// Empty when the file is absent or empty: the answer is then the same.
std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// "0-3,8,10-11" as a set; what cannot be read ends it.
std::set<int> parse_list(const std::string& text) {
  std::set<int> numbers;
  const char* at = text.c_str();
  while (true) {
    char* end;
    const long first = strtol(at, &end, 10);
    if (end == at || first < 0 || first >= kCpusMax) return numbers;
    long last = first;
    if (*end == '-') {
      at = end + 1;
      last = strtol(at, &end, 10);
      if (end == at || last < first || last >= kCpusMax) return numbers;
    }
    for (long number = first; number <= last; ++number) numbers.insert(static_cast<int>(number));
    if (*end != ',') return numbers;
    at = end + 1;
  }
}

std::set<int> affinity() {
  std::set<int> cpus;
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return {0};
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &mask)) cpus.insert(cpu);
  }
  return cpus;
}

std::set<int> allowed_cpus(const std::string& root) {
  std::istringstream status(text_of(root + "/proc/thread-self/status"));
  const std::string key = "Cpus_allowed_list:";
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(key, 0) == 0) return parse_list(line.substr(key.size()));
  }
  return affinity();
}

std::set<int> usable_cpus(const std::string& root) {
  const std::set<int> allowed = allowed_cpus(root);
  const std::set<int> online = parse_list(text_of(root + "/sys/devices/system/cpu/online"));
  std::set<int> usable;
  for (const int cpu : allowed) {
    if (online.empty() || online.count(cpu) > 0) usable.insert(cpu);
  }
  return usable.empty() ? affinity() : usable;
}

int core_of(const std::string& root, int cpu) {
  const std::string folder =
      root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
  // The second is the older name.
  for (const char* name : {"core_cpus_list", "thread_siblings_list"}) {
    const std::set<int> siblings = parse_list(text_of(folder + name));
    if (siblings.count(cpu) > 0) return *siblings.begin();
  }
  return cpu;
}

std::vector<std::pair<int, std::set<int>>> cpus_of_nodes(const std::string& root) {
  std::vector<std::pair<int, std::set<int>>> nodes;
  const std::string folder = root + "/sys/devices/system/node";
  DIR* open = opendir(folder.c_str());
  if (open == nullptr) return nodes;
  while (const dirent* entry = readdir(open)) {
    int node, read = 0;
    if (sscanf(entry->d_name, "node%d%n", &node, &read) != 1 || entry->d_name[read] != 0) continue;
    nodes.emplace_back(node, parse_list(text_of(folder + "/" + entry->d_name + "/cpulist")));
  }
  closedir(open);
  return nodes;
}

// A group's own limit in CPUs, 0 for none. Version 2 says "quota period" or "max period" in one
// file, version 1 has a file for each and -1 for no limit.
double limit_of_group(const std::string& group, bool is_v2) {
  const std::string text =
      is_v2 ? text_of(group + "/cpu.max")
            : text_of(group + "/cpu.cfs_quota_us") + " " + text_of(group + "/cpu.cfs_period_us");
  double quota_us, period_us;
  if (sscanf(text.c_str(), "%lf %lf", &quota_us, &period_us) != 2) return 0;
  return quota_us > 0 && period_us > 0 ? quota_us / period_us : 0;
}

double least_limit(const std::string& mount, std::string group, bool is_v2) {
  double least = 0;
  while (true) {
    const double limit = limit_of_group(mount + group, is_v2);
    if (limit > 0 && (least == 0 || limit < least)) least = limit;
    const size_t slash = group.rfind('/');
    if (slash == std::string::npos) return least;
    group.resize(slash);
  }
}

double read_quota(const std::string& root) {
  const std::string mounts = root + "/sys/fs/cgroup";
  std::istringstream groups(text_of(root + "/proc/self/cgroup"));
  double quota = 0;
  const auto consider = [&](const std::string& mount, const std::string& group, bool is_v2) {
    const double limit = least_limit(mount, group, is_v2);
    if (limit > 0 && (quota == 0 || limit < quota)) quota = limit;
  };
  // "number:controllers:/group"; version 2 has number 0 and no controllers.
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    std::string group = line.substr(second + 1);
    if (group.find("..") != std::string::npos) group.clear();  // above what this process sees
    if (controllers == ",,") {
      for (const char* name : {"", "/unified"}) consider(mounts + name, group, true);
    } else if (controllers.find(",cpu,") != std::string::npos) {
      for (const char* name : {"/cpu", "/cpu,cpuacct", "/cpuacct,cpu"}) {
        consider(mounts + name, group, false);
      }
    }
  }
  return quota;
}

}  // namespace

int Topology::cores() const {
  std::set<int> cores;
  for (const Seat& seat : seats) cores.insert(seat.core);
  return static_cast<int>(cores.size());
}

int Topology::nodes() const {
  std::set<int> nodes;
  for (const Seat& seat : seats) nodes.insert(seat.node);
  return static_cast<int>(nodes.size());
}

std::vector<Seat> Topology::assign(int threads) const {
  // (how many seats of its core, how many of its node, come before it) decides who sits first.
  std::vector<std::tuple<int, int, Seat>> ranked;
  for (const Seat& seat : seats) {
    int in_core = 0, in_node = 0;
    for (const auto& [core_rank, node_rank, other] : ranked) {
      if (other.core == seat.core) ++in_core;
    }
    for (const auto& [core_rank, node_rank, other] : ranked) {
      if (other.node == seat.node && core_rank == in_core) ++in_node;
    }
    ranked.emplace_back(in_core, in_node, seat);
  }
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) {
    return std::tie(std::get<0>(a), std::get<1>(a)) < std::tie(std::get<0>(b), std::get<1>(b));
  });
  std::vector<Seat> assigned;
  for (int thread = 0; thread < threads; ++thread) {
    assigned.push_back(std::get<2>(ranked[thread % ranked.size()]));
  }
  std::stable_sort(assigned.begin(), assigned.end(),
                   [](const Seat& a, const Seat& b) { return a.node < b.node; });
  return assigned;
}

Topology read_topology(const char* root_path) {
  // "/" itself becomes nothing, as every path below begins with one.
  std::string root = root_path;
  while (!root.empty() && root.back() == '/') root.pop_back();
  const auto nodes = cpus_of_nodes(root);
  Topology topology;
  for (const int cpu : usable_cpus(root)) {
    Seat seat{cpu, core_of(root, cpu), 0};
    for (const auto& [node, cpus] : nodes) {
      if (cpus.count(cpu) > 0) seat.node = node;
    }
    topology.seats.push_back(seat);
  }
  topology.quota = read_quota(root);
  return topology;
}

int usable_cores(const char* root) {
  const Topology topology = read_topology(root);
  const int cores = topology.cores();
  if (topology.quota <= 0) return cores;
  return std::max(1, std::min(cores, static_cast<int>(std::ceil(topology.quota))));
}

}  // namespace ring
