// Philox4x32-7: the draws of consecutive elements of some tasks (reference/philox.py says which).
//
// Each of the four words of a block stands in the low half of a 64-bit lane, and what is above it is anything: a
// product of two such halves is the next round's low word as it is, and its high word after one shift.

// Which half of a draw's 32 bits, as it stands in the counter.
enum class Half : uint32_t { kHigh = 0, kLow = 0x80000000u };

// The draws of one tensor.
struct Philox {
  static constexpr int kRounds = 7;
  static constexpr uint32_t kFirst = 0xD2511F53u, kSecond = 0xCD9E8D57u;
  static constexpr int64_t kBlock = 8;  // elements that a block serves
  // From one such index to the next, the numbers of blocks share their high word.
  static constexpr int64_t kSpan = kBlock << 32;
  uint32_t tensor, low[kRounds], high[kRounds];  // the rounds' keys

  Philox(uint64_t seed, uint32_t tensor) : tensor(tensor) {
    for (uint32_t r = 0; r < kRounds; ++r) {
      low[r] = static_cast<uint32_t>(seed) + r * 0x9E3779B9u;
      high[r] = static_cast<uint32_t>(seed >> 32) + r * 0xBB67AE85u;
    }
  }

  // Half a draw of one element.
  uint32_t draw(Half half, uint32_t task, int64_t index) const {
    const uint64_t block = static_cast<uint64_t>(index / kBlock);
    uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32) | static_cast<uint32_t>(half);
    uint32_t c2 = task, c3 = tensor;
    for (int r = 0; r < kRounds; ++r) {
      const uint64_t a = static_cast<uint64_t>(c0) * kFirst, b = static_cast<uint64_t>(c2) * kSecond;
      c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ low[r];
      c1 = static_cast<uint32_t>(b);
      c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ high[r];
      c3 = static_cast<uint32_t>(a);
    }
    const uint32_t words[] = {c0, c1, c2, c3};
    return words[index / 2 % 4] >> (index % 2 * 16) & 0xffff;
  }
};

// Half the draws of elements [index, index + n) within a span, index a multiple of Philox::kBlock. For each 4 W
// elements of each task j: use(j, i, front, back) of 2 W elements each, the first at index + i.
//
// In the first two rounds, half of the words are the same for all tasks, the other half for all elements.
template <typename Use>
STA_INLINE void draw_in_span(const Philox& philox, Half half, const uint32_t* tasks, int n_tasks, int64_t index,
                             int64_t n, Use use) {
  constexpr int kTogether = 8;  // vectors of blocks
  const V::I first = V::iset(Philox::kFirst), second = V::iset(Philox::kSecond);
  const uint64_t number = static_cast<uint64_t>(index / Philox::kBlock);
  V::I block = V::add64(V::set64(number), V::quads()), lasting[kTogether], mixed[kTogether];
  for (int64_t at = 0; at < n; at += kTogether * 4 * V::W) {
    const int64_t stop = n - at < kTogether * 4 * V::W ? n - at : kTogether * 4 * V::W;
    for (int k = 0; k < kTogether; ++k) {
      lasting[k] = V::mul_low(block, first);
      mixed[k] = V::mul_low(V::ixor(V::upper(lasting[k]), V::iset(philox.tensor ^ philox.high[0])), second);
      block = V::add64(block, V::set64(V::W / 2));
    }
    for (int j = 0; j < n_tasks; ++j) {
      const uint32_t upper = static_cast<uint32_t>(number >> 32) | static_cast<uint32_t>(half);
      const uint64_t task = static_cast<uint64_t>(tasks[j]) * Philox::kSecond;
      const uint64_t own =
          static_cast<uint64_t>(static_cast<uint32_t>(task >> 32) ^ upper ^ philox.low[0]) * Philox::kFirst;
      const V::I own0 = V::iset(static_cast<uint32_t>(task) ^ philox.low[1]);
      const V::I own2 = V::iset(static_cast<uint32_t>(own >> 32) ^ philox.high[1]);
      const V::I own3 = V::iset(static_cast<uint32_t>(own));
      for (int k = 0; k * 4 * V::W < stop; ++k) {
        V::I c0 = V::ixor(V::upper(mixed[k]), own0), c1 = mixed[k], c2 = V::ixor(lasting[k], own2), c3 = own3;
        STA_UNROLL
        for (int r = 2; r < Philox::kRounds; ++r) {
          const V::I a = V::mul_low(c0, first), b = V::mul_low(c2, second);
          c0 = V::ixor3(V::upper(b), c1, V::iset(philox.low[r]));
          c1 = b;
          c2 = V::ixor3(V::upper(a), c3, V::iset(philox.high[r]));
          c3 = a;
        }
        const V::I front = V::join_low(c0, c1), back = V::join_low(c2, c3);
        use(j, at + k * 4 * V::W, V::unpack_low(front, back), V::unpack_high(front, back));
      }
    }
  }
}

// The same anywhere.
template <typename Use>
STA_INLINE void draw(const Philox& philox, Half half, const uint32_t* tasks, int n_tasks, int64_t index, int64_t n,
                     Use use) {
  for (int64_t at = 0; at < n;) {
    const int64_t left = Philox::kSpan - (index + at) % Philox::kSpan, count = n - at < left ? n - at : left;
    draw_in_span(philox, half, tasks, n_tasks, index + at, count,
                 [&](int j, int64_t i, V::I front, V::I back) { use(j, at + i, front, back); });
    at += count;
  }
}
