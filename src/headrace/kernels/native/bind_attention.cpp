// Attention alone, single-threaded, for tests and benchmarks: of one sequence, or of several in tasks that carry as
// many members as fit. Serving runs programs instead (bind_program.cpp).
#include <nanobind/stl/string.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "bind_types.h"

namespace headrace {
namespace {

using FloatArray = nb::ndarray<nb::numpy, float>;

// A pool of one layer.
struct PoolView {
  PagesView pages;
  int64_t num_pages;
  int32_t kv_heads;
  int32_t head_dim;
};

PoolView checked_pool(const AnyArray& array) {
  const bool is_int8 = array.dtype() == nb::dtype<uint8_t>();
  const uint8_t* data = nullptr;
  int64_t num_pages = 0;
  int64_t num_layers = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  bool fits = false;
  if (is_int8) {
    const auto pool = view<const uint8_t, 4>(array, "pool");
    data = pool.data;
    num_pages = pool.shape[0];
    num_layers = pool.shape[1];
    kv_heads = pool.shape[2];
    head_dim = (pool.shape[3] - kv_plane_bytes(KvKind::kInt8, 0)) / (2 * kPageTokens);
    fits = kv_plane_bytes(KvKind::kInt8, head_dim) == pool.shape[3] && head_dim % kGroup == 0;
  } else {
    const auto pool = view<const uint16_t, 5>(array, "pool");
    data = reinterpret_cast<const uint8_t*>(pool.data);
    num_pages = pool.shape[0];
    num_layers = pool.shape[1];
    kv_heads = pool.shape[2];
    head_dim = pool.shape[4] / kPageTokens;
    fits = pool.shape[3] == 2 && pool.shape[4] % kPageTokens == 0;
  }
  if (!fits || num_layers != 1 || kv_heads < 1 || kv_heads > 4096 || head_dim < 1 || head_dim > kMostHeadDim) {
    throw std::invalid_argument(
        "pool: must be uint16 [pages, 1, kv_heads, 2, head_dim * 32], or uint8 [pages, 1, kv_heads, head_dim * 64 + "
        "256] with head_dim a multiple of 32");
  }
  const KvKind kind = is_int8 ? KvKind::kInt8 : KvKind::kHalf;
  const int64_t plane = kv_plane_bytes(kind, head_dim);
  return {
      .pages = {.pool = data, .page_stride = plane * kv_heads, .layer_offset = 0, .head_stride = plane, .kind = kind},
      .num_pages = num_pages,
      .kv_heads = static_cast<int32_t>(kv_heads),
      .head_dim = static_cast<int32_t>(head_dim)};
}

// What every row shares.
struct Manner {
  float scale;
  int mode;
  int window;
  float softcap;
  int spans_per_task;  // 0: no partials
};

void check_manner(const Manner& manner) {
  if (manner.mode < 0 || manner.mode > 2) throw std::invalid_argument("mode: must be 0, 1 or 2");
  if (manner.mode == 1 && manner.window < 1) throw std::invalid_argument("window: must be at least 1");
  if (manner.spans_per_task < 0) throw std::invalid_argument("spans_per_task: must not be negative");
}

// The sequences of a call, checked: nothing behind them can read outside the pool.
struct Sequences {
  ArrayView<const float, 2> q;
  const int32_t* starts;  // [count + 1]
  const int32_t* contexts;
  ArrayView<const int32_t, 2> page_tables;
  int64_t count;

