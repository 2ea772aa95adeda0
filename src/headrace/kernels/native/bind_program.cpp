// Programs and adapters. Arrays are checked for type and shape here, for their values in batch.cpp.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "adapter.h"
#include "attention_plan.h"
#include "bind_sampling.h"
#include "bind_types.h"
#include "program.h"

namespace headrace {
namespace {

using RawBufferTuple = std::tuple<int64_t, int64_t, int64_t>;
using RawOpTuple = std::tuple<int64_t, std::vector<int64_t>, std::vector<double>>;

using AdapterPartTuple = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, double, AnyArray>;
using AdaptedMatrixTuple = std::tuple<int64_t, const Matrix*, std::vector<AdapterPartTuple>>;

class PythonAdapter;

// The adapters of a step's sequences, held even if the list changes during the call.
struct StepAdapters {
  std::vector<nb::object> keep;
  std::vector<const Adapter*> adapters;
};

// The program, and the objects whose memory it looks into.
class PythonProgram {
 public:
  PythonProgram(const std::vector<RawBufferTuple>& buffers, const std::vector<RawOpTuple>& ops,
                const std::vector<const Matrix*>& matrices, const std::vector<AnyArray>& vectors,
                const std::tuple<int64_t, int64_t, int64_t>& cache, int64_t vocab_size, int64_t max_positions,
                int64_t output, const std::string& variant)
      : keep_vectors_(vectors),
        program_(
            decode(buffers, ops, matrices, vectors,
                   {std::get<0>(cache), std::get<1>(cache), std::get<2>(cache), vocab_size, max_positions, output}),
            named_kernels(variant)) {
    for (const Matrix* matrix : matrices) keep_tiles_.push_back(matrix->keep);
  }

  std::optional<SampledArrays> step(Threads& threads, const AnyMutableArray& pool, const AnyArray& tokens,
                                    const AnyArray& starts, const AnyArray& contexts, const AnyArray& page_tables,
                                    const AnyArray& selected, const std::optional<AnyMutableArray>& output,
                                    const std::optional<nb::dict>& sampling,
                                    const std::optional<nb::sequence>& adapters,
                                    const std::optional<AnyArray>& segments) {
    Batch batch = batch_of(pool, tokens, starts, contexts, page_tables, selected);
    if (segments.has_value()) {
      const auto segment_view = view<const int32_t, 1>(*segments, "segments");
      expect(segment_view.shape[0] == batch.num_tokens,
             "segments: must have one entry per token, " + std::to_string(batch.num_tokens));
      batch.segments = segment_view.data;
    }
    StepAdapters held;
    if (adapters.has_value()) {
      held = adapters_of(*adapters, batch.num_sequences);
      batch.adapters = held.adapters.data();
    }
    const int64_t num_rows = batch.num_selected;
    StepResults results;
    if (output.has_value()) {
      const auto out = view<float, 2>(*output, "output");
      const int32_t width = program_.plan().buffers[program_.plan().output].width;
      expect(out.shape[0] == num_rows && out.shape[1] == width,
             "output: must be [" + std::to_string(num_rows) + ", " + std::to_string(width) + "]");
      results.output = out.data;
    }
    std::optional<SamplingArrays> parameters;
    std::optional<SampledRoom> room;
    if (sampling.has_value()) {
      parameters.emplace(*sampling, num_rows, program_.plan().vocab_size);
      room.emplace(num_rows, parameters->most_top());
      results.sampling = &parameters->parameters();
      results.sampled = room->view();
    }
    {
      const nb::gil_scoped_release released;
      program_.step(threads, batch, results);
    }
    if (!sampling.has_value()) return std::nullopt;
    return room->arrays();
  }

  const Plan& plan() const { return program_.plan(); }
  // What an adapter of this program keeps, so that none of another one is taken for it.
  const std::shared_ptr<const int>& identity() const { return identity_; }

  void limit_survivors(int32_t most) {
    expect(most >= 0, "most: must not be negative");
    program_.sampler().limit_survivors(most);
  }

  int64_t num_second_scans() { return program_.sampler().num_second_scans(); }

  int64_t num_experts_touched() const { return program_.num_experts_touched(); }

  void profile(bool is_on) { program_.profile(is_on); }

  std::vector<std::tuple<size_t, size_t, double>> stage_times() const {
    std::vector<std::tuple<size_t, size_t, double>> times;
    for (const Program::StageTime& time : program_.stage_times()) times.push_back({time.begin, time.end, time.seconds});
    return times;
  }

