// The module: CPU and variants, threads, matrices. bind*.cpp and arrays.h are the only files that know Python; they
// check types and shapes, and hand on plain views.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cerrno>
#include <cstdlib>
#include <limits>
#include <map>
#include <system_error>

#ifdef __linux__
#include <unistd.h>
#endif

#include "bind_types.h"
#include "ceilings.h"
#include "cpu.h"

namespace headrace {
namespace {

// What NumPy runs instead of this module (kernels/choice.py). The module itself then takes its best variant.
constexpr std::string_view kReference = "reference";

// What HEADRACE_KERNELS asked for when the module was loaded; empty: nothing.
std::string forced_name;

const Kernels& choose_kernels(const std::string& forced) {
  const bool takes_best = forced.empty() || forced == kReference;
  const Kernels* kernels = best_kernels(takes_best ? nullptr : forced.c_str());
  if (kernels != nullptr) return *kernels;
  std::string possible;
  for (const Kernels* runnable : runnable_kernels()) possible += std::string(runnable->name) + ", ";
  throw std::invalid_argument("HEADRACE_KERNELS: '" + forced + "' cannot run here; possible are " + possible +
                              "reference; unset it to take the best");
}

// The name is checked when somebody needs kernels, so that a wrong one can be told like any wrong setting.
std::string variant() {
  const Kernels& kernels = current_kernels();
  return forced_name == kReference ? forced_name : kernels.name;
}

std::string attention_variant(int32_t head_dim) {
  return forced_name == kReference ? forced_name : attention_kernels(current_kernels(), head_dim).name;
}

std::vector<std::string> variants() {
  std::vector<std::string> names;
  for (const Kernels* kernels : runnable_kernels()) names.emplace_back(kernels->name);
  return names;
}

std::map<std::string, bool> features() {
  std::map<std::string, bool> found;
  for (const CpuFeature& feature : cpu_features()) found.emplace(feature.name, feature.is_there);
  return found;
}

#ifdef __linux__
// Keeps the GIL, unlike os.eventfd_write: whom it wakes would take it, and the caller is about to give it up anyway.
void signal_event(int event) {
  const uint64_t one = 1;
  if (write(event, &one, sizeof one) != sizeof one) throw std::system_error(errno, std::generic_category(), "event");
}
#endif

}  // namespace

const Kernels& current_kernels() {
  static const Kernels& kernels = choose_kernels(forced_name);
  return kernels;
}

Matrix::Matrix(AnyArray tiles, int64_t num_rows, int64_t num_cols, int bits, bool has_minimum)
    : keep(std::move(tiles)) {
  constexpr int64_t kLimit = int64_t{1} << 28;
  if (num_rows < 1 || num_rows > kLimit)
    throw std::invalid_argument("rows: " + std::to_string(num_rows) + " is not in [1, 2^28]");
  if (num_cols < 1 || num_cols > kLimit)
    throw std::invalid_argument("cols: " + std::to_string(num_cols) + " is not in [1, 2^28]");
  if (bits != 4 && bits != 8) throw std::invalid_argument("bits: " + std::to_string(bits) + " is neither 4 nor 8");
  const auto array = headrace::view<const uint8_t, 1>(keep, "tiles");
  const int64_t row_blocks = (num_rows + kTileRows - 1) / kTileRows;
  const int64_t groups = (num_cols + kGroup - 1) / kGroup;
  const int32_t tile_bytes = kTileRows * kGroup * bits / 8 + kTileRows * 2 * (has_minimum ? 2 : 1);
  const int64_t expected = row_blocks * groups * tile_bytes;
  if (array.shape[0] != expected) {
    throw std::invalid_argument("tiles: " + std::to_string(array.shape[0]) + " bytes given, but " +
                                std::to_string(num_rows) + " x " + std::to_string(num_cols) + " in " +
                                std::to_string(bits) + " bits takes " + std::to_string(expected));
  }
  view = {.tiles = array.data,
          .rows = static_cast<int32_t>(num_rows),
          .row_blocks = static_cast<int32_t>(row_blocks),
          .groups = static_cast<int32_t>(groups),
          .bits = bits,
          .has_minimum = has_minimum,
          .tile_bytes = tile_bytes};
  cols = static_cast<int32_t>(num_cols);
}

}  // namespace headrace

NB_MODULE(native, module) {
  using namespace headrace;
  if (const char* forced = std::getenv("HEADRACE_KERNELS"); forced != nullptr) forced_name = forced;
  module.def("cpu_features", &features);
  module.def("variants", &variants);
  module.def("variant", &variant);
  module.def("attention_variant", &attention_variant, nb::arg("head_dim"));
  nb::class_<Threads>(module, "Threads")
      .def(nb::init<int, int, std::vector<int>>(), nb::arg("count"), nb::arg("spin_us") = 1000,
           nb::arg("cpus") = std::vector<int>())
      .def_prop_ro("count", &Threads::count)
      .def("pin_caller", &Threads::pin_caller)
      .def("close", &Threads::close, nb::call_guard<nb::gil_scoped_release>());
  nb::class_<Matrix>(module, "Matrix")
      .def(nb::init<AnyArray, int64_t, int64_t, int, bool>(), nb::arg("tiles"), nb::arg("rows"), nb::arg("cols"),
           nb::arg("bits"), nb::arg("has_minimum"));
  module.def("read_bandwidth", &read_bandwidth, nb::arg("threads"), nb::arg("megabytes") = 256,
             nb::call_guard<nb::gil_scoped_release>());
#ifdef __linux__
  module.def("signal_event", &signal_event, nb::arg("event"));
#endif
  bind_kernels(module);
  bind_attention(module);
  bind_sampling(module);
  bind_program(module);
}
