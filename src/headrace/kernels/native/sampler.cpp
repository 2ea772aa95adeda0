// Scanning rows, and deciding by what the scans found; the rules are told in sampler.h.
#include "sampler.h"

#include <atomic>
#include <cmath>
#include <iterator>

namespace headrace {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows that are scanned together: two tiles for each piece of the vocabulary.
constexpr int32_t kRowsPerScan = kMostRowsPerTask;

// Survivors of one row that all threads together keep, 512 KiB, before they rather scan the row again.
constexpr int32_t kMostSurvivors = 65536;
constexpr int32_t kFewestSurvivors = 4096;

// A task should dwarf its claim (some 50 ns), and the last one should not keep the others waiting for long.
constexpr double kSmallestTaskNs = 1000.0;
constexpr double kLargestTaskNs = 20000.0;
constexpr int32_t kTasksPerThread = 12;

bool is_usable(const Survivor& token) { return token.logit > kMinusInf; }

}  // namespace

// What one thread has found of one row.
struct Sampler::RowScan {
  Survivor first{kMinusInf, -1};        // the largest logit, the lowest index among equals
  Winner best;                          // without cuts: the largest perturbed logit
  float floor = kMinusInf;              // without cuts: a block below it cannot win
  SurvivorList survivors;               // with cuts
  int32_t num_quads = 0;                // scanned
  std::atomic<float> base{0.0f};        // rows that need a total: the largest logit that `mass` counts from
  std::atomic<double> mass{0.0};        // sum of exp((logit - base) / temperature)
  float unchanged_largest = kMinusInf;  // for log-probabilities, which count from it
  TopList top;                          // of unchanged logits; last, because few rows look at it

  void begin(const RowRules& rules, int32_t most_survivors) {
    first = {kMinusInf, -1};
    unchanged_largest = kMinusInf;
    top.begin(rules.num_top);
    best = {};
    floor = kMinusInf;
    num_quads = 0;
    base.store(kMinusInf, std::memory_order_relaxed);
    mass.store(0.0, std::memory_order_relaxed);
    if (rules.has_cuts()) survivors.begin(rules, most_survivors);
  }
};

// `largest` is a hint for every thread what the others have seen; no result depends on it before all is scanned.
struct Sampler::Shared {
  std::atomic<float> largest{kMinusInf};
  float target_logit = kMinusInf;  // set by whoever scans it

  void raise(float value) {
    float seen = largest.load(std::memory_order_relaxed);
    while (value > seen && !largest.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
    }
  }
};

// The scan of a piece of the vocabulary for rows that are cheap together.
struct Sampler::Scan {
  Sampler& sampler;
  const LogitSource& source;
  int32_t first_row, num_rows;
  Cut cut;

  static void run(const void* context, int32_t task, int thread) {
    const auto& scan = *static_cast<const Scan*>(context);
    const Cut& cut = scan.cut;
    const int32_t row_begin = task / cut.num_pieces * cut.rows_per_task;
    const int32_t row_end = std::min(row_begin + cut.rows_per_task, scan.num_rows);
    const int32_t begin = task % cut.num_pieces * cut.quads_per_task;
    const int32_t end = std::min(begin + cut.quads_per_task, scan.sampler.num_quads_);
    const int32_t tile_quads = std::max(1, kRowsPerTile / cut.rows_per_task);
    for (int32_t quad = begin; quad < end; quad += tile_quads) {
      for (int32_t row = row_begin; row < row_end; row += kRowsPerTile) {
        scan.run_tile(row, std::min(kRowsPerTile, row_end - row), quad, std::min(quad + tile_quads, end), thread);
      }
    }
  }

  void run_tile(int32_t row, int32_t count, int32_t quad_begin, int32_t quad_end, int thread) const {
    const LogitTile tile = source.tile(first_row + row, count, quad_begin, quad_end, thread);
    for (int32_t i = 0; i < count; ++i) {
      for (int32_t quad = quad_begin; quad < quad_end; ++quad) {
        sampler.scan_quad(thread, row + i, sampler.first_quad_ + quad,
                          tile.logits + i * tile.stride + static_cast<int64_t>(quad - quad_begin) * kQuadTokens);
      }
    }
  }
};

// The scan of one row that keeps every logit.
struct Sampler::SecondScan {
  Sampler& sampler;
  const LogitSource& source;
  int32_t row, scan_row, quads_per_task;  // of all rows, and of those scanned together

