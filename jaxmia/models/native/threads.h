// Work that several threads share.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace jaxmia {

// Multiply-adds of a thread that are worth waking it up, which takes some of the 40 microseconds that they take.
constexpr int64_t kWorthAThread = 1 << 22;

// The calling thread and threads of XLA's pool, `count` together.
class Threads {
 public:
  Threads(xla::ffi::ThreadPool pool, int64_t count) : pool_(pool), count_(count) {}

  int64_t count() const { return count_; }

  // As many of the threads as work of so many multiply-adds is worth.
  Threads For(int64_t work) const { return {pool_, std::clamp<int64_t>(work / kWorthAThread, 1, count_)}; }

  // Calls work(next) in every thread, where next() is the number of the next part, or `parts` once none is left. A
  // thread that the pool has no time for is not waited for. Throws what `work` throws in any of them.
  template <typename Work>
  void Share(int64_t parts, const Work& work) {
    const auto shared = std::make_shared<Parts>(parts, std::min(count_, parts));
    // A thread that begins after the caller has returned finds no part left, and so does not touch `work`.
    const auto join = [shared, parts, &work](int64_t thread) {
      ++shared->working;
      if (!shared->Finished()) {
        try {
          work([&] { return shared->Next(thread); });
        } catch (...) {
          shared->Fail(std::current_exception());
        }
      }
      --shared->working;
    };
    try {
      for (int64_t thread = 1; thread < shared->threads(); ++thread) pool_.Schedule([join, thread] { join(thread); });
    } catch (...) {
      shared->Fail(std::current_exception());
    }
    join(0);
    while (shared->working > 0) std::this_thread::yield();
    if (shared->error) std::rethrow_exception(shared->error);
  }

 private:
  // Each thread has a range of parts, and takes of others' when its own are done. As the ranges are the same for all
  // that is computed of the same samples, most of what a thread reads is in its core's cache.
  struct Parts {
    struct Range {
      std::atomic<int64_t> next;
      int64_t end;
    };

    const int64_t parts;
    std::vector<Range> ranges;
    std::atomic<int64_t> working{0};
    std::mutex mutex;
    std::exception_ptr error;

    Parts(int64_t parts, int64_t threads) : parts(parts), ranges(threads) {
      for (int64_t t = 0; t < threads; ++t) {
        ranges[t].next = t * parts / threads;
        ranges[t].end = (t + 1) * parts / threads;
      }
    }

    int64_t threads() const { return ranges.size(); }

    bool Finished() const {
      return std::all_of(ranges.begin(), ranges.end(), [](const Range& range) { return range.next >= range.end; });
    }

    int64_t Next(int64_t thread) {
      for (int64_t t = 0; t < threads(); ++t) {
        Range& range = ranges[(thread + t) % threads()];
        const int64_t part = range.next++;
        if (part < range.end) return part;
      }
      return parts;
    }

    void Fail(std::exception_ptr thrown) {
      for (Range& range : ranges) range.next = range.end;
      const std::lock_guard<std::mutex> lock(mutex);
      error = thrown;
    }
  };

  xla::ffi::ThreadPool pool_;
  int64_t count_;
};

}  // namespace jaxmia
