// See library.h.
#include "library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstring>

namespace ring {
namespace {

// What the loader says begins with the path as well.
const char* without_path(const char* said, const std::string& path) {
  if (said == nullptr) return "nobody says why";
  const std::string begin = path + ": ";
  return strncmp(said, begin.c_str(), begin.size()) == 0 ? said + begin.size() : said;
}

}  // namespace

Status open_library(const std::string& path, const Backend** backend, BackendProbe* probe) {
  // A name without a folder would be looked for where the system keeps its own.
  if (path.find('/') == std::string::npos || access(path.c_str(), F_OK) != 0)
    return failure(Code::bad_argument, "%s: there is no such file", path.c_str());
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    return failure(Code::bad_argument, "%s cannot be opened: %s", path.c_str(),
                   without_path(dlerror(), path));
  const auto table = reinterpret_cast<BackendTable>(dlsym(library, kBackendSymbol));
  const auto ask = reinterpret_cast<ProbeBackend>(dlsym(library, kProbeSymbol));
  if (table == nullptr || ask == nullptr)
    return failure(Code::bad_argument, "%s holds no compute backend", path.c_str());
  // Before anything else of it is believed.
  const Backend* found = table();
  if (found == nullptr || found->version != kBackendVersion)
    return failure(Code::bad_argument, "%s is of version %u, this program of %u; build again",
                   path.c_str(), found == nullptr ? 0 : found->version, kBackendVersion);
  *probe = {};
  const int32_t answer = ask(probe);
  probe->name[sizeof probe->name - 1] = probe->driver[sizeof probe->driver - 1] = 0;
  probe->reason[sizeof probe->reason - 1] = 0;
  if (answer != 0)
    return failure(
        Code::bad_argument, "%s",
        probe->reason[0] != 0 ? probe->reason : "it cannot be used and does not say why");
  *backend = found;
  return {};
}

}  // namespace ring
