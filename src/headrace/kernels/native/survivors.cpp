// See survivors.h.
#include "survivors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>

#include "logit_blocks.h"

namespace headrace {
namespace {

constexpr int32_t kFirstCapacity = 1024;

// A list that top-k cuts holds so many times k, but not fewer than these.
constexpr int32_t kTopKLists = 4;
constexpr int32_t kFewestOfTopK = 128;

// The tail is found by bins of z: a quarter wide, the last one for everything below -40.
constexpr int32_t kTailBins = 160;
constexpr float kTailBinsPerUnit = 4.0f;

// The end of the top-p is found by narrower ones.
constexpr int32_t kBins = 512;
constexpr float kBinsPerUnit = 32.0f;

int32_t bin_of(float z, float bins_per_unit, int32_t num_bins) {
  const float bin = -z * bins_per_unit;
  return bin < static_cast<float>(num_bins) ? static_cast<int32_t>(bin) : num_bins;
}

// Weights are counted in integers of this unit, because sums of integers do not depend on the order of the survivors.
double unit_of(int32_t vocab_size) { return std::ldexp(1.0, 62 - std::bit_width(static_cast<uint32_t>(vocab_size))); }

bool comes_before(const Survivor& a, const Survivor& b) { return a.comes_before(b); }

// Drops tokens that at least k others beat, and not necessarily all of them; returns how many are left. By bins of the
// logit and without branches, since nothing predicts the ones of a selection.
int32_t drop_beaten(Survivor* tokens, int32_t count, int32_t k) {
  constexpr int32_t kSteps = 128;
  float low = tokens[0].logit;
  float high = low;
  for (int32_t i = 1; i < count; ++i) {
    low = std::min(low, tokens[i].logit);
    high = std::max(high, tokens[i].logit);
  }
  const float scale = static_cast<float>(kSteps) / (high - low);
  if (!(scale > 0.0f && scale < std::numeric_limits<float>::infinity())) return count;
  const auto step_of = [&](float logit) { return std::min(static_cast<int32_t>((high - logit) * scale), kSteps - 1); };
  int32_t counts[kSteps] = {};
  for (int32_t i = 0; i < count; ++i) ++counts[step_of(tokens[i].logit)];
  int32_t last = 0;
  for (int32_t reached = counts[0]; reached < k && last < kSteps - 1;) reached += counts[++last];
  int32_t kept = 0;
  for (int32_t i = 0; i < count; ++i) {
    const Survivor token = tokens[i];
    tokens[kept] = token;
    kept += step_of(token.logit) <= last ? 1 : 0;
  }
  return kept;
}

// The k largest; no fewer are there.
int32_t keep_largest(Survivor* tokens, int32_t count, int32_t k) {
  count = drop_beaten(tokens, count, k);
  if (count > k) std::nth_element(tokens, tokens + (k - 1), tokens + count, comes_before);
  return k;
}

}  // namespace

void SurvivorList::begin(const RowRules& rules, int32_t most) {
  count_ = 0;
  top_k_ = rules.top_k;
  // With top-k a short list keeps the floor high: it rises whenever the list is full.
  const int64_t wanted = top_k_ > 0 ? std::max<int64_t>(kTopKLists * int64_t{top_k_}, kFewestOfTopK) : most;
  most_ = static_cast<int32_t>(std::min<int64_t>(wanted, 1 << 28)) + kQuadTokens;
  floor_ = std::numeric_limits<float>::lowest();
  largest_lost_ = kNone;
}

bool SurvivorList::has_room() const { return count_ + kQuadTokens <= std::min(capacity_, most_); }

void SurvivorList::add(const float* logits, int32_t first_index) {
  Survivor* next = entries_.get() + count_;
  if (top_k_ > 0) {  // what is lost does not matter
    for (int32_t i = 0; i < kBlock; i += kMaskTokens) {
      for (uint32_t kept = not_below(logits + i, floor_); kept != 0; kept &= kept - 1) {
        const int32_t at = i + std::countr_zero(kept);
        *next++ = {logits[at], first_index + at};
      }
    }
    count_ = static_cast<int32_t>(next - entries_.get());
    return;
  }
  Floats lost = splat(largest_lost_);
  for (int32_t i = 0; i < kBlock; i += kLanes) {
    const Floats four = load(logits + i);
    const Ints is_kept = four >= splat(floor_);
    lost = larger(is_kept ? lost : four, lost);
    if (!any(is_kept)) continue;
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      *next = {four[lane], first_index + i + lane};
      next -= is_kept[lane];
    }
  }
  count_ = static_cast<int32_t>(next - entries_.get());
  largest_lost_ = std::max(std::max(lost[0], lost[1]), std::max(lost[2], lost[3]));
}

