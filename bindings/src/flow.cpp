// A pass over a range of a merge, slice by slice: each is read, computed on and written while it is in the caches.
#include <algorithm>
#include <chrono>
#include <optional>

#include "calls.h"
#include "digest.h"
#include "steps.h"

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
