// The sampler; its rules are told in sampler.h. Rows are scanned in blocks of 64 whose maxima are computed once: cuts
// and draws then look only into blocks that can matter.
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "noise.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace headrace {
namespace {

constexpr int32_t kBlock = kNoiseBlock;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Probability mass is gathered in bins of z; what lies below the last bin only counts towards the total.
constexpr int32_t kBins = 1024;
constexpr float kBinsPerUnit = 64.0f;
// exp(-40) of the largest, times any vocabulary, is below the rounding of a double's sum of floats.
constexpr float kNegligible = -40.0f;

// Four floats as the compiler's own vector type: the same results on every CPU, one operation per instruction.
using Floats = float __attribute__((vector_size(16)));
using Ints = int32_t __attribute__((vector_size(16)));
constexpr int32_t kLanes = 4;

Floats load(const float* values) {
  Floats result;
  std::memcpy(&result, values, sizeof result);
  return result;
}

void store(float* out, Floats values) { std::memcpy(out, &values, sizeof values); }

Floats splat(float value) { return Floats{value, value, value, value}; }

// `value` where it is larger than `best`, else `best`; NaN is never larger.
Floats larger(Floats value, Floats best) {
#if defined(__SSE2__)
  return _mm_max_ps(value, best);  // the same, in one instruction that compilers do not find
#else
  return value > best ? value : best;
#endif
}

// exp for x <= 0 as a fixed polynomial: the same bits from every compiler and library; error below 2 ulp; NaN gives 0.
Floats exp_negative(Floats x) {
  const Floats lowest = splat(-87.0f);
  x = x > lowest ? x : lowest;
  const Floats round = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = x * 1.44269504f + round;
  const Floats n = shifted - round;
  const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats p = splat(1.3981999e-3f);
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665796e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 5.0000001e-1f;
  const Floats value = p * (r * r) + r + 1.0f;
  Ints exponent;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  exponent = (exponent + 127) << 23;
  Floats power;
  std::memcpy(&power, &exponent, sizeof power);
  return value * power;
}

// Largest of some values; NaN never wins.
float largest(const float* values, int32_t count) {
  Floats lanes[4] = {splat(-kInfinity), splat(-kInfinity), splat(-kInfinity), splat(-kInfinity)};
  int32_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int32_t lane = 0; lane < 4; ++lane) {
      lanes[lane] = larger(load(values + i + lane * kLanes), lanes[lane]);
    }
  }
  float result = -kInfinity;
  for (; i < count; ++i) result = values[i] > result ? values[i] : result;
  const Floats rest = larger(larger(lanes[0], lanes[1]), larger(lanes[2], lanes[3]));
  for (int32_t lane = 0; lane < kLanes; ++lane) result = rest[lane] > result ? rest[lane] : result;
  return result;
}

// A place in the order (logit descending, index ascending).
struct Place {
  float logit;
  int32_t index;

  bool keeps(float other_logit, int32_t other_index) const {
    return other_logit > logit || (other_logit == logit && other_index <= index);
  }
};

}  // namespace

// One row's way from logits to a token.
class RowSampler {
 public:
  RowSampler(const float* logits, int32_t vocab_size, Sampler::Scratch& scratch)
      : logits_(logits), vocab_size_(vocab_size), num_blocks_((vocab_size + kBlock - 1) / kBlock), scratch_(scratch) {
    for (int32_t b = 0; b < num_blocks_; ++b) {
      scratch_.block_max[b] = largest(logits_ + static_cast<int64_t>(b) * kBlock, block_size(b));
    }
    largest_ = largest(scratch_.block_max.data(), num_blocks_);
  }

  bool is_usable() const { return largest_ > -kInfinity; }

  int32_t greedy() const {
    int32_t index = first_best_block() * kBlock;
    while (!(logits_[index] == largest_)) ++index;
    return index;
  }

