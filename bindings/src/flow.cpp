// A pass over a range of a merge, slice by slice: each is read, computed on and written while it is in the caches.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <vector>

#include "calls.h"
#include "digest.h"

#if !defined(_WIN32)
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#endif
#if defined(__linux__) && !defined(SYNC_FILE_RANGE_WRITE)
#error "writing behind would be left out without a word"
#endif

namespace {

using namespace sta;

// Time since the last call goes to one of the report's stages.
class Clock {
 public:
  explicit Clock(int64_t* nanoseconds) : nanoseconds_(nanoseconds), last_(now()) {}
  void charge(sta_stage stage) {
    const int64_t time = now();
    nanoseconds_[stage] += time - last_;
    last_ = time;
  }

 private:
  static int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  int64_t* nanoseconds_;
  int64_t last_;
};

template <typename T>
T* pointer(int64_t word) {
  return reinterpret_cast<T*>(word);
}

float number(int64_t word) {
  double value;
  std::memcpy(&value, &word, sizeof value);
  return static_cast<float>(value);
}

// Elements [at, at + n) of the range, through one step; the words are the arguments of the function of that name.
class Steps {
 public:
  Steps(const sta_flow_job& job, sta_flow_report* report)
      : job_(job), report_(report), options_{1, job.isa, job.tile, 0} {}

  int32_t run(int64_t at, int64_t n) {
    for (int32_t i = 0; i < job_.n_steps; ++i) {
      const int32_t status = one(job_.steps[i], i, at, n);
      if (status != STA_OK || report_->problem) return status;
    }
    return STA_OK;
  }

 private:
  int32_t one(const sta_step& step, int32_t index, int64_t at, int64_t n) {
    const int64_t* w = step.words;
    switch (step.op) {
      case STA_STEP_MERGE:
        return sta_merge(n, static_cast<int32_t>(w[1]), pointer<const sta_operand>(w[2]),
                         pointer<const sta_operand>(w[3]), pointer<const sta_operand>(w[4]), static_cast<int32_t>(w[5]),
                         pointer<const float>(w[6]), static_cast<int32_t>(w[7]), static_cast<int32_t>(w[8]),
                         pointer<const float>(w[9]), number(w[10]), pointer<const sta_operand>(w[11]),
                         pointer<int64_t>(w[12]), &options_);
      case STA_STEP_WEIGHTED_SUM:
        return sta_weighted_sum(n, static_cast<int32_t>(w[1]), pointer<const sta_operand>(w[2]),
                                pointer<const sta_operand>(w[3]), pointer<const float>(w[4]), number(w[5]),
                                number(w[6]), pointer<const sta_operand>(w[7]), &options_);
      case STA_STEP_EVALUATE: {
        sta_formula formula = *pointer<const sta_formula>(w[1]);
        formula.offset += at;
        return sta_evaluate(n, &formula, pointer<const sta_operand>(w[2]), &options_);
      }
      case STA_STEP_FORGET:
        return sta_forget(n, pointer<const sta_operand>(w[1]), pointer<const sta_operand>(w[2]),
                          pointer<const sta_operand>(w[3]), pointer<const sta_operand>(w[4]),
                          static_cast<int32_t>(w[5]), number(w[6]), number(w[7]), number(w[8]),
                          pointer<const sta_operand>(w[9]), pointer<int64_t>(w[10]), &options_);
      case STA_STEP_RANGES: return ranges(w, at, n);
      case STA_STEP_HISTOGRAM: {
        const Field field(w + 1, at);
        return sta_histogram(n, field.importance, field.theta, field.measure, field.formula,
                             static_cast<uint32_t>(w[5]), static_cast<int32_t>(w[6]), static_cast<int32_t>(w[7]),
                             pointer<uint64_t>(w[8]), &options_);
      }
      case STA_STEP_COUNT_EQUAL: {
        const Field field(w + 1, at);
        int64_t greater = 0;
        const int32_t status =
            sta_count_equal(n, field.importance, field.theta, field.measure, field.formula, number(w[5]),
                            pointer<uint32_t>(w[6]) + at / STA_LEAF, &greater, &options_);
        *pointer<int64_t>(w[7]) += greater;
        return status;
      }
      case STA_STEP_COLLECT: {
        const Field field(w + 1, at);
        auto* collector = pointer<sta_collector>(w[5]);
        mark(*collector, w[6], pointer<uint64_t>(w[7]), at);
        return sta_collect(n, field.importance, field.theta, field.measure, field.formula, collector, &options_);
      }
      case STA_STEP_NONFINITE: {
        int64_t operand, where;
        const int32_t status = sta_first_nonfinite(n, static_cast<int32_t>(w[1]), pointer<const sta_operand>(w[2]),
                                                   &operand, &where, &options_);
        if (status == STA_OK && operand >= 0) {
          report_->problem = STA_FLOW_NONFINITE;
          report_->step = index;
          report_->channel = operand;
          report_->position = at + where;
          report_->detail = where;
        }
        return status;
      }
      case STA_STEP_DIFFERS: {
        int64_t* differs = pointer<int64_t>(w[3]);
        if (!*differs)
          *differs =
              std::memcmp(pointer<const char>(w[0]), pointer<const char>(w[1]), static_cast<size_t>(n * w[2])) != 0;
        return STA_OK;
      }
      default: return STA_INVALID;
    }
  }