  static void run(const void* context, int32_t task, int thread) {
    const auto& scan = *static_cast<const SecondScan*>(context);
    Sampler& sampler = scan.sampler;
    const int32_t end = std::min((task + 1) * scan.quads_per_task, sampler.num_quads_);
    for (int32_t i = task * scan.quads_per_task; i < end; ++i) {
      const LogitTile tile = scan.source.tile(scan.row, 1, i, i + 1, thread);
      const int32_t quad = sampler.first_quad_ + i;
      float room[2][kQuadTokens];
      const float* logits = sampler.whole_quad(quad, tile.logits, room[0]);
      if (sampler.change(scan.scan_row, quad, logits, room[1])) logits = room[1];
      const int32_t count = std::min(kQuadTokens, sampler.shard_.end_token - quad * kQuadTokens);
      Survivor* everything = &sampler.everything_[static_cast<size_t>(i) * kQuadTokens];
      for (int32_t token = 0; token < count; ++token) everything[token] = {logits[token], quad * kQuadTokens + token};
    }
  }
};

struct Sampler::Decisions {
  Sampler& sampler;
  int32_t first_row;
  const Sampled& out;

  static void run(const void* context, int32_t row, int thread) {
    const auto& decisions = *static_cast<const Decisions*>(context);
    decisions.sampler.decide_row(thread, row, decisions.first_row + row, decisions.out);
  }
};

Sampler::Sampler() = default;
Sampler::~Sampler() = default;

void Sampler::run(Threads::Step& step, const LogitSource& source, int32_t num_rows, int32_t vocab_size,
                  const Sampling& sampling, const Sampled& out) {
  take({vocab_size, 0, vocab_size});
  for (int32_t row = 0; row < num_rows; row += kRowsPerScan) {
    run_some(step, source, row, std::min(kRowsPerScan, num_rows - row), sampling, out);
  }
}

Partial Sampler::scan(Threads::Step& step, const LogitSource& source, int32_t num_rows, const Shard& shard,
                      const Sampling& sampling, bool keeps_all) {
  take(shard);
  Partial partial{shard, {}};
  for (int32_t first_row = 0; first_row < num_rows; first_row += kRowsPerScan) {
    const int32_t count = std::min(kRowsPerScan, num_rows - first_row);
    scan_some(step, source, first_row, count, sampling);
    for (int32_t row = 0; row < count; ++row) {
      partial.rows.push_back(partial_of(row));
      if (!keeps_all || !rules_[row].has_cuts()) continue;
      scan_again(step, source, first_row + row, row);
      RowPartial& kept = partial.rows.back();
      kept.largest_lost = kMinusInf;
      kept.survivors.clear();
      std::ranges::copy_if(everything_, std::back_inserter(kept.survivors), is_usable);
    }
  }
  return partial;
}

void Sampler::take(const Shard& shard) {
  shard_ = shard;
  first_quad_ = shard.first_token / kQuadTokens;
  num_quads_ = (shard.end_token - shard.first_token + kQuadTokens - 1) / kQuadTokens;
}

Sampler::Cut Sampler::cut(const LogitSource& source, int32_t num_rows, int num_threads) const {
  const int32_t rows = std::min(source.rows_per_task(), num_rows);
  const int32_t num_groups = (num_rows + rows - 1) / rows;
  const double quad_ns = source.quad_ns(rows);
  const double share = quad_ns * num_quads_ * num_groups / (num_threads * kTasksPerThread);
  const double most = std::clamp(share, kSmallestTaskNs, kLargestTaskNs) / quad_ns;
  // Pieces of one size, so that the last one is not a small one.
  const int32_t quads = std::clamp(static_cast<int32_t>(most + 0.5), 1, num_quads_);
  const int32_t num_pieces = (num_quads_ + quads - 1) / quads;
  return {rows, (num_quads_ + num_pieces - 1) / num_pieces, num_pieces, num_groups * num_pieces};
}

