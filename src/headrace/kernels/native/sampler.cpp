// The sampler; its rules are told in sampler.h. Rows are scanned in blocks of 64 whose maxima are computed once: cuts
// and draws then look only into blocks that can matter.
#include "sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace headrace {
namespace {

constexpr int32_t kBlock = 64;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargestNoise = 16.64f;  // -log(-log(1 - 2^-24)) = 16.6355...
constexpr uint32_t kCounterTag = 0x48656164;

// Probability mass is gathered in bins of z; what lies below the last bin only counts towards the total.
constexpr int32_t kBins = 1024;
constexpr float kBinsPerUnit = 64.0f;
// exp(-40) of the largest, times any vocabulary, is below the rounding of a double's sum of floats.
constexpr float kNegligible = -40.0f;

float exp_negative(float x) {
  // exp for x <= 0 as a fixed polynomial: the same bits from every compiler and library; error below 2 ulp.
  x = x > -87.0f ? x : -87.0f;           // NaN too
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.3981999e-3f;
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665796e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 5.0000001e-1f;
  const float value = p * (r * r) + r + 1.0f;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) + 127u) << 23;
  return value * std::bit_cast<float>(exponent);
}

// Largest of a block; NaN never wins.
float largest(const float* values, int32_t count) {
  float lanes[16];
  std::fill_n(lanes, 16, -kInfinity);
  int32_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int lane = 0; lane < 16; ++lane) lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
  }
  float result = -kInfinity;
  for (; i < count; ++i) result = values[i] > result ? values[i] : result;
  for (const float lane : lanes) result = lane > result ? lane : result;
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

struct Draw {
  uint64_t seed;
  uint32_t choice, position;
};

// Ten rounds over `kCount` counters at once, written so that a compiler can use vectors.
template <int kCount>
void philox_rounds(const Draw& draw, uint32_t first_counter, uint32_t out[4][kCount]) {
  uint32_t c0[kCount], c1[kCount], c2[kCount], c3[kCount];
  for (int i = 0; i < kCount; ++i) {
    c0[i] = first_counter + static_cast<uint32_t>(i);
    c1[i] = draw.position;
    c2[i] = draw.choice;
    c3[i] = kCounterTag;
  }
  auto k0 = static_cast<uint32_t>(draw.seed);
  auto k1 = static_cast<uint32_t>(draw.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kCount; ++i) {
      const uint64_t a = uint64_t{0xD2511F53u} * c0[i];
      const uint64_t b = uint64_t{0xCD9E8D57u} * c2[i];
      c0[i] = static_cast<uint32_t>(b >> 32) ^ c1[i] ^ k0;
      c1[i] = static_cast<uint32_t>(b);
      c2[i] = static_cast<uint32_t>(a >> 32) ^ c3[i] ^ k1;
      c3[i] = static_cast<uint32_t>(a);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kCount; ++i) {
    out[0][i] = c0[i];
    out[1][i] = c1[i];
    out[2][i] = c2[i];
    out[3][i] = c3[i];
  }
}

}  // namespace

std::array<uint32_t, 4> philox(uint64_t seed, uint32_t choice, uint32_t position, uint32_t first_token) {
  uint32_t words[4][1];
  philox_rounds<1>({seed, choice, position}, first_token / 4, words);
  return {words[0][0], words[1][0], words[2][0], words[3][0]};
}

float gumbel_of(uint32_t word) {
  const double u = (static_cast<double>(word >> 9) + 0.5) * 0x1p-23;
  return static_cast<float>(-std::log(-std::log(u)));
}

