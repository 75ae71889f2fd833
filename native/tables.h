// How the layout's tensor tables become a Model: every row is checked, and whoever opens the device
// says where the bytes of an extent lie. Called once to list what is wanted (nothing lies anywhere
// yet) and once more to build.
#pragma once
#include <functional>

#include "device.h"

namespace ring {

enum class BytesOf { weight, scale, expert };

// The bytes of an extent, or null where they are in no memory (yet): values are then not looked at.
using FindBytes = std::function<const uint8_t*(BytesOf kind, const Extent& extent)>;

// Experts are asked for in order: [MoE layer][expert][matrix].
Status build_model(const Layout& layout, const FindBytes& find, Model& model);

}  // namespace ring