  int32_t num_keys(int64_t s) const { return contexts[s] + starts[s + 1] - starts[s]; }
};

void check_sequences(const Sequences& in, const PoolView& pool) {
  if (in.q.shape[1] == 0 || in.q.shape[1] % (static_cast<int64_t>(pool.kv_heads) * pool.head_dim) != 0) {
    throw std::invalid_argument("q: its features are not a multiple of kv_heads * head_dim");
  }
  if (in.starts[0] != 0 || in.starts[in.count] != in.q.shape[0]) {
    throw std::invalid_argument("starts: must begin with 0 and end with the number of queries");
  }
  for (int64_t s = 0; s < in.count; ++s) {
    if (in.starts[s + 1] <= in.starts[s]) throw std::invalid_argument("starts: must increase");
    const int64_t num_keys = int64_t{in.contexts[s]} + in.starts[s + 1] - in.starts[s];
    if (in.contexts[s] < 0 || num_keys > std::numeric_limits<int32_t>::max() - kSpanTokens)
      throw std::invalid_argument("context: out of range");
    const int64_t num_pages = (num_keys + kPageTokens - 1) / kPageTokens;
    if (num_pages > in.page_tables.shape[1]) throw std::invalid_argument("page_table: fewer pages than the keys need");
    for (int64_t page = 0; page < num_pages; ++page) {
      const int32_t id = in.page_tables.data[s * in.page_tables.shape[1] + page];
      if (id < 0 || id >= pool.num_pages) {
        throw std::invalid_argument("page_table: entry " + std::to_string(page) + " is not a page of the pool");
      }
    }
  }
}

// Cuts the sequences into members, in order, and runs tasks of as many members as fit.
class Runner {
 public:
  Runner(const Sequences& in, const PoolView& pool, const Manner& manner, const Kernels& kernels, float* out)
      : in_(in),
        pool_(pool),
        manner_(manner),
        kernels_(attention_kernels(kernels, pool.head_dim)),
        out_(out),
        heads_per_kv_(static_cast<int32_t>(in.q.shape[1] / (static_cast<int64_t>(pool.kv_heads) * pool.head_dim))),
        most_tokens_(attention_tokens_per_task(heads_per_kv_)),
        scratch_(new float[attention_scratch_floats(most_tokens_ * heads_per_kv_, pool.head_dim)]) {}

  void run() {
    for (int64_t s = 0; s < in_.count; ++s) {
      for (int32_t first = in_.starts[s]; first < in_.starts[s + 1];) {
        const int32_t count = std::min(in_.starts[s + 1] - first, most_tokens_ - num_tokens_);
        add_member(s, first, count);
        first += count;
        if (num_tokens_ == most_tokens_) run_members();
      }
    }
    if (num_tokens_ > 0) run_members();
  }

 private:
  void add_member(int64_t s, int32_t first, int32_t count) {
    const int64_t width = in_.q.shape[1];
    members_.push_back({.page_table = in_.page_tables.data + s * in_.page_tables.shape[1],
                        .q = in_.q.data + first * width,
                        .position = in_.contexts[s] + first - in_.starts[s],
                        .num_tokens = count,
                        .num_keys = in_.num_keys(s),
                        .out = {.f32 = out_ + first * width, .stride = width, .q8 = {}}});
    num_tokens_ += count;
  }

  void run_members() {
    for (int32_t head = 0; head < pool_.kv_heads; ++head) {
      if (manner_.spans_per_task == 0) {
        kernels_.attention(task(head, 0, 0, nullptr));
      } else {
        run_spans(head);
      }
    }
    members_.clear();
    num_tokens_ = 0;
  }

  void run_spans(int32_t head) {
    int32_t most_keys = 0;
    for (const AttentionRows& member : members_) most_keys = std::max(most_keys, member.num_keys);
    const int32_t num_spans = (most_keys + kSpanTokens - 1) / kSpanTokens;
    const size_t span_floats = attention_partial_floats(num_tokens_ * heads_per_kv_, pool_.head_dim);
    std::vector<float> partials(static_cast<size_t>(num_spans) * span_floats);
    for (int32_t span = 0; span < num_spans; span += manner_.spans_per_task) {
      const int32_t end = std::min(span + manner_.spans_per_task, num_spans);
      kernels_.attention(task(head, span, end, partials.data() + static_cast<size_t>(span) * span_floats));
    }
    kernels_.merge_attention({.members = members_.data(),
                              .num_members = static_cast<int32_t>(members_.size()),
                              .kv_head = head,
                              .heads_per_kv = heads_per_kv_,
                              .head_dim = pool_.head_dim,
                              .partials = partials.data(),
                              .num_spans = num_spans,
                              .scratch = scratch_.get()});
  }

  AttentionTask task(int32_t head, int32_t span_begin, int32_t span_end, float* partials) const {
    return {.pages = pool_.pages,
            .members = members_.data(),
            .num_members = static_cast<int32_t>(members_.size()),
            .q_stride = in_.q.shape[1],
            .kv_head = head,
            .heads_per_kv = heads_per_kv_,
            .head_dim = pool_.head_dim,
            .mode = manner_.mode,
            .window = manner_.window,
            .scale = manner_.scale,
            .softcap = manner_.softcap,
            .span_begin = span_begin,
            .span_end = span_end,
            .partials = partials,
            .scratch = scratch_.get()};
  }

