// Attention in plain C++, one row at a time: the portable variant's, and the one for head sizes that no vector variant
// takes. The one to read first. Knows no threads and no plan.
#pragma once

#include "kernels.h"

namespace headrace {

void plain_attention(const AttentionTask& task);
void plain_merge_attention(const AttentionMergeTask& task);
int32_t plain_quantize_head(const float* x, int32_t count, int8_t* codes, float* scale);

// One group of 32 features of one token to where `out` says: as floats, or quantised.
void plain_store_group(const Output& out, int64_t token, int64_t feature, const float* values);

}  // namespace headrace
