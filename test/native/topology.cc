// What the pool is told of the machine, read from trees of files that look like the kernel's:
// nodes, hardware threads, CPUs that are off or not for us, and control groups of both versions.
#include "cpu/topology.h"

#include <sched.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "harness.h"

using namespace ring;
using namespace ring::test;

namespace {

// A folder of such files, gone with the object.
class Tree {
 public:
  Tree() {
    const char* folder = getenv("TMPDIR");
    root_ = std::string(folder != nullptr ? folder : P_tmpdir) + "/ring-topology-XXXXXX";
    require(mkdtemp(root_.data()) != nullptr, "no temporary folder");
  }
  ~Tree() { std::filesystem::remove_all(root_); }
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;

  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  void allow(const std::string& cpus) const {
    write("/proc/thread-self/status", "Name:\tring\nCpus_allowed:\tff\nCpus_allowed_list:\t" +
                                          cpus + "\nMems_allowed_list:\t0-1\n");
  }
  const char* root() const { return root_.c_str(); }

 private:
  std::string root_;
};

const std::string kCpu = "/sys/devices/system/cpu";
const std::string kNode = "/sys/devices/system/node";

// Two nodes of two cores of two hardware threads: CPU n and n + 4 share a core, as Linux numbers
// them; node 0 has CPUs 0, 1, 4, 5.
void write_two_nodes(const Tree& tree) {
  tree.allow("0-7");
  tree.write(kCpu + "/online", "0-7\n");
  for (int cpu = 0; cpu < 8; ++cpu) {
    const std::string first = std::to_string(cpu % 4), second = std::to_string(cpu % 4 + 4);
    tree.write(kCpu + "/cpu" + std::to_string(cpu) + "/topology/core_cpus_list",
               first + "," + second + "\n");
  }
  tree.write(kNode + "/online", "0-1\n");
  tree.write(kNode + "/node0/cpulist", "0-1,4-5\n");
  tree.write(kNode + "/node1/cpulist", "2-3,6-7\n");
}

std::string text_of(const std::vector<Seat>& seats) {
  std::string text;
  for (const Seat& seat : seats) {
    text += (text.empty() ? "" : " ") + std::to_string(seat.node) + ":" + std::to_string(seat.cpu);
  }
  return text;
}

void require_seats(const Topology& topology, int threads, const char* expected) {
  const std::string seats = text_of(topology.assign(threads));
  require(seats == expected, "%d threads sit at %s, expected %s", threads, seats.c_str(), expected);
}

void require_cores(const Tree& tree, int expected) {
  const int cores = usable_cores(tree.root());
  require(cores == expected, "%d cores, expected %d", cores, expected);
}

// Eight CPUs, each a core.
void write_eight(const Tree& tree) {
  tree.allow("0-7");
  tree.write(kCpu + "/online", "0-7\n");
}

}  // namespace

RING_CASE(topology_nodes, "threads are spread over nodes and cores before they share a core") {
  const Tree tree;
  write_two_nodes(tree);
  const Topology topology = read_topology(tree.root());
  require(topology.nodes() == 2, "%d nodes", topology.nodes());
  require(topology.cores() == 4, "%d cores", topology.cores());
  require_seats(topology, 1, "0:0");
  require_seats(topology, 2, "0:0 1:2");
  require_seats(topology, 3, "0:0 0:1 1:2");
  require_seats(topology, 4, "0:0 0:1 1:2 1:3");
  require_seats(topology, 6, "0:0 0:1 0:4 1:2 1:3 1:6");
  require_seats(topology, 8, "0:0 0:1 0:4 0:5 1:2 1:3 1:6 1:7");
  require_seats(topology, 10, "0:0 0:1 0:4 0:5 0:0 1:2 1:3 1:6 1:7 1:2");
  require_cores(tree, 4);
}

RING_CASE(topology_uneven, "a node with few cores is filled, the rest sit at the other") {
  const Tree tree;
  write_eight(tree);
  tree.write(kNode + "/node0/cpulist", "0\n");
  tree.write(kNode + "/node3/cpulist", "1-7\n");
  const Topology topology = read_topology(tree.root());
  require_seats(topology, 2, "0:0 3:1");
  require_seats(topology, 4, "0:0 3:1 3:2 3:3");
}

RING_CASE(topology_older, "hardware threads are known by the older name of the file too") {
  const Tree tree;
  tree.allow("0-3");
  for (int cpu = 0; cpu < 4; ++cpu) {
    tree.write(kCpu + "/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list",
               cpu < 2 ? "0-1\n" : "2-3\n");
  }
  require_seats(read_topology(tree.root()), 4, "0:0 0:2 0:1 0:3");
  require_cores(tree, 2);
}