void Sampler::begin(int num_threads, int32_t first_row, int32_t num_rows, const Sampling& sampling) {
  num_threads_ = num_threads;
  rules_.clear();
  bool needs_sums = false;
  bool needs_scaled_sums = false;
  size_t num_entries = 0;
  entry_starts_.clear();
  for (int32_t row = 0; row < num_rows; ++row) {
    const RowRules& rules = rules_.emplace_back(sampling, first_row + row, shard_.vocab_size);
    needs_sums = needs_sums || rules.wants_logprob;
    needs_scaled_sums = needs_scaled_sums || rules.needs_total();
    entry_starts_.push_back(num_entries);
    num_entries += static_cast<size_t>(rules.change.count);
  }
  const size_t num_sums = static_cast<size_t>(num_rows) * static_cast<size_t>(num_quads_) * kBlockQuad;
  const auto make_room = [num_sums](std::vector<float>& values) {
    if (values.size() < num_sums) values.resize(num_sums);
  };
  if (needs_sums) {
    make_room(unchanged_maxima_);
    make_room(sums_);
  }
  if (needs_scaled_sums) {
    make_room(maxima_);
    make_room(scaled_sums_);
  }
  if (unchanged_.size() < num_entries) unchanged_.resize(num_entries);
  if (shared_ == nullptr) shared_ = std::make_unique<Shared[]>(kRowsPerScan);
  while (threads_.size() < static_cast<size_t>(num_threads)) {
    threads_.push_back({std::make_unique<RowScan[]>(kRowsPerScan), {}});
  }
  const int32_t most = most_survivors_ > 0 ? most_survivors_ : std::max(kMostSurvivors / num_threads, kFewestSurvivors);
  for (int32_t row = 0; row < num_rows; ++row) {
    shared_[row].largest.store(kMinusInf, std::memory_order_relaxed);
    shared_[row].target_logit = kMinusInf;
    for (int thread = 0; thread < num_threads; ++thread) threads_[thread].rows[row].begin(rules_[row], most);
  }
}

void Sampler::scan_some(Threads::Step& step, const LogitSource& source, int32_t first_row, int32_t num_rows,
                        const Sampling& sampling) {
  begin(step.count(), first_row, num_rows, sampling);
  const Scan scan{*this, source, first_row, num_rows, cut(source, num_rows, num_threads_)};
  step.run(scan.cut.num_tasks, &Scan::run, &scan);
}

void Sampler::run_some(Threads::Step& step, const LogitSource& source, int32_t first_row, int32_t num_rows,
                       const Sampling& sampling, const Sampled& out) {
  scan_some(step, source, first_row, num_rows, sampling);
  size_t most = 0;
  for (int32_t row = 0; row < num_rows; ++row) {
    if (rules_[row].has_cuts()) most = std::max(most, num_survivors(row));
  }
  if (most > 0) {
    for (PerThread& thread : threads_) thread.choice.reserve(shard_.vocab_size, most);
  }
  const Decisions decisions{*this, first_row, out};
  step.run(num_rows, &Decisions::run, &decisions);
  for (int32_t row = 0; row < num_rows; ++row) {
    if (out.tokens[first_row + row] != Choice::kNeedsAll) continue;
    ++num_second_scans_;
    scan_again(step, source, first_row + row, row);
    Choice& choice = threads_[0].choice;
    choice.reserve(shard_.vocab_size, everything_.size());
    choice.survivors().clear();
    std::ranges::copy_if(everything_, std::back_inserter(choice.survivors()), is_usable);
    RowFindings findings = findings_of(row);
    findings.largest_lost = kMinusInf;
    tell(rules_[row], findings, headrace::decide(rules_[row], findings, choice), first_row + row, out);
  }
}

// Fills `everything_` with a row's logits after its changes.
void Sampler::scan_again(Threads::Step& step, const LogitSource& source, int32_t row, int32_t scan_row) {
  everything_.assign(static_cast<size_t>(num_quads_) * kQuadTokens, {kMinusInf, -1});
  const Cut one = cut(source, 1, num_threads_);
  const SecondScan second{*this, source, row, scan_row, one.quads_per_task};
  step.run(one.num_tasks, &SecondScan::run, &second);
}

const float* Sampler::whole_quad(int32_t quad, const float* logits, float room[kQuadTokens]) const {
  const int32_t count = shard_.end_token - quad * kQuadTokens;
  if (count >= kQuadTokens) return logits;
  std::copy_n(logits, count, room);
  std::fill(room + count, room + kQuadTokens, kMinusInf);
  return room;
}

bool Sampler::change(int32_t row, int32_t quad, const float* logits, float changed[kQuadTokens]) {
  const RowRules& rules = rules_[row];
  return rules.is_changed && rules.change.apply(quad, logits, changed, unchanged_.data() + entry_starts_[row]);
}

