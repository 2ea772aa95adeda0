// The query rows of one attention task: where they stand, the memory they work in, and which of them share which pages.
// Knows no arithmetic and no storage format. Internal linkage for the reason given in vector_math.h.
#pragma once

#include "kernels.h"
#include "variants.h"

namespace headrace {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();
constexpr float kLog2E = 1.44269504f;

// Keys begin .. end - 1 of a sequence.
struct KeyRange {
  int32_t begin;
  int32_t end;
};

// One token: heads_per_kv rows.
struct QueryPlace {
  const int32_t* page_table;
  int32_t key_begin, key_end;    // keys it sees
  int32_t page_begin, page_end;  // pages of the current span that hold some of them
  int32_t member, token;         // token of that member
};
static_assert(sizeof(QueryPlace) == 8 * sizeof(float), "attention_scratch_floats counts on it");

// The state of all query rows of one task, carved out of the caller's scratch. `width` is head_dim padded to 32.
struct QueryRows {
  int32_t count;
  int32_t width;
  int32_t heads;         // rows per token
  int32_t num_places;    // tokens
  QueryPlace* places;    // [num_places]
  float* q;              // [count][width], times scale; for int8 pages codes in the form of V::store_query
  float* scores;         // [count][kSpanTokens] of the current span, then probabilities
  float* sum;            // [count][width], weighted values of the current span
  float* maximum;        // [count], largest score in the span
  float* total;          // [count], sum of the span's probabilities relative to `maximum`
  float* whole;          // [count][width], of the spans before
  float* whole_maximum;  // [count]
  float* whole_total;    // [count]
  int32_t* starts;       // [count], int8 pages: minus what keys stored as code + 128 add too much to a score
  float* factors;        // [count], int8 pages: what integer scores are multiplied by
  float* value_factors;  // [count], int8 pages: what integer sums of values are multiplied by
  float* keys;           // [head_dim][32], one page widened
  float* values;         // [32][width]
};

inline float* take(float*& scratch, int64_t floats) {
  float* begin = scratch;
  scratch += (floats + 15) / 16 * 16;
  return begin;
}

inline KeyRange visible_keys(const AttentionTask& task, const AttentionRows& member, int32_t token) {
  if (task.mode == 2) return {0, member.num_keys};
  const int32_t end = member.position + token + 1;
  return {task.mode == 1 && end > task.window ? end - task.window : 0, end};
}

inline QueryRows lay_out(const AttentionTask& task) {
  float* scratch = task.scratch + (-(reinterpret_cast<uintptr_t>(task.scratch) / sizeof(float)) & 15u);
  QueryRows rows{};
  rows.width = (task.head_dim + kGroup - 1) / kGroup * kGroup;
  rows.heads = task.heads_per_kv;
  rows.places = reinterpret_cast<QueryPlace*>(scratch);
  for (int32_t m = 0; m < task.num_members; ++m) {
    for (int32_t token = 0; token < task.members[m].num_tokens; ++token) {
      const KeyRange keys = visible_keys(task, task.members[m], token);
      rows.places[rows.num_places++] = {task.members[m].page_table, keys.begin, keys.end, 0, 0, m, token};
    }
  }
  take(scratch, static_cast<int64_t>(rows.num_places) * static_cast<int64_t>(sizeof(QueryPlace) / sizeof(float)));
  rows.count = rows.num_places * task.heads_per_kv;
  const int64_t square = static_cast<int64_t>(rows.count) * rows.width;
  rows.q = take(scratch, square);
  rows.sum = take(scratch, square);
  rows.whole = take(scratch, square);
  rows.scores = take(scratch, static_cast<int64_t>(rows.count) * kSpanTokens);
  rows.maximum = take(scratch, rows.count);
  rows.total = take(scratch, rows.count);
  rows.whole_maximum = take(scratch, rows.count);
  rows.whole_total = take(scratch, rows.count);
  rows.starts = reinterpret_cast<int32_t*>(take(scratch, rows.count));
  rows.factors = take(scratch, rows.count);
  rows.value_factors = take(scratch, rows.count);
  rows.keys = take(scratch, static_cast<int64_t>(task.head_dim) * kPageTokens);
  rows.values = take(scratch, static_cast<int64_t>(rows.width) * kPageTokens);
  return rows;
}

inline const float* query_of(const AttentionTask& task, const QueryRows& rows, int32_t row) {
  const QueryPlace& place = rows.places[row / rows.heads];
  const AttentionRows& member = task.members[place.member];
  const int64_t head = task.kv_head * task.heads_per_kv + row % rows.heads;
  return member.q + place.token * task.q_stride + head * task.head_dim;
}

// From the first key that any row sees to the last.
inline KeyRange all_keys(const QueryRows& rows) {
  KeyRange all{rows.places[0].key_begin, rows.places[0].key_end};
  for (int32_t i = 1; i < rows.num_places; ++i) {
    if (rows.places[i].key_begin < all.begin) all.begin = rows.places[i].key_begin;
    if (rows.places[i].key_end > all.end) all.end = rows.places[i].key_end;
  }
  return all;
}

// Notes which pages of the span every token sees; an empty range if none.
inline void enter_span(const QueryRows& rows, int32_t span) {
  for (int32_t i = 0; i < rows.num_places; ++i) {
    QueryPlace& place = rows.places[i];
    const int32_t begin = place.key_begin > span ? place.key_begin : span;
    const int32_t end = place.key_end < span + kSpanTokens ? place.key_end : span + kSpanTokens;
    const bool is_empty = begin >= end;
    place.page_begin = is_empty ? 0 : begin / kPageTokens;
    place.page_end = is_empty ? 0 : (end + kPageTokens - 1) / kPageTokens;
  }
}

// Neighbouring rows that share some neighbouring pages of a span: page_table[page_begin .. page_end - 1] is the same
// for all of them, and all of them see something of each page.
struct Run {
  int32_t row_begin, row_end;
  int32_t page_begin, page_end;
  const int32_t* page_table;
};

struct PlaceRange {
  int32_t begin, end;
};

// The maximal runs of neighbouring tokens that see page index `page` and have the same page there.
inline int32_t sharing_places(const QueryRows& rows, int32_t page, PlaceRange* ranges) {
  int32_t count = 0;
  const auto sees = [&](int32_t i) { return rows.places[i].page_begin <= page && page < rows.places[i].page_end; };
  for (int32_t i = 0; i < rows.num_places;) {
    if (!sees(i)) {
      ++i;
      continue;
    }
    const int32_t begin = i;
    const int32_t id = rows.places[i].page_table[page];
    do ++i;
    while (i < rows.num_places && sees(i) && rows.places[i].page_table[page] == id);
    ranges[count++] = {begin, i};
  }
  return count;
}

// visit(run) for every maximal run of the span, pages in order for every row.
template <class Visit>
inline void for_each_run(const QueryRows& rows, int32_t span, Visit visit) {
  PlaceRange buffers[2][kAttentionRows];
  PlaceRange* open = buffers[0];
  PlaceRange* next = buffers[1];
  int32_t num_open = 0;
  int32_t first_page = span / kPageTokens;
  const auto close = [&](int32_t end_page) {
    for (int32_t i = 0; i < num_open; ++i) {
      const QueryPlace& place = rows.places[open[i].begin];
      visit(Run{open[i].begin * rows.heads, open[i].end * rows.heads, first_page, end_page, place.page_table});
    }
  };
  const int32_t end_page = (span + kSpanTokens) / kPageTokens;
  for (int32_t page = first_page; page < end_page; ++page) {
    const int32_t count = sharing_places(rows, page, next);
    bool is_same = count == num_open;
    for (int32_t i = 0; is_same && i < count; ++i)
      is_same = next[i].begin == open[i].begin && next[i].end == open[i].end;
    if (is_same) continue;
    close(page);
    PlaceRange* closed = open;
    open = next;
    next = closed;
    num_open = count;
    first_page = page;
  }
  close(end_page);
}

// Rows of one register block of integer scores: row r has its codes at q + r * width (floats, see V::store_query) and
// its scores, of one page, at scores + r * kSpanTokens.
struct CodeRows {
  const float* q;
  int64_t width;
  const int32_t* starts;
  const float* factors;
  float* scores;
};

// Neighbouring features of the values of some int8 pages.
struct ValuePages {
  const uint8_t* values;  // of page id 0
  int64_t page_stride;
  int64_t quad_stride;  // bytes between quads of tokens
  const int32_t* page_table;
  int32_t begin, end;
};

inline const uint8_t* plane_of(const AttentionTask& task, int32_t page) {
  const PagesView& pages = task.pages;
  return pages.pool + page * pages.page_stride + pages.layer_offset + task.kv_head * pages.head_stride;
}

}  // namespace
}  // namespace headrace
