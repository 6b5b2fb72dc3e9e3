// Strided operands: elements of the flattened tensor to and from packed memory.
#include <cstring>

#include "kernel_table.h"

namespace sta {
namespace {

// Walks rows of the innermost dimension; visit(address, packed offset, elements, stride).
template <typename Visit>
void walk(const Stream& stream, int64_t begin, int64_t n, Visit visit) {
  const Layout& layout = *stream.layout;
  const int last = layout.ndim - 1;
  int64_t index[STA_MAX_DIMS];
  int64_t rest = begin;
  char* row = stream.data;
  for (int d = last; d >= 0; --d) {
    index[d] = rest % layout.shape[d];
    rest /= layout.shape[d];
    row += index[d] * layout.strides[d];
  }
  for (int64_t done = 0; done < n;) {
    const int64_t left = layout.shape[last] - index[last];
    const int64_t count = left < n - done ? left : n - done;
    visit(row, done, count, layout.strides[last]);
    done += count;
    row += count * layout.strides[last];
    index[last] += count;
    for (int d = last; d > 0 && index[d] == layout.shape[d]; --d) {
      row += layout.strides[d - 1] - index[d] * layout.strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

template <int kItem>
void gather_items(const Stream& stream, int64_t begin, int64_t n, char* packed) {
  walk(stream, begin, n, [&](const char* row, int64_t done, int64_t count, int64_t stride) {
    for (int64_t i = 0; i < count; ++i) memcpy(packed + (done + i) * kItem, row + i * stride, kItem);
  });
}

template <int kItem>
void scatter_items(const Stream& stream, int64_t begin, int64_t n, const char* packed) {
  walk(stream, begin, n, [&](char* row, int64_t done, int64_t count, int64_t stride) {
    for (int64_t i = 0; i < count; ++i) memcpy(row + i * stride, packed + (done + i) * kItem, kItem);
  });
}

}  // namespace

void gather(const Stream& stream, int64_t begin, int64_t n, char* packed) {
  switch (stream.itemsize) {
    case 2: return gather_items<2>(stream, begin, n, packed);
    case 4: return gather_items<4>(stream, begin, n, packed);
    default: return gather_items<8>(stream, begin, n, packed);
  }
}

void scatter(const Stream& stream, int64_t begin, int64_t n, const char* packed) {
  switch (stream.itemsize) {
    case 2: return scatter_items<2>(stream, begin, n, packed);
    case 4: return scatter_items<4>(stream, begin, n, packed);
    default: return scatter_items<8>(stream, begin, n, packed);
  }
}

}  // namespace sta