void Sampler::scan_quad(int thread, int32_t row, int32_t quad, const float* logits) {
  float padded[kQuadTokens];
  logits = whole_quad(quad, logits, padded);
  float maxima[kBlockQuad];
  largest_of_blocks(logits, maxima);
  RowScan& scan = threads_[static_cast<size_t>(thread)].rows[row];
  const RowRules& rules = rules_[row];
  if (rules.wants_logprob) add_unchanged(scan, row, quad, logits, maxima);
  float changed[kQuadTokens];
  const bool is_changed = change(row, quad, logits, changed);
  if (is_changed) {
    logits = changed;
    largest_of_blocks(logits, maxima);
  }
  const float top = std::max(std::max(maxima[0], maxima[1]), std::max(maxima[2], maxima[3]));
  if (top > scan.first.logit || (top == scan.first.logit && quad * kQuadTokens < scan.first.index)) {
    int32_t i = 0;
    while (!(logits[i] == top)) ++i;
    scan.first = {top, quad * kQuadTokens + i};
  }
  if (rules.needs_total()) sum_blocks(row, quad, logits, maxima, is_changed);
  // A row with an infinite logit has no softmax and means its first infinity.
  if (rules.is_greedy() || top == kInfinity || top == kMinusInf) return;
  if (rules.has_cuts()) {
    keep(scan, row, quad, logits, maxima);
    if (rules.needs_total()) add_mass(scan, row, quad);
  } else if (top >= scan.floor) {
    perturb(scan, row, quad, logits, maxima);
  }
}

// What log-probabilities are made of.
void Sampler::add_unchanged(RowScan& scan, int32_t row, int32_t quad, const float* logits, const float* maxima) {
  const RowRules& rules = rules_[row];
  const size_t at = first_block(row, quad);
  for (int32_t b = 0; b < kBlockQuad; ++b) {
    unchanged_maxima_[at + b] = maxima[b];
    sums_[at + b] = sum_of_block(logits + b * kBlock, maxima[b], 1.0f);
    scan.unchanged_largest = std::max(scan.unchanged_largest, maxima[b]);
  }
  scan.top.add_quad(logits, maxima, quad * kQuadTokens);
  if (rules.target >= 0 && rules.target / kQuadTokens == quad) {
    const float logit = logits[rules.target % kQuadTokens];
    shared_[row].target_logit = logit > kMinusInf ? logit : kMinusInf;
  }
}

void Sampler::sum_blocks(int32_t row, int32_t quad, const float* logits, const float* maxima, bool is_changed) {
  const RowRules& rules = rules_[row];
  const size_t at = first_block(row, quad);
  const bool is_done = rules.wants_logprob && rules.temperature == 1.0f && !is_changed;
  for (int32_t b = 0; b < kBlockQuad; ++b) {
    maxima_[at + b] = maxima[b];
    scaled_sums_[at + b] = is_done ? sums_[at + b] : sum_of_block(logits + b * kBlock, maxima[b], rules.temperature);
  }
}

// Counts what a quad adds to the row's total, to know how much of the tail survivors may drop.
void Sampler::add_mass(RowScan& scan, int32_t row, int32_t quad) const {
  const RowRules& rules = rules_[row];
  const size_t at = first_block(row, quad);
  const float* maxima = &maxima_[at];
  const float top = std::max(std::max(maxima[0], maxima[1]), std::max(maxima[2], maxima[3]));
  float base = scan.base.load(std::memory_order_relaxed);
  double mass = scan.mass.load(std::memory_order_relaxed);
  if (top > base) {
    mass *= base == kMinusInf ? 0.0 : exp_negative(rules.z_of(base, top));
    base = top;
    scan.base.store(base, std::memory_order_relaxed);
  }
  const Floats weights = exp_negative((load(maxima) - base) / rules.temperature) * load(&scaled_sums_[at]);
  scan.mass.store(mass + (weights[0] + weights[1]) + (weights[2] + weights[3]), std::memory_order_relaxed);
}

