// Vec16, sixteen f32 lanes, in plain C++: the portable tier's half of every vector kernel.
// Included only by *_portable.cpp. All tiers' Vec16 have one interface and give the same bits.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/bf16_fma.h"
#include "runtime/base/dtype.h"

namespace phalanx::kernels::cpu {
namespace {

/// Every operation is lane by lane and correctly rounded; comparisons are ordered (false on NaN).
struct Vec16 {
  /// Vec16 accumulators that fit the registers beside operands: bounds the register tiles.
  static constexpr int kMaxAccumulators = 4;

  float lane[16];

  template <typename Function>
  static Vec16 generate(Function&& function) {
    Vec16 out;
    for (int i = 0; i < 16; ++i) out.lane[i] = function(i);
    return out;
  }

  static Vec16 zero() { return broadcast(0.0F); }
  static Vec16 broadcast(float value) {
    return generate([&](int) { return value; });
  }
  static Vec16 load(const float* from) {
    return generate([&](int i) { return from[i]; });
  }
  /// The first n lanes, 0 <= n <= 16; the others are 0 and their memory is not touched.
  static Vec16 load_first(const float* from, int64_t n) {
    return generate([&](int i) { return i < n ? from[i] : 0.0F; });
  }
  /// Sixteen pairs of bf16, as bit patterns: the first of a pair in the low half of a lane.
  static Vec16 load_pairs(const uint16_t* from) {
    return generate([&](int i) {
      return std::bit_cast<float>(from[2 * i] | static_cast<uint32_t>(from[2 * i + 1]) << 16);
    });
  }
  static Vec16 broadcast_pair(uint32_t pair) { return broadcast(std::bit_cast<float>(pair)); }

  void store(float* to) const {
    for (int i = 0; i < 16; ++i) to[i] = lane[i];
  }
  void store_first(float* to, int64_t n) const {
    for (int i = 0; i < n; ++i) to[i] = lane[i];
  }
  /// The high halves of the bit patterns: the bf16 of what rounded_to_bf16() gives.
  void store_bf16(uint16_t* to) const {
    for (int i = 0; i < 16; ++i) {
      to[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(lane[i]) >> 16);
    }
  }
  /// The fixed reduction: lane i += lane i + 8, then 4, 2, 1.
  float sum() const {
    Vec16 t = *this;
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) t.lane[i] = t.lane[i] + t.lane[i + half];
    }
    return t.lane[0];
  }
  float maximum() const {
    Vec16 t = *this;
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) {
        t.lane[i] = t.lane[i] > t.lane[i + half] ? t.lane[i] : t.lane[i + half];
      }
    }
    return t.lane[0];
  }
  /// The largest |lane|, compared as bit patterns, so that NaN is above infinity.
  float largest_magnitude() const {
    uint32_t largest = 0;
    for (int i = 0; i < 16; ++i) {
      const uint32_t magnitude = std::bit_cast<uint32_t>(lane[i]) & 0x7fffffffU;
      largest = magnitude > largest ? magnitude : largest;
    }
    return std::bit_cast<float>(largest);
  }
};