void SurvivorList::raise_floor(const RowRules& rules, float largest) {
  if (rules.top_k > 0 || !(rules.lowest_z > kNone)) return;
  const float depth = rules.lowest_z * rules.temperature;
  const float floor = largest + depth - 1e-5f * (std::fabs(largest) + std::fabs(depth));
  if (floor > floor_) floor_ = floor;
}

void SurvivorList::drop_below_floor() {
  Survivor* kept = entries_.get();
  for (const Survivor& entry : *this) {
    if (entry.logit >= floor_) {
      *kept++ = entry;
    } else {
      skip(entry.logit);
    }
  }
  count_ = static_cast<int32_t>(kept - entries_.get());
}

void SurvivorList::drop_tail(const RowRules& rules, float largest, double mass, double goal) {
  double bins[kTailBins + 1] = {};
  int32_t counts[kTailBins + 1] = {};
  double inside = 0.0;
  for (int32_t i = 0; i < count_; i += kLanes) {
    Floats logits = splat(kMinusInf);
    const int32_t lanes = std::min(kLanes, count_ - i);
    for (int32_t lane = 0; lane < lanes; ++lane) logits[lane] = entries_[static_cast<size_t>(i + lane)].logit;
    const Floats z = (logits - largest) / rules.temperature;
    const Floats weights = exp_negative(z);
    for (int32_t lane = 0; lane < lanes; ++lane) {
      const int32_t bin = bin_of(z[lane], kTailBinsPerUnit, kTailBins);
      bins[bin] += static_cast<double>(weights[lane]);
      ++counts[bin];
      inside += static_cast<double>(weights[lane]);
    }
  }
  double outside = mass - inside;
  int32_t bin = kTailBins;
  int32_t left = count_;
  while (bin > 0 && left - counts[bin] >= capacity_ / 4 && outside + bins[bin] <= goal) {
    left -= counts[bin];
    outside += bins[bin--];
  }
  const float floor = largest - static_cast<float>(bin + 1) / kTailBinsPerUnit * rules.temperature;
  if (bin < kTailBins && floor > floor_) floor_ = floor;
}

bool SurvivorList::grow() {
  const int64_t wanted = std::min<int64_t>(std::max<int64_t>(kFirstCapacity, int64_t{capacity_} * 2), most_);
  if (wanted <= capacity_) return false;
  std::unique_ptr<Survivor[]> larger(new (std::nothrow) Survivor[static_cast<size_t>(wanted)]);
  if (larger == nullptr) return false;
  std::copy(begin(), end(), larger.get());
  entries_ = std::move(larger);
  capacity_ = static_cast<int32_t>(wanted);
  return true;
}

void SurvivorList::make_room(const RowRules& rules, float largest, double mass, double goal) {
  if (count_ > 0) {
    if (rules.top_k == 0) {
      raise_floor(rules, largest);
      if (rules.top_p < 1.0f) drop_tail(rules, largest, mass, goal);
      drop_below_floor();
    } else if (count_ > rules.top_k) {
      const int32_t left = drop_beaten(entries_.get(), count_, rules.top_k);
      count_ = left <= 2 * rules.top_k ? left : keep_largest(entries_.get(), left, rules.top_k);
      // At least k are as large as the smallest of them.
      float smallest = entries_[0].logit;
      for (const Survivor& token : *this) smallest = std::min(smallest, token.logit);
      floor_ = smallest;
    }
  }
  // A list that stays half full would soon be back.
  if (count_ > capacity_ / 2 || !has_room()) grow();
  if (!has_room()) {
    floor_ = largest_lost_ = std::numeric_limits<float>::infinity();
    count_ = 0;
  }
}

