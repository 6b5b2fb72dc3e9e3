#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>

#if defined(__x86_64__)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

namespace sta {

#if defined(__x86_64__)
IeeeMode::IeeeMode() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
IeeeMode::~IeeeMode() { _mm_setcsr(static_cast<unsigned>(saved_)); }
#elif defined(__aarch64__)
IeeeMode::IeeeMode() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" : : "r"(uint64_t{0}));
}
IeeeMode::~IeeeMode() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
IeeeMode::IeeeMode() : saved_(static_cast<uint64_t>(fegetround())) { fesetround(FE_TONEAREST); }
IeeeMode::~IeeeMode() { fesetround(static_cast<int>(saved_)); }
#endif

namespace {

constexpr int kMostThreads = 256;

struct Job {
  Body body;
  void* context;
  int64_t chunks;
  std::atomic<int64_t> next{0};
  int free_slots;     // helpers that may still join; guarded by the pool's mutex
  int next_slot = 1;  // the caller has slot 0
  int running = 0;    // helpers at work; guarded by the pool's mutex
  Job* after = nullptr;

  void work(int slot) {
    const IeeeMode mode;
    for (int64_t chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) body(context, chunk, slot);
  }
};

class Pool {
 public:
  void run(Job& job) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      while (threads_ < job.free_slots && start_thread()) {
      }
      job.after = first_;
      first_ = &job;
    }
    wake_.notify_all();
    job.work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    remove(job);
    job_done_.wait(lock, [&] { return job.running == 0; });
  }

  std::mutex& mutex() { return mutex_; }

 private:
  bool start_thread() {
    if (threads_ >= kMostThreads) return false;
    pthread_t thread;
    if (pthread_create(
            &thread, nullptr,
            [](void* pool) -> void* {
              static_cast<Pool*>(pool)->serve();
              return nullptr;
            },
            this) != 0)
      return false;  // the job goes on with the threads there are
    pthread_detach(thread);
    ++threads_;
    return true;
  }

  void remove(Job& job) {
    for (Job** at = &first_; *at; at = &(*at)->after) {
      if (*at == &job) {
        *at = job.after;
        return;
      }
    }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Job* job = first_;
      while (job && (job->free_slots == 0 || job->next.load(std::memory_order_relaxed) >= job->chunks))
        job = job->after;
      if (!job) {
        wake_.wait(lock);
        continue;
      }
      --job->free_slots;
      ++job->running;
      const int slot = job->next_slot++;
      lock.unlock();
      job->work(slot);
      lock.lock();
      if (--job->running == 0) job_done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, job_done_;
  Job* first_ = nullptr;
  int threads_ = 0;
};

// A child has none of its parent's threads: it starts over with a pool that the parent made ready, for the child may
// not be able to. The old one is abandoned, never destroyed, for its threads' waits have no end.
Pool* pool = new (std::nothrow) Pool;
Pool* spare = nullptr;

void prepare_fork() {
  spare = new (std::nothrow) Pool;
  if (pool) pool->mutex().lock();
}
void resume_parent() {
  if (pool) pool->mutex().unlock();
  delete spare;
}
void start_over_in_child() { pool = spare; }
const int registered = pthread_atfork(prepare_fork, resume_parent, start_over_in_child);

}  // namespace

void run_chunks(int64_t chunks, int threads, Body body, void* context) {
  if (threads > kMostThreads) threads = kMostThreads;
  if (threads > chunks) threads = static_cast<int>(chunks);
  // Without the fork handlers, a child would wait for threads that it does not have.
  if (threads <= 1 || registered != 0 || !pool) {
    const IeeeMode mode;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk, 0);
    return;
  }
  Job job;
  job.body = body;
  job.context = context;
  job.chunks = chunks;
  job.free_slots = threads - 1;
  pool->run(job);
}

}  // namespace sta