 private:
  static Plan decode(const std::vector<RawBufferTuple>& buffers, const std::vector<RawOpTuple>& ops,
                     const std::vector<const Matrix*>& matrices, const std::vector<AnyArray>& vectors,
                     const PlanFacts& facts) {
    std::vector<RawBuffer> raw_buffers;
    for (const auto& [kind, width, rows] : buffers) raw_buffers.push_back({kind, width, rows});
    std::vector<RawOp> raw_ops;
    for (const auto& [kind, ints, floats] : ops) raw_ops.push_back({kind, ints, floats});
    std::vector<WeightMatrix> weight_matrices;
    for (const Matrix* matrix : matrices) {
      expect(matrix != nullptr, "matrices: None is not a matrix");
      weight_matrices.push_back({matrix->view, matrix->cols});
    }
    std::vector<WeightVector> weight_vectors;
    for (size_t i = 0; i < vectors.size(); ++i) weight_vectors.push_back(flat(vectors[i], i));
    return make_plan(raw_buffers, raw_ops, std::move(weight_matrices), std::move(weight_vectors), facts);
  }

  // Vectors may have any number of dimensions: the plan knows how many values it needs.
  static WeightVector flat(const AnyArray& array, size_t index) {
    const std::string name = "vectors[" + std::to_string(index) + "]";
    expect(array.dtype() == nb::dtype<float>(), name + ": must be float32");
    int64_t expected = 1;
    for (size_t i = array.ndim(); i-- > 0;) {
      expect(array.shape(i) <= 1 || array.stride(i) == expected, name + ": is not C-contiguous");
      expected *= static_cast<int64_t>(array.shape(i));
    }
    return {static_cast<const float*>(array.data()), expected};
  }

  StepAdapters adapters_of(const nb::sequence& adapters, int32_t num_sequences) const;

  struct Pool {
    uint8_t* data;
    KvKind kind;
    int64_t num_pages;
  };

  // The element type says which kind of pool it is, the shape must be that of this plan's pages.
  static Pool pool_of(const AnyMutableArray& pool, const CacheShape& cache) {
    const std::string planes = std::to_string(cache.num_layers) + ", " + std::to_string(cache.num_kv_heads) + ", ";
    if (pool.dtype() == nb::dtype<uint8_t>()) {
      expect(cache.head_dim % kGroup == 0, "pool: 8-bit keys and values need a head_dim that is a multiple of " +
                                               std::to_string(kGroup) + ", not " + std::to_string(cache.head_dim));
      const auto pages = view<uint8_t, 4>(pool, "pool");
      const int64_t plane = kv_plane_bytes(KvKind::kInt8, cache.head_dim);
      expect(pages.shape[1] == cache.num_layers && pages.shape[2] == cache.num_kv_heads && pages.shape[3] == plane,
             "pool: must be [pages, " + planes + std::to_string(plane) + "] in uint8");
      return {pages.data, KvKind::kInt8, pages.shape[0]};
    }
    const auto pages = view<uint16_t, 5>(pool, "pool");
    const int64_t half_plane = static_cast<int64_t>(cache.head_dim) * kPageTokens;
    expect(pages.shape[1] == cache.num_layers && pages.shape[2] == cache.num_kv_heads && pages.shape[3] == 2 &&
               pages.shape[4] == half_plane,
           "pool: must be [pages, " + planes + "2, " + std::to_string(half_plane) + "] in uint16");
    return {reinterpret_cast<uint8_t*>(pages.data), KvKind::kHalf, pages.shape[0]};
  }

