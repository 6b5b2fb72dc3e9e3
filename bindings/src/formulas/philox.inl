// Philox4x32-10: the draws of consecutive elements of a task (reference/philox.py says which).
//
// Each of the four words of a block stands in the low half of a 64-bit lane, and what is above it is anything: a
// product of two such halves is the next round's low word as it is, and its high word after one shift.

static void draw(uint64_t seed, uint32_t tensor, uint32_t task, int64_t index, int64_t n, uint32_t* words) {
  V::I low[10], high[10];  // the rounds' keys
  for (uint32_t r = 0; r < 10; ++r) {
    low[r] = V::iset(static_cast<uint32_t>(seed) + r * 0x9E3779B9u);
    high[r] = V::iset(static_cast<uint32_t>(seed >> 32) + r * 0xBB67AE85u);
  }
  const V::I first = V::iset(0xD2511F53u), second = V::iset(0xCD9E8D57u);
  V::I block = V::add64(V::set64(static_cast<uint64_t>(index) >> 2), V::quads());
  for (int64_t i = 0; i < n; i += 2 * V::W) {
    V::I c0 = block, c1 = V::srl32(block), c2 = V::iset(task), c3 = V::iset(tensor);
#pragma GCC unroll 10
    for (int r = 0; r < 10; ++r) {
      const V::I a = V::mul_low(c0, first), b = V::mul_low(c2, second);
      c0 = V::ixor(V::ixor(V::upper(b), c1), low[r]);
      c1 = b;
      c2 = V::ixor(V::ixor(V::upper(a), c3), high[r]);
      c3 = a;
    }
    const V::I front = V::join_low(c0, c1), back = V::join_low(c2, c3);
    V::istore(words + i, V::unpack_low(front, back));
    V::istore(words + i + V::W, V::unpack_high(front, back));
    block = V::add64(block, V::set64(V::W / 2));
  }
}

// Draws of elements [index, index + n): where they begin in words, which has room for 2 W more.
static const uint32_t* draws(uint64_t seed, uint32_t tensor, uint32_t task, int64_t index, int64_t n, uint32_t* words) {
  const int64_t skipped = index & 3;  // a block serves four elements
  draw(seed, tensor, task, index - skipped, n + skipped, words);
  return words + skipped;
}
