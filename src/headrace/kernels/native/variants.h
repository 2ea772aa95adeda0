// What the kernel variants share among themselves and hide from the executor. Knows no instruction set: code that is
// compiled per variant lives in that variant's file, so that no linker can mix them up.
#pragma once

#include "kernels.h"

namespace headrace {

// Tables of the variants, null when the compiler could not build them; nobody has asked the CPU yet.
const Kernels* avx2_variant();
const Kernels* amx_variant();
const Kernels* avx512_variant();
const Kernels* neon_variant();

// Query rows (tokens x heads of one KV head) of one attention task: their state stays in a second-level cache.
inline constexpr int kAttentionRows = 64;

// Below this largest magnitude a group is stored as zeros: 127 / amax would overflow.
inline constexpr float kSmallestMagnitude = 0x1p-118f;

// Makes the compiler forget what it knows of a register, so that a loop over constants is not computed beforehand.
#define HEADRACE_OPAQUE(constraint, value) __asm__ volatile("" : constraint(value))

// Values whose scales are all below this count as zero in attention over int8 pages: 32767 / scale would overflow.
inline constexpr float kSmallestScale = 0x1p-100f;

// Fixed-point one of the weights of int8 values.
inline constexpr float kWeightOne = 32767.0f;

// Unrolls the loop that follows. GCC 12 copies the accumulators of integer dot products once per iteration, which costs
// more than the products of a short one.
#if defined(__GNUC__) && !defined(__clang__)
#define HEADRACE_PRAGMA(text) _Pragma(#text)
#define HEADRACE_UNROLL(count) HEADRACE_PRAGMA(GCC unroll count)
#else
#define HEADRACE_UNROLL(count)
#endif

// Makes the Walsh-Hadamard matrix of a group orthonormal: 1 / sqrt(32).
inline constexpr float kRotationNorm = 0.17677669529663687f;

// What fp16 numbers are clamped to.
inline constexpr float kLargestHalf = 65504.0f;

}  // namespace headrace
