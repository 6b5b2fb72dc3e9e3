#include "digest.h"

#include <algorithm>
#include <cstring>

namespace sta {
namespace {

constexpr uint64_t kPrime32[] = {0x9e3779b1, 0x85ebca77, 0xc2b2ae3d};
constexpr uint64_t kPrime64[] = {0x9e3779b185ebca87, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9, 0x85ebca77c2b2ae63,
                                 0x27d4eb2f165667c5};

constexpr uint64_t kAvalanche = 0x165667919e3779f9;

// The secret from its bytes 11 and 117 on, with which the halves of a digest are folded.
constexpr uint64_t kFoldLow[8] = {0x6dd4de1cad21f72c, 0xa44072db979083e9, 0xe679cb1f67b3b7a4, 0xd05a8278e5c0cc4e,
                                  0x4608b82172ffcc7d, 0x9035e08e2443f774, 0x52283c4c263a81e6, 0x65d088cb00c391bb};
constexpr uint64_t kFoldHigh[8] = {0xd9c97e9fc83159b4, 0x3483acc5ea647378, 0xfaffa081c5c3ebd3, 0xb751dd0d17eb6313,
                                   0x29265516d349daf0, 0x7d58be162b9e68d4, 0x7ad1b8f88ffca147, 0x958f3acb45ce31d0};

uint64_t fold(const uint64_t* state, const uint64_t* secret, uint64_t start) {
  for (int i = 0; i < 8; i += 2) {
    const unsigned __int128 product =
        static_cast<unsigned __int128>(state[i] ^ secret[i]) * (state[i + 1] ^ secret[i + 1]);
    start += static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }
  start ^= start >> 37;
  start *= kAvalanche;
  return start ^ start >> 32;
}

}  // namespace

void BlockDigests::begin(int64_t block, int64_t position, uint8_t* digests, int64_t capacity) {
  if (block_ != block || next_ != position) {
    block_ = block;
    next_ = position;
    skip_ = (block - position % block) % block;
    filled_ = 0;
    begin_block();
  }
  first_ = (next_ + skip_) / block_;
  count_ = 0;
  digests_ = digests;
  capacity_ = capacity;
}

void BlockDigests::begin_block() {
  left_ = block_ / kDigestUnit;
  const uint64_t initial[8] = {kPrime32[2], kPrime64[0], kPrime64[1], kPrime64[2],
                               kPrime64[3], kPrime32[1], kPrime64[4], kPrime32[0]};
  std::memcpy(lanes_, initial, sizeof lanes_);
}

void BlockDigests::end_block() {
  if (count_ == capacity_) return begin_block();
  const uint64_t size = static_cast<uint64_t>(block_);
  const uint64_t halves[2] = {fold(lanes_, kFoldHigh, ~(size * kPrime64[1])),
                              fold(lanes_, kFoldLow, size * kPrime64[0])};
  for (uint64_t half : halves)  // the greatest byte first
    for (int byte = 56; byte >= 0; byte -= 8) *digests_++ = static_cast<uint8_t>(half >> byte);
  ++count_;
  begin_block();
}

void BlockDigests::units(const KernelTable& kernels, const char* data, int64_t count) {
  while (count) {
    const int64_t some = std::min(count, left_);
    left_ -= some;
    kernels.digest(lanes_, data, some, left_ == 0);
    if (left_ == 0) end_block();
    data += some * kDigestUnit;
    count -= some;
  }
}

void BlockDigests::pass(const KernelTable& kernels, const char* data, int64_t size) {
  next_ += size;
  const int64_t skipped = std::min(skip_, size);
  skip_ -= skipped;
  data += skipped;
  size -= skipped;
  if (filled_) {
    const int64_t more = std::min(kDigestUnit - filled_, size);
    std::memcpy(unit_ + filled_, data, static_cast<size_t>(more));
    filled_ += more;
    data += more;
    size -= more;
    if (filled_ < kDigestUnit) return;
    units(kernels, unit_, 1);
  }
  units(kernels, data, size / kDigestUnit);
  filled_ = size % kDigestUnit;
  std::memcpy(unit_, data + size - filled_, static_cast<size_t>(filled_));
}

}  // namespace sta
