// Which processors this process may use, and how they hang together: cores (whose hardware threads
// share arithmetic) and nodes (that have memory of their own). All of it is read from the files
// that the kernel keeps, below a root that tests replace by a tree of their own. What may surprise:
// a file that is absent is no error, it leaves the plainest answer (each CPU a core, all one node).
#pragma once
#include <vector>

namespace ring {

struct Seat {
  int cpu;   // the kernel's number
  int core;  // number of the first CPU of its physical core
  int node;  // the kernel's number of the memory node, 0 where there are none
};

struct Topology {
  std::vector<Seat> seats;  // one for each CPU that is online and allowed; never empty
  double quota = 0;         // CPUs' worth of time granted by control groups, 0: no limit

  int cores() const;
  int nodes() const;
  // A seat for each of `threads`: one for each core before a second on any, spread evenly over
  // nodes, and in order of nodes, so that threads with near numbers are near. More threads than
  // CPUs sit on each other's laps.
  std::vector<Seat> assign(int threads) const;
};

Topology read_topology(const char* root = "/");

// How many threads are worth starting: physical cores that may be used, or fewer where a control
// group grants less time than that. A part of a CPU counts as one: a thread less would waste it.
int usable_cores(const char* root = "/");

}  // namespace ring
