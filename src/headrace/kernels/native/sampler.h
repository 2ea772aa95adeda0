// Drawing one token per row of logits, which it sees once, tile by tile, as they are found or computed. Knows rows and
// parameters; no plan, no pages, no Python.
//
// A row first changes its logits: tokens with an entry by bias, repetition and what presence and frequency take away,
// then the mask (logit_change.h). All that follows but log-probabilities is about the changed logits.
// Greedy (temperature 0): the largest logit, the lowest index among equals.
// Otherwise z = (logit - largest) / temperature, and candidates are cut in this order: the top_k largest; of these, the
// fewest most probable that reach top_p of their total; of these, those with at least min_p times the largest's
// probability; of these, with p = exp(z) over their own total and H the entropy of p, the fewest with the smallest
// |-log p - H| that reach typical_p (Meister et al. 2022, arXiv 2202.00666), equal ones by index. The token is the
// candidate with the largest logit / temperature + g, g standard Gumbel noise (noise.h), which is a draw from the
// softmax over the candidates. Equal logits are ordered by index everywhere, so that every cut is a prefix of one
// order.
//
// Log-probabilities are of the unchanged logits at temperature 1, whatever the row does to them: of the token, of the
// num_top largest, or of a given target, for which nothing is drawn.
//
// Rows are scanned in blocks of 64 by as many threads as take part. A block whose largest logit cannot win any more
// costs that maximum and nothing else; what the scans of several threads found is merged in ways that do not depend on
// who scanned what. Rows with cuts gather survivors (survivors.h); a row whose cuts turn out to reach below what was
// gathered is scanned a second time and then gathers everything.
//
// A shard of the vocabulary can be scanned by itself; what was found travels and is joined (shard.h).
//
// NaN logits count as -infinity, an infinite logit as the only one. A row without any logit above -infinity, or with
// none that its mask allows, gives token -1; the caller must fail it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "logit_blocks.h"
#include "sampling.h"
#include "shard.h"
#include "threads.h"

namespace headrace {

// Keeps its working memory between steps; a few hundred bytes per row and thread, more where cuts keep many tokens.
class Sampler {
 public:
  Sampler();
  ~Sampler();

  // Samples `num_rows` rows of `vocab_size` logits. Throws std::bad_alloc.
  void run(Threads::Step& step, const LogitSource& source, int32_t num_rows, int32_t vocab_size,
           const Sampling& sampling, const Sampled& out);

  // Scans a shard of the vocabulary, which is what the source holds: its quads are counted from the shard's first.
  // `keeps_all`: rows with cuts keep every token. Throws std::bad_alloc.
  Partial scan(Threads::Step& step, const LogitSource& source, int32_t num_rows, const Shard& shard,
               const Sampling& sampling, bool keeps_all);

  // How many rows had to be scanned twice so far.
  int64_t num_second_scans() const { return num_second_scans_; }
  // For tests: the most survivors that a thread keeps of a row, 0 = the usual.
  void limit_survivors(int32_t most) { most_survivors_ = most; }

 private:
  // How a scan is cut into tasks: groups of rows times pieces of the vocabulary.
  struct Cut {
    int32_t rows_per_task, quads_per_task, num_pieces, num_tasks;
  };
  struct RowScan;
  struct Scan;
  struct SecondScan;
  struct Decisions;
  // What one thread keeps.
  struct PerThread {
    std::unique_ptr<RowScan[]> rows;
    Choice choice;
  };
  // What all threads' scans of a row share.
  struct Shared;

  void take(const Shard& shard);
  void begin(int num_threads, int32_t first_row, int32_t num_rows, const Sampling& sampling);
  void run_some(Threads::Step& step, const LogitSource& source, int32_t first_row, int32_t num_rows,
                const Sampling& sampling, const Sampled& out);
  void scan_some(Threads::Step& step, const LogitSource& source, int32_t first_row, int32_t num_rows,
                 const Sampling& sampling);
  void scan_again(Threads::Step& step, const LogitSource& source, int32_t row, int32_t scan_row);
  void scan_quad(int thread, int32_t row, int32_t quad, const float* logits);
  // A quad's logits; where the vocabulary ends within it, a copy that goes on with -infinity.
  const float* whole_quad(int32_t quad, const float* logits, float room[kQuadTokens]) const;
  // See LogitChange::apply.
  bool change(int32_t row, int32_t quad, const float* logits, float changed[kQuadTokens]);
  void add_unchanged(RowScan& scan, int32_t row, int32_t quad, const float* logits, const float* maxima);
  void sum_blocks(int32_t row, int32_t quad, const float* logits, const float* maxima, bool is_changed);
  void add_mass(RowScan& scan, int32_t row, int32_t quad) const;
  void perturb(RowScan& scan, int32_t row, int32_t quad, const float* logits, const float* maxima);
  void keep(RowScan& scan, int32_t row, int32_t quad, const float* logits, const float* maxima);
  void make_room(RowScan& scan, int32_t row);
  RowFindings findings_of(int32_t row) const;
  void gather(int32_t row, float largest_lost, std::vector<Survivor>& survivors) const;
  void decide_row(int thread, int32_t row, int32_t out_row, const Sampled& out);
  RowPartial partial_of(int32_t row) const;
  size_t first_block(int32_t row, int32_t quad) const {
    return (static_cast<size_t>(row) * static_cast<size_t>(num_quads_) + static_cast<size_t>(quad - first_quad_)) *
           kBlockQuad;
  }
  size_t num_survivors(int32_t row) const;
  Cut cut(const LogitSource& source, int32_t num_rows, int num_threads) const;

  std::vector<PerThread> threads_;
  std::vector<RowRules> rules_;
  std::unique_ptr<Shared[]> shared_;
  // By row and block, for rows that need them: the largest logit and the sum of exp((logit - it) / temperature), of
  // unchanged logits at temperature 1 and of changed ones at the row's.
  std::vector<float> unchanged_maxima_, sums_, maxima_, scaled_sums_;
  // What adjusted tokens' logits were before: a row's from entry_starts_[row] on.
  std::vector<float> unchanged_;
  std::vector<size_t> entry_starts_;
  std::vector<Survivor> everything_;
  Shard shard_{};
  int32_t first_quad_ = 0, num_quads_ = 0;  // of the shard
  int num_threads_ = 0;
  int32_t most_survivors_ = 0;
  int64_t num_second_scans_ = 0;
};

// Logits that lie in memory, [num_rows][vocab_size].
class StoredLogits final : public LogitSource {
 public:
  StoredLogits(const float* logits, int32_t vocab_size) : logits_(logits), vocab_size_(vocab_size) {}
  LogitTile tile(int32_t first_row, int32_t, int32_t quad_begin, int32_t, int) const override {
    return {logits_ + static_cast<int64_t>(first_row) * vocab_size_ + static_cast<int64_t>(quad_begin) * kQuadTokens,
            vocab_size_};
  }
  int32_t rows_per_task() const override { return 1; }  // memory is read best in one direction
  double quad_ns(int32_t num_rows) const override { return 40.0 * num_rows; }

 private:
  const float* logits_;
  int64_t vocab_size_;
};

}  // namespace headrace