  // What a reduction takes in: importance, theta, measure, formula.
  struct Field {
    const sta_operand *importance, *theta;
    int32_t measure;
    sta_formula own{};
    const sta_formula* formula;

    Field(const int64_t* w, int64_t at)
        : importance(pointer<const sta_operand>(w[0])),
          theta(pointer<const sta_operand>(w[1])),
          measure(static_cast<int32_t>(w[2])),
          formula(pointer<const sta_formula>(w[3])) {
      if (!formula) return;
      own = *formula;
      own.offset += at;
      formula = &own;
    }
  };

  // Notes what a collector holds before the slice at an element, if that is the first of a part.
  void mark(const sta_collector& collector, int64_t part, uint64_t* marks, int64_t at) const {
    if (!part || at == 0 || at / part == (at - job_.stride) / part) return;
    uint64_t* here = marks + (at / part - 1) * (2 + collector.slots);
    here[0] = static_cast<uint64_t>(at);
    here[1] = static_cast<uint64_t>(collector.count);
    std::memcpy(here + 2, pointer<const char>(collector.table), static_cast<size_t>(collector.slots) * 8);
  }

  // Ranges and leaf sums of several tensors at once.
  int32_t ranges(const int64_t* w, int64_t at, int64_t n) {
    const int32_t count = static_cast<int32_t>(w[0]);
    if (count < 1) return STA_INVALID;
    const std::vector<int64_t> sizes(static_cast<size_t>(count), n);
    std::vector<sta_formula> formulas;
    if (const auto* given = pointer<const sta_formula>(w[5])) formulas.assign(given, given + count);
    for (sta_formula& formula : formulas) formula.offset += at;
    std::vector<double*> leaves;
    if (const auto* given = pointer<double* const>(w[7])) leaves.assign(given, given + count);
    for (double*& first : leaves) first += at / STA_LEAF;
    return sta_ranges(count, sizes.data(), pointer<const sta_operand>(w[2]), pointer<const sta_operand>(w[3]),
                      static_cast<int32_t>(w[4]), formulas.empty() ? nullptr : formulas.data(), pointer<float>(w[6]),
                      leaves.empty() ? nullptr : leaves.data(), &options_);
  }

  const sta_flow_job& job_;
  sta_flow_report* report_;
  sta_options options_;
};

#if !defined(_WIN32)

// All of a range of a file, or a problem in the report.
template <typename Transfer>
bool transfer(const sta_channel& channel, int64_t at, int64_t n, bool reads, Transfer one, sta_flow_report* report) {
  char* data = pointer<char>(channel.address);
  int64_t position = channel.offset + at * channel.unit, left = n * channel.unit;
  while (left) {
    const ssize_t moved = one(static_cast<int>(channel.fd), data, static_cast<size_t>(left), position);
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) {
      const bool ended = moved == 0 && reads;
      report->problem = ended ? STA_FLOW_ENDED : STA_FLOW_FAILED;
      report->position = position;
      report->detail = ended ? left : moved ? errno : EIO;
      return false;
    }
    data += moved;
    position += moved;
    left -= moved;
  }
  return true;
}

