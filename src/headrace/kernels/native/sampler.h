// Drawing one token per row of logits, which it sees once, tile by tile, as they are found or computed. Knows rows and
// parameters; no plan, no pages, no Python.
//
// Greedy (temperature 0): the largest logit, the lowest index among equals.
// Otherwise z = (logit - largest) / temperature, and candidates are cut in this order: the top_k largest; of these, the
// fewest most probable that reach top_p of their total; of these, those with at least min_p times the largest's
// probability. The token is the candidate with the largest logit / temperature + g, g standard Gumbel noise (noise.h),
// which is a draw from the softmax over the candidates. Equal logits are ordered by index everywhere, so that every cut
// is a prefix of one order.
//
// Rows are scanned in blocks of 64 by as many threads as take part. A block whose largest logit cannot win any more
// costs that maximum and nothing else; what the scans of several threads found is merged in ways that do not depend on
// who scanned what. Rows with cuts gather survivors (survivors.h); a row whose cuts turn out to reach below what was
// gathered is scanned a second time and then gathers everything.
//
// NaN logits count as -infinity, an infinite logit as the only one. A row without any logit above -infinity gives token
// -1; the caller must fail it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "logit_blocks.h"
#include "sampling.h"
#include "survivors.h"
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

  // How many rows had to be scanned twice so far.
  int64_t num_second_scans() const { return num_second_scans_; }
  // For tests: the most survivors that a thread keeps of a row, 0 = the usual.
  void limit_survivors(int32_t most) { most_survivors_ = most; }

 private:
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

  void begin(int num_threads, int32_t first_row, int32_t num_rows, const Sampling& sampling);
  void run_some(Threads::Step& step, const LogitSource& source, int32_t first_row, int32_t num_rows,
                const Sampling& sampling, const Sampled& out);
  void scan_quad(int thread, int32_t row, int32_t quad, const float* logits);
  void sum_blocks(int32_t row, int32_t quad, const float* logits, const float* maxima);
  void add_mass(RowScan& scan, int32_t row, int32_t quad) const;
  void perturb(RowScan& scan, int32_t row, int32_t quad, const float* logits, const float* maxima);
  void keep(RowScan& scan, int32_t row, int32_t quad, const float* logits, const float* maxima);
  void make_room(RowScan& scan, int32_t row);
  void decide(int thread, int32_t row, int32_t out_row, const Sampled& out);
  void gather(int32_t row, std::vector<Survivor>& survivors, float& largest_lost) const;
  void finish(const Survivor& token, int32_t row, int32_t out_row, const Sampled& out) const;
  double total(const std::vector<float>& sums, int32_t row, float temperature) const;
  size_t num_survivors(int32_t row) const;
  int32_t tasks_of(const LogitSource& source, int32_t num_rows, int num_threads, int32_t& quads_per_task) const;

  std::vector<PerThread> threads_;
  std::vector<RowRules> rules_;
  std::unique_ptr<Shared[]> shared_;
  // By row and block, for rows that need them: the largest logit, and the sums of exp((logit - it) / temperature) at
  // temperature 1 and at the row's.
  std::vector<float> maxima_, sums_, scaled_sums_;
  std::vector<Survivor> everything_;
  int32_t vocab_size_ = 0, num_quads_ = 0;
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
  double quad_ns(int32_t num_rows) const override { return 40.0 * num_rows; }

 private:
  const float* logits_;
  int64_t vocab_size_;
};

}  // namespace headrace
