// The floor of a merge: its I/O and nothing else. Reads every input byte once, writes every output byte once.
//
//   floor [--threads N] [--chunk BYTES] [--preallocate] [--write-back] [--sync]
//         [--read FILE BYTES]... [--write FILE BYTES]...
//
// All files are cut into the same number of parts; a thread takes the next part, reads it of every input and writes it
// of every output, so that reads and writes interleave as a merge's do. What is written is what was read last: nothing
// is computed, and no input need be as long as an output.
// Prints JSON: seconds from before the first open to after the last close, bytes read and written.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t kPage = 4096;

struct Spec {
  std::string path;
  std::int64_t bytes;
};

struct Options {
  int threads = 2;
  std::int64_t chunk = 256 << 10;  // the fastest of 64 KiB to 8 MiB, on tmpfs
  bool preallocate = false;        // reserve the outputs' blocks first
  bool write_back = false;         // start the write-back of a part as soon as it is written
  bool sync = false;               // one fdatasync per output at the end
  std::vector<Spec> reads, writes;
};

[[noreturn]] void fail(const std::string& path, int error) {
  throw std::system_error(error, std::generic_category(), path);
}

class File {
 public:
  File(const Spec& spec, int flags) : spec_(spec), fd_(open(spec.path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (fd_ < 0) fail(spec.path, errno);
  }
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  std::int64_t bytes() const { return spec_.bytes; }

  // Where part i of n begins; at a page, so that no two parts share one.
  std::int64_t begin(std::int64_t i, std::int64_t n) const {
    if (i == n) return spec_.bytes;
    const auto exact = static_cast<std::int64_t>(static_cast<__int128>(spec_.bytes) * i / n);
    return exact / kPage * kPage;
  }

  void read(char* buffer, std::int64_t size, std::int64_t offset) const {
    while (size > 0) {
      const ssize_t count = pread(fd_, buffer, static_cast<std::size_t>(size), offset);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail(spec_.path, errno);
      if (count == 0) throw std::runtime_error(spec_.path + ": ends at byte " + std::to_string(offset));
      buffer += count, size -= count, offset += count;
    }
  }

  void write(const char* buffer, std::int64_t size, std::int64_t offset) const {
    while (size > 0) {
      const ssize_t count = pwrite(fd_, buffer, static_cast<std::size_t>(size), offset);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail(spec_.path, errno);
      buffer += count, size -= count, offset += count;
    }
  }

  void preallocate() const {
    if (spec_.bytes == 0) return;
    if (const int error = posix_fallocate(fd_, 0, spec_.bytes)) fail(spec_.path, error);
  }

  void start_write_back(std::int64_t size, std::int64_t offset) const {
    if (sync_file_range(fd_, offset, size, SYNC_FILE_RANGE_WRITE) != 0) fail(spec_.path, errno);
  }

  void sync() const {
    if (fdatasync(fd_) != 0) fail(spec_.path, errno);
  }

 private:
  const Spec& spec_;
  const int fd_;
};

using Files = std::vector<std::unique_ptr<File>>;

struct Floor {
  const Options& options;
  const Files& inputs;
  const Files& outputs;
  std::int64_t parts;
  std::atomic<std::int64_t> next{0}, bytes_read{0}, bytes_written{0};

  // A merge needs a part of all inputs at once, so each has a buffer of its own here, too.
  void work() {
    const std::int64_t room = options.chunk + kPage;  // a part begins up to a page early
    std::vector<std::unique_ptr<char, decltype(&std::free)>> buffers;
    for (std::size_t i = 0; i < std::max<std::size_t>(1, inputs.size()); ++i) {
      void* memory = nullptr;
      if (posix_memalign(&memory, kPage, static_cast<std::size_t>(room))) throw std::bad_alloc();
      buffers.emplace_back(static_cast<char*>(memory), &std::free);
    }
    for (std::int64_t part = next++; part < parts; part = next++) {
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        const std::int64_t start = inputs[i]->begin(part, parts);
        const std::int64_t size = inputs[i]->begin(part + 1, parts) - start;
        inputs[i]->read(buffers[i].get(), size, start);
        bytes_read += size;
      }
      for (const auto& output : outputs) {
        const std::int64_t start = output->begin(part, parts);
        const std::int64_t size = output->begin(part + 1, parts) - start;
        output->write(buffers.back().get(), size, start);
        if (options.write_back && size > 0) output->start_write_back(size, start);
        bytes_written += size;
      }
    }
  }
};

std::int64_t number(const char* text) {
  char* end = nullptr;
  errno = 0;
  const long long value = std::strtoll(text, &end, 10);
  if (errno || end == text || *end || value < 0) throw std::invalid_argument(std::string("not a size: ") + text);
  return value;
}

Options parse(int argc, char** argv) {
  Options options;
  const auto argument = [&](int& i) {
    if (++i >= argc) throw std::invalid_argument(std::string(argv[argc - 1]) + " lacks an argument");
    return argv[i];
  };
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--threads") {
      options.threads = static_cast<int>(number(argument(i)));
    } else if (name == "--chunk") {
      options.chunk = number(argument(i));
    } else if (name == "--preallocate") {
      options.preallocate = true;
    } else if (name == "--write-back") {
      options.write_back = true;
    } else if (name == "--sync") {
      options.sync = true;
    } else if (name == "--read" || name == "--write") {
      const std::string path = argument(i);
      (name == "--read" ? options.reads : options.writes).push_back({path, number(argument(i))});
    } else {
      throw std::invalid_argument("unknown option " + name);
    }
  }
  if (options.threads < 1 || options.chunk < kPage) throw std::invalid_argument("needs a thread, and chunks of a page");
  return options;
}

void run(const Options& options) {
  const auto began = std::chrono::steady_clock::now();
  std::int64_t longest = 0, bytes_read = 0, bytes_written = 0;
  {
    Files inputs, outputs;
    for (const Spec& spec : options.reads) inputs.push_back(std::make_unique<File>(spec, O_RDONLY));
    for (const Spec& spec : options.writes) {
      outputs.push_back(std::make_unique<File>(spec, O_WRONLY | O_CREAT | O_TRUNC));
      if (options.preallocate) outputs.back()->preallocate();
    }
    for (const Files* files : {&inputs, &outputs}) {
      for (const auto& file : *files) longest = std::max(longest, file->bytes());
    }
    Floor floor{options, inputs, outputs, (longest + options.chunk - 1) / options.chunk};
    std::vector<std::exception_ptr> errors(static_cast<std::size_t>(options.threads));
    std::vector<std::thread> threads;
    for (auto& error : errors) {
      threads.emplace_back([&floor, &error] {
        try {
          floor.work();
        } catch (...) {
          error = std::current_exception();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& error : errors) {
      if (error) std::rethrow_exception(error);
    }
    if (options.sync) {
      for (const auto& output : outputs) output->sync();
    }
    bytes_read = floor.bytes_read, bytes_written = floor.bytes_written;
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
  std::printf("{\"seconds\": %.6f, \"read\": %lld, \"written\": %lld}\n", seconds.count(),
              static_cast<long long>(bytes_read), static_cast<long long>(bytes_written));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(parse(argc, argv));
  } catch (const std::exception& error) {
    std::cerr << "floor: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
