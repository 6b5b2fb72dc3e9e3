// Fuzzes the C ABI: every function with arguments made of the input's bytes, on buffers of exactly the size that the
// arguments allow. Under a sanitizer, whatever touches a byte beyond is caught; without one, that what is invalid is
// refused, and that no input ends the process.
//
// Built with libFuzzer for `make fuzz`, and with its own main, which replays files, for the tests.
#include <sta_core.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

namespace {

// Bytes of the input one after the other; zeros where it has ended.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  template <typename T>
  T take() {
    T value{};
    const size_t n = std::min(sizeof(T), size_ - at_);
    std::memcpy(&value, data_ + at_, n);
    at_ += n;
    return value;
  }
  int64_t below(int64_t limit) { return take<uint8_t>() % limit; }
  bool one_in(int n) { return below(n) == n - 1; }  // never at the input's end

  // Mostly what is meant, now and then any number.
  int64_t near(int64_t meant, int64_t spread) {
    if (one_in(32)) return take<int64_t>();
    return one_in(8) ? meant + static_cast<int8_t>(take<uint8_t>()) : meant - spread / 2 + below(spread + 1);
  }

  float number() {
    static const float kSpecial[] = {0.0f, -0.0f, 1.0f, -1.0f, 1e-45f, 3.4e38f, __builtin_inff(), __builtin_nanf("")};
    const int64_t kind = below(16);
    return kind < 8 ? kSpecial[kind] : static_cast<float>(take<int16_t>()) / 64;
  }

  void fill(char* to, size_t n) {
    uint64_t state = take<uint32_t>() * 2654435761u + 1;
    for (size_t i = 0; i < n; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      to[i] = static_cast<char>(state >> 56);
    }
  }

 private:
  const uint8_t* data_;
  size_t size_, at_ = 0;
};

// Operands of n elements, and the memory that they are in.
class Arguments {
 public:
  Arguments(Input& input, int64_t n) : input_(input), n_(n) {}

  bool sound() const { return sound_; }

  const sta_operand* operands(int64_t count) {
    auto list = std::make_unique<sta_operand[]>(static_cast<size_t>(std::max<int64_t>(count, 1)));
    for (int64_t i = 0; i < count; ++i) list[static_cast<size_t>(i)] = one();
    lists_.push_back(std::move(list));
    return lists_.back().get();
  }

  template <typename T>
  T* room(int64_t count) {
    memory_.push_back(std::make_unique<char[]>(static_cast<size_t>(std::max<int64_t>(count, 0)) * sizeof(T)));
    return reinterpret_cast<T*>(memory_.back().get());
  }

  float* numbers(int64_t count) {
    float* list = room<float>(count);
    for (int64_t i = 0; i < count; ++i) list[i] = input_.number();
    return list;
  }

  sta_formula formula() {
    sta_formula f{};
    f.kind = input_.one_in(32) ? input_.take<int64_t>() : input_.below(32);
    f.n_models = input_.near(3, 4);
    f.has_base = input_.below(2);
    f.n_importances = input_.one_in(16) ? input_.take<int8_t>() : input_.below(2) * f.n_models;
    const bool countable =
        f.n_models > 0 && f.n_models <= STA_MAX_TASKS && (f.n_importances == 0 || f.n_importances == f.n_models);
    sound_ = sound_ && countable;
    const int64_t models = countable ? f.n_models : 0;
    f.operands = address(operands(countable ? f.has_base + models + f.n_importances : 0));
    f.n_variant = input_.below(5);
    f.n_shared = input_.below(9);
    f.width = input_.below(5);
    f.n_integers = input_.below(9) * (1 + models);
    int64_t* variant = room<int64_t>(f.n_variant);
    for (int64_t i = 0; i < f.n_variant; ++i) variant[i] = input_.near(1, 2);
    int64_t* integers = room<int64_t>(f.n_integers);
    for (int64_t i = 0; i < f.n_integers; ++i) integers[i] = input_.near(1, 4);
    f.variant = address(variant);
    f.integers = address(integers);
    f.shared = address(numbers(f.n_shared));
    f.per_model = address(numbers(models * f.width));
    f.offset = input_.one_in(16) ? input_.take<int64_t>() : input_.below(200);
    return f;
  }

 private:
  template <typename T>
  static int64_t address(const T* pointer) {
    return reinterpret_cast<int64_t>(pointer);
  }