bool read_slice(const sta_channel& channel, int64_t at, int64_t n, sta_flow_report* report) {
  return transfer(
      channel, at, n, true, [](int fd, char* data, size_t size, int64_t from) { return pread(fd, data, size, from); },
      report);
}

bool write_slice(const sta_channel& channel, int64_t at, int64_t n, sta_flow_report* report) {
  return transfer(
      channel, at, n, false, [](int fd, char* data, size_t size, int64_t to) { return pwrite(fd, data, size, to); },
      report);
}

// Has what was written go to the device meanwhile, so that the sync at the end finds little to do.
class WriteBehind {
 public:
  explicit WriteBehind(const sta_channel& out) : out_(out), begun_(out.offset) {}

  // All elements before the given one are written.
  void after(int64_t next, bool ends) {
#if defined(SYNC_FILE_RANGE_WRITE)
    const int64_t stop = out_.offset + next * out_.unit;
    if (stop - begun_ < (ends ? kLeast : kWindow)) return;
    sync_file_range(static_cast<int>(out_.fd), begun_, stop - begun_, SYNC_FILE_RANGE_WRITE);
    begun_ = stop;
#else
    (void)next, (void)ends;
#endif
  }

 private:
  static constexpr int64_t kWindow = int64_t{8} << 20, kLeast = int64_t{1} << 20;
  const sta_channel& out_;
  int64_t begun_;
};

int32_t flow(const sta_flow_job& job, const KernelTable& kernels, sta_flow_report* report) {
  const auto begin = [&](const sta_channel& channel) {
    if (channel.digest)
      pointer<BlockDigests>(channel.digest)
          ->begin(job.block, channel.offset, pointer<uint8_t>(channel.digests), channel.capacity);
  };
  for (int64_t i = 0; i < job.n_reads; ++i) begin(job.reads[i]);
  if (job.out) begin(*job.out);
  Steps steps(job, report);
  Clock clock(report->nanoseconds);
  const auto digest = [&](const sta_channel& channel, int64_t n) {
    if (!channel.digest) return;
    pointer<BlockDigests>(channel.digest)->pass(kernels, pointer<const char>(channel.address), n * channel.unit);
    clock.charge(STA_STAGE_DIGEST);
  };
  std::optional<WriteBehind> behind;
  if (job.out) behind.emplace(*job.out);
  for (int64_t at = 0; at < job.n; at += job.stride) {
    const int64_t n = std::min(job.slice, job.n - at);
    for (int64_t i = 0; i < job.n_reads; ++i) {
      report->channel = i;
      if (!read_slice(job.reads[i], at, n, report)) return STA_OK;
      clock.charge(STA_STAGE_READ);
      digest(job.reads[i], n);
    }
    const int32_t status = steps.run(at, n);
    clock.charge(STA_STAGE_COMPUTE);
    if (status != STA_OK || report->problem) return status;
    if (!job.out) continue;
    report->channel = job.n_reads;
    if (!write_slice(*job.out, at, n, report)) return STA_OK;
    behind->after(at + n, at + n == job.n);
    clock.charge(STA_STAGE_WRITE);
    digest(*job.out, n);
  }
  return STA_OK;
}

#endif

}  // namespace

extern "C" {

int32_t sta_can_flow(void) {
#if defined(_WIN32)
  return 0;
#else
  return 1;
#endif
}

int32_t sta_flow(const sta_flow_job* job, sta_flow_report* report) {
#if defined(_WIN32)
  (void)job;
  (void)report;
  return STA_INVALID;
#else
  return guarded([&]() -> int32_t {
    if (!job || !report || job->n < 0 || job->slice < 1 || job->stride < job->slice || job->stride % STA_LEAF ||
        job->n_reads < 0 || job->n_steps < 0 || (job->n_reads && !job->reads) || (job->n_steps && !job->steps) ||
        job->block < kDigestUnit || job->block % kDigestUnit)
      return STA_INVALID;
    const sta_options options{1, job->isa, job->tile, 0};
    Run run;
    if (const int32_t status = run.set(&options)) return status;
    return flow(*job, *run.kernels, report);
  });
#endif
}

}  // extern "C"
