// Bounds the recursion of the interpreter, so that no template overflows the stack.
// Called by the interpreter around everything that recurses.
#pragma once

#include "runtime/server/jinja_value.h"

namespace phalanx {

/// One level of recursion while it lives. Throws JinjaError at the limit.
class JinjaDepth {
 public:
  explicit JinjaDepth(int& depth) : depth_(depth) {
    if (depth_ >= kMaxDepth) throw JinjaError("recursion deeper than " + std::to_string(kMaxDepth));
    ++depth_;
  }
  ~JinjaDepth() { --depth_; }
  JinjaDepth(const JinjaDepth&) = delete;
  JinjaDepth& operator=(const JinjaDepth&) = delete;

 private:
  static constexpr int kMaxDepth = 800;
  int& depth_;
};

}  // namespace phalanx