  sta_operand one() {
    static const int64_t kItem[] = {4, 2, 2, 8};
    sta_operand operand{};
    operand.dtype = input_.one_in(32) ? input_.take<int64_t>() : input_.below(4);
    const bool known = operand.dtype >= 0 && operand.dtype <= 3;
    sound_ = sound_ && known;
    const int64_t item = known ? kItem[operand.dtype] : 1;
    const int64_t kind = input_.below(16);
    if (kind < 10) {
      operand.address = span(0, n_ * item, kind == 9);
      return operand;
    }
    int64_t* record = room<int64_t>(1 + 2 * STA_MAX_DIMS);
    operand.layout = address(record);
    if (kind < 14) {
      strided(record, item, operand);
    } else {
      hostile(record, operand);
    }
    return operand;
  }

  // Memory for bytes [low, high) around the address that is returned; unaligned if so asked.
  int64_t span(int64_t low, int64_t high, bool unaligned) {
    const size_t shift = unaligned ? 1 : 0, size = static_cast<size_t>(high - low) + shift;
    char* memory = room<char>(static_cast<int64_t>(size));
    input_.fill(memory, size);
    return address(memory) + static_cast<int64_t>(shift) - low;
  }

  // Sizes that multiply to n, and strides of any sign.
  void strided(int64_t* record, int64_t item, sta_operand& operand) {
    const int64_t ndim = 1 + input_.below(4);
    record[0] = ndim;
    int64_t left = std::max<int64_t>(n_, 0), low = 0, high = 0;
    for (int64_t d = 0; d < ndim; ++d) {
      const int64_t divisor = 1 + input_.below(6);
      const int64_t size = d == ndim - 1 || left % divisor ? (d == ndim - 1 ? left : 1) : divisor;
      if (size) left /= size;
      const int64_t stride = item * (static_cast<int8_t>(input_.take<uint8_t>()) / 16);
      record[1 + d] = size;
      record[1 + ndim + d] = stride;
      const int64_t reach = std::max<int64_t>(size - 1, 0) * stride;
      (reach < 0 ? low : high) += reach;
    }
    operand.address = span(low, high + (n_ > 0 ? item : 0), false);
  }

  // A record of any numbers. What it describes must be n elements, or be refused; one that happens to describe them has
  // its strides set to zero.
  void hostile(int64_t* record, sta_operand& operand) {
    const int64_t ndim = input_.one_in(4) ? input_.take<int64_t>() : input_.below(5);
    record[0] = ndim;
    const bool listed = ndim >= 0 && ndim <= STA_MAX_DIMS;
    bool product = listed;
    int64_t elements = 1;
    for (int64_t d = 0; listed && d < ndim; ++d) {
      record[1 + d] = input_.below(2) ? input_.take<int64_t>() : input_.below(8);
      record[1 + ndim + d] = input_.take<int64_t>();
      product = product && record[1 + d] >= 0 && !__builtin_mul_overflow(elements, record[1 + d], &elements);
    }
    if (product && elements == n_) {
      for (int64_t d = 0; d < ndim; ++d) record[1 + ndim + d] = 0;
    } else {
      sound_ = false;
    }
    operand.address = span(0, 8, false);
  }

  Input& input_;
  int64_t n_;
  bool sound_ = true;
  std::vector<std::unique_ptr<sta_operand[]>> lists_;
  std::vector<std::unique_ptr<char[]>> memory_;
};

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

