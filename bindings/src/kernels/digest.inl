// XXH3-128 (Collet) of blocks of a fixed length, fed in pieces as they pass: eight 64-bit lanes, which take in stripes
// of 64 bytes and are scrambled after every sixteen.
//
// A block is a number of whole units of sixteen stripes, so that only its last unit is taken in differently, and none
// of the algorithm's special cases for short inputs arises.

constexpr int64_t kStripe = 64;
constexpr int kStripes = kDigestUnit / kStripe;

alignas(64) static const uint64_t kSecret[24] = {
    0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072, 0x78e5c0cc4ee679cb,
    0x2172ffcc7dd05a82, 0x8e2443f7744608b8, 0x4c263a81e69035e0, 0xcb00c391bb52283c, 0xa32e531b8b65d088,
    0x4ef90da297486471, 0xd8acdea946ef1938, 0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a,
    0x647378d9c97e9fc8, 0xc3ebd33483acc5ea, 0xeb6313faffa081c5, 0x49daf0b751dd0d17, 0x9e68d429265516d3,
    0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af,
};
constexpr uint32_t kPrime = 0x9e3779b1;

struct DigestLanes {
  static constexpr int kVectors = 16 / V::W;
  V::I lane[kVectors];
  V::I words[kVectors];  // sums of the unit's: those of a neighbour are due to each lane, which can wait for its end

  STA_INLINE_MEMBER void load(const uint64_t* from) {
    for (int v = 0; v < kVectors; ++v) {
      lane[v] = V::iload(reinterpret_cast<const char*>(from) + v * V::W * 4);
      words[v] = V::iset(0);
    }
  }
  STA_INLINE_MEMBER void store(uint64_t* to) const {
    for (int v = 0; v < kVectors; ++v) V::istore(reinterpret_cast<char*>(to) + v * V::W * 4, lane[v]);
  }
  STA_INLINE_MEMBER void stripe(const char* data, const V::I* secret) {
    STA_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const V::I value = V::iload(data + v * V::W * 4), keyed = V::ixor(value, secret[v]);
      lane[v] = V::add64(lane[v], V::mul_low(keyed, V::srl32(keyed)));
      words[v] = V::add64(words[v], value);
    }
  }
  STA_INLINE_MEMBER void end_unit() {
    for (int v = 0; v < kVectors; ++v) {
      lane[v] = V::add64(lane[v], V::swap64(words[v]));
      words[v] = V::iset(0);
    }
  }
  STA_INLINE_MEMBER void scramble(const V::I* secret) {
    const V::I prime = V::iset(kPrime);
    for (int v = 0; v < kVectors; ++v) {
      const V::I mixed = V::ixor(V::ixor(lane[v], V::srl47(lane[v])), secret[v]);
      lane[v] = V::add64(V::mul_low(mixed, prime), V::sll32(V::mul_low(V::srl32(mixed), prime)));
    }
  }
};

// Takes in whole units; ends: the last one ends a block.
static void digest_units(uint64_t* state, const char* data, int64_t units, bool ends) {
  constexpr int kVectors = DigestLanes::kVectors;
  constexpr int64_t kSoon = 512;  // bytes ahead: the data are in the second level as a rule, and seldom aligned
  constexpr int64_t kAfter = sizeof kSecret - kStripe;  // where the secret's last stripe begins
  // The secret as each stripe is keyed with it, as it scrambles, and as it keys the last stripe of a block: in vectors
  // of their own, as these parts overlap, and most straddle two cache lines.
  V::I keys[(kStripes + 2) * kVectors];
  for (int s = 0; s < kStripes + 2; ++s) {
    const int64_t at = s < kStripes ? 8 * s : s == kStripes ? kAfter : kAfter - 7;
    for (int v = 0; v < kVectors; ++v)
      keys[s * kVectors + v] = V::iload(reinterpret_cast<const char*>(kSecret) + at + v * V::W * 4);
  }
  const V::I *scrambles = keys + kStripes * kVectors, *ending = scrambles + kVectors;
  DigestLanes lanes;
  lanes.load(state);
  for (int64_t unit = 0; unit < units; ++unit, data += kDigestUnit) {
    const bool last = ends && unit == units - 1;
    _Pragma("GCC unroll 16") for (int s = 0; s < kStripes - 1; ++s) {
      V::prefetch(data + s * kStripe + kSoon);
      lanes.stripe(data + s * kStripe, keys + s * kVectors);
    }
    lanes.stripe(data + (kStripes - 1) * kStripe, last ? ending : keys + (kStripes - 1) * kVectors);
    lanes.end_unit();
    if (!last) lanes.scramble(scrambles);
  }
  lanes.store(state);
}