inline Vec16 operator+(const Vec16& a, const Vec16& b) {
  return Vec16::generate([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Vec16 operator-(const Vec16& a, const Vec16& b) {
  return Vec16::generate([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Vec16 operator*(const Vec16& a, const Vec16& b) {
  return Vec16::generate([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline Vec16 operator/(const Vec16& a, const Vec16& b) {
  return Vec16::generate([&](int i) { return a.lane[i] / b.lane[i]; });
}
/// a * b + c, rounded once.
inline Vec16 fma(const Vec16& a, const Vec16& b, const Vec16& c) {
  return Vec16::generate([&](int i) { return __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); });
}
/// vdpbf16ps on pairs: s = fma(a's second, b's second, s), then fma(a's first, b's first, s), with
/// denormals flushed to zero. Only where a FlushScope lives.
inline Vec16 dot_pairs(const Vec16& s, const Vec16& a, const Vec16& b) {
  return Vec16::generate([&](int i) {
    const auto x = std::bit_cast<uint32_t>(a.lane[i]);
    const auto y = std::bit_cast<uint32_t>(b.lane[i]);
    const float odd = fma_flush_denormals(std::bit_cast<float>(x & 0xffff0000U),
                                          std::bit_cast<float>(y & 0xffff0000U), s.lane[i]);
    return fma_flush_denormals(std::bit_cast<float>(x << 16), std::bit_cast<float>(y << 16), odd);
  });
}
/// Pairs whose other half is zero.
inline Vec16 first_of_pairs(const Vec16& a) {
  return Vec16::generate([&](int i) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(a.lane[i]) & 0x0000ffffU);
  });
}
inline Vec16 second_of_pairs(const Vec16& a) {
  return Vec16::generate([&](int i) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(a.lane[i]) & 0xffff0000U);
  });
}
/// To the nearest bf16, ties to even, as f32; NaN stays NaN.
inline Vec16 rounded_to_bf16(const Vec16& a) {
  return Vec16::generate([&](int i) { return bf16_to_f32(f32_to_bf16(a.lane[i])); });
}
/// The processor flushes denormals while it lives, where dot_pairs needs that.
struct FlushScope {
  FlushScope() {}
  ~FlushScope() {}
};
/// a > b ? a : b, so b when either is NaN.
inline Vec16 max(const Vec16& a, const Vec16& b) {
  return Vec16::generate([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Vec16 min(const Vec16& a, const Vec16& b) {
  return Vec16::generate([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Vec16 negate(const Vec16& a) {
  return Vec16::generate([&](int i) { return -a.lane[i]; });
}
/// The larger of |a| and |b|, compared as bit patterns, so that NaN is above infinity.
inline Vec16 max_magnitude(const Vec16& a, const Vec16& b) {
  return Vec16::generate([&](int i) {
    const uint32_t x = std::bit_cast<uint32_t>(a.lane[i]) & 0x7fffffffU;
    const uint32_t y = std::bit_cast<uint32_t>(b.lane[i]) & 0x7fffffffU;
    return std::bit_cast<float>(x > y ? x : y);
  });
}
/// a <= b ? yes : no.
inline Vec16 select_le(const Vec16& a, const Vec16& b, const Vec16& yes, const Vec16& no) {
  return Vec16::generate([&](int i) { return a.lane[i] <= b.lane[i] ? yes.lane[i] : no.lane[i]; });
}
/// Adds the low bits of t's pattern to p's exponent field: p * 2^(t's low bits) when it is normal.
inline Vec16 add_to_exponent(const Vec16& p, const Vec16& t) {
  return Vec16::generate([&](int i) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(p.lane[i]) +
                                (std::bit_cast<uint32_t>(t.lane[i]) << 23));
  });
}

/// Sixteen int32 lanes, each of which may hold a quad of bytes. Arithmetic wraps.
struct IntVec16 {
  uint32_t lane[16];

  template <typename Function>
  static IntVec16 generate(Function&& function) {
    IntVec16 out;
    for (int i = 0; i < 16; ++i) out.lane[i] = function(i);
    return out;
  }

  static IntVec16 zero() { return broadcast(0); }
  static IntVec16 broadcast(int32_t value) {
    return generate([&](int) { return static_cast<uint32_t>(value); });
  }
  /// 64 bytes, and 4 bytes for every lane.
  static IntVec16 load_quads(const std::byte* from) {
    IntVec16 out;
    __builtin_memcpy(out.lane, from, sizeof(out.lane));
    return out;
  }
  static IntVec16 broadcast_quad(const int8_t* from) {
    uint32_t quad;
    __builtin_memcpy(&quad, from, sizeof(quad));
    return generate([&](int) { return quad; });
  }

  /// The low 8 bits of each lane.
  void store_low_bytes(int8_t* to) const {
    for (int i = 0; i < 16; ++i) to[i] = static_cast<int8_t>(lane[i]);
  }
  /// The low two bytes of each lane, taken apart by fours: the second bytes of lanes 0 to 3, their
  /// first bytes, and so on. 32 bytes.
  void store_byte_planes(int8_t* to) const {
    for (int i = 0; i < 16; ++i) {
      to[i / 4 * 8 + i % 4] = static_cast<int8_t>(lane[i] >> 8);
      to[i / 4 * 8 + 4 + i % 4] = static_cast<int8_t>(lane[i]);
    }
  }
  int32_t sum() const {
    uint32_t total = 0;
    for (int i = 0; i < 16; ++i) total += lane[i];
    return static_cast<int32_t>(total);
  }
};

inline IntVec16 operator+(const IntVec16& a, const IntVec16& b) {
  return IntVec16::generate([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline IntVec16 operator-(const IntVec16& a, const IntVec16& b) {
  return IntVec16::generate([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline IntVec16 operator&(const IntVec16& a, const IntVec16& b) {
  return IntVec16::generate([&](int i) { return a.lane[i] & b.lane[i]; });
}
template <int kBits>
IntVec16 shift_left(const IntVec16& a) {
  return IntVec16::generate([&](int i) { return a.lane[i] << kBits; });
}
/// Adds to each lane the four products of u's bytes, unsigned, and s's, signed. The sum of two
/// neighbouring products (bytes 0 and 1, bytes 2 and 3) must fit 16 bits: vpmaddubsw saturates.
inline IntVec16 dot_quads(const IntVec16& sum, const IntVec16& u, const IntVec16& s) {
  return IntVec16::generate([&](int i) {
    uint32_t total = sum.lane[i];
    for (int bit = 0; bit < 32; bit += 8) {
      const auto x = static_cast<uint8_t>(u.lane[i] >> bit);
      const auto y = static_cast<int8_t>(s.lane[i] >> bit);
      total += static_cast<uint32_t>(x * y);
    }
    return total;
  });
}
/// As signed integers, to nearest.
inline Vec16 to_f32(const IntVec16& a) {
  return Vec16::generate(
      [&](int i) { return static_cast<float>(static_cast<int32_t>(a.lane[i])); });
}
inline IntVec16 bits_of(const Vec16& a) {
  return IntVec16::generate([&](int i) { return std::bit_cast<uint32_t>(a.lane[i]); });
}

}  // namespace
}  // namespace phalanx::kernels::cpu