// Sets whether the function reads every operand that it is given.
int32_t call(Input& input, int64_t n, Arguments& a, const sta_options* options, bool* reads_all) {
  const int64_t leaves = n / STA_LEAF + 1;
  const auto measure = static_cast<int32_t>(input.near(1, 2));
  const int64_t tasks = input.near(3, 4);
  const bool some = tasks > 0 && tasks <= STA_MAX_TASKS;
  const int64_t counted = some ? tasks : 0;
  const auto n_tasks = static_cast<int32_t>(std::clamp<int64_t>(tasks, INT32_MIN, INT32_MAX));
  // What a statistic takes in.
  sta_formula formula{};
  const sta_operand *importance = nullptr, *theta = nullptr;
  const sta_formula* field = nullptr;
  const auto subject = [&] {
    if (input.below(2)) {
      formula = a.formula();
      field = &formula;
    } else {
      importance = a.operands(1);
      theta = a.operands(1);
    }
  };
  const int64_t function = input.below(14);
  *reads_all = function == 1 || function == 2 || function == 8 || function > 10;
  switch (function) {
    case 0:
      return sta_merge(n, n_tasks, a.operands(1), a.operands(counted), a.operands(counted), measure,
                       a.numbers(2 * counted), static_cast<int32_t>(input.near(1, 3)),
                       static_cast<int32_t>(input.near(1, 2)), input.below(2) ? a.numbers(counted) : nullptr,
                       input.number(), a.operands(1), input.below(2) ? a.room<int64_t>(counted + 1) : nullptr, options);
    case 1:
      return sta_weighted_sum(n, n_tasks, input.below(2) ? a.operands(1) : nullptr, a.operands(counted),
                              a.numbers(counted), input.number(), input.number(), a.operands(1), options);
    case 2: formula = a.formula(); return sta_evaluate(n, &formula, a.operands(1), options);
    case 3: {
      subject();
      double* sums[] = {a.room<double>(leaves)};
      float* minmax = a.numbers(2);
      return sta_ranges(1, &n, importance, theta, measure, field, input.below(4) ? minmax : nullptr,
                        input.below(2) ? sums : nullptr, options);
    }
    case 4: {
      subject();
      const auto digits = static_cast<int32_t>(input.near(8, 16));
      return sta_histogram(n, importance, theta, measure, field, input.take<uint32_t>(),
                           static_cast<int32_t>(input.near(8, 16)), digits,
                           a.room<uint64_t>(digits > 0 && digits <= 16 ? int64_t{1} << digits : 0), options);
    }
    case 5: {
      subject();
      sta_collector c{};
      c.start = input.take<uint32_t>();
      c.span = input.take<uint32_t>();
      c.capacity = input.below(64);
      for (uint32_t& common : c.common) common = c.start + static_cast<uint32_t>(input.below(64));
      c.keys = reinterpret_cast<int64_t>(a.room<uint32_t>(c.capacity));
      return sta_collect(n, importance, theta, measure, field, &c, options);
    }
    case 6: {
      subject();
      double result;
      return sta_order_statistic(n, importance, theta, measure, field, input.near(n / 2 + 1, 4),
                                 static_cast<int32_t>(input.below(2)), &result, options);
    }
    case 7: {
      subject();
      int64_t greater;
      return sta_count_equal(n, importance, theta, measure, field, input.number(), a.room<uint32_t>(leaves), &greater,
                             options);
    }
    case 8:
      return sta_rank_gate(n, input.below(4) ? std::max<int64_t>(n, 1) : input.near(4, 8), a.operands(1), a.operands(1),
                           input.take<uint32_t>(), input.take<uint64_t>() >> 31, static_cast<int32_t>(input.below(2)),
                           input.take<uint64_t>(), input.take<uint32_t>(), input.take<uint8_t>(),
                           input.one_in(16) ? input.take<int64_t>() : input.below(99), a.operands(1), options);
    case 9: {
      subject();
      const int64_t begin = input.near(0, 2), end = input.near(n, 2);
      const bool within = begin >= 0 && begin <= end && end <= n;
      return sta_values(n, importance, theta, measure, field, begin, end, a.room<float>(within ? end - begin : 0),
                        options);
    }
    case 10:
      return sta_forget(n, a.operands(1), a.operands(1), a.operands(1), a.operands(1), measure, input.number(),
                        input.number(), input.number(), a.operands(1), input.below(2) ? a.room<int64_t>(1) : nullptr,
                        options);
    case 11: return sta_taylor_accumulate(n, a.operands(1), a.operands(1), options);
    case 12:
      return sta_taylor_finish(n, a.operands(1), a.operands(1), measure, a.operands(1), a.numbers(2),
                               a.room<double>(leaves), options);
    default: {
      int64_t operand, index;
      return sta_first_nonfinite(n, static_cast<int32_t>(counted), a.operands(counted), &operand, &index, options);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const int64_t n = input.one_in(64)  ? input.below(8) * 9000
                    : input.one_in(4) ? input.take<uint16_t>() % 5000
                                      : input.below(200);
  sta_options options{};
  options.threads = input.near(2, 2);
  options.isa = input.near(0, 2);
  options.tile = input.one_in(4) ? input.take<int64_t>() : 0;
  options.streaming_bytes = input.one_in(4) ? input.below(64) : 0;
  Arguments arguments(input, n);
  bool reads_all = false;
  const int32_t status = call(input, n, arguments, input.below(4) ? &options : nullptr, &reads_all);
  if (status > STA_OK || status < STA_NO_SUCH_ISA) fail("a status that there is none of");
  if (status == STA_OK && reads_all && !arguments.sound()) fail("an operand that is none was accepted");
  return 0;
}

#ifdef STA_REPLAY
// Replays files: each holds inputs one after the other, with the length of each before it, as two bytes.
int main(int argc, char** argv) {
  size_t count = 0;
  for (int i = 1; i < argc; ++i) {
    std::ifstream stream(argv[i], std::ios::binary);
    const std::vector<char> all{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    const auto* bytes = reinterpret_cast<const uint8_t*>(all.data());
    for (size_t at = 0; at + 2 <= all.size();) {
      const size_t length = bytes[at] | size_t{bytes[at + 1]} << 8;
      if (at + 2 + length > all.size()) fail("an input that is cut off");
      LLVMFuzzerTestOneInput(bytes + at + 2, length);
      at += 2 + length;
      ++count;
    }
  }
  std::printf("%zu inputs\n", count);
}
#endif