  const Sequences& in_;
  const PoolView& pool_;
  const Manner& manner_;
  const Kernels& kernels_;
  float* out_;
  const int32_t heads_per_kv_;
  const int32_t most_tokens_;
  std::unique_ptr<float[]> scratch_;
  std::vector<AttentionRows> members_;
  int32_t num_tokens_ = 0;
};

FloatArray run(const Sequences& in, const AnyArray& pool_array, const Manner& manner, const std::string& variant) {
  const PoolView pool = checked_pool(pool_array);
  check_manner(manner);
  check_sequences(in, pool);
  const Kernels& kernels = named_kernels(variant);
  std::unique_ptr<float[]> out(new float[static_cast<size_t>(in.q.shape[0] * in.q.shape[1])]);
  {
    const nb::gil_scoped_release released;
    Runner(in, pool, manner, kernels, out.get()).run();
  }
  return to_numpy<float, 2>(std::move(out), {static_cast<size_t>(in.q.shape[0]), static_cast<size_t>(in.q.shape[1])});
}

FloatArray attention(const AnyArray& q_array, const AnyArray& pool, const AnyArray& table_array, int64_t context,
                     float scale, int mode, int window, float softcap, int spans_per_task, const std::string& variant) {
  const auto q = view<const float, 2>(q_array, "q");
  const auto table = view<const int32_t, 1>(table_array, "page_table");
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (context < 0 || context > kMost) throw std::invalid_argument("context: out of range");
  if (q.shape[0] < 1 || q.shape[0] > kMost) throw std::invalid_argument("q: must have 1 .. 2^31 - 1 rows");
  const int32_t starts[2] = {0, static_cast<int32_t>(q.shape[0])};
  const auto position = static_cast<int32_t>(context);
  const Sequences in{.q = q,
                     .starts = starts,
                     .contexts = &position,
                     .page_tables = {.data = table.data, .shape = {1, table.shape[0]}},
                     .count = 1};
  return run(in, pool, {scale, mode, window, softcap, spans_per_task}, variant);
}

FloatArray attention_batch(const AnyArray& q_array, const AnyArray& pool, const AnyArray& starts_array,
                           const AnyArray& contexts_array, const AnyArray& tables_array, float scale, int mode,
                           int window, float softcap, int spans_per_task, const std::string& variant) {
  const auto starts = view<const int32_t, 1>(starts_array, "starts");
  const auto contexts = view<const int32_t, 1>(contexts_array, "contexts");
  const Sequences in{.q = view<const float, 2>(q_array, "q"),
                     .starts = starts.data,
                     .contexts = contexts.data,
                     .page_tables = view<const int32_t, 2>(tables_array, "page_tables"),
                     .count = contexts.shape[0]};
  if (in.count < 1) throw std::invalid_argument("contexts: is empty");
  if (starts.shape[0] != in.count + 1) throw std::invalid_argument("starts: must have one entry more than contexts");
  if (in.page_tables.shape[0] != in.count) throw std::invalid_argument("page_tables: must have one row per sequence");
  return run(in, pool, {scale, mode, window, softcap, spans_per_task}, variant);
}

}  // namespace

void bind_attention(nb::module_& module) {
  module.def("attention", &attention, nb::arg("q"), nb::arg("pool"), nb::arg("page_table"), nb::arg("context"),
             nb::arg("scale"), nb::arg("mode") = 0, nb::arg("window") = 0, nb::arg("softcap") = 0.0F,
             nb::arg("spans_per_task") = 0, nb::arg("variant") = "");
  module.def("attention_batch", &attention_batch, nb::arg("q"), nb::arg("pool"), nb::arg("starts"), nb::arg("contexts"),
             nb::arg("page_tables"), nb::arg("scale"), nb::arg("mode") = 0, nb::arg("window") = 0,
             nb::arg("softcap") = 0.0F, nb::arg("spans_per_task") = 0, nb::arg("variant") = "");
}

}  // namespace headrace