void Sampler::perturb(RowScan& scan, int32_t row, int32_t quad, const float* logits, const float* maxima) {
  const RowRules& rules = rules_[row];
  const auto temperature = static_cast<double>(rules.temperature);
  BlockDraw draws[kBlockQuad];
  draw_blocks(rules.key, quad * kBlockQuad, draws);
  // With noise -log(time), a token wins only if its time is at most exp(logit / temperature - best). Some slack for the
  // rounding, so that every token that could win is looked at.
  const auto longest_time = [&](int32_t b) {
    const double lead = scan.best.value - static_cast<double>(maxima[b]) / temperature;
    return lead > 0.0 ? static_cast<double>(exp_negative(static_cast<float>(-lead))) * 1.001 : 1e30;
  };
  float leads[kBlockQuad];
  for (int32_t b = 0; b < kBlockQuad; ++b) {
    leads[b] = static_cast<float>(std::min(static_cast<double>(maxima[b]) / temperature - scan.best.value, 0.0));
  }
  const Floats longest_words = exp_negative(load(leads)) * (0x1p32f * kBlock * 1.001f);
  for (int32_t b = 0; b < kBlockQuad; ++b) {
    if (!(maxima[b] > kMinusInf) || longest_words[b] < static_cast<float>(draws[b].shortest_word())) continue;
    const double shortest = draws[b].shortest();
    const float most_noise = noise_of(shortest);
    const int32_t first = (quad * kBlockQuad + b) * kBlock;
    const auto consider = [&](int32_t i, float noise) {
      const float logit = logits[b * kBlock + i];
      const Winner other{
          static_cast<double>(logit) / temperature + static_cast<double>(noise), noise, {logit, first + i}};
      if (logit > kMinusInf && scan.best.is_beaten_by(other)) scan.best = other;
    };
    consider(draws[b].first, most_noise);
    const double room = longest_time(b) - shortest;
    if (room <= 0.0) continue;
    // -log(u) >= 1 - u, so that a time of at most `room` needs u >= 1 - room.
    const double least = (1.0 - room) * 0x1p32 - 2.0;
    const auto lowest_word = static_cast<uint32_t>(std::max(0.0, least));
    uint32_t words[4][kBlock / 4];
    draw_words(rules.key, quad * kBlockQuad + b, words);
    for (int32_t i = 0; i < kBlock; ++i) {
      const uint32_t word = words[i % 4][i / 4];
      if (word < lowest_word || i == draws[b].first) continue;
      const double base = static_cast<double>(logits[b * kBlock + i]) / temperature;
      if (base + static_cast<double>(most_noise) >= scan.best.value) consider(i, noise_of(shortest + time_of(word)));
    }
  }
  const double floor = (scan.best.value - kLargestNoise) * temperature;
  scan.floor = static_cast<float>(floor - 1e-6 * std::fabs(floor));
}

void Sampler::keep(RowScan& scan, int32_t row, int32_t quad, const float* logits, const float* maxima) {
  ++scan.num_quads;
  SurvivorList& list = scan.survivors;
  if (list.has_given_up()) return;
  Shared& shared = shared_[row];
  shared.raise(scan.first.logit);
  list.raise_floor(rules_[row], shared.largest.load(std::memory_order_relaxed));
  // Before the quad, so that what the list holds and what has been added up are the same quads.
  if (!list.has_room()) make_room(scan, row);
  if (list.has_given_up()) return;
  for (int32_t b = 0; b < kBlockQuad; ++b) {
    if (!(maxima[b] >= list.floor())) {
      list.skip(maxima[b]);
      continue;
    }
    list.add(logits + b * kBlock, (quad * kBlockQuad + b) * kBlock);
  }
}

void Sampler::make_room(RowScan& scan, int32_t row) {
  const RowRules& rules = rules_[row];
  const float largest = shared_[row].largest.load(std::memory_order_relaxed);
  double mine = 0.0;
  double all = 0.0;
  if (rules.needs_total()) {
    const auto mass_of = [&](const RowScan& other) {
      const float base = other.base.load(std::memory_order_relaxed);
      const double mass = other.mass.load(std::memory_order_relaxed);
      return base == kMinusInf ? 0.0 : mass * exp_negative(rules.z_of(std::min(base, largest), largest));
    };
    mine = mass_of(scan);
    for (int thread = 0; thread < num_threads_; ++thread) all += mass_of(threads_[thread].rows[row]);
  }
  // Half of what top-p will leave out of the row, and of that the part of the tokens that this thread has seen.
  const double part = static_cast<double>(scan.num_quads) / num_quads_;
  const double goal = 0.5 * (1.0 - static_cast<double>(rules.top_p)) * all * part;
  scan.survivors.make_room(rules, largest, mine, goal);
}