  Batch batch_of(const AnyMutableArray& pool, const AnyArray& tokens, const AnyArray& starts, const AnyArray& contexts,
                 const AnyArray& page_tables, const AnyArray& selected) const {
    const CacheShape& cache = program_.plan().cache;
    const auto token_view = view<const int32_t, 1>(tokens, "tokens");
    const auto start_view = view<const int32_t, 1>(starts, "starts");
    const auto context_view = view<const int32_t, 1>(contexts, "contexts");
    const auto table_view = view<const int32_t, 2>(page_tables, "page_tables");
    const auto selected_view = view<const int32_t, 1>(selected, "selected");
    const Pool pages = pool_of(pool, cache);
    expect(start_view.shape[0] >= 1, "starts: must have one entry more than there are sequences");
    const int64_t num_sequences = start_view.shape[0] - 1;
    expect(context_view.shape[0] == num_sequences,
           "contexts: must have one entry per sequence, " + std::to_string(num_sequences));
    expect(table_view.shape[0] == num_sequences,
           "page_tables: must have one row per sequence, " + std::to_string(num_sequences));
    return {.pool = pages.data,
            .kv_kind = pages.kind,
            .num_pages = pages.num_pages,
            .tokens = token_view.data,
            .num_tokens = count_of(token_view.shape[0], "tokens"),
            .starts = start_view.data,
            .contexts = context_view.data,
            .num_sequences = count_of(num_sequences, "starts"),
            .page_tables = table_view.data,
            .table_width = table_view.shape[1],
            .selected = selected_view.data,
            .num_selected = count_of(selected_view.shape[0], "selected")};
  }

  std::vector<AnyArray> keep_vectors_;
  std::vector<AnyArray> keep_tiles_;
  Program program_;
  std::shared_ptr<const int> identity_ = std::make_shared<const int>(0);
};

// An adapter, the program it was checked against, and the arrays it looks into.
class PythonAdapter {
 public:
  PythonAdapter(const PythonProgram& program, const std::vector<AdaptedMatrixTuple>& matrices)
      : identity_(program.identity()), adapter_(program.plan(), decode(matrices)) {}

  bool belongs_to(const PythonProgram& program) const { return identity_ == program.identity(); }
  const Adapter& adapter() const { return adapter_; }

 private:
  std::vector<AdaptedMatrix> decode(const std::vector<AdaptedMatrixTuple>& matrices) {
    std::vector<AdaptedMatrix> decoded;
    for (const auto& [index, a, parts] : matrices) {
      const std::string name = "matrices[" + std::to_string(decoded.size()) + "]: ";
      expect(index >= 0 && index <= std::numeric_limits<int32_t>::max(), name + "index is out of range");
      expect(a != nullptr, name + "A is None");
      AdaptedMatrix matrix{static_cast<int32_t>(index), a->view, a->cols, {}};
      for (const AdapterPartTuple& part : parts) matrix.parts.push_back(decode(part, name));
      keep_.push_back(a->keep);
      decoded.push_back(std::move(matrix));
    }
    return decoded;
  }

  AdapterPart decode(const AdapterPartTuple& part, const std::string& name) {
    const auto& [first_rank, rank, rows, offset, block_step, factor, blocks] = part;
    constexpr int64_t kMost = int64_t{1} << 28;
    expect(rank >= 1 && rank <= kMostRank, name + "rank " + std::to_string(rank) + " is not in [1, 256]");
    for (const int64_t value : {first_rank, rows, offset, block_step}) {
      expect(value >= 0 && value <= kMost, name + std::to_string(value) + " is not in [0, 2^28]");
    }
    const auto values = view<const uint8_t, 1>(blocks, name + "blocks");
    const int64_t block_bytes = low_rank_block_bytes(static_cast<int32_t>(rank));
    const int64_t expected = (rows + kLowRankBlock - 1) / kLowRankBlock * block_bytes;
    expect(values.shape[0] == expected, name + "blocks: " + std::to_string(values.shape[0]) + " bytes given, but " +
                                            std::to_string(rows) + " outputs of rank " + std::to_string(rank) +
                                            " take " + std::to_string(expected));
    keep_.push_back(blocks);
    return {{values.data, static_cast<int32_t>(rows), static_cast<int32_t>(rank), static_cast<int32_t>(block_bytes),
             static_cast<float>(factor)},
            static_cast<int32_t>(first_rank),
            offset,
            block_step};
  }

