// How fast memory can be read with a pool's threads, which bounds decoding. Knows no model.
#pragma once

#include "threads.h"

namespace headrace {

// Bytes per second over the best of a few passes. Throws std::invalid_argument on a size out of range.
double read_bandwidth(Threads& threads, int megabytes);

}  // namespace headrace