RING_CASE(topology_offline, "CPUs that are off or not allowed are not counted") {
  const Tree tree;
  write_two_nodes(tree);
  tree.write(kCpu + "/online", "0-2,4\n");
  require_seats(read_topology(tree.root()), 3, "0:0 0:1 1:2");
  require_cores(tree, 3);
  tree.allow("1,5-6");
  require_cores(tree, 1);
  tree.write(kCpu + "/online", "0-7\n");
  require_cores(tree, 2);
  require_seats(read_topology(tree.root()), 2, "0:1 1:6");
}

RING_CASE(topology_flat,
          "without nodes all is node 0, and memory without CPUs is no node of ours") {
  const Tree tree;
  write_eight(tree);
  require_seats(read_topology(tree.root()), 3, "0:0 0:1 0:2");
  tree.write(kNode + "/node0/cpulist", "0-7\n");
  tree.write(kNode + "/node1/cpulist", "\n");
  tree.write(kNode + "/node1x/cpulist", "0-3\n");
  tree.write(kNode + "/has_cpu", "0\n");
  const Topology topology = read_topology(tree.root());
  require(topology.nodes() == 1, "%d nodes", topology.nodes());
  require_seats(topology, 2, "0:0 0:1");
}

RING_CASE(topology_quota,
          "a control group's limit counts, of whichever version and however high up") {
  struct Limit {
    const char* groups;  // /proc/self/cgroup
    std::map<std::string, std::string> files;
    int cores;
  };
  const Limit limits[] = {
      {"0::/a/b\n", {{"/a/b/cpu.max", "max 100000"}, {"/a/cpu.max", "300000 100000"}}, 3},
      {"0::/a/b\n", {{"/a/b/cpu.max", "200000 100000"}, {"/a/cpu.max", "300000 100000"}}, 2},
      {"0::/a/b\n", {{"/cpu.max", "150000 100000"}}, 2},  // the folders are not seen from inside
      {"0::/\n", {{"/cpu.max", "20000 100000"}}, 1},
      {"0::/\n", {{"/cpu.max", "max 100000"}}, 8},
      {"0::/\n", {{"/cpu.max", "9000000 100000"}}, 8},
      {"0::/../..\n", {{"/cpu.max", "100000 100000"}}, 1},
      {"3:cpu,cpuacct:/x\n",
       {{"/cpu,cpuacct/x/cpu.cfs_quota_us", "250000"},
        {"/cpu,cpuacct/x/cpu.cfs_period_us", "50000"}},
       5},
      {"3:cpuset:/x\n2:cpu:/y\n0::/z\n",
       {{"/cpu/cpu.cfs_quota_us", "400000"},
        {"/cpu/cpu.cfs_period_us", "100000"},
        {"/cpu/y/cpu.cfs_quota_us", "-1"},
        {"/cpu/y/cpu.cfs_period_us", "100000"}},
       4},
      {"2:cpu:/y\n", {{"/cpu/y/cpu.cfs_quota_us", "400000"}}, 8},
  };
  for (const Limit& limit : limits) {
    const Tree tree;
    write_eight(tree);
    tree.write("/proc/self/cgroup", limit.groups);
    for (const auto& [path, text] : limit.files) tree.write("/sys/fs/cgroup" + path, text + "\n");
    require_cores(tree, limit.cores);
  }
}

RING_CASE(topology_damaged, "damaged files leave at least one seat and no number out of range") {
  for (const char* list :
       {"", "x", "-3", "5-2", "0-99999999999", "4-", "0,,1", "1 2", "\n\n", "70000"}) {
    const Tree tree;
    write_two_nodes(tree);
    tree.allow(list);
    tree.write(kCpu + "/online", list);
    tree.write(kCpu + "/cpu0/topology/core_cpus_list", list);
    tree.write(kNode + "/node0/cpulist", list);
    const Topology topology = read_topology(tree.root());
    require(!topology.seats.empty(), "no seats for \"%s\"", list);
    for (const Seat& seat : topology.assign(9)) {
      require(seat.cpu >= 0 && seat.cpu < 65536, "CPU %d for \"%s\"", seat.cpu, list);
    }
    require(usable_cores(tree.root()) >= 1, "no cores for \"%s\"", list);
  }
}

RING_CASE(topology_here, "this machine's own files name CPUs that this process may use") {
  cpu_set_t allowed;
  require(sched_getaffinity(0, sizeof allowed, &allowed) == 0, "no affinity");
  const Topology topology = read_topology();
  std::set<int> seen;
  for (const Seat& seat : topology.seats) {
    require(CPU_ISSET(seat.cpu, &allowed), "CPU %d is not allowed", seat.cpu);
    require(seen.insert(seat.cpu).second, "CPU %d twice", seat.cpu);
  }
  const int cores = usable_cores();
  require(cores >= 1 && cores <= CPU_COUNT(&allowed), "%d cores of %d CPUs", cores,
          CPU_COUNT(&allowed));
}