size_t Sampler::num_survivors(int32_t row) const {
  size_t count = 0;
  for (int thread = 0; thread < num_threads_; ++thread) {
    count += static_cast<size_t>(threads_[thread].rows[row].survivors.size());
  }
  return count;
}

// What all threads found of a row, less what they kept.
RowFindings Sampler::findings_of(int32_t row) const {
  const RowRules& rules = rules_[row];
  RowFindings findings;
  findings.top.begin(rules.num_top);
  for (int thread = 0; thread < num_threads_; ++thread) {
    const RowScan& scan = threads_[thread].rows[row];
    if (scan.first.index >= 0 && scan.first.comes_before(findings.first)) findings.first = scan.first;
    if (scan.best.token.index >= 0 && findings.best.is_beaten_by(scan.best)) findings.best = scan.best;
    if (rules.has_cuts()) findings.largest_lost = std::max(findings.largest_lost, scan.survivors.largest_lost());
    findings.unchanged_largest = std::max(findings.unchanged_largest, scan.unchanged_largest);
    for (const Survivor& token : scan.top) findings.top.add(token);
  }
  const size_t first = first_block(row, first_quad_);
  const size_t num_blocks = static_cast<size_t>(num_quads_) * kBlockQuad;
  if (rules.needs_total()) findings.scaled = {&maxima_[first], &scaled_sums_[first], num_blocks};
  if (rules.wants_logprob) findings.unchanged = {&unchanged_maxima_[first], &sums_[first], num_blocks};
  findings.target_logit = shared_[row].target_logit;
  findings.entries = unchanged_.data() + entry_starts_[row];
  return findings;
}

// What they kept, less what is not above the largest that one of them lost.
void Sampler::gather(int32_t row, float largest_lost, std::vector<Survivor>& survivors) const {
  survivors.clear();
  for (int thread = 0; thread < num_threads_; ++thread) {
    for (const Survivor& token : threads_[thread].rows[row].survivors) {
      if (token.logit > largest_lost) survivors.push_back(token);
    }
  }
}

void Sampler::decide_row(int thread, int32_t row, int32_t out_row, const Sampled& out) {
  const RowRules& rules = rules_[row];
  const RowFindings findings = findings_of(row);
  Choice& choice = threads_[static_cast<size_t>(thread)].choice;
  if (rules.has_cuts()) gather(row, findings.largest_lost, choice.survivors());
  tell(rules, findings, headrace::decide(rules, findings, choice), out_row, out);
}

RowPartial Sampler::partial_of(int32_t row) const {
  const RowRules& rules = rules_[row];
  const RowFindings findings = findings_of(row);
  const auto copy_of = [](const float* values, size_t count) { return std::vector<float>(values, values + count); };
  const auto place_of = [&](int32_t token) {
    return std::lower_bound(rules.change.tokens, rules.change.tokens + rules.change.count, token) - rules.change.tokens;
  };
  RowPartial partial{.first = findings.first,
                     .best = findings.best,
                     .largest_lost = findings.largest_lost,
                     .unchanged_largest = findings.unchanged_largest,
                     .target_logit = findings.target_logit,
                     .survivors = {},
                     .top = {findings.top.begin(), findings.top.end()},
                     .maxima = copy_of(findings.scaled.maxima, findings.scaled.num_blocks),
                     .scaled_sums = copy_of(findings.scaled.sums, findings.scaled.num_blocks),
                     .unchanged_maxima = copy_of(findings.unchanged.maxima, findings.unchanged.num_blocks),
                     .sums = copy_of(findings.unchanged.sums, findings.unchanged.num_blocks),
                     .entries = {}};
  if (rules.has_cuts()) gather(row, findings.largest_lost, partial.survivors);
  const auto k = static_cast<size_t>(rules.top_k);
  if (k > 0 && k < partial.survivors.size()) {
    const auto comes_before = [](const Survivor& a, const Survivor& b) { return a.comes_before(b); };
    std::ranges::nth_element(partial.survivors, partial.survivors.begin() + rules.top_k, comes_before);
    partial.survivors.resize(k);
  }
  if (rules.change.count > 0) {
    partial.entries.assign(findings.entries + place_of(shard_.first_token),
                           findings.entries + place_of(shard_.end_token));
  }
  return partial;
}

}  // namespace headrace