  int32_t sample(const Sampling& sampling, int32_t row) {
    temperature_ = sampling.temperature[row];
    // An infinite logit has no softmax: the row means its first infinity.
    if (temperature_ == 0.0f || largest_ == kInfinity) return greedy();
    if (sampling.top_k[row] > 0 && sampling.top_k[row] < vocab_size_) cut_top_k(sampling.top_k[row]);
    if (sampling.top_p[row] < 1.0f) cut_top_p(sampling.top_p[row]);
    const float min_p = sampling.min_p[row];
    lowest_z_ = min_p > 0.0f ? static_cast<float>(std::log(static_cast<double>(min_p))) : -kInfinity;
    return draw({sampling.seed[row], sampling.choice[row], sampling.position[row]});
  }

  float logprob(int32_t token) {
    temperature_ = 1.0f;
    cut_ = {-kInfinity, -1};
    double total = 0.0;
    for (int32_t b = 0; b < num_blocks_; ++b) {
      if (scratch_.block_max[b] - largest_ < kNegligible) continue;
      float z[kBlock];
      load_z(b, z);
      Floats sum{};
      for (int32_t i = 0; i < kBlock; i += kLanes) sum += exp_negative(load(z + i));
      total += (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
    return static_cast<float>(static_cast<double>(logits_[token] - largest_) - std::log(total));
  }

 private:
  int32_t block_size(int32_t block) const { return std::min(kBlock, vocab_size_ - block * kBlock); }

  float z_of(float logit) const { return (logit - largest_) / temperature_; }

  int32_t first_best_block() const {
    int32_t block = 0;
    while (scratch_.block_max[block] != largest_) ++block;
    return block;
  }

  // z of a block's tokens, -infinity beyond the row's end.
  void load_z(int32_t block, float z[kBlock]) const {
    const float* logits = logits_ + static_cast<int64_t>(block) * kBlock;
    float padded[kBlock];
    const int32_t count = block_size(block);
    if (count < kBlock) {
      std::fill_n(padded, kBlock, -kInfinity);
      std::copy_n(logits, count, padded);
      logits = padded;
    }
    for (int32_t i = 0; i < kBlock; i += kLanes) store(z + i, (load(logits + i) - largest_) / temperature_);
  }

  bool comes_first(int32_t a, int32_t b) const {
    return logits_[a] > logits_[b] || (logits_[a] == logits_[b] && a < b);
  }

  // Fills `order` with the tokens whose logit is at least `bound`, NaN and -infinity left out.
  void gather(float bound) {
    scratch_.order.clear();
    for (int32_t b = 0; b < num_blocks_; ++b) {
      if (!(scratch_.block_max[b] >= bound)) continue;
      for (int32_t i = b * kBlock; i < b * kBlock + block_size(b); ++i) {
        if (logits_[i] >= bound && logits_[i] > -kInfinity) scratch_.order.push_back(i);
      }
    }
  }

  void cut_top_k(int32_t k) {
    // The k-th largest block maximum bounds the k-th largest logit from below: k blocks hold one that large.
    float bound = -kInfinity;
    if (k <= num_blocks_) {
      auto& values = scratch_.sorted_max;
      values.assign(scratch_.block_max.begin(), scratch_.block_max.begin() + num_blocks_);
      std::nth_element(values.begin(), values.begin() + (k - 1), values.end(), std::greater<>());
      bound = values[k - 1];
    }
    gather(bound);
    auto& order = scratch_.order;
    if (static_cast<size_t>(k) > order.size()) return;  // fewer than k usable tokens
    std::nth_element(order.begin(), order.begin() + (k - 1), order.end(),
                     [this](int32_t a, int32_t b) { return comes_first(a, b); });
    cut_ = {logits_[order[k - 1]], order[k - 1]};
  }

  // Probability mass of the kept tokens by bin of z.
  void gather_mass() {
    auto& mass = scratch_.mass;
    mass.assign(kBins + 1, 0.0);
    for (int32_t b = 0; b < num_blocks_; ++b) {
      if (scratch_.block_max[b] < cut_.logit || z_of(scratch_.block_max[b]) < kNegligible) continue;
      float z[kBlock];
      float weights[kBlock];
      load_z(b, z);
      for (int32_t i = 0; i < kBlock; i += kLanes) store(weights + i, exp_negative(load(z + i)));
      for (int32_t i = 0; i < block_size(b); ++i) {
        if (cut_.keeps(logits_[b * kBlock + i], b * kBlock + i)) mass[bin_of(z[i])] += weights[i];
      }
    }
  }

  // Fills `order` with the kept tokens of one bin, in order.
  void gather_bin(int32_t bin) {
    auto& order = scratch_.order;
    order.clear();
    // The bin's ends are exact: bins per unit are a power of two.
    const float highest = -static_cast<float>(bin) / kBinsPerUnit;
    const float below = bin < kBins ? -static_cast<float>(bin + 1) / kBinsPerUnit : -kInfinity;
    for (int32_t b = 0; b < num_blocks_; ++b) {
      if (scratch_.block_max[b] < cut_.logit || !(z_of(scratch_.block_max[b]) > below)) continue;
      float z[kBlock];
      load_z(b, z);
      for (int32_t i = 0; i < block_size(b); ++i) {
        if (!(z[i] <= highest && z[i] > below)) continue;
        const int32_t index = b * kBlock + i;
        if (cut_.keeps(logits_[index], index)) order.push_back(index);
      }
    }
    std::sort(order.begin(), order.end(), [this](int32_t a, int32_t b) { return comes_first(a, b); });
  }

  void cut_top_p(float top_p) {
    gather_mass();
    const auto& mass = scratch_.mass;
    double total = 0.0;
    for (const double bin : mass) total += bin;
    const double goal = static_cast<double>(top_p) * total;
    double reached = 0.0;
    int32_t bin = 0;
    while (bin < kBins && reached + mass[bin] < goal) reached += mass[bin++];
    // Only the bin in which the goal is reached is put in order; the last one, of everything below, may be long.
    gather_bin(bin);
    for (const int32_t index : scratch_.order) {
      reached += exp_negative(splat(z_of(logits_[index])))[0];
      if (reached >= goal) {
        cut_ = {logits_[index], index};
        return;
      }
    }
  }

  static int32_t bin_of(float z) {
    const float bin = -z * kBinsPerUnit;
    return bin < static_cast<float>(kBins) ? static_cast<int32_t>(bin) : kBins;
  }

  // The argmax of z + noise over the kept tokens, the block of the largest first so that most others need no draw.
  int32_t draw(const NoiseKey& key) {
    best_ = -kInfinity;
    best_index_ = -1;
    const int32_t first = first_best_block();
    draw_block(key, first);
    for (int32_t b = 0; b < num_blocks_; ++b) {
      if (b != first) draw_block(key, b);
    }
    return best_index_;
  }

  void draw_block(const NoiseKey& key, int32_t block) {
    const float block_max = scratch_.block_max[block];
    const float block_z = z_of(block_max);
    if (block_max < cut_.logit || !(block_z + kLargestNoise >= best_) || block_z < lowest_z_) return;
    const uint32_t useful = lowest_useful(block_z);
    const int32_t begin = block * kBlock;
    uint32_t words[4][kBlock / 4];
    draw_words(key, static_cast<uint32_t>(begin), words);
    for (int32_t i = 0; i < block_size(block); ++i) {
      const uint32_t word = words[i % 4][i / 4];
      if (word >> 9 >= useful) consider(begin + i, word);
    }
  }

  // The smallest word >> 9 whose noise could lift a token of this block above the best; rounded towards drawing.
  uint32_t lowest_useful(float block_z) const {
    if (best_ == -kInfinity) return 0;
    return lowest_word(best_ - block_z - (1e-3f + 1e-6f * (std::fabs(best_) + std::fabs(block_z))));
  }

  void consider(int32_t index, uint32_t word) {
    const float logit = logits_[index];
    const float z = z_of(logit);
    if (!(z + kLargestNoise >= best_ && z >= lowest_z_ && cut_.keeps(logit, index))) return;
    const float value = z + gumbel_of(word);
    if (value > best_ || (value == best_ && index < best_index_)) {
      best_ = value;
      best_index_ = index;
    }
  }

  const float* logits_;
  const int32_t vocab_size_;
  const int32_t num_blocks_;
  Sampler::Scratch& scratch_;
  float largest_ = -kInfinity;
  float temperature_ = 1.0f;
  Place cut_{-kInfinity, -1};  // the last token that is kept
  float lowest_z_ = -kInfinity;
  float best_ = -kInfinity;
  int32_t best_index_ = -1;
};

void check_sampling(const Sampling& sampling, int32_t num_rows) {
  const auto refuse = [](const char* name, int32_t row, float value, const char* range) {
    throw std::invalid_argument(std::string("sampling: ") + name + "[" + std::to_string(row) +
                                "]: " + std::to_string(value) + " is not in " + range);
  };
  for (int32_t row = 0; row < num_rows; ++row) {
    const float temperature = sampling.temperature[row];
    if (!(temperature >= 0.0f && temperature < kInfinity)) refuse("temperature", row, temperature, "[0, inf)");
    if (sampling.top_k[row] < 0) refuse("top_k", row, static_cast<float>(sampling.top_k[row]), "[0, 2^31)");
    const float top_p = sampling.top_p[row];
    if (!(top_p > 0.0f && top_p <= 1.0f)) refuse("top_p", row, top_p, "(0, 1]");
    const float min_p = sampling.min_p[row];
    if (!(min_p >= 0.0f && min_p <= 1.0f)) refuse("min_p", row, min_p, "[0, 1]");
  }
}

void Sampler::reserve(int num_threads, int32_t vocab_size) {
  if (scratch_.size() < static_cast<size_t>(num_threads)) scratch_.resize(static_cast<size_t>(num_threads));
  const auto num_blocks = static_cast<size_t>((vocab_size + kBlock - 1) / kBlock);
  for (Scratch& scratch : scratch_) {
    if (scratch.block_max.size() < num_blocks) scratch.block_max.resize(num_blocks);
    scratch.sorted_max.reserve(num_blocks);
    scratch.order.reserve(static_cast<size_t>(vocab_size));
    scratch.mass.reserve(kBins + 1);
  }
}

struct Sampler::Rows {
  std::vector<Scratch>& scratch;
  const float* logits;
  int32_t vocab_size;
  const Sampling& sampling;
  const Sampled& out;

  static void run(const void* context, int32_t row, int thread) {
    const auto& rows = *static_cast<const Rows*>(context);
    RowSampler sampler(rows.logits + static_cast<int64_t>(row) * rows.vocab_size, rows.vocab_size,
                       rows.scratch[static_cast<size_t>(thread)]);
    rows.out.tokens[row] = -1;
    rows.out.logprobs[row] = std::numeric_limits<float>::quiet_NaN();
    if (!sampler.is_usable()) return;
    const int32_t token = sampler.sample(rows.sampling, row);
    rows.out.tokens[row] = token;
    if (rows.sampling.logprobs != nullptr && rows.sampling.logprobs[row]) {
      rows.out.logprobs[row] = sampler.logprob(token);
    }
  }
};

void Sampler::run(Threads::Step& step, const float* logits, int32_t num_rows, int32_t vocab_size,
                  const Sampling& sampling, const Sampled& out) {
  const Rows rows{scratch_, logits, vocab_size, sampling, out};
  step.run(num_rows, &Rows::run, &rows);
}

}  // namespace headrace