void Choice::reserve(int32_t vocab_size, size_t most_survivors) {
  vocab_size_ = vocab_size;
  const auto num_blocks = static_cast<size_t>((vocab_size + kBlock - 1) / kBlock);
  if (seen_.size() < num_blocks) seen_.resize(num_blocks);
  survivors_.reserve(most_survivors);
  bin_.reserve(most_survivors);
}

Survivor Choice::choose(const RowRules& rules, float largest, double total, float largest_lost) {
  if (survivors_.empty()) return {kMinusInf, kNeedsAll};
  const auto k = static_cast<size_t>(rules.top_k);
  if (k > 0 && k < survivors_.size()) {
    keep_largest(survivors_.data(), static_cast<int32_t>(survivors_.size()), rules.top_k);
    survivors_.resize(k);
  }
  Survivor cut{kMinusInf, -1};
  if (rules.top_p < 1.0f) cut = top_p_cut(rules, largest, total);
  const bool is_known =
      largest_lost == kMinusInf || cut.logit > largest_lost || rules.z_of(largest_lost, largest) < rules.lowest_z;
  if (!is_known) return {kMinusInf, kNeedsAll};
  if (rules.typical_p < 1.0f) {
    keep_typical(rules, largest, cut);
    cut = {kMinusInf, -1};
  }
  return draw(rules, largest, cut);
}

// The last survivor that top-p keeps; before all others in no order where everything is kept.
Survivor Choice::top_p_cut(const RowRules& rules, float largest, double total) {
  const double unit = unit_of(vocab_size_);
  const auto weight_of = [&](float z) { return static_cast<uint64_t>(static_cast<double>(exp_negative(z)) * unit); };
  uint64_t mass[kBins + 1] = {};
  uint64_t sum = 0;
  for (size_t i = 0; i < survivors_.size(); i += kLanes) {
    const size_t lanes = std::min<size_t>(kLanes, survivors_.size() - i);
    Floats z = splat(kMinusInf);
    for (size_t lane = 0; lane < lanes; ++lane) z[lane] = rules.z_of(survivors_[i + lane].logit, largest);
    const Floats weights = exp_negative(z);
    for (size_t lane = 0; lane < lanes; ++lane) {
      const auto weight = static_cast<uint64_t>(static_cast<double>(weights[lane]) * unit);
      mass[bin_of(z[lane], kBinsPerUnit, kBins)] += weight;
      sum += weight;
    }
  }
  const double goal =
      static_cast<double>(rules.top_p) * (rules.needs_total() ? total * unit : static_cast<double>(sum));
  uint64_t reached = 0;
  int32_t bin = 0;
  while (bin < kBins && static_cast<double>(reached + mass[bin]) < goal) reached += mass[bin++];
  // Only the bin in which the goal is reached is put in order.
  bin_.clear();
  for (const Survivor& survivor : survivors_) {
    if (bin_of(rules.z_of(survivor.logit, largest), kBinsPerUnit, kBins) == bin) bin_.push_back(survivor);
  }
  std::sort(bin_.begin(), bin_.end(), comes_before);
  for (const Survivor& survivor : bin_) {
    reached += weight_of(rules.z_of(survivor.logit, largest));
    if (static_cast<double>(reached) >= goal) return survivor;
  }
  return {kMinusInf, -1};
}

