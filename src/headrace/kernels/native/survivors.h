// The tokens of a row that top-k, top-p, min-p or typical-p may leave: gathered block by block above a floor that
// rises, and the choice among them. Knows one row's logits as they come; not where they come from.
//
// A list may drop more than is safe, because the choice proves that it saw enough: everything above `largest_lost` is
// known, and where the cuts reach further down the row must be looked at again in full. So no bound and no capacity
// ever alters a token.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "sampling.h"

namespace headrace {

struct Survivor {
  float logit;
  int32_t index;

  // The order of all cuts: logits descending, equal ones by index.
  bool comes_before(const Survivor& other) const {
    return logit > other.logit || (logit == other.logit && index < other.index);
  }
};

// One thread's survivors of one row.
class SurvivorList {
 public:
  // `most`: entries that the list may grow to; top-k gets what it needs.
  void begin(const RowRules& rules, int32_t most);

  float floor() const { return floor_; }
  bool has_room() const;
  bool has_given_up() const { return largest_lost_ == std::numeric_limits<float>::infinity(); }
  // Everything above it that came by is in the list; top-k loses nothing that matters.
  float largest_lost() const { return top_k_ > 0 && !has_given_up() ? kNone : largest_lost_; }
  const Survivor* begin() const { return entries_.get(); }
  const Survivor* end() const { return entries_.get() + count_; }
  int32_t size() const { return count_; }

  // Takes those of a whole block's logits that are not below the floor. There must have been room at the quad's begin.
  void add(const float* logits, int32_t first_index);
  void skip(float block_max) { largest_lost_ = block_max > largest_lost_ ? block_max : largest_lost_; }

  // `largest` is the row's largest logit so far, from which min-p counts.
  void raise_floor(const RowRules& rules, float largest);

  // Makes room by dropping: for top-k what k others beat, else the tail. `mass` is the thread's sum of exp(z) so far,
  // `goal` how much of such mass may stay outside. Grows, or gives up, where that does not help. Never throws.
  void make_room(const RowRules& rules, float largest, double mass, double goal);

 private:
  static constexpr float kNone = -std::numeric_limits<float>::infinity();

  void drop_tail(const RowRules& rules, float largest, double mass, double goal);
  void drop_below_floor();
  bool grow();

  std::unique_ptr<Survivor[]> entries_;
  int32_t count_ = 0, capacity_ = 0, most_ = 0, top_k_ = 0;
  float floor_ = 0.0f, largest_lost_ = kNone;
};

// The largest of perturbed logits so far: logit / temperature + noise in double, so that the row's largest need not be
// known. Where rounding makes them equal (a temperature near 0), the larger noise and then the lower index win.
struct Winner {
  double value = -std::numeric_limits<double>::infinity();
  float noise = -std::numeric_limits<float>::infinity();
  Survivor token{-std::numeric_limits<float>::infinity(), -1};

  bool is_beaten_by(const Winner& other) const {
    if (other.value != value) return other.value > value;
    return other.noise > noise || (other.noise == noise && other.token.index < token.index);
  }
};

// Cuts and draws; the working memory of one thread, kept between rows.
class Choice {
 public:
  static constexpr int32_t kNeedsAll = -2;

  // Throws std::bad_alloc.
  void reserve(int32_t vocab_size, size_t most_survivors);

  // To be filled before `choose`; reserved, so that filling does not throw.
  std::vector<Survivor>& survivors() { return survivors_; }

  // The token, or the index kNeedsAll where what was lost may matter. `total`: of exp(z) over the row, where
  // rules.needs_total(). `largest_lost`: -infinity = nothing.
  Survivor choose(const RowRules& rules, float largest, double total, float largest_lost);

 private:
  Survivor top_p_cut(const RowRules& rules, float largest, double total);
  void keep_typical(const RowRules& rules, float largest, const Survivor& cut);
  Survivor draw(const RowRules& rules, float largest, const Survivor& cut);
  const BlockDraw& block_draw(const RowRules& rules, int32_t block);

  struct Seen {
    uint64_t row;  // which call of `draw` drew the block
    BlockDraw draw;
  };
  std::vector<Survivor> survivors_, bin_;
  std::vector<Seen> seen_;
  uint64_t num_draws_ = 0;
  int32_t vocab_size_ = 0;
};

}  // namespace headrace