  std::shared_ptr<const int> identity_;
  std::vector<AnyArray> keep_;
  Adapter adapter_;
};

StepAdapters PythonProgram::adapters_of(const nb::sequence& adapters, int32_t num_sequences) const {
  StepAdapters held;
  for (nb::handle item : adapters) {
    held.keep.push_back(nb::borrow(item));
    const std::string name = "adapters[" + std::to_string(held.adapters.size()) + "]: ";
    const PythonAdapter* adapter = nullptr;
    expect(item.is_none() || nb::try_cast(item, adapter), name + "is neither an Adapter nor None");
    expect(adapter == nullptr || adapter->belongs_to(*this), name + "was made for another program");
    held.adapters.push_back(adapter == nullptr ? nullptr : &adapter->adapter());
  }
  expect(held.adapters.size() == static_cast<size_t>(num_sequences),
         "adapters: must have one entry per sequence, " + std::to_string(num_sequences));
  return held;
}

// (KV head, span_begin, span_end, [(sequence, first new token, count)]) of every part, in the order they are claimed.
using PartTuple = std::tuple<int32_t, int32_t, int32_t, std::vector<std::tuple<int32_t, int32_t, int32_t>>>;

std::vector<PartTuple> attention_parts(const AnyArray& starts, const AnyArray& contexts, const AnyArray& page_tables,
                                       std::tuple<int32_t, int32_t, int32_t> heads, int32_t mode, int32_t window,
                                       int num_threads) {
  const auto start_view = view<const int32_t, 1>(starts, "starts");
  const auto context_view = view<const int32_t, 1>(contexts, "contexts");
  const auto table_view = view<const int32_t, 2>(page_tables, "page_tables");
  const auto [num_kv_heads, heads_per_kv, head_dim] = heads;
  const int64_t num_sequences = start_view.shape[0] - 1;
  expect(num_sequences >= 0 && context_view.shape[0] == num_sequences && table_view.shape[0] == num_sequences,
         "contexts, page_tables: must have one row per sequence");
  Batch batch{};
  batch.starts = start_view.data;
  batch.contexts = context_view.data;
  batch.num_sequences = count_of(num_sequences, "starts");
  batch.num_tokens = start_view.data[num_sequences];
  batch.page_tables = table_view.data;
  batch.table_width = table_view.shape[1];
  AttentionPlan plan({num_kv_heads, heads_per_kv, head_dim, mode, window});
  plan.cut(batch, num_threads);
  std::vector<PartTuple> parts;
  for (const AttentionPart& part : plan.parts()) {
    const AttentionBlock& block = plan.blocks()[static_cast<size_t>(part.block)];
    std::vector<std::tuple<int32_t, int32_t, int32_t>> members;
    for (int32_t m = block.member_begin; m < block.member_end; ++m) {
      const AttentionMember& member = plan.members()[static_cast<size_t>(m)];
      members.emplace_back(member.sequence, member.first, member.count);
    }
    parts.emplace_back(part.kv_head, part.span_begin, part.span_end, std::move(members));
  }
  return parts;
}

}  // namespace

void bind_program(nb::module_& module) {
  nb::class_<PythonProgram>(module, "Program")
      .def(nb::init<const std::vector<RawBufferTuple>&, const std::vector<RawOpTuple>&,
                    const std::vector<const Matrix*>&, const std::vector<AnyArray>&,
                    const std::tuple<int64_t, int64_t, int64_t>&, int64_t, int64_t, int64_t, const std::string&>(),
           nb::arg("buffers"), nb::arg("ops"), nb::arg("matrices"), nb::arg("vectors"), nb::arg("cache"),
           nb::arg("vocab_size"), nb::arg("max_positions"), nb::arg("output"), nb::arg("variant") = "")
      .def("step", &PythonProgram::step, nb::arg("threads"), nb::arg("pool"), nb::arg("tokens"), nb::arg("starts"),
           nb::arg("contexts"), nb::arg("page_tables"), nb::arg("selected"), nb::arg("output") = nb::none(),
           nb::arg("sampling") = nb::none(), nb::arg("adapters") = nb::none(), nb::arg("segments") = nb::none())
      .def("limit_survivors", &PythonProgram::limit_survivors, nb::arg("most"))
      .def_prop_ro("num_second_scans", &PythonProgram::num_second_scans)
      .def_prop_ro("num_experts_touched", &PythonProgram::num_experts_touched)
      .def("profile", &PythonProgram::profile, nb::arg("is_on"))
      .def("stage_times", &PythonProgram::stage_times);
  nb::class_<PythonAdapter>(module, "Adapter")
      .def(nb::init<const PythonProgram&, const std::vector<AdaptedMatrixTuple>&>(), nb::arg("program"),
           nb::arg("matrices"));
  module.def("attention_parts", &attention_parts, nb::arg("starts"), nb::arg("contexts"), nb::arg("page_tables"),
             nb::arg("heads"), nb::arg("mode"), nb::arg("window"), nb::arg("num_threads"));
  module.def("attention_tokens_per_task", &attention_tokens_per_task, nb::arg("heads_per_kv"));
}

}  // namespace headrace