float gumbel_noise(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token) {
  return gumbel_of(philox(seed, choice, position, token / 4 * 4)[token % 4]);
}

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
      float weights[kBlock];
      weigh(b, weights);
      for (const float weight : weights) total += weight;
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

  // exp(z) of a block's tokens, zero beyond the row's end.
  void weigh(int32_t block, float weights[kBlock]) const {
    const float* logits = logits_ + static_cast<int64_t>(block) * kBlock;
    const int32_t count = block_size(block);
    if (count == kBlock) {
      for (int32_t i = 0; i < kBlock; ++i) weights[i] = exp_negative(z_of(logits[i]));
      return;
    }
    for (int32_t i = 0; i < kBlock; ++i) weights[i] = i < count ? exp_negative(z_of(logits[i])) : 0.0f;
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

  // Calls `visit(index, z, weight)` for every token that the cut keeps and whose weight is not negligible.
  template <typename Visit>
  void visit_kept(Visit visit) const {
    for (int32_t b = 0; b < num_blocks_; ++b) {
      if (scratch_.block_max[b] < cut_.logit || z_of(scratch_.block_max[b]) < kNegligible) continue;
      float weights[kBlock];
      weigh(b, weights);
      for (int32_t i = 0; i < block_size(b); ++i) {
        const int32_t index = b * kBlock + i;
        if (cut_.keeps(logits_[index], index)) visit(index, z_of(logits_[index]), weights[i]);
      }
    }
  }

  void cut_top_p(float top_p) {
    auto& mass = scratch_.mass;
    mass.assign(kBins + 1, 0.0);
    visit_kept([&mass](int32_t, float z, float weight) { mass[bin_of(z)] += weight; });
    double total = 0.0;
    for (const double bin : mass) total += bin;
    const double goal = static_cast<double>(top_p) * total;
    double reached = 0.0;
    int32_t bin = 0;
    while (bin < kBins && reached + mass[bin] < goal) reached += mass[bin++];
    // The bin in which the goal is reached is put in order; the last one, of everything below, may be long.
    auto& order = scratch_.order;
    order.clear();
    visit_kept([&order, bin](int32_t index, float z, float) {
      if (bin_of(z) == bin) order.push_back(index);
    });
    std::sort(order.begin(), order.end(), [this](int32_t a, int32_t b) { return comes_first(a, b); });
    for (const int32_t index : order) {
      reached += exp_negative(z_of(logits_[index]));
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
  int32_t draw(const Draw& key) {
    best_ = -kInfinity;
    best_index_ = -1;
    const int32_t first = first_best_block();
    draw_block(key, first);
    for (int32_t b = 0; b < num_blocks_; ++b) {
      if (b != first) draw_block(key, b);
    }
    return best_index_;
  }

  bool is_live(float logit, float z, int32_t index) const {
    return z + kLargestNoise >= best_ && z >= lowest_z_ && cut_.keeps(logit, index);
  }

  void draw_block(const Draw& key, int32_t block) {
    const float block_max = scratch_.block_max[block];
    const float block_z = z_of(block_max);
    if (block_max < cut_.logit || !(block_z + kLargestNoise >= best_) || block_z < lowest_z_) return;
    const uint32_t lowest_word = lowest_useful(block_z);
    const int32_t begin = block * kBlock;
    const int32_t end = begin + block_size(block);
    uint64_t live = 0;
    for (int32_t i = begin; i < end; ++i) {
      live |= static_cast<uint64_t>(is_live(logits_[i], z_of(logits_[i]), i)) << (i - begin);
    }
    // Many live tokens: draw for the whole block at once; few: only for their fours.
    constexpr int kMany = 16;
    constexpr int kFours = kBlock / 4;
    uint32_t words[4][kFours];
    const bool is_dense = std::popcount(live) > kMany;
    if (is_dense) philox_rounds<kFours>(key, static_cast<uint32_t>(begin) / 4, words);
    for (; live != 0; live &= live - 1) {
      const int32_t offset = std::countr_zero(live);
      const auto token = static_cast<uint32_t>(begin + offset);
      const uint32_t word = is_dense ? words[offset % 4][offset / 4]
                                     : philox(key.seed, key.choice, key.position, token / 4 * 4)[token % 4];
      if (word >> 9 >= lowest_word) consider(begin + offset, word);
    }
  }

  // The smallest word >> 9 whose noise could lift a token of this block above the best; rounded towards drawing.
  uint32_t lowest_useful(float block_z) const {
    if (best_ == -kInfinity) return 0;
    const double slack = 1e-3 + 1e-6 * (std::fabs(best_) + std::fabs(block_z));
    const double u = std::exp(-std::exp(-(static_cast<double>(best_) - block_z - slack)));
    const double word = std::floor(u * 0x1p23 - 0.5) - 1.0;
    return word > 0.0 ? static_cast<uint32_t>(word) : 0;
  }

  void consider(int32_t index, uint32_t word) {
    const float value = z_of(logits_[index]) + gumbel_of(word);
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
