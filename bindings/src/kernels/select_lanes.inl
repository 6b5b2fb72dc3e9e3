// Order statistics across a few vectors, lane by lane.

template <int kA, int kB>
STA_INLINE void exchange(V::F* y) {
  const V::F low = V::min(y[kA], y[kB]);
  y[kB] = V::max(y[kA], y[kB]);
  y[kA] = low;
}

// Sorting networks with the fewest known comparators. Callers use one output, so the compiler drops every comparator
// that does not lead to it.
template <int N>
STA_INLINE void sort_lanes(V::F* y) {
  if constexpr (N == 2) {
    exchange<0, 1>(y);
  } else if constexpr (N == 3) {
    exchange<0, 2>(y), exchange<0, 1>(y), exchange<1, 2>(y);
  } else if constexpr (N == 4) {
    exchange<0, 2>(y), exchange<1, 3>(y), exchange<0, 1>(y), exchange<2, 3>(y), exchange<1, 2>(y);
  } else if constexpr (N == 5) {
    exchange<0, 3>(y), exchange<1, 4>(y), exchange<0, 2>(y), exchange<1, 3>(y), exchange<0, 1>(y), exchange<2, 4>(y);
    exchange<1, 2>(y), exchange<3, 4>(y), exchange<2, 3>(y);
  } else if constexpr (N == 6) {
    exchange<0, 5>(y), exchange<1, 3>(y), exchange<2, 4>(y), exchange<1, 2>(y), exchange<3, 4>(y), exchange<0, 3>(y);
    exchange<2, 5>(y), exchange<0, 1>(y), exchange<2, 3>(y), exchange<4, 5>(y), exchange<1, 2>(y), exchange<3, 4>(y);
  } else if constexpr (N == 7) {
    exchange<0, 6>(y), exchange<2, 3>(y), exchange<4, 5>(y), exchange<0, 2>(y), exchange<1, 4>(y), exchange<3, 6>(y);
    exchange<0, 1>(y), exchange<2, 5>(y), exchange<3, 4>(y), exchange<1, 2>(y), exchange<4, 6>(y), exchange<2, 3>(y);
    exchange<4, 5>(y), exchange<1, 2>(y), exchange<3, 4>(y), exchange<5, 6>(y);
  } else if constexpr (N == 8) {
    exchange<0, 2>(y), exchange<1, 3>(y), exchange<4, 6>(y), exchange<5, 7>(y), exchange<0, 4>(y), exchange<1, 5>(y);
    exchange<2, 6>(y), exchange<3, 7>(y), exchange<0, 1>(y), exchange<2, 3>(y), exchange<4, 5>(y), exchange<6, 7>(y);
    exchange<2, 4>(y), exchange<3, 5>(y), exchange<1, 4>(y), exchange<3, 6>(y), exchange<1, 2>(y), exchange<3, 4>(y);
    exchange<5, 6>(y);
  }
}

// Leaves the r-th smallest (1-based) of n vectors in y[r - 1]: bubbles from the nearer end, or merge exchange
// (Knuth, 5.2.2 M) where that takes fewer comparators.
static V::F select_lanes(V::F* y, int n, int r) {
  const int from_top = n - r + 1, passes = r < from_top ? r : from_top;
  const auto swap = [y](int a, int b) {
    const V::F low = V::min(y[a], y[b]);
    y[b] = V::max(y[a], y[b]);
    y[a] = low;
  };
  int log = 0;
  while ((1 << log) < n) ++log;
  if (passes * n < n * log * (log + 1) / 4) {
    for (int pass = 0; pass < passes; ++pass) {
      if (r < from_top) {
        for (int j = n - 1; j > pass; --j) swap(j - 1, j);
      } else {
        for (int j = 0; j < n - 1 - pass; ++j) swap(j, j + 1);
      }
    }
    return y[r - 1];
  }
  for (int p = 1 << (log - 1); p > 0; p /= 2) {
    for (int q = 1 << (log - 1), part = 0, d = p;; d = q - p, q /= 2, part = p) {
      for (int j = 0; j < n - d; ++j)
        if ((j & p) == part) swap(j, j + d);
      if (q == p) break;
    }
  }
  return y[r - 1];
}