// Leaves of the survivors that the other cuts keep those whose -log p is nearest to its mean, the entropy, until they
// have typical_p of the mass. With p = exp(z) / sum, -log p - H is the mean of z less z: no logarithm is needed.
void Choice::keep_typical(const RowRules& rules, float largest, const Survivor& cut) {
  std::erase_if(survivors_, [&](const Survivor& survivor) {
    return (cut.index >= 0 && cut.comes_before(survivor)) || !(rules.z_of(survivor.logit, largest) >= rules.lowest_z);
  });
  const double unit = unit_of(vocab_size_);
  const auto weight_of = [&](float z) { return static_cast<uint64_t>(static_cast<double>(exp_negative(z)) * unit); };
  uint64_t sum = 0;
  uint64_t moment = 0;
  for (const Survivor& survivor : survivors_) {
    const float depth = std::min(-rules.z_of(survivor.logit, largest), 87.0f);  // beyond that nothing weighs anything
    const float weight = exp_negative(-depth);
    sum += static_cast<uint64_t>(static_cast<double>(weight) * unit);
    moment += static_cast<uint64_t>(static_cast<double>(weight) * static_cast<double>(depth) * unit);
  }
  const double mean = -static_cast<double>(moment) / static_cast<double>(sum);
  const auto distance_of = [&](float z) { return std::fabs(static_cast<double>(z) - mean); };
  const auto bin_at = [](double distance) { return bin_of(-static_cast<float>(distance), kBinsPerUnit, kBins); };
  uint64_t mass[kBins + 1] = {};
  for (const Survivor& survivor : survivors_) {
    const float z = rules.z_of(survivor.logit, largest);
    mass[bin_at(distance_of(z))] += weight_of(z);
  }
  const double goal = static_cast<double>(rules.typical_p) * static_cast<double>(sum);
  uint64_t reached = 0;
  int32_t last_bin = 0;
  while (last_bin < kBins && static_cast<double>(reached + mass[last_bin]) < goal) reached += mass[last_bin++];
  // Only the bin in which the goal is reached is put in order.
  const auto is_nearer = [&](const Survivor& a, const Survivor& b) {
    const double of_a = distance_of(rules.z_of(a.logit, largest));
    const double of_b = distance_of(rules.z_of(b.logit, largest));
    return of_a < of_b || (of_a == of_b && a.index < b.index);
  };
  bin_.clear();
  std::erase_if(survivors_, [&](const Survivor& survivor) {
    const int32_t bin = bin_at(distance_of(rules.z_of(survivor.logit, largest)));
    if (bin == last_bin) bin_.push_back(survivor);
    return bin >= last_bin;
  });
  std::sort(bin_.begin(), bin_.end(), is_nearer);
  for (const Survivor& survivor : bin_) {
    survivors_.push_back(survivor);
    reached += weight_of(rules.z_of(survivor.logit, largest));
    if (static_cast<double>(reached) >= goal) return;
  }
}

const BlockDraw& Choice::block_draw(const RowRules& rules, int32_t block) {
  Seen& seen = seen_[static_cast<size_t>(block)];
  if (seen.row != num_draws_) seen = {num_draws_, headrace::draw_block(rules.key, block)};
  return seen.draw;
}

Survivor Choice::draw(const RowRules& rules, float largest, const Survivor& cut) {
  ++num_draws_;
  Winner best;
  const auto consider = [&](const Survivor& survivor) {
    if (cut.index >= 0 && cut.comes_before(survivor)) return;
    if (!(rules.z_of(survivor.logit, largest) >= rules.lowest_z)) return;
    const double base = static_cast<double>(survivor.logit) / static_cast<double>(rules.temperature);
    const BlockDraw& draw = block_draw(rules, survivor.index / kBlock);
    // No time in the block is below (1 - u) / 64; a winner's is at most exp(base - best). Some slack for the rounding.
    const auto lead = static_cast<float>(best.value - base);
    if (lead > 0.0f && exp_negative(-lead) * (0x1p32f * kBlock * 1.01f) < static_cast<float>(draw.shortest_word())) {
      return;
    }
    const float noise = gumbel_noise(rules.key, static_cast<uint32_t>(survivor.index), draw);
    const Winner other{base + static_cast<double>(noise), noise, survivor};
    if (best.is_beaten_by(other)) best = other;
  };
  // The likeliest first, so that most others need no noise of their own.
  const auto likeliest = std::min_element(survivors_.begin(), survivors_.end(), comes_before);
  std::iter_swap(survivors_.begin(), likeliest);
  for (const Survivor& survivor : survivors_) consider(survivor);
  return best.token;
}

}  // namespace headrace
