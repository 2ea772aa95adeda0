// What the machine allows a pool's threads: reading memory, which bounds decoding, and multiplying, which bounds
// prompts. Knows no model.
#pragma once

#include "kernels.h"
#include "threads.h"

namespace headrace {

// Bytes per second over the best of a few passes. Throws std::invalid_argument on a size out of range.
double read_bandwidth(Threads& threads, int megabytes);

// Integer operations per second (a multiply-add is two) of a variant's dot products on registers, best of a few passes.
double multiply_rate(Threads& threads, const Kernels& kernels);

}  // namespace headrace
